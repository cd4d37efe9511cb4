package redis_test

import (
	"fmt"
	"log"

	goredis "github.com/redis/go-redis/v9"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/redis"
)

func Example() {
	client := goredis.NewClient(&goredis.Options{
		Addr:                  "localhost:6379",
		ContextTimeoutEnabled: true,
		DialerRetries:         1,
	})
	defer client.Close()
	store, err := redis.NewLockouts(client, "carrel")
	if err != nil {
		log.Fatal(err)
	}
	_, err = lockout.New(store, lockout.Config{Key: lockoutKey()})
	fmt.Println(err)
	// Output: <nil>
}

// lockoutKey stands for [crypto.Keyring.LockoutKey].
func lockoutKey() crypto.Secret { return key }

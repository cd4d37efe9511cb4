package redis_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"os"
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/redis"
)

// serverVariable says where the server is. CI sets it, and fails when these tests are skipped.
const serverVariable = "CARREL_TEST_REDIS"

// connect returns a client of the server. Addresses of a cluster are separated by commas.
func connect(t testing.TB) goredis.UniversalClient {
	t.Helper()
	url := os.Getenv(serverVariable)
	if url == "" {
		t.Skip("SKIPPED, NOTHING WAS TESTED: set " + serverVariable + " to a Redis server that may be written to, as in redis://127.0.0.1:6379/0")
	}
	var client goredis.UniversalClient
	if strings.HasPrefix(url, "cluster://") {
		client = goredis.NewClusterClient(&goredis.ClusterOptions{Addrs: strings.Split(strings.TrimPrefix(url, "cluster://"), ",")})
	} else {
		options, err := goredis.ParseURL(url)
		require.NoError(t, err)
		client = goredis.NewClient(options)
	}
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	require.NoError(t, client.Ping(t.Context()).Err(), "no server at %s", serverVariable)
	return client
}

// draw returns a prefix of a test's own, whose keys go when the test ends.
func draw(t testing.TB, client goredis.UniversalClient) string {
	prefix := "test-" + strings.ToLower(rand.Text()[:10])
	t.Cleanup(func() {
		for _, key := range keysOf(t, client, prefix) {
			require.NoError(t, client.Del(context.Background(), key).Err())
		}
	})
	return prefix
}

// keysOf lists the keys under a prefix.
func keysOf(t testing.TB, client goredis.UniversalClient, prefix string) (keys []string) {
	ctx := context.Background()
	list := func(ctx context.Context, c *goredis.Client) error {
		all := c.Scan(ctx, 0, "{"+prefix+"}*", 10_000).Iterator()
		for all.Next(ctx) {
			keys = append(keys, all.Val())
		}
		return all.Err()
	}
	var err error
	switch c := client.(type) {
	case *goredis.Client:
		err = list(ctx, c)
	case *goredis.ClusterClient:
		err = c.ForEachMaster(ctx, list)
	}
	require.NoError(t, err)
	return keys
}

// open returns a store in which nobody has guessed.
func open(t testing.TB) (*redis.Lockouts, goredis.UniversalClient, string) {
	t.Helper()
	client := connect(t)
	prefix := draw(t, client)
	store, err := redis.NewLockouts(client, prefix)
	require.NoError(t, err)
	return store, client, prefix
}

// key is what all Guards in these tests have, in all processes.
var key = func() crypto.Secret {
	sum := sha256.Sum256([]byte("the key of the tests of store/redis"))
	return crypto.NewSecret(string(sum[:]))
}()

func guard(t testing.TB, store lockout.Store, change ...func(*lockout.Config)) *lockout.Guard {
	t.Helper()
	cfg := lockout.Config{Key: key}
	for _, f := range change {
		f(&cfg)
	}
	g, err := lockout.New(store, cfg)
	require.NoError(t, err)
	return g
}

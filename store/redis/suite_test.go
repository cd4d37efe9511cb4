package redis_test

import (
	"testing"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/storetest"
)

func TestLockouts(t *testing.T) {
	storetest.TestLockouts(t, func(t *testing.T) lockout.Store {
		store, _, _ := open(t)
		return store
	})
}

package sqlite_test

import (
	"testing"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/sqlite"
	"github.com/carrel-project/carrel/store/storetest"
)

func TestLockouts(t *testing.T) {
	storetest.TestLockouts(t, func(t *testing.T) lockout.Store {
		db, _, _ := open(t)
		return sqlite.NewLockouts(db)
	})
}

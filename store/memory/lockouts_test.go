package memory_test

import (
	"testing"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
	"github.com/carrel-project/carrel/store/storetest"
)

func TestLockouts(t *testing.T) {
	storetest.TestLockouts(t, func(*testing.T) lockout.Store { return memory.NewLockouts() })
}

package storetest_test

import (
	"testing"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/store/memory"
	"github.com/carrel-project/carrel/store/storetest"
)

func TestMemoryLog(t *testing.T) {
	storetest.TestLog(t, func(*testing.T) audit.Store { return memory.NewLog() })
}

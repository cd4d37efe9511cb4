package storetest_test

import (
	"testing"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/memory"
	"github.com/carrel-project/carrel/store/storetest"
)

func TestMemoryKeys(t *testing.T) {
	storetest.TestKeys(t, func(*testing.T) crypto.KeyStore { return memory.NewKeys() })
}

func TestMemoryPatrons(t *testing.T) {
	storetest.TestPatrons(t, func(*testing.T) patron.Store { return memory.NewPatrons() })
}

func TestMemoryGrants(t *testing.T) {
	storetest.TestGrants(t, func(*testing.T) patron.Grants { return memory.NewGrants() })
}

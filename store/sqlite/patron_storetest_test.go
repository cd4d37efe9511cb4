package sqlite_test

import (
	"testing"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/sqlite"
	"github.com/carrel-project/carrel/store/storetest"
)

func TestKeys(t *testing.T) {
	storetest.TestKeys(t, func(t *testing.T) crypto.KeyStore { db, _, _ := open(t); return sqlite.NewKeys(db) })
}

func TestPatrons(t *testing.T) {
	storetest.TestPatrons(t, func(t *testing.T) patron.Store { db, _, _ := open(t); return sqlite.NewPatrons(db) })
}

func TestGrants(t *testing.T) {
	storetest.TestGrants(t, func(t *testing.T) patron.Grants { db, _, _ := open(t); return sqlite.NewGrants(db) })
}

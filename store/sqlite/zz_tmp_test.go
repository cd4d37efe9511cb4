package sqlite_test

import (
	"crypto/rand"
	"testing"
	"time"
	"os"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/sqlite"
)

func TestZZ(t *testing.T) {
	db, _, _ := open(t)
	db.SetMaxOpenConns(1)
	if c := os.Getenv("CACHE"); c != "" {
		_, err := db.Exec("PRAGMA cache_size=" + c)
		require.NoError(t, err)
	}
	s := sqlite.NewPatrons(db)
	var took time.Duration
	var last time.Duration
	for i := range 200 {
		b := sealedBatch(500)
		for j := range b.Writes {
			b.Writes[j].Row.Lookups = nil
		}
		at := time.Now()
		require.NoError(t, s.Write(t.Context(), b))
		d := time.Since(at)
		took += d
		if i >= 180 {
			last += d
		}
		if i == 39 {
			t.Log("first 20k: avg", took/40)
		}
	}
	t.Log("100k: avg", took/200, "last 20:", last/20)
	at := time.Now()
	page, err := s.Rows(t.Context(), patron.Query{IndexedBefore: 1, Limit: 500})
	t.Log("scan for older:", len(page), err, time.Since(at))
	at = time.Now()
	page, err = s.Rows(t.Context(), patron.Query{IndexedBefore: 2, Limit: 500})
	t.Log("page of 500:", len(page), err, time.Since(at))
	tokens := make([]crypto.Token, 1500)
	for i := range tokens {
		rand.Read(tokens[i][:])
	}
	at = time.Now()
	for range 10 {
		_, err = s.Find(t.Context(), tokens)
	}
	t.Log("find 1500 misses:", err, time.Since(at)/10)
}

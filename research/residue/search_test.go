package residue_test

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/research/residue"
)

func TestEmptySampleIsRefused(t *testing.T) {
	path, _ := newFile(t, decoys)
	_, err := residue.New(residue.NewSample(0), residue.Config{}).SQLite(t.Context(), path)
	assert.ErrorIs(t, err, residue.ErrNoSample)
	require.NoError(t, os.WriteFile(path, []byte("SQLite format 4 and nothing else"), 0o600))
	_, err = residue.New(onePair(), residue.Config{}).SQLite(t.Context(), path)
	assert.ErrorIs(t, err, residue.ErrNotSQLite)
	_, err = residue.New(onePair(), residue.Config{}).SQLite(t.Context(), path+"-none")
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// A search tells how far it is, ends when it is told to, and leaves nothing beside the file.
func TestProgressAndCancel(t *testing.T) {
	path, db := newFile(t, `PRAGMA journal_mode = WAL`)
	exec(t, db, fill("many", 200_000)...)
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	_, err := residue.New(onePair(), residue.Config{Progress: func(p residue.Progress) {
		calls++
		assert.Positive(t, p.Bytes)
		assert.LessOrEqual(t, p.Bytes, p.Total)
		cancel()
	}}).SQLite(ctx, path)
	assert.ErrorIs(t, err, context.Canceled)
	assert.Positive(t, calls)
}

// A database whose log is in use is searched as its newest state, and neither the file nor its log change.
func TestDatabaseInUse(t *testing.T) {
	path, db := newFile(t, `PRAGMA journal_mode = WAL`, `PRAGMA wal_autocheckpoint = 0`, `CREATE TABLE last (item TEXT, who TEXT)`, `PRAGMA wal_checkpoint(TRUNCATE)`, `INSERT INTO last VALUES ('39000000012345', '29000000000077')`)
	tx, err := db.Begin()
	require.NoError(t, err)
	defer tx.Rollback()
	_, err = tx.Exec(`INSERT INTO last VALUES ('x', 'y')`) // it holds the lock for writing
	require.NoError(t, err)
	read := func() (all string) {
		for _, suffix := range []string{"", "-wal"} {
			b, err := os.ReadFile(path + suffix)
			require.NoError(t, err)
			all += string(b)
		}
		return all
	}
	before := read()
	r := search(t, path, onePair())
	require.Len(t, r.Findings, 1)
	assert.Equal(t, "last.who beside last.item", r.Findings[0].Where())
	assert.Equal(t, before, read())
}

// A damaged page is a warning, and what can be read is searched: also the page, as bytes.
func TestDamagedPage(t *testing.T) {
	path, db := newFile(t, decoys)
	exec(t, db, fill("few", 400)...)
	require.NoError(t, db.Close())
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	damaged := 0
	for at := 4096; at < len(b); at += 4096 {
		if b[at] == 13 && damaged < 20 && at > 5*4096 {
			b[at+3], b[at+4] = 0xff, 0xff // so many cells have no room on a page
			damaged++
		}
	}
	require.Positive(t, damaged)
	require.NoError(t, os.WriteFile(path, b, 0o600))
	r := search(t, path, onePair())
	require.NotEmpty(t, r.Findings)
	assert.Equal(t, "unused space in pages", r.Findings[0].Table)
	warned := false
	for _, g := range r.Gaps {
		warned = warned || g.Warning
	}
	assert.True(t, warned)
}

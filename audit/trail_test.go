package audit_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/store/memory"
)

// A desk is a trail on a memory store, with patrons who have keys.
type desk struct {
	*audit.Trail
	log    *memory.Log
	keys   *crypto.Keyring
	anchor *audit.FileAnchor
	path   string // of the anchor
}

func newDesk(t testing.TB, subjects ...crypto.Subject) *desk {
	t.Helper()
	dir := t.TempDir()
	kek := filepath.Join(dir, "kek")
	require.NoError(t, crypto.CreateKEK(kek))
	k, err := crypto.OpenKEK(kek)
	require.NoError(t, err)
	require.NoError(t, crypto.CreateKeyring(filepath.Join(dir, "keys"), k))
	keys, err := crypto.OpenKeyring(t.Context(), crypto.Config{Path: filepath.Join(dir, "keys"), KEK: k, Store: memory.NewKeys()})
	require.NoError(t, err)
	require.NoError(t, keys.CreateKeys(t.Context(), subjects...))
	d := &desk{log: memory.NewLog(), keys: keys, path: filepath.Join(dir, "anchor")}
	d.anchor = audit.NewFileAnchor(d.path)
	d.Trail, err = audit.New(t.Context(), audit.Config{Store: d.log, Keys: keys, Anchors: []audit.Anchor{d.anchor}, Spool: filepath.Join(dir, "spool")})
	require.NoError(t, err)
	t.Cleanup(func() { d.Close(context.Background()) })
	return d
}

func view(subject crypto.Subject, at time.Time, segments ...string) audit.Event {
	return audit.Event{Time: at, Action: audit.View, Outcome: audit.Done, Actor: "staff-17", Role: "desk", Purpose: "circulation", Channel: audit.UI,
		Segments: segments, Count: 1, Subjects: []audit.Subject{{ID: subject}}}
}

func TestTrailRecords(t *testing.T) {
	d := newDesk(t, "p1")
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	for i := range 12 {
		require.NoError(t, d.Record(t.Context(), view("p1", now.Add(time.Duration(i)*time.Minute), "names", "addresses")))
	}
	tree, err := d.log.Tree(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(1), tree.Next)
	checkpoint, err := d.Sequence(t.Context())
	require.NoError(t, err)
	all, err := d.anchor.Checkpoints()
	require.NoError(t, err)
	require.Equal(t, [][]byte{checkpoint}, all)
	for i := range 700 {
		e := view("p1", now, "names")
		e.Outcome = audit.Denied
		require.NoError(t, d.Record(t.Context(), e))
		if i%5 == 0 {
			_, err = d.Sequence(t.Context())
			require.NoError(t, err)
		}
	}
}

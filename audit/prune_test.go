package audit_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// denied is an event that is recorded each time.
func denied(action audit.Action, subject crypto.Subject, at time.Time) audit.Event {
	e := audit.Event{Time: at, Action: action, Outcome: audit.Denied, Why: "no-right", Actor: "staff-17", Role: "desk", Purpose: "circulation", Channel: audit.UI}
	if subject != "" {
		e.Count, e.Subjects = 1, []audit.Subject{{ID: subject}}
	}
	return e
}

var pruner = audit.Event{Actor: "carrel", Role: "admin", Channel: audit.Job, Approval: "retention 2026"}

func verifierOf(t testing.TB, d *desk) note.Verifier {
	t.Helper()
	text, err := audit.VerifierKey(t.Context(), d.keys)
	require.NoError(t, err)
	v, err := note.NewVerifier(text)
	require.NoError(t, err)
	return v
}

func numbers(t *testing.T, d *desk) (list []uint64) {
	t.Helper()
	page, err := d.log.Entries(t.Context(), audit.Query{Limit: 1 << 20})
	require.NoError(t, err)
	for _, e := range page.Entries {
		list = append(list, e.Number)
	}
	return list
}

func TestPrune(t *testing.T) {
	d := newDesk(t, "p1", "p2")
	// Views and logins take turns; the views are of another patron each time.
	for i := range 2000 {
		at := noon.Add(time.Duration(i-3000) * time.Hour)
		if i%2 == 0 {
			require.NoError(t, d.Record(t.Context(), denied(audit.View, []crypto.Subject{"p1", "p2"}[i/2%2], at)))
		} else {
			require.NoError(t, d.Record(t.Context(), denied(audit.LogIn, "", at)))
		}
	}
	before := noon.Add(-2000 * time.Hour) // the first 1,000
	r := audit.Retention{Before: map[audit.Class]time.Time{audit.Views: before}, Held: []crypto.Subject{"p2"}}
	_, err := d.Sequence(t.Context())
	require.NoError(t, err)
	would, err := d.Expired(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, audit.Pruned{Removed: map[audit.Class]int{audit.Views: 250}, Held: 250}, would)
	p, err := d.Prune(t.Context(), r, pruner)
	require.NoError(t, err)
	require.Equal(t, 250, p.Removed[audit.Views])
	require.Equal(t, 250, p.Held)
	require.Zero(t, p.Collapsed)
	require.Len(t, numbers(t, d), 2000-250+1)

	// Without the hold, and logins as well: the first 1,000 are gone but for nothing, and 768 of them with their hashes.
	r = audit.Retention{Before: map[audit.Class]time.Time{audit.Views: before, audit.Logins: before}}
	p, err = d.Prune(t.Context(), r, pruner)
	require.NoError(t, err)
	require.Equal(t, 250, p.Removed[audit.Views])
	require.Equal(t, 500, p.Removed[audit.Logins])
	require.Equal(t, uint64(768), p.Collapsed)
	require.Equal(t, uint64(1000), numbers(t, d)[0])
	tree, err := d.log.Tree(t.Context(), audit.TileID{Level: 0, N: 2}, audit.TileID{Level: 0, N: 3})
	require.NoError(t, err)
	require.Nil(t, tree.Tiles[0])
	require.NotNil(t, tree.Tiles[1])

	// What is left can be proved.
	root, err := audit.OpenCheckpoint(tree.Checkpoint, verifierOf(t, d))
	require.NoError(t, err)
	require.Equal(t, int64(tree.Next), root.N)
	for _, n := range numbers(t, d) {
		proof, leaf, err := audit.ProveEntry(t.Context(), d.log, root, n)
		require.NoError(t, err)
		require.NoError(t, tlog.CheckRecord(proof, root.N, root.Hash, int64(n), leaf))
	}
	// Nothing more to do.
	p, err = d.Prune(t.Context(), r, pruner)
	require.NoError(t, err)
	require.Zero(t, p.Removed[audit.Views]+p.Removed[audit.Logins])
	require.Equal(t, uint64(768), p.Collapsed)
	require.Equal(t, tree.Next, uint64(2000+1+2+1))
}

func TestPruneIsRefusedUnderAHoldOnTheTrail(t *testing.T) {
	d := newDesk(t, "p1")
	require.NoError(t, d.Record(t.Context(), denied(audit.View, "p1", noon.AddDate(-3, 0, 0))))
	hold := audit.Event{Time: noon, Action: audit.Hold, Outcome: audit.Done, Kind: "trail", Object: "case 2026-114", Actor: "counsel", Channel: audit.CLI}
	require.NoError(t, d.Record(t.Context(), hold))
	r := audit.Retention{Before: map[audit.Class]time.Time{audit.Views: noon.AddDate(-1, 0, 0), audit.Changes: noon.AddDate(1, 0, 0)}}
	_, err := d.Prune(t.Context(), r, pruner)
	require.ErrorIs(t, err, audit.ErrHeld)
	require.ErrorContains(t, err, "case 2026-114")
	require.Len(t, numbers(t, d), 2)

	hold.Action = audit.Release
	require.NoError(t, d.Record(t.Context(), hold))
	_, err = d.Prune(t.Context(), r, pruner)
	require.ErrorContains(t, err, "yet to come")
	delete(r.Before, audit.Changes)
	p, err := d.Prune(t.Context(), r, pruner)
	require.NoError(t, err)
	require.Equal(t, 1, p.Removed[audit.Views])
}

// A release that was put there again does not end a later hold of the same reference.
func TestCopiesReleaseNothing(t *testing.T) {
	d := newDesk(t)
	e := audit.Event{Time: noon, Action: audit.Hold, Outcome: audit.Done, Kind: audit.TrailItself, Object: "case 1", Actor: "counsel", Channel: audit.CLI}
	require.NoError(t, d.Record(t.Context(), e))
	e.Action = audit.Release
	require.NoError(t, d.Record(t.Context(), e))
	page, err := d.log.Entries(t.Context(), audit.Query{From: 1, Limit: 1})
	require.NoError(t, err)
	e.Action = audit.Hold
	require.NoError(t, d.Record(t.Context(), e))
	require.NoError(t, d.log.Append(t.Context(), []audit.Entry{{Action: audit.Release, Time: noon, Body: page.Entries[0].Body}}))
	holds, err := d.Holds(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"case 1"}, holds)
}

package audit_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// What an attacker who owns the database has tried. Each of these once worked.

// looks puts so many views, a minute apart, into the tree.
func (y *yard) looks(t *testing.T, n int, start time.Time) {
	t.Helper()
	var list []audit.Entry
	for i := range n {
		list = append(list, y.prepare(t, denied(audit.View, "p1", start.Add(time.Duration(i)*time.Minute))))
	}
	require.NoError(t, y.rows.Append(t.Context(), list))
	_, err := y.Sequence(t.Context())
	require.NoError(t, err)
}

func ago(years int) time.Time { return time.Now().AddDate(-years, 0, 0) }

func views(before time.Time) audit.Retention {
	return audit.Retention{Before: map[audit.Class]time.Time{audit.Views: before}}
}

func held(at time.Time) audit.Event {
	return audit.Event{Time: at, Action: audit.Hold, Outcome: audit.Done, Kind: audit.TrailItself, Object: "case 1", Actor: "counsel", Channel: audit.CLI}
}

// A prune does not cover up what somebody deleted, overwrote with a copy, or did to a hold.
func TestPruneCoversNothingUp(t *testing.T) {
	for name, tamper := range map[string]func(y *yard){
		"a prefix is deleted":          func(y *yard) { clear(y.rows.entries[:256]) },
		"a fresh entry is overwritten": func(y *yard) { y.rows.entries[500].Body = bytes.Clone(y.rows.entries[3].Body) },
		"a hold is deleted":            func(y *yard) { y.rows.entries[600] = audit.Entry{} },
	} {
		y := newYard(t)
		y.looks(t, 300, ago(2))
		y.looks(t, 300, time.Now().Add(-24*time.Hour))
		require.NoError(t, y.Record(t.Context(), held(time.Now())))
		released := held(time.Now())
		released.Action = audit.Release
		if name != "a hold is deleted" {
			require.NoError(t, y.Record(t.Context(), released))
		}
		_, err := y.Sequence(t.Context())
		require.NoError(t, err)
		tamper(y)
		found := y.verify(t, y.rows, y.key).Findings
		require.NotEmpty(t, found, name)
		_, err = y.Prune(t.Context(), views(ago(1)), pruner)
		require.ErrorIs(t, err, audit.ErrTampered, name)
		require.Equal(t, found, y.verify(t, y.rows, y.key).Findings, name)

		// Somebody has looked into it. The rest goes, the gap stays a gap.
		r := views(ago(1))
		for _, f := range found {
			r.Known = append(r.Known, audit.Range{From: f.From, To: f.To})
		}
		_, err = y.Prune(t.Context(), r, pruner)
		require.NoError(t, err, name)
		still := y.verify(t, y.rows, y.key).Findings
		require.Len(t, still, len(found), name)
		for i := range found { // what was the end is one no more
			require.Equal(t, audit.Range{From: found[i].From, To: found[i].To}, audit.Range{From: still[i].From, To: still[i].To}, name)
		}
	}
}

// The store's index says nothing about holds.
func TestHoldsAreNotLookedUpInTheIndex(t *testing.T) {
	y := newYard(t)
	y.looks(t, 10, ago(2))
	require.NoError(t, y.Record(t.Context(), held(time.Now())))
	_, err := y.Sequence(t.Context())
	require.NoError(t, err)
	y.rows.entries[10].Action = audit.View
	_, err = y.Prune(t.Context(), views(ago(1)), pruner)
	require.ErrorIs(t, err, audit.ErrHeld)
}

// An old release that comes back after it was pruned ends no later hold.
func TestReplayedReleaseAfterCollapse(t *testing.T) {
	y := newYard(t)
	hold := held(ago(2))
	release := hold
	release.Action = audit.Release
	old := y.prepare(t, release)
	require.NoError(t, y.rows.Append(t.Context(), []audit.Entry{y.prepare(t, hold), old}))
	y.looks(t, 300, ago(2))
	p, err := y.Prune(t.Context(), views(ago(1)), pruner)
	require.NoError(t, err)
	require.Equal(t, uint64(256), p.Collapsed)
	require.NoError(t, y.rows.Append(t.Context(), []audit.Entry{y.prepare(t, held(time.Now())), old}))
	holds, err := y.Holds(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"case 1"}, holds)
}

// A prune that was killed is not finished over the head of somebody who is held by now.
func TestHoldAfterAClaim(t *testing.T) {
	y := newYard(t)
	y.looks(t, 10, ago(2))
	y.looks(t, 10, time.Now())
	claim := pruner
	claim.Time, claim.Action, claim.Outcome, claim.Kind, claim.Before, claim.Count = time.Now(), audit.Prune, audit.Done, "views", ago(1), 10
	claim.Ranges = []audit.Range{{From: 0, To: 10}}
	require.NoError(t, y.claim(t, claim))
	r := views(ago(1))
	r.Held = []crypto.Subject{"p1"}
	p, err := y.Prune(t.Context(), r, pruner)
	require.NoError(t, err)
	require.Equal(t, 10, p.Held)
	for i := range 10 {
		require.NotNil(t, y.rows.entries[i].Body)
	}
}

// choosy is a store that does not take some entries, or pretends to.
type choosy struct {
	audit.Store
	refuse, drop func(audit.Entry) bool
}

func (c *choosy) Append(ctx context.Context, entries []audit.Entry) error {
	if c.refuse != nil && slices.ContainsFunc(entries, c.refuse) {
		return errors.New("down")
	}
	if c.drop != nil {
		entries = slices.DeleteFunc(slices.Clone(entries), c.drop)
	}
	return c.Store.Append(ctx, entries)
}

func (y *yard) on(t *testing.T, store audit.Store, spool string) *audit.Trail {
	t.Helper()
	trail, err := audit.New(t.Context(), audit.Config{Store: store, Keys: y.keys, Anchors: []audit.Anchor{y}, Spool: spool, Interval: time.Hour})
	require.NoError(t, err)
	return trail
}

// Nothing is removed while what says so, or a hold, waits in the spool.
func TestPruneAndTheSpool(t *testing.T) {
	for _, action := range []audit.Action{audit.Prune, audit.Hold} {
		y := newYard(t)
		y.looks(t, 10, ago(2))
		spool := filepath.Join(t.TempDir(), "spool")
		store := &choosy{Store: y.rows, refuse: func(e audit.Entry) bool { return e.Action == action }}
		trail := y.on(t, store, spool)
		if action == audit.Hold {
			require.NoError(t, trail.Record(t.Context(), held(time.Now())))
		}
		_, err := trail.Prune(t.Context(), views(ago(1)), pruner)
		require.Error(t, err)
		require.NotNil(t, y.rows.entries[9].Body)
		require.True(t, ok(y.verify(t, y.rows, y.key)))
		store.refuse = nil
		_, err = trail.Prune(t.Context(), views(ago(1)), pruner)
		if action == audit.Hold {
			require.ErrorIs(t, err, audit.ErrHeld)
		} else {
			require.NoError(t, err)
		}
	}
}

func ok(v audit.Verification) bool { return v.OK() }

// A store that says yes and keeps nothing, as one with a trigger does, is found out.
func TestStoreThatLies(t *testing.T) {
	y := newYard(t)
	trail := y.on(t, &choosy{Store: y.rows, drop: func(e audit.Entry) bool { return bytes.Contains(e.Body, []byte("staff-66")) }}, "")
	e := denied(audit.View, "p1", time.Now())
	require.NoError(t, trail.Record(t.Context(), e))
	_, err := trail.Sequence(t.Context())
	require.NoError(t, err)
	e.Actor = "staff-66"
	require.NoError(t, trail.Record(t.Context(), e))
	_, err = trail.Sequence(t.Context())
	require.ErrorIs(t, err, audit.ErrLost)
	// Two processes: what the other has taken in is not lost.
	e.Actor = "staff-1"
	require.NoError(t, trail.Record(t.Context(), e))
	_, err = y.on(t, y.rows, "").Sequence(t.Context())
	require.NoError(t, err)
	_, err = trail.Sequence(t.Context())
	require.NoError(t, err)
}

// An entry that was deleted before it was signed leaves a gap with a number, and stops nothing.
func TestGapAmongThePending(t *testing.T) {
	y := newYard(t)
	y.looks(t, 10, time.Now().Add(-24*time.Hour))
	var list []audit.Entry
	for i := range 5 {
		list = append(list, y.prepare(t, denied(audit.View, "p1", time.Now().Add(time.Duration(i)*time.Second))))
	}
	require.NoError(t, y.rows.Append(t.Context(), list))
	y.rows.remove(10)
	want := []expectation{{audit.Missing, 10, 11}}
	exactly(t, y.verify(t, y.rows, y.key), want...)
	_, err := y.Sequence(t.Context())
	require.NoError(t, err)
	exactly(t, y.verify(t, y.rows, y.key), want...)
	y.looks(t, 5, time.Now())
	exactly(t, y.verify(t, y.rows, nil), want...)
}

// A restore that was declared does not cover another one, though somebody appends the old checkpoint to the anchor again.
func TestDeclaredLossCoversOneLoss(t *testing.T) {
	for _, again := range []bool{false, true} {
		y, d := newYard(t), newDesk(t)
		open := func() {
			trail, err := audit.New(t.Context(), audit.Config{Store: y.rows, Keys: y.keys, Anchors: []audit.Anchor{d.anchor}, Interval: time.Hour})
			require.NoError(t, err)
			y.Trail = trail
		}
		verify := func() audit.Verification {
			var err error
			y.anchored, err = d.anchor.Checkpoints()
			require.NoError(t, err)
			return y.verify(t, y.rows, y.key)
		}
		open()
		y.fill(t, 0, 500, 100)
		backup := y.rows.clone()
		y.fill(t, 500, 1000, 100)
		all, err := d.anchor.Recent()
		require.NoError(t, err)
		y.rows = backup
		open()
		_, err = y.Restore(t.Context(), audit.Event{Time: at(2000), Actor: "admin-1", Approval: "ticket-5", Channel: audit.CLI})
		require.NoError(t, err)
		snapshot := y.rows.clone()
		y.fill(t, 1500, 1800, 50)
		v := verify()
		require.True(t, v.Intact(), show(v.Findings))
		if again {
			f, err := os.OpenFile(d.path, os.O_APPEND|os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.Write(all[len(all)-1])
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}
		y.rows = snapshot
		open()
		v = verify()
		require.False(t, v.Intact(), show(v.Findings))
		_, err = y.Sequence(t.Context())
		require.ErrorIs(t, err, audit.ErrBehind, "again %v", again)
	}
}

// After the store was put back under a running process, looks are recorded again.
func TestStoreReplacedUnderTheProcess(t *testing.T) {
	y := newYard(t)
	y.looks(t, 10, time.Now())
	backup := y.rows.clone()
	now := time.Now()
	require.NoError(t, y.Record(t.Context(), view("p1", now, "names")))
	_, err := y.Sequence(t.Context())
	require.NoError(t, err)
	y.rows.mu.Lock()
	y.rows.entries, y.rows.size, y.rows.checkpoint, y.rows.tiles = backup.entries, backup.size, backup.checkpoint, backup.tiles
	y.rows.mu.Unlock()
	require.NoError(t, y.Record(t.Context(), view("p1", now.Add(time.Minute), "names"))) // the look that schedules the sequencer
	_, err = y.Sequence(t.Context())
	require.Error(t, err)
	_, err = y.Sequence(t.Context())
	require.Error(t, err, "nor the next time")
	require.NoError(t, y.Record(t.Context(), view("p1", now.Add(2*time.Minute), "names")))
	tree, err := y.rows.Tree(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(11), tree.Next)
}

// The spool of another installation is left to it.
func TestSpoolOfAnotherInstallation(t *testing.T) {
	a, b := newDesk(t, "p1"), newDesk(t, "p1")
	spool := filepath.Join(t.TempDir(), "spool")
	store := &choosy{Store: a.log, refuse: func(audit.Entry) bool { return true }}
	first, err := audit.New(t.Context(), audit.Config{Store: store, Keys: a.keys, Anchors: []audit.Anchor{a.anchor}, Spool: spool, Interval: time.Hour})
	require.NoError(t, err)
	require.NoError(t, first.Record(t.Context(), denied(audit.View, "p1", time.Now())))
	second, err := audit.New(t.Context(), audit.Config{Store: b.log, Keys: b.keys, Anchors: []audit.Anchor{b.anchor}, Spool: spool, Interval: time.Hour})
	require.NoError(t, err)
	require.NoError(t, second.Record(t.Context(), denied(audit.View, "p1", time.Now())))
	_, err = second.Prune(t.Context(), views(ago(1)), pruner) // it is not held up by what is not its own
	require.NoError(t, err)
	require.NoError(t, second.Close(t.Context()))
	store.refuse = nil
	require.NoError(t, first.Close(t.Context()))
	tree, err := a.log.Tree(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(1), tree.Next)
}

// The order of people in a body says nothing, nor does the event by which somebody is forgotten, nor a grant.
func TestBodiesSayNotWho(t *testing.T) {
	var ids []crypto.Subject
	for i := range 60 {
		ids = append(ids, crypto.Subject([]byte{'a' + byte(i/26), 'a' + byte(i%26)}))
	}
	d := newDesk(t, ids...)
	e := denied(audit.Export, "", noon)
	for _, id := range ids {
		e.Subjects = append(e.Subjects, audit.Subject{ID: id})
	}
	entry, err := d.Prepare(t.Context(), e)
	require.NoError(t, err)
	at := -1
	for _, tag := range entry.Tags { // sorted: and so they stand in the body
		next := bytes.Index(entry.Body, tag[:])
		require.Greater(t, next, at)
		at = next
	}
	inOrder := 0
	for i, tag := range entry.Tags {
		secret, err := d.keys.Tag(t.Context(), ids[i], "trail month 682")
		require.NoError(t, err)
		if bytes.Equal(tag[2:], secret[:14]) {
			inOrder++
		}
	}
	require.Less(t, inOrder, 10, "the order is not that of the IDs")

	granted := view(ids[0], noon, "names")
	granted.Grant = "0b7cf9d2-6f0f-4f4c-9d5f-0d6b8a5d2c11"
	require.NoError(t, d.Record(t.Context(), granted))
	require.NoError(t, d.Shred(t.Context(), audit.Event{Actor: "dpo", Channel: audit.CLI}, ids[0]))
	page, err := d.log.Entries(t.Context(), audit.Query{Limit: 10})
	require.NoError(t, err)
	require.Len(t, page.Entries, 2)
	require.NotContains(t, string(page.Entries[0].Body), granted.Grant)
	shred, err := d.log.Entries(t.Context(), audit.Query{Limit: 10, Actions: []audit.Action{audit.Shred}})
	require.NoError(t, err)
	require.Len(t, shred.Entries, 1)
	tags := entry.Tags
	require.False(t, slices.ContainsFunc(tags, func(tag audit.Tag) bool { return bytes.Contains(shred.Entries[0].Body, tag[:]) }))
}

// A look after one that failed is recorded, although the record of the first would cover it.
func TestFailedLookCoversNothing(t *testing.T) {
	d := newDesk(t, "p1")
	e := view("p1", noon, "names")
	require.NoError(t, d.Record(t.Context(), e))
	failed := e
	failed.Outcome = audit.Failed
	require.NoError(t, d.Record(t.Context(), failed))
	e.Time = e.Time.Add(10 * time.Minute)
	require.NoError(t, d.Record(t.Context(), e))
	require.Len(t, numbers(t, d), 3)
}

// However much of a checkpoint a crash has left in the anchor, it is nobody's doing.
func TestTornAnchorsAreNoFinding(t *testing.T) {
	d := newDesk(t, "p1")
	require.NoError(t, d.Record(t.Context(), denied(audit.View, "p1", noon)))
	checkpoint, err := d.Sequence(t.Context())
	require.NoError(t, err)
	key, err := d.keys.TrailKey(t.Context())
	require.NoError(t, err)
	verifier := verifierOf(t, d)
	for n := range len(checkpoint) {
		path := filepath.Join(t.TempDir(), "anchor")
		require.NoError(t, os.WriteFile(path, append(bytes.Clone(checkpoint), checkpoint[:n]...), 0o600))
		a := audit.NewFileAnchor(path)
		require.NoError(t, a.Put(t.Context(), checkpoint))
		list, err := a.Checkpoints()
		require.NoError(t, err)
		v, err := audit.Verify(t.Context(), audit.VerifyConfig{Store: d.log, Verifier: verifier, Key: key, Anchored: [][][]byte{list}})
		require.NoError(t, err)
		require.True(t, v.OK(), "%d bytes, %q: %v", n, checkpoint[:n], v.Findings)
	}
}

// Nor is a history that goes on from elsewhere, signed with the same keyring, taken for one's own: not at the second try either.
func TestAnotherHistoryIsNotTakenOver(t *testing.T) {
	y := newYard(t)
	y.looks(t, 10, time.Now())
	backup := y.rows.clone()
	y.looks(t, 5, time.Now())
	y.rows.mu.Lock()
	y.rows.entries, y.rows.size, y.rows.checkpoint, y.rows.tiles = backup.entries, backup.size, backup.checkpoint, backup.tiles
	y.rows.mu.Unlock()
	other := y.on(t, y.rows, "")
	for range 20 {
		require.NoError(t, other.Record(t.Context(), denied(audit.View, "p1", time.Now())))
	}
	_, err := other.Sequence(t.Context())
	require.NoError(t, err)
	for range 3 {
		_, err = y.Sequence(t.Context())
		require.ErrorIs(t, err, audit.ErrTampered)
	}
}

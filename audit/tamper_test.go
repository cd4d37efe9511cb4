package audit_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// rows is a store whose owner can do anything to it.
type rows struct {
	mu         sync.Mutex
	entries    []audit.Entry // by number; Body nil: there is none
	size       uint64
	checkpoint []byte
	tiles      map[audit.TileID][]byte
}

func newRows() *rows { return &rows{tiles: map[audit.TileID][]byte{}} }

// clone shares bodies and tiles: who changes one puts another in its place.
func (r *rows) clone() *rows {
	c := &rows{entries: slices.Clone(r.entries), size: r.size, checkpoint: r.checkpoint, tiles: make(map[audit.TileID][]byte, len(r.tiles))}
	for id, data := range r.tiles {
		c.tiles[id] = data
	}
	return c
}

func (r *rows) Append(_ context.Context, entries []audit.Entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, entries...)
	return nil
}

func (r *rows) Entries(ctx context.Context, q audit.Query) (page audit.Page, err error) {
	if err := ctx.Err(); err != nil {
		return page, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	from, to := q.From, uint64(len(r.entries))
	if q.To > 0 {
		to = min(to, q.To)
	}
	if q.Cursor != "" {
		fmt.Sscan(q.Cursor, &from)
	}
	for n := from; n < to; n++ {
		e := &r.entries[n]
		if e.Body == nil || len(q.Actions) > 0 && !slices.Contains(q.Actions, e.Action) {
			continue
		}
		if len(page.Entries) == q.Limit {
			page.Cursor = fmt.Sprint(n)
			break
		}
		page.Entries = append(page.Entries, audit.Entry{Number: n, Body: e.Body})
	}
	return page, nil
}

func (r *rows) Tree(ctx context.Context, tiles ...audit.TileID) (audit.Tree, error) {
	if err := ctx.Err(); err != nil {
		return audit.Tree{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t := audit.Tree{Size: r.size, Next: uint64(len(r.entries)), Checkpoint: r.checkpoint}
	for _, id := range tiles {
		t.Tiles = append(t.Tiles, r.tiles[id])
	}
	return t, nil
}

func (r *rows) Advance(_ context.Context, a audit.Advance) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.size != a.From {
		return audit.ErrConflict
	}
	r.size, r.checkpoint = a.Size, a.Checkpoint
	for _, t := range a.Tiles {
		r.tiles[t.TileID] = bytes.Clone(t.Data)
	}
	for _, id := range a.Drop {
		delete(r.tiles, id)
	}
	for _, x := range a.Remove {
		for n := x.From; n < min(x.To, uint64(len(r.entries))); n++ {
			r.entries[n] = audit.Entry{}
		}
	}
	return nil
}

// What an owner does.

func (r *rows) flip(n, bit int) {
	body := bytes.Clone(r.entries[n].Body)
	bit %= 8 * len(body)
	body[bit/8] ^= 1 << (bit % 8)
	r.entries[n].Body = body
}

func (r *rows) remove(n int) { r.entries[n] = audit.Entry{} }
func (r *rows) close(n int)  { r.entries = slices.Delete(r.entries, n, n+1) }

func (r *rows) insert(n int, body []byte) {
	e := r.entries[n]
	e.Body = body
	r.entries = slices.Insert(r.entries, n, e)
}

// fix makes the stored leaf hash that of the entry.
func (r *rows) fix(n int) {
	h := audit.LeafHash(r.entries[n].Body)
	r.putHash(audit.TileID{N: uint64(n) / 256}, n%256, h)
}

func (r *rows) putHash(id audit.TileID, i int, h tlog.Hash) {
	data := bytes.Clone(r.tiles[id])
	copy(data[32*i:], h[:])
	r.tiles[id] = data
}

// rebuild makes the whole tree anew from the entries, all of which are there, as somebody does who rewrites history. Without a signer the
// checkpoint stays.
func (r *rows) rebuild(t testing.TB, d *yard, signed bool) {
	checkpoint := r.checkpoint
	r.size, r.checkpoint, r.tiles = 0, nil, map[audit.TileID][]byte{}
	trail, err := audit.New(t.Context(), audit.Config{Store: r, Keys: d.keys, Anchors: []audit.Anchor{nowhere{}}})
	require.NoError(t, err)
	require.NoError(t, trail.Close(t.Context()))
	if !signed {
		r.checkpoint = checkpoint
	}
}

type nowhere struct{}

func (nowhere) Put(context.Context, []byte) error { return nil }

// A yard is a trail on rows.
type yard struct {
	*audit.Trail
	rows     *rows
	keys     *crypto.Keyring
	key      *crypto.TrailKey
	verifier note.Verifier
	anchored [][]byte
	path     string
}

// Put is the yard's anchor.
func (y *yard) Put(_ context.Context, checkpoint []byte) error {
	y.anchored = append(y.anchored, checkpoint)
	return nil
}

func newYard(t testing.TB) *yard {
	t.Helper()
	d := newDesk(t, "p1", "p2", "p3")
	y := &yard{rows: newRows(), keys: d.keys, path: d.path}
	var err error
	y.key, err = d.keys.TrailKey(t.Context())
	require.NoError(t, err)
	text, err := audit.VerifierKey(t.Context(), d.keys)
	require.NoError(t, err)
	y.verifier, err = note.NewVerifier(text)
	require.NoError(t, err)
	y.reopen(t)
	return y
}

// reopen is a restart, or another process.
func (y *yard) reopen(t testing.TB) {
	t.Helper()
	trail, err := audit.New(t.Context(), audit.Config{Store: y.rows, Keys: y.keys, Anchors: []audit.Anchor{y}, Interval: time.Hour})
	require.NoError(t, err)
	y.Trail = trail
	t.Cleanup(func() { trail.Close(context.Background()) })
}

var day = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// something is an event of whatever kind, one like no other.
func something(i int) audit.Event {
	at := day.Add(time.Duration(i) * time.Second)
	subject := crypto.Subject([]string{"p1", "p2", "p3"}[i%3])
	switch i % 8 {
	case 0:
		e := view(subject, at, "names")
		e.Action, e.Subjects[0].Changes = audit.Update, []audit.Change{{Segment: "names", Before: crypto.NewSecret("Ada"), After: crypto.NewSecret("Eda")}}
		return e
	case 1:
		return audit.Event{Time: at, Action: audit.Sweep, Outcome: audit.Done, Actor: "nightly", Channel: audit.Job, Count: i, Kind: "loan",
			Tally: []audit.Tally{{Name: "after-return", Count: i}}}
	case 2:
		return audit.Login{Time: at, Staff: "staff-17", Result: audit.Success, Channel: audit.UI}.Event()
	default:
		return view(subject, at, "names", "addresses")
	}
}

// fill appends events, with a checkpoint after each so many.
func (y *yard) fill(t testing.TB, from, to, every int) {
	t.Helper()
	for from < to {
		end := min(to, from+every)
		var list []audit.Entry
		for ; from < end; from++ {
			e, err := y.Prepare(t.Context(), something(from))
			require.NoError(t, err)
			list = append(list, e)
		}
		require.NoError(t, y.rows.Append(t.Context(), list))
		_, err := y.Sequence(t.Context())
		require.NoError(t, err)
	}
}

// bulk appends many events that are quickly made.
func (y *yard) bulk(t testing.TB, n int) {
	t.Helper()
	for from := 0; from < n; from += 10_000 {
		var list []audit.Entry
		for i := from; i < min(n, from+10_000); i++ {
			list = append(list, y.prepare(t, something(8*i+1)))
		}
		require.NoError(t, y.rows.Append(t.Context(), list))
		_, err := y.Sequence(t.Context())
		require.NoError(t, err)
	}
}

func (y *yard) verify(t testing.TB, store audit.Store, key *crypto.TrailKey) audit.Verification {
	t.Helper()
	v, err := audit.Verify(t.Context(), audit.VerifyConfig{Store: store, Verifier: y.verifier, Key: key, Anchored: [][][]byte{y.anchored}})
	require.NoError(t, err)
	return v
}

// An expectation is that something is found, and is named within so many numbers.
type expectation struct {
	kind     audit.FindingKind
	from, to uint64
}

// agree checks that all that is expected was found, and nothing else.
func agree(t testing.TB, want []expectation, got []audit.Finding) {
	t.Helper()
	used := make([]bool, len(got))
	for _, w := range want {
		found := false
		for i, f := range got {
			if f.Kind == w.kind && f.From <= w.from && w.to <= f.To {
				found, used[i] = true, true
			}
		}
		if !found {
			require.Failf(t, "not found", "%+v in %s", w, show(got))
		}
	}
	for i, f := range got {
		if !used[i] && f.Kind != audit.Forged {
			// A long finding may stand for several short ones; nothing stands for nothing.
			inside := slices.ContainsFunc(want, func(w expectation) bool { return w.kind == f.Kind && w.from <= f.From && f.To <= w.to })
			require.True(t, inside, "found for no reason: %+v", f)
		}
	}
}

func show(list []audit.Finding) string {
	if len(list) > 20 {
		return fmt.Sprintf("%+v and %d more", list[:20], len(list)-20)
	}
	return fmt.Sprintf("%+v", list)
}

// tamper does so many things at random to a clone of the rows, at numbers that are not next to each other, and says what has to be found.
func tamper(r *rows, rng *rand.Rand, n int) (want []expectation, counts map[string]int) {
	counts = map[string]int{}
	size := int(r.size)
	taken := map[int]bool{}
	var spoiled = map[int]bool{} // tiles in which somebody rewrote leaf hashes
	used := map[int]bool{}
	place := func() int {
		for {
			p := rng.IntN(size)
			if !taken[p-1] && !taken[p] && !taken[p+1] && !spoiled[p/256] {
				taken[p], used[p/256] = true, true
				return p
			}
		}
	}
	fresh := func() int { // in a tile of its own, which is full
		for range 1000 {
			if p := rng.IntN(size / 256 * 256); !used[p/256] {
				taken[p], used[p/256], spoiled[p/256] = true, true, true
				return p
			}
		}
		return -1
	}
	expect := func(kind audit.FindingKind, from, to int) {
		want = append(want, expectation{kind, uint64(from), uint64(to)})
	}
	one := func(kind audit.FindingKind, p int) { expect(kind, p, p+1) }
	type shift struct {
		at     int
		insert bool
	}
	var shifts []shift
	for range n {
		switch op := rng.IntN(10); op {
		case 0, 1:
			p := place()
			r.flip(p, rng.IntN(1<<20))
			one(audit.Edited, p)
			counts["bit flip"]++
		case 2:
			p := place()
			r.remove(p)
			one(audit.Missing, p)
			counts["deletion"]++
		case 3:
			p, q := place(), place()
			r.entries[p], r.entries[q] = r.entries[q], r.entries[p]
			one(audit.Moved, p)
			one(audit.Moved, q)
			counts["swap"]++
		case 4, 5, 6, 7:
			p := place()
			for p == 0 || p >= size-1 { // at the ends it is a cut, or pending
				p = place()
			}
			shifts = append(shifts, shift{p, op < 6})
		case 8:
			p := fresh()
			if p < 0 {
				continue
			}
			r.flip(p, rng.IntN(1<<20))
			r.fix(p)
			one(audit.Edited, p)
			counts["bit flip with leaf hash"]++
		case 9:
			p := fresh()
			if p < 0 {
				continue
			}
			id := audit.TileID{N: uint64(p) / 256}
			var h tlog.Hash
			copy(h[:], r.tiles[id][32*(p%256):])
			h[rng.IntN(32)] ^= 1 << rng.IntN(8)
			r.putHash(id, p%256, h)
			one(audit.Tampered, p)
			counts["leaf hash"]++
		}
	}
	// Renumbering, from the end to the beginning, so that the numbers are still those that were signed.
	slices.SortFunc(shifts, func(a, b shift) int { return b.at - a.at })
	offset := 0
	for _, s := range shifts {
		if s.insert {
			offset++
		} else {
			offset--
		}
	}
	for _, s := range shifts {
		if s.insert {
			offset--
			body := bytes.Clone(r.entries[rng.IntN(s.at)].Body) // a copy of another entry, so that its MAC is right
			for body == nil {
				body = bytes.Clone(r.entries[rng.IntN(s.at)].Body)
			}
			if rng.IntN(2) == 0 {
				body[len(body)-1] ^= 1
			}
			r.insert(s.at, body)
			one(audit.Inserted, s.at+offset)
			counts["insertion"]++
		} else {
			offset++
			r.close(s.at)
			one(audit.Missing, s.at)
			counts["deletion, renumbered"]++
		}
	}
	return want, counts
}

func testTampering(t *testing.T, size, rounds, each int) {
	y := newYard(t)
	y.fill(t, 0, size, max(512, size/100))
	v := y.verify(t, y.rows, y.key)
	require.True(t, v.OK(), show(v.Findings))
	require.Equal(t, uint64(size), v.Size)
	rng := rand.New(rand.NewPCG(4, uint64(size)))
	total := map[string]int{}
	for i := range rounds {
		r := y.rows.clone()
		want, counts := tamper(r, rng, each)
		var key *crypto.TrailKey
		if i%4 == 0 {
			key = y.key
		}
		agree(t, want, y.verify(t, r, key).Findings)
		for k, n := range counts {
			total[k] += n
		}
	}
	t.Log(total)
}

func TestVerifyFindsTampering(t *testing.T) { testTampering(t, 5_000, 100, 10) }

func TestVerifyFindsTamperingLong(t *testing.T) {
	if os.Getenv("CARREL_TEST_LONG") == "" {
		t.Skip("set CARREL_TEST_LONG=1 to tamper with a log of a million events")
	}
	testTampering(t, 1_000_000, 100, 100)
}

// Every bit of every part of a few entries counts.
func TestVerifyFindsEveryBit(t *testing.T) {
	y := newYard(t)
	y.fill(t, 0, 8, 8)
	for n := range 4 { // a change, a sweep, a login, a view
		for bit := range 8 * len(y.rows.entries[n].Body) {
			r := y.rows.clone()
			r.flip(n, bit)
			agree(t, []expectation{{audit.Edited, uint64(n), uint64(n) + 1}}, y.verify(t, r, nil).Findings)
		}
	}
}

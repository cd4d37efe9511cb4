package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// hashes makes the data of a tile.
func hashes(n int, variant byte) []byte {
	data := bytes.Repeat([]byte{variant}, n*sha256.Size)
	for i := range n {
		data[i*sha256.Size] = byte(i)
	}
	return data
}

func (s log) hasTile(id audit.TileID, want []byte) {
	s.Helper()
	if got := s.tree(id).Tiles[0]; !bytes.Equal(got, want) || (got == nil) != (want == nil) {
		s.Errorf("tile %d of level %d has %d bytes, not the %d that were written", id.N, id.Level, len(got), len(want))
	}
}

func testTiles(t *testing.T, s log) {
	s.append(events(0, 20)...)
	ids := []audit.TileID{{Level: 0, N: 0}, {Level: 0, N: 1}, {Level: 1, N: 0}, {Level: 1, N: 1}, {Level: 7, N: 0}, {Level: 0, N: 1 << 40}}
	a := audit.Advance{Size: 5, Checkpoint: []byte("first\nsigned\n")}
	for i, id := range ids {
		a.Tiles = append(a.Tiles, audit.Tile{TileID: id, Data: hashes(i+1, byte(i))})
	}
	s.advance(a)
	tree := s.tree(append(slices.Clone(ids), ids[0], audit.TileID{Level: 2})...)
	for i := range ids {
		if !bytes.Equal(tree.Tiles[i], hashes(i+1, byte(i))) {
			t.Errorf("tile %d of those asked for is not the one that was written", i)
		}
	}
	if !bytes.Equal(tree.Tiles[len(ids)], tree.Tiles[0]) || tree.Tiles[len(ids)+1] != nil {
		t.Errorf("a tile asked for twice or one that is not there has %d and %d bytes", len(tree.Tiles[len(ids)]), len(tree.Tiles[len(ids)+1]))
	}
	if tree.Size != 5 || tree.Next != 20 || string(tree.Checkpoint) != "first\nsigned\n" {
		t.Errorf("after Advance the tree is %d of %d with the checkpoint %q", tree.Size, tree.Next, tree.Checkpoint)
	}
	full := hashes(256, 9)
	s.advance(audit.Advance{From: 5, Size: 20, Checkpoint: []byte("second"), Tiles: []audit.Tile{{TileID: ids[0], Data: full}}, Drop: []audit.TileID{ids[1], {Level: 3}}})
	s.hasTile(ids[0], full)
	s.hasTile(ids[1], nil)
	s.hasTile(ids[2], hashes(3, 2))
	if tree := s.tree(); tree.Size != 20 || string(tree.Checkpoint) != "second" {
		t.Errorf("after the second Advance the tree is %d with the checkpoint %q", tree.Size, tree.Checkpoint)
	}
	s.advance(audit.Advance{From: 20, Size: 20, Checkpoint: []byte("second"), Drop: []audit.TileID{ids[0]}}) // the same size
	s.hasTile(ids[0], nil)
}

func testAdvanceCompares(t *testing.T, s log) {
	s.append(events(0, 10)...)
	s.advance(audit.Advance{Size: 4, Checkpoint: []byte("four"), Tiles: []audit.Tile{{Data: hashes(4, 1)}}})
	for _, from := range []uint64{0, 3, 5, 10} {
		err := s.Advance(t.Context(), audit.Advance{From: from, Size: 10, Checkpoint: []byte("ten"), Tiles: []audit.Tile{{Data: hashes(10, 2)}},
			Remove: []audit.Range{{From: 0, To: 2}}, Drop: []audit.TileID{{}}})
		is(t, fmt.Sprintf("Advance from %d of a tree of 4", from), err, audit.ErrConflict)
	}
	if tree := s.tree(); tree.Size != 4 || string(tree.Checkpoint) != "four" {
		t.Errorf("after conflicts the tree is %d with the checkpoint %q", tree.Size, tree.Checkpoint)
	}
	s.hasTile(audit.TileID{}, hashes(4, 1))
	s.has(0, events(0, 10)...)
}

func testOneAdvanceWins(t *testing.T, s log) {
	s.append(events(0, 60)...)
	size := uint64(0)
	for range 5 {
		winner := oneWins(t, "several advances from one size", race(8, func(i int) error {
			return s.Advance(t.Context(), audit.Advance{From: size, Size: size + uint64(i) + 1, Checkpoint: []byte{byte(i)}, Tiles: []audit.Tile{{Data: hashes(1, byte(i))}}})
		}), audit.ErrConflict)
		if winner < 0 {
			return
		}
		size += uint64(winner) + 1
		if tree := s.tree(); tree.Size != size || !bytes.Equal(tree.Checkpoint, []byte{byte(winner)}) {
			t.Errorf("the tree is %d with the checkpoint %d, want the winner's %d and %d", tree.Size, tree.Checkpoint, size, winner)
		}
		s.hasTile(audit.TileID{}, hashes(1, byte(winner)))
	}
}

func testAdvanceAtomic(t *testing.T, s log) {
	s.append(events(0, 20)...)
	s.advance(audit.Advance{Size: 5, Checkpoint: []byte("before"), Tiles: []audit.Tile{{Data: hashes(5, 1)}, {TileID: audit.TileID{Level: 1}, Data: hashes(1, 1)}}})
	s.cutOff(func(ctx context.Context) error {
		return s.Advance(ctx, audit.Advance{From: 5, Size: 20, Checkpoint: []byte("after"), Tiles: []audit.Tile{{Data: hashes(20, 2)}},
			Remove: []audit.Range{{From: 1, To: 3}, {From: 4, To: 5}}, Drop: []audit.TileID{{Level: 1}}})
	}, func(err error) bool {
		tree := s.tree(audit.TileID{}, audit.TileID{Level: 1})
		left := len(s.read(audit.Query{}))
		before := tree.Size == 5 && string(tree.Checkpoint) == "before" && bytes.Equal(tree.Tiles[0], hashes(5, 1)) && tree.Tiles[1] != nil && left == 20
		after := tree.Size == 20 && string(tree.Checkpoint) == "after" && bytes.Equal(tree.Tiles[0], hashes(20, 2)) && tree.Tiles[1] == nil && left == 17
		if !after && (err == nil || !before) {
			t.Errorf("an Advance that ended with %v did a part: the tree is %d, %d entries are left", err, tree.Size, left)
		}
		return after // which it may be with an error, when it was cut off at the very end
	})
}

func testRemovedEntries(t *testing.T, s log) {
	const n = 600
	all := events(0, n)
	for i := range all {
		all[i].Number = uint64(i)
		if i%50 == 7 {
			all[i].Tags = append(all[i].Tags, personTag(50, 1), personTag(50, 2))
			sortTags(&all[i])
		}
		if i%100 == 3 {
			all[i].Key = [16]byte{1, byte(i / 100)}
		}
	}
	s.append(all...)
	ranges := []audit.Range{{From: 0, To: 10}, {From: 100, To: 110}, {From: 300, To: 301}, {From: 303, To: 304}}
	s.advance(audit.Advance{Size: n, Checkpoint: []byte("c"), Remove: ranges})
	gone := func(e audit.Entry) bool {
		return slices.ContainsFunc(ranges, func(r audit.Range) bool { return r.From <= e.Number && e.Number < r.To })
	}
	left := slices.DeleteFunc(slices.Clone(all), gone)
	s.finds(audit.Query{Limit: 7}, left)
	for i := range n {
		if gone(all[i]) {
			s.finds(audit.Query{Tags: all[i].Tags}, left)
		}
	}
	s.finds(audit.Query{Actions: []audit.Action{audit.View, audit.LogIn}}, left)
	s.finds(audit.Query{Tags: []audit.Tag{personTag(50, 1)}, Limit: 2}, left)
	s.next(n)
	s.advance(audit.Advance{From: n, Size: n, Checkpoint: []byte("c"), Remove: ranges}) // again
	s.next(n)
	// Their keys are gone as well, and no others are.
	again := []audit.Entry{all[3], all[103], all[203], all[303], all[403]}
	s.append(again...)
	s.next(n + 3)
	s.append(again[0])
	s.next(n + 3)
}

func testNumbersNotReused(t *testing.T, s log) {
	s.append(events(0, 10)...)
	s.advance(audit.Advance{Size: 10, Checkpoint: []byte("c"), Remove: []audit.Range{{From: 5, To: 10}}})
	s.next(10)
	s.append(event(10))
	s.advance(audit.Advance{From: 10, Size: 10, Checkpoint: []byte("c"), Remove: []audit.Range{{From: 0, To: 1000}}}) // all, and what has no leaf yet
	s.next(11)
	s.append(events(11, 13)...)
	if got := s.read(audit.Query{}); len(got) != 2 {
		t.Errorf("%d entries are left, want the 2 that came after the others were removed", len(got))
	}
	s.has(11, events(11, 13)...)
}

func testLogNotShared(t *testing.T, s log) {
	e := event(0)
	given := []audit.Entry{{Action: e.Action, Time: e.Time, Tags: slices.Clone(e.Tags), Body: bytes.Clone(e.Body)}}
	s.append(given...)
	flip(given[0].Body)
	flip(given[0].Tags[0][:])
	s.has(0, e)
	for range 2 {
		got := s.read(audit.Query{Tags: e.Tags})
		if len(got) != 1 {
			t.Fatalf("%d entries have a tag, want 1", len(got))
		}
		flip(got[0].Body)
		_ = append(got[0].Body, "more"...)
	}
	s.append(event(1))
	page := s.read(audit.Query{})
	_ = append(page[0].Body, "xyz"...)
	if !bytes.Equal(page[1].Body, event(1).Body) {
		t.Error("who appends to the body of one entry of a page writes over the next one's")
	}
	s.has(0, e, event(1))
	checkpoint, data := []byte("checkpoint"), hashes(3, 1)
	s.advance(audit.Advance{Size: 1, Checkpoint: checkpoint, Tiles: []audit.Tile{{Data: data}}})
	flip(checkpoint)
	flip(data)
	for range 2 {
		tree := s.tree(audit.TileID{}, audit.TileID{})
		if string(tree.Checkpoint) != "checkpoint" || !bytes.Equal(tree.Tiles[0], hashes(3, 1)) || !bytes.Equal(tree.Tiles[1], hashes(3, 1)) {
			t.Fatal("the tree changes with a slice that was given to the store or taken from it")
		}
		flip(tree.Checkpoint)
		flip(tree.Tiles[0])
	}
}

func testLogCanceled(t *testing.T, s log) {
	s.append(event(0))
	ctx := canceled(t)
	is(t, "Append", s.Append(ctx, events(1, 2)), context.Canceled)
	is(t, "Append of several", s.Append(ctx, events(1, 9)), context.Canceled)
	is(t, "Append of none", s.Append(ctx, nil), context.Canceled)
	for _, q := range []audit.Query{{Limit: 1}, {Limit: 1, Tags: event(0).Tags}, {Limit: 1, Actions: []audit.Action{audit.View}}} {
		_, err := s.Entries(ctx, q)
		is(t, "Entries", err, context.Canceled)
	}
	_, err := s.Tree(ctx, audit.TileID{})
	is(t, "Tree", err, context.Canceled)
	is(t, "Advance", s.Advance(ctx, audit.Advance{Size: 1, Checkpoint: []byte("c")}), context.Canceled)
	s.has(0, event(0))
	if tree := s.tree(); tree.Size != 0 {
		t.Error("an Advance that was canceled was made")
	}
}

// noKeys is a store of keys in which nobody has one.
type noKeys struct{}

func (noKeys) Key(context.Context, crypto.Subject) (crypto.WrappedKey, error) {
	return crypto.WrappedKey{}, crypto.ErrNoKey
}
func (noKeys) PutKeys(context.Context, []crypto.KeyChange) ([]crypto.Subject, error) { return nil, nil }
func (noKeys) OlderKeys(context.Context, uint32, crypto.Subject, int) ([]crypto.WrappedKey, error) {
	return nil, nil
}
func (noKeys) DeleteKey(context.Context, crypto.Subject) error { return nil }

// trails returns several trails on the store, as several processes have them.
func (s log) trails(n int) (list []*audit.Trail, anchor *audit.FileAnchor) {
	s.Helper()
	dir := s.TempDir()
	must := func(err error) {
		s.Helper()
		if err != nil {
			s.Fatal(err)
		}
	}
	kekPath, ring := filepath.Join(dir, "kek"), filepath.Join(dir, "keys")
	must(crypto.CreateKEK(kekPath))
	kek, err := crypto.OpenKEK(kekPath)
	must(err)
	must(crypto.CreateKeyring(ring, kek))
	anchor = audit.NewFileAnchor(filepath.Join(dir, "anchor"))
	for range n {
		keys, err := crypto.OpenKeyring(s.Context(), crypto.Config{Path: ring, KEK: kek, Store: noKeys{}})
		must(err)
		t, err := audit.New(s.Context(), audit.Config{Store: s.Store, Keys: keys, Anchors: []audit.Anchor{anchor}})
		must(err)
		list = append(list, t)
	}
	return list, anchor
}

func login(n int) audit.Event {
	return audit.Event{Time: logStart, Action: audit.LogIn, Outcome: audit.Done, Actor: fmt.Sprintf("staff-%d", n), Channel: audit.UI}
}

// rootOf is the hash of a tree as RFC 6962, section 2.1, defines it. The leaf of an event about nobody is its body.
func rootOf(bodies [][]byte) [sha256.Size]byte {
	switch n := len(bodies); n {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return sha256.Sum256(append([]byte{0}, bodies[0]...))
	default:
		k := 1
		for k*2 < n {
			k *= 2
		}
		left, right := rootOf(bodies[:k]), rootOf(bodies[k:])
		return sha256.Sum256(slices.Concat([]byte{1}, left[:], right[:]))
	}
}

// signed expects that a checkpoint is one of the tree over the first entries, and returns how many.
func (s log) signed(checkpoint []byte, bodies [][]byte) (size int) {
	s.Helper()
	lines := strings.Split(string(checkpoint), "\n")
	if len(lines) < 5 {
		s.Fatalf("not a checkpoint: %q", checkpoint)
	}
	if _, err := fmt.Sscan(lines[1], &size); err != nil || size > len(bodies) {
		s.Fatalf("a checkpoint of %s entries, there are %d", lines[1], len(bodies))
	}
	root := rootOf(bodies[:size])
	if want := base64.StdEncoding.EncodeToString(root[:]); lines[2] != want {
		s.Errorf("the checkpoint of %d entries has the root %s, want %s", size, lines[2], want)
	}
	return size
}

func (s log) bodies() (list [][]byte) {
	s.Helper()
	for i, e := range s.read(audit.Query{Limit: 1000}) {
		if e.Number != uint64(i) {
			s.Fatalf("the number %d stands where %d should", e.Number, i)
		}
		list = append(list, e.Body)
	}
	return list
}

func testTrailOnTop(t *testing.T, s log) {
	trails, anchor := s.trails(1)
	trail, total := trails[0], 0
	for _, n := range []int{1, 1, 253, 1, 1, 300} { // the tile of 256 is filled to the last, and just begun
		for i := range n {
			e, err := trail.Prepare(t.Context(), login(i))
			if err != nil {
				t.Fatal(err)
			}
			s.append(e)
		}
		total += n
		if _, err := trail.Sequence(t.Context()); err != nil {
			t.Fatal(err)
		}
		if tree := s.tree(); s.signed(tree.Checkpoint, s.bodies()) != total {
			t.Errorf("the checkpoint covers another number than %d", total)
		}
	}
	list, err := anchor.Checkpoints()
	if err != nil || len(list) != 6 {
		t.Errorf("%d checkpoints are anchored, want 6: %v", len(list), err)
	}
	if err := trail.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// Several processes record and sequence at once.
func testTrailsOnTop(t *testing.T, s log) {
	const n, each = 4, 60
	trails, anchor := s.trails(n)
	if err := errors.Join(race(n, func(i int) error {
		for k := range each {
			if err := trails[i].Record(t.Context(), login(i)); err != nil {
				return err
			}
			if k%7 == i {
				if _, err := trails[i].Sequence(t.Context()); err != nil {
					return err
				}
			}
		}
		return trails[i].Close(t.Context())
	})...); err != nil {
		t.Fatal(err)
	}
	bodies := s.bodies()
	if len(bodies) != n*each {
		t.Errorf("there are %d entries, want %d", len(bodies), n*each)
	}
	list, err := anchor.Checkpoints()
	if err != nil {
		t.Fatal(err)
	}
	largest := 0
	for _, checkpoint := range list {
		largest = max(largest, s.signed(checkpoint, bodies))
	}
	if largest != n*each {
		t.Errorf("the largest tree that was signed has %d entries, want %d", largest, n*each)
	}
}

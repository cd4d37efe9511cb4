package audit

import (
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/mod/sumdb/tlog"
)

// A scan is what one reading of the entries and the leaf hashes brought. Of tiles in which all is well only the root is kept, so that a log of
// any size can be read in little memory.
type scan struct {
	tiles   []leafTile
	missing []Range // numbers in the tree without an entry
	bodies  uint64  // entries in the tree
	end     uint64  // the number after the last entry there is
	events  []vouched
	lost    uint64   // entries up to here are anchored and not there; 0: none
	marks   []uint64 // the beginnings of the hashes of all leaves, to see copies; in any order
}

// A leafTile is 256 leaves, or fewer at the end.
type leafTile struct {
	root    tlog.Hash // of the leaves, when the tile is full and they are known
	known   bool
	settled bool     // the leaves are what the tile above says
	odd     *oddTile // nil: the entries that are there agree with the stored hashes
}

// An oddTile has entries that do not agree with the stored hashes.
type oddTile struct {
	stored  []tlog.Hash // nil: there are not so many
	entries []tlog.Hash // where there is no entry: as stored
	there   []bool
	leaves  []tlog.Hash // which of them are right, as far as can be told
}

// A vouched event changes what is to be expected of others.
type vouched struct {
	number uint64
	hash   tlog.Hash
	event  Event
}

// A pendingHash is of an entry after the end of the tree.
type pendingHash struct {
	number uint64
	hash   tlog.Hash
}

const (
	verifyTiles = 16 // tiles that one goroutine reads at a time
	verifySpan  = verifyTiles * tileWidth
)

var errOrder = errors.New("audit: the store returns entries out of order")

// A part is what one goroutine read.
type part struct {
	missing []Range
	bodies  uint64
	end     uint64
	events  []vouched
	found   []Finding
	pending []pendingHash
	marks   []uint64
}

// mark is the beginning of a hash.
func mark(h []byte) uint64 { return binary.BigEndian.Uint64(h) }

// readEntries reads all entries, and compares those in the tree with the leaf hashes.
func (v *verifier) readEntries() error {
	size := v.tree.Size
	v.scan.tiles = make([]leafTile, (size+tileWidth-1)/tileWidth)
	spans := (size + verifySpan - 1) / verifySpan
	parts := make([]part, spans+1)
	ctx, cancel := context.WithCancel(v.ctx)
	defer cancel()
	var (
		next    atomic.Uint64
		wg      sync.WaitGroup
		mu      sync.Mutex
		failed  error
		done    uint64
		all     = max(size, v.tree.Next)
		workers = min(spans, uint64(max(2, runtime.GOMAXPROCS(0))))
	)
	for range workers {
		wg.Go(func() {
			var buffer []byte
			for {
				i := next.Add(1) - 1
				if i >= spans {
					return
				}
				var err error
				from, to := i*verifySpan, min((i+1)*verifySpan, size)
				buffer, err = v.readSpan(ctx, &parts[i], buffer, from, to)
				mu.Lock()
				if err != nil && failed == nil {
					failed = err
					cancel()
				}
				if done += to - from; v.Progress != nil && failed == nil {
					v.Progress(done, all)
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	if failed == nil {
		failed = v.readPending(&parts[spans])
	}
	if failed != nil {
		return failed
	}
	if v.Progress != nil {
		v.Progress(all, all)
	}
	for _, p := range parts {
		v.scan.missing = append(v.scan.missing, p.missing...)
		v.scan.bodies += p.bodies
		v.scan.end = max(v.scan.end, p.end)
		v.scan.events = append(v.scan.events, p.events...)
		v.scan.marks = append(v.scan.marks, p.marks...)
		v.result.Findings = append(v.result.Findings, p.found...)
		v.pending = append(v.pending, p.pending...)
	}
	v.scan.missing = joinRanges(v.scan.missing)
	v.result.Pending = uint64(len(v.pending))
	return nil
}

// pages calls each for all entries with the numbers From ≤ n < To; To 0: no end.
func (v *verifier) pages(ctx context.Context, from, to uint64, each func(n uint64, body []byte)) error {
	q := Query{From: from, To: to, Limit: verifySpan}
	for first, last := true, uint64(0); ; {
		page, err := v.Store.Entries(ctx, q)
		if err != nil {
			return err
		}
		for _, e := range page.Entries {
			if e.Number < from || to > 0 && e.Number >= to || !first && e.Number <= last {
				return errOrder
			}
			first, last = false, e.Number
			each(e.Number, e.Body)
		}
		if page.Cursor == "" {
			return nil
		}
		q.Cursor = page.Cursor
	}
}

// readSpan reads some tiles and their entries.
func (v *verifier) readSpan(ctx context.Context, p *part, buffer []byte, from, to uint64) ([]byte, error) {
	ids := make([]TileID, 0, verifyTiles)
	for n := from; n < to; n += tileWidth {
		ids = append(ids, TileID{0, n / tileWidth})
	}
	tree, err := v.Store.Tree(ctx, ids...)
	if err != nil {
		return buffer, err
	}
	hashes := make([]tlog.Hash, to-from)
	there := make([]bool, to-from)
	err = v.pages(ctx, from, to, func(n uint64, body []byte) {
		there[n-from] = true
		var stored []byte
		if tile, at := tree.Tiles[(n-from)/tileWidth], int((n-from)%tileWidth)*tlog.HashSize; at+tlog.HashSize <= len(tile) {
			stored = tile[at : at+tlog.HashSize]
		}
		hashes[n-from], buffer = v.readEntry(p, buffer, n, body, stored)
	})
	if err != nil {
		return buffer, err
	}
	for i, ok := range there {
		if n := from + uint64(i); ok {
			p.bodies++
			p.end = n + 1
		} else if last := len(p.missing) - 1; last >= 0 && p.missing[last].To == n {
			p.missing[last].To = n + 1
		} else {
			p.missing = append(p.missing, Range{n, n + 1})
		}
	}
	for i, id := range ids {
		start := uint64(i) * tileWidth
		end := min(start+tileWidth, to-from)
		for n := start; n < end; n++ {
			if there[n] {
				p.marks = append(p.marks, mark(hashes[n][:]))
			} else if at := (n - start) * tlog.HashSize; at+tlog.HashSize <= uint64(len(tree.Tiles[i])) {
				p.marks = append(p.marks, mark(tree.Tiles[i][at:]))
			}
		}
		v.scan.tiles[id.N] = compareTile(tree.Tiles[i], hashes[start:end], there[start:end])
	}
	return buffer, nil
}

// compareTile compares stored hashes with those of the entries.
func compareTile(data []byte, entries []tlog.Hash, there []bool) (t leafTile) {
	width := len(entries)
	full := !slices.Contains(there, false)
	if len(data) < width*tlog.HashSize {
		if !slices.Contains(there, true) {
			return t // nothing is known: it has collapsed, or somebody removed all
		}
		t.odd = &oddTile{entries: slices.Clone(entries), there: slices.Clone(there)}
		if full {
			t.odd.leaves, t.known = t.odd.entries, true
		}
	} else {
		same := true
		for i := range entries {
			if there[i] && string(entries[i][:]) != string(data[i*tlog.HashSize:(i+1)*tlog.HashSize]) {
				same = false
				break
			}
		}
		t.known = true
		if same && full && width == tileWidth {
			t.root = fold(entries)
			return t
		}
		stored := splitHashes(data[:width*tlog.HashSize])
		if !same {
			t.odd = &oddTile{stored: stored, entries: slices.Clone(entries), there: slices.Clone(there), leaves: stored}
			for i, ok := range there {
				if !ok {
					t.odd.entries[i] = stored[i]
				}
			}
		}
		if width == tileWidth {
			t.root = fold(stored)
		}
		return t
	}
	if t.known && width == tileWidth {
		t.root = fold(t.odd.leaves)
	}
	return t
}

// readEntry looks at one entry by itself, and returns the hash of its leaf. Stored is the one that the tree has there; nil: none.
func (v *verifier) readEntry(p *part, buffer []byte, n uint64, body, stored []byte) (tlog.Hash, []byte) {
	hash, leaf, ok := leafHash(v.Key, buffer, body)
	switch {
	case !ok && v.Key == nil:
		p.forged(n, "it is no entry")
	case !ok:
		p.forged(n, "it was not written by a holder of the keyring")
		if string(stored) != string(hash[:]) { // nor was it there when the tree was signed
			hash, leaf, _ = leafHash(nil, leaf, body)
		}
	case vouches(body):
		if o, err := open(body); err != nil {
			p.forged(n, "it is no entry")
		} else {
			p.events = append(p.events, vouched{n, hash, o.event})
		}
	}
	return hash, leaf
}

func (p *part) forged(n uint64, detail string) {
	if last := len(p.found) - 1; last >= 0 && p.found[last].To == n && p.found[last].Detail == detail {
		p.found[last].To++
		return
	}
	p.found = append(p.found, Finding{Forged, n, n + 1, detail})
}

// vouches reports whether a body's action is one that changes what is to be expected of others, without taking it apart.
func vouches(body []byte) bool {
	r := reader{b: body[1+nonceSize:]}
	r = reader{b: r.part()}
	if r.byte() != tagTime {
		return false
	}
	r.part()
	if r.byte() != tagAction {
		return false
	}
	action := r.part()
	return string(action) == string(Prune) || string(action) == string(Restore)
}

// readPending reads the entries after the end of the tree.
func (v *verifier) readPending(p *part) error {
	var buffer []byte
	expected := v.tree.Size
	return v.pages(v.ctx, v.tree.Size, 0, func(n uint64, body []byte) {
		if n > expected {
			p.found = append(p.found, Finding{Missing, expected, n, "entries that no checkpoint covered yet are gone"})
		}
		expected = n + 1
		var hash tlog.Hash
		hash, buffer = v.readEntry(p, buffer, n, body, nil)
		p.pending = append(p.pending, pendingHash{n, hash})
		p.marks = append(p.marks, mark(hash[:]))
		p.end = n + 1
	})
}

// joinRanges joins ranges that touch. They are in order.
func joinRanges(list []Range) (joined []Range) {
	for _, r := range list {
		if last := len(joined) - 1; last >= 0 && r.From <= joined[last].To {
			joined[last].To = max(joined[last].To, r.To)
			continue
		}
		joined = append(joined, r)
	}
	return joined
}

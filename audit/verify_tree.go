package audit

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"runtime"
	"slices"
	"sort"
	"sync"

	"golang.org/x/mod/sumdb/tlog"
)

// A signedTree is what a signed checkpoint says, and how it agrees with the log.
type signedTree struct {
	tlog.Tree
	anchor int // which; -1: it is the store's
	order  int // its place in the anchor
	digest string
	state  agreement
}

func (t *signedTree) size() uint64 { return uint64(t.N) }

type agreement byte

const (
	unknown agreement = iota // the log does not have what is needed to tell
	agrees
	differs
	ahead     // it is of a larger tree than the store has
	recovered // likewise, but the entries after the tree give it
)

// openAnchored takes what the anchor has.
func openAnchored(ctx context.Context, cfg VerifyConfig) (list []signedTree, torn int, findings []Finding, err error) {
	type place struct{ anchor, order int }
	var flat [][]byte
	var places []place
	for a, list := range cfg.Anchored {
		for i, one := range list {
			flat, places = append(flat, one), append(places, place{a, i})
		}
	}
	opened := make([]*signedTree, len(flat))
	broken := make([]bool, len(flat))
	var wg sync.WaitGroup
	workers := max(2, runtime.GOMAXPROCS(0))
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(flat) && ctx.Err() == nil; i += workers {
				one := flat[i]
				tree, err := OpenCheckpoint(one, cfg.Verifier)
				if err != nil {
					broken[i] = true
					// Half of one may stand before a whole one.
					begin := bytes.LastIndex(one, []byte("\n"+cfg.Verifier.Name()+"\n"))
					if begin < 0 {
						continue
					}
					one = one[begin+1:]
					if tree, err = OpenCheckpoint(one, cfg.Verifier); err != nil {
						continue
					}
				}
				opened[i] = &signedTree{Tree: tree, anchor: places[i].anchor, order: places[i].order, digest: digest(one)}
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, 0, nil, err
	}
	for i, t := range opened {
		if broken[i] && isTorn(beforeWhole(flat[i], cfg.Verifier.Name(), t != nil), cfg.Verifier.Name()) {
			torn++
		} else if broken[i] {
			findings = append(findings, Finding{Kind: Unsigned, Detail: "a checkpoint in the anchor is cut short or none of this trail"})
		}
		if t != nil {
			list = append(list, *t)
		}
	}
	slices.SortStableFunc(list, func(a, b signedTree) int { return cmp.Compare(a.N, b.N) })
	return list, torn, findings, nil
}

// beforeWhole returns what stands before a whole checkpoint in the same piece, or all of a piece without one.
func beforeWhole(one []byte, origin string, whole bool) []byte {
	if whole {
		one = one[:bytes.LastIndex(one, []byte("\n"+origin+"\n"))]
	}
	return bytes.TrimRight(one, "\n")
}

// isTorn reports whether what should be a checkpoint is the beginning of one, as a crash or a full disk leaves it. That is nobody's doing.
func isTorn(one []byte, origin string) bool {
	if !bytes.HasPrefix(one, []byte(origin)) && !bytes.HasPrefix([]byte(origin), one) {
		return false
	}
	lines := bytes.Split(one, []byte("\n"))
	last, signed := bytes.CutPrefix(lines[len(lines)-1], []byte("— "))
	words := bytes.Fields(last)
	return !signed || len(words) < 2 || len(words[1]) < base64.StdEncoding.EncodedLen(4+ed25519.SignatureSize)
}

// openStored looks at the checkpoint in the store.
func (v *verifier) openStored() {
	if len(v.tree.Checkpoint) == 0 {
		if v.tree.Size > 0 {
			v.find(Unsigned, 0, 0, "the checkpoint in the store is gone")
		}
		return
	}
	tree, err := OpenCheckpoint(v.tree.Checkpoint, v.Verifier)
	switch {
	case err != nil:
		v.find(Unsigned, 0, 0, "the checkpoint in the store is none of this trail")
	case uint64(tree.N) != v.tree.Size:
		v.find(Unsigned, 0, 0, "the checkpoint in the store is of a tree of %d entries, the tree has %d", tree.N, v.tree.Size)
	default:
		v.stored = &signedTree{Tree: tree, anchor: -1}
	}
}

// A level is the hashes of level 8·L of the tree: what is stored in the tiles, what the tiles below give, and which of them are
// right, as far as can be told.
type level struct {
	stored, computed, right []tlog.Hash
	has, knows, known       []bool
}

// readUpper reads the tiles above the leaf hashes: one hash for every 256 entries.
func (v *verifier) readUpper() error {
	const batch = 64
	v.upper = []level{{}}
	for l := 1; v.tree.Size>>(tileHeight*l) > 0; l++ {
		n := v.tree.Size >> (tileHeight * l)
		u := level{make([]tlog.Hash, n), make([]tlog.Hash, n), make([]tlog.Hash, n), make([]bool, n), make([]bool, n), make([]bool, n)}
		for from := uint64(0); from < n; from += batch * tileWidth {
			var ids []TileID
			for at := from; at < min(n, from+batch*tileWidth); at += tileWidth {
				ids = append(ids, TileID{l, at / tileWidth})
			}
			tree, err := v.Store.Tree(v.ctx, ids...)
			if err != nil {
				return err
			}
			for i, data := range tree.Tiles {
				at := from + uint64(i)*tileWidth
				for k := at; k < min(n, at+tileWidth) && len(data) >= tlog.HashSize; k++ {
					copy(u.stored[k][:], data)
					u.has[k] = true
					data = data[tlog.HashSize:]
				}
			}
		}
		v.upper = append(v.upper, u)
	}
	return nil
}

// maxMixed is how many hashes may differ for each to be tried.
const maxMixed = 10

// reconcile chooses between two versions of some hashes: the one, the other or a mix, that is right.
func reconcile(a, b []tlog.Hash, right func([]tlog.Hash) bool) ([]tlog.Hash, bool) {
	var differ []int
	for i := range a {
		if a[i] != b[i] {
			differ = append(differ, i)
		}
	}
	if right(a) {
		return a, true
	}
	if len(differ) == 0 {
		return nil, false
	}
	if right(b) {
		return b, true
	}
	if len(differ) > maxMixed {
		return nil, false
	}
	mix := slices.Clone(a)
	for pick := 1; pick < 1<<len(differ)-1; pick++ {
		for bit, i := range differ {
			if mix[i] = a[i]; pick>>bit&1 == 1 {
				mix[i] = b[i]
			}
		}
		if right(mix) {
			return mix, true
		}
	}
	return nil, false
}

// settleLeaves decides for tiles which of their leaves are right, by the hash that is stored above them.
func (v *verifier) settleLeaves() {
	for k := range v.scan.tiles {
		t := &v.scan.tiles[k]
		if len(v.upper) < 2 || k >= len(v.upper[1].stored) || t.odd == nil || t.odd.stored == nil || !v.upper[1].has[k] {
			continue
		}
		above := v.upper[1].stored[k]
		if leaves, ok := reconcile(t.odd.stored, t.odd.entries, func(h []tlog.Hash) bool { return fold(h) == above }); ok {
			t.odd.leaves, t.root = leaves, above
		}
	}
}

// settleTree does the same for the tiles above, from the bottom to the top, and at last for the ones that are not full, by the signed root.
func (v *verifier) settleTree() {
	for l := 1; l < len(v.upper); l++ {
		u := &v.upper[l]
		if l == 1 {
			for k := range u.computed {
				u.computed[k], u.knows[k] = v.scan.tiles[k].root, v.scan.tiles[k].known
			}
		}
		for i := range u.stored {
			if u.known[i] = u.has[i] || u.knows[i]; !u.has[i] {
				u.stored[i] = u.computed[i]
			}
			if !u.knows[i] {
				u.computed[i] = u.stored[i]
			}
		}
		copy(u.right, u.computed)
		for from := 0; from+tileWidth <= len(u.right); from += tileWidth {
			to, above := from+tileWidth, &v.upper[l+1]
			if slices.Contains(u.known[from:to], false) {
				continue
			}
			if n := from / tileWidth; above.has[n] {
				is := func(h []tlog.Hash) bool { return fold(h) == above.stored[n] }
				if right, ok := reconcile(u.stored[from:to], u.computed[from:to], is); ok {
					copy(u.right[from:to], right)
				}
			}
			above.computed[from/tileWidth], above.knows[from/tileWidth] = fold(u.right[from:to]), true
		}
	}
	v.settleEdge()
	for k := range v.scan.tiles {
		if t := &v.scan.tiles[k]; len(v.upper) > 1 && k < len(v.upper[1].right) {
			t.settled = t.known && v.upper[1].known[k] && v.upper[1].right[k] == t.root
		}
	}
}

// settleEdge decides for the tiles that are not full.
func (v *verifier) settleEdge() {
	size := v.tree.Size
	if size == 0 {
		return
	}
	var last *leafTile
	var stored, computed []tlog.Hash
	widths := make([]int, max(1, len(v.upper)))
	widths[0] = int(size % tileWidth)
	if widths[0] > 0 {
		last = &v.scan.tiles[len(v.scan.tiles)-1]
		if !last.known {
			return
		}
		if last.odd != nil {
			computed = append(computed, last.odd.entries...)
			if stored = append(stored, last.odd.stored...); last.odd.stored == nil {
				stored = append(stored, last.odd.entries...)
			}
		} else {
			leaves, err := v.storedLeaves(len(v.scan.tiles) - 1)
			if err != nil || leaves == nil {
				return
			}
			stored, computed = append(stored, leaves...), append(computed, leaves...)
		}
	}
	for l := 1; l < len(v.upper); l++ {
		u := &v.upper[l]
		from := len(u.right) / tileWidth * tileWidth
		if slices.Contains(u.known[from:], false) {
			return
		}
		widths[l] = len(u.right) - from
		stored, computed = append(stored, u.stored[from:]...), append(computed, u.computed[from:]...)
	}
	right, ok := reconcile(stored, computed, func(hashes []tlog.Hash) bool { return v.isSigned(hashes, widths) })
	if !ok {
		return
	}
	if last != nil {
		last.settled = true
		if last.odd != nil {
			last.odd.leaves = slices.Clone(right[:widths[0]])
		}
	}
	right = right[widths[0]:]
	for l := 1; l < len(v.upper); l++ {
		u := &v.upper[l]
		copy(u.right[len(u.right)-widths[l]:], right)
		right = right[widths[l]:]
	}
}

// isSigned reports whether the tiles of the edge give a root that was signed: of this tree, or of one that ends in the same leaf tile.
func (v *verifier) isSigned(edge []tlog.Hash, widths []int) bool {
	const enough = 4
	size, tried := v.tree.Size, 0
	try := func(t *signedTree) bool {
		tried++
		f := &frontier{size: t.size(), tiles: make([][]tlog.Hash, len(widths))}
		rest := edge
		for l, width := range widths {
			f.tiles[l], rest = rest[:width], rest[width:]
		}
		f.tiles[0] = f.tiles[0][:t.size()%tileWidth]
		root, err := f.root()
		return err == nil && root == t.Hash
	}
	if v.stored != nil && try(v.stored) {
		return true
	}
	for i := len(v.anchored) - 1; i >= 0 && tried < enough; i-- {
		t := &v.anchored[i]
		if t.size() == 0 || t.size()/tileWidth < size/tileWidth {
			break
		}
		if t.size() <= size && try(t) {
			return true
		}
	}
	return false
}

// storedLeaves reads the leaf hashes of a tile; nil when they are not there.
func (v *verifier) storedLeaves(k int) ([]tlog.Hash, error) {
	width := int(min(tileWidth, v.tree.Size-uint64(k)*tileWidth))
	tree, err := v.Store.Tree(v.ctx, TileID{0, uint64(k)})
	if err != nil || len(tree.Tiles[0]) < width*tlog.HashSize {
		return nil, err
	}
	return splitHashes(tree.Tiles[0][:width*tlog.HashSize]), nil
}

// leaves returns the leaf hashes of a tile that are right; nil when they are not known.
func (v *verifier) leaves(k int) ([]tlog.Hash, error) {
	t := &v.scan.tiles[k]
	if t.odd != nil {
		return t.odd.leaves, nil
	}
	if !t.known {
		return nil, nil
	}
	return v.storedLeaves(k)
}

// A stack is the complete subtrees of a tree, from the left, each smaller than the one before.
type stack struct {
	hashes []tlog.Hash
	levels []int
}

func (s *stack) push(level int, h tlog.Hash) {
	for n := len(s.hashes) - 1; n >= 0 && s.levels[n] == level; n-- {
		h, level = tlog.NodeHash(s.hashes[n], h), level+1
		s.hashes, s.levels = s.hashes[:n], s.levels[:n]
	}
	s.hashes, s.levels = append(s.hashes, h), append(s.levels, level)
}

func (s *stack) root() tlog.Hash {
	if len(s.hashes) == 0 {
		return emptyRoot
	}
	h := s.hashes[len(s.hashes)-1]
	for i := len(s.hashes) - 2; i >= 0; i-- {
		h = tlog.NodeHash(s.hashes[i], h)
	}
	return h
}

// checks returns all signed trees by size.
func (v *verifier) checks() []*signedTree {
	checks := make([]*signedTree, 0, len(v.anchored)+1)
	for i := range v.anchored {
		checks = append(checks, &v.anchored[i])
	}
	if v.stored != nil {
		at := sort.Search(len(checks), func(i int) bool { return checks[i].N > v.stored.N })
		checks = slices.Insert(checks, at, v.stored)
	}
	return checks
}

// checkRoots compares the roots that were signed with those that the log gives at the same sizes.
func (v *verifier) checkRoots() error {
	checks := v.checks()
	var s stack
	n, size := uint64(0), v.tree.Size
	at := func(here agreement) { // the tree of n entries
		for ; len(checks) > 0 && checks[0].size() <= n; checks = checks[1:] {
			if c := checks[0]; c.size() < n {
				continue // inside a part of which only the root is known
			} else if s.root() == c.Hash {
				c.state = here
			} else {
				c.state = differs
			}
		}
	}
	at(agrees)
	for n < size && len(checks) > 0 {
		k, edge := int(n/tileWidth), size-n < tileWidth
		if edge || checks[0].size() < n+tileWidth {
			leaves, err := v.leaves(k)
			if err != nil {
				return err
			}
			if leaves != nil && (edge || v.scan.tiles[k].settled) {
				for _, h := range leaves {
					s.push(0, h)
					n++
					at(agrees)
				}
				continue
			}
		}
		l := v.subtree(n)
		if l == 0 {
			break // what would tell is gone, as checkTiles will say
		}
		s.push(tileHeight*l, v.upper[l].right[n>>(tileHeight*l)])
		n += 1 << (tileHeight * l)
		at(agrees)
	}
	for _, p := range v.pending {
		if p.number != n || len(checks) == 0 {
			break
		}
		s.push(0, p.hash)
		n++
		at(recovered)
	}
	for i := range v.anchored {
		if a := &v.anchored[i]; a.size() > size && a.state != recovered {
			a.state = ahead
		}
	}
	return nil
}

// subtree returns the lowest level above the leaves that has the hash of a complete subtree from number n on; 0: none.
func (v *verifier) subtree(n uint64) int {
	for l := 1; l < len(v.upper); l++ {
		width := uint64(1) << (tileHeight * l)
		if n%width != 0 || n+width > v.tree.Size {
			return 0
		}
		if v.upper[l].known[n/width] {
			return l
		}
	}
	return 0
}

const changed = "a tile of the tree was changed"

// checkTiles names the tiles that are not as they should be.
func (v *verifier) checkTiles() {
	size := v.tree.Size
	const missing = "a tile of the tree is missing"
	for k := range v.scan.tiles {
		t := &v.scan.tiles[k]
		from := uint64(k) * tileWidth
		to := min(from+tileWidth, size)
		if (t.odd != nil && t.odd.stored == nil || !t.known) && to > v.claims.collapsed {
			v.find(Tampered, from, to, missing)
		}
		if t.odd != nil && t.odd.stored != nil {
			for i, h := range t.odd.stored {
				if h != t.odd.leaves[i] {
					v.find(Tampered, from+uint64(i), from+uint64(i)+1, changed)
				}
			}
		}
	}
	for l := 1; l < len(v.upper); l++ {
		u := &v.upper[l]
		for i := range u.stored {
			from, to := uint64(i)<<(tileHeight*l), uint64(i+1)<<(tileHeight*l)
			tileEnd := uint64(i/tileWidth+1) << (tileHeight * (l + 1))
			switch {
			case !u.has[i] && tileEnd > v.claims.collapsed:
				v.find(Tampered, from, to, missing)
			case u.has[i] && u.known[i] && u.stored[i] != u.right[i]:
				v.find(Tampered, from, to, changed)
			}
		}
	}
}

// checkAnchored says what follows from the checkpoints that do not agree.
func (v *verifier) checkAnchored() {
	agreed, back, forked := uint64(0), uint64(0), false
	for _, c := range v.checks() {
		switch {
		case c.state == agrees || c.state == recovered:
			agreed, forked = c.size(), false
			if c.anchor >= 0 {
				v.result.Checkpoints++
			}
			if c.state == recovered {
				back = c.size()
			}
		case c.state == unknown:
			if c.anchor >= 0 {
				v.result.Unchecked++
			}
		case v.claims.explain(c):
		case c.state == ahead:
			v.scan.lost = c.size()
		default:
			if !forked {
				v.find(Forked, agreed, c.size(), "history between these numbers is not the one that was signed")
			}
			forked = true
		}
	}
	if back > 0 {
		v.find(Tampered, v.tree.Size, back, "the tree was set back; its entries are there")
	}
}

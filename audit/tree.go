package audit

import (
	"context"
	"errors"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
)

// A frontier is the right edge of the tree: of each level of tiles the last one, as far as it is filled. It is all that is needed to let the
// tree grow and to compute its root.
type frontier struct {
	size  uint64
	tiles [][]tlog.Hash // by level; fewer than tileWidth hashes each
}

// edge returns the tiles that hold the frontier of a tree: the ones that are not full.
func edge(size uint64) (ids []TileID) {
	for level := 0; size>>(tileHeight*level) > 0; level++ {
		if n := size >> (tileHeight * level); n%tileWidth > 0 {
			ids = append(ids, TileID{level, n / tileWidth})
		}
	}
	return ids
}

var errTree = errors.New("audit: a tile of the tree is missing or cut short")

// newFrontier takes the frontier out of the tiles that edge named.
func newFrontier(size uint64, ids []TileID, data [][]byte) (*frontier, error) {
	f := &frontier{size: size}
	for i, id := range ids {
		width := int(size >> (tileHeight * id.Level) % tileWidth)
		if len(data[i]) < width*tlog.HashSize {
			return nil, errTree
		}
		for len(f.tiles) <= id.Level {
			f.tiles = append(f.tiles, nil)
		}
		f.tiles[id.Level] = splitHashes(data[i][:width*tlog.HashSize])
	}
	return f, nil
}

func splitHashes(data []byte) []tlog.Hash {
	hashes := make([]tlog.Hash, len(data)/tlog.HashSize)
	for i := range hashes {
		copy(hashes[i][:], data[i*tlog.HashSize:])
	}
	return hashes
}

func joinHashes(hashes []tlog.Hash) []byte {
	data := make([]byte, 0, len(hashes)*tlog.HashSize)
	for _, h := range hashes {
		data = append(data, h[:]...)
	}
	return data
}

// add appends a leaf, and calls full with every tile that it completes.
func (f *frontier) add(h tlog.Hash, full func(Tile)) {
	n := f.size
	f.size++
	for level := 0; ; level++ {
		if len(f.tiles) == level {
			f.tiles = append(f.tiles, nil)
		}
		f.tiles[level] = append(f.tiles[level], h)
		if len(f.tiles[level]) < tileWidth {
			return
		}
		full(Tile{TileID{level, n >> tileHeight}, joinHashes(f.tiles[level])})
		h = fold(f.tiles[level])
		f.tiles[level] = f.tiles[level][:0]
		n >>= tileHeight
	}
}

// partial returns the tiles that are not full.
func (f *frontier) partial() (tiles []Tile) {
	for level, hashes := range f.tiles {
		if len(hashes) > 0 {
			tiles = append(tiles, Tile{TileID{level, f.size >> (tileHeight * (level + 1))}, joinHashes(hashes)})
		}
	}
	return tiles
}

// root returns the hash of the tree; of the empty one what RFC 6962 says.
func (f *frontier) root() (tlog.Hash, error) {
	if f.size == 0 {
		return emptyRoot, nil
	}
	return tlog.TreeHash(int64(f.size), tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			level, n := tlog.SplitStoredHashIndex(index)
			width := int64(1) << (level % tileHeight)
			start := n * width % tileWidth
			if level/tileHeight >= len(f.tiles) || start+width > int64(len(f.tiles[level/tileHeight])) {
				return nil, errTree
			}
			hashes[i] = fold(f.tiles[level/tileHeight][start : start+width])
		}
		return hashes, nil
	}))
}

// emptyRoot is SHA-256 of nothing.
var emptyRoot = tlog.Hash{
	0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
	0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
}

// fold returns the root of a complete subtree over a power of two of hashes.
func fold(hashes []tlog.Hash) tlog.Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	var buffer [tileWidth / 2]tlog.Hash
	next := buffer[:len(hashes)/2]
	for i := range next {
		next[i] = tlog.NodeHash(hashes[2*i], hashes[2*i+1])
	}
	for len(next) > 1 {
		for i := range len(next) / 2 {
			next[i] = tlog.NodeHash(next[2*i], next[2*i+1])
		}
		next = next[:len(next)/2]
	}
	return next[0]
}

// A tileReader reads tiles of a store for [tlog.TileHashReader], which checks them against a root.
type tileReader struct {
	ctx   context.Context
	store Store
}

func (r *tileReader) Height() int { return tileHeight }

func (r *tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	ids := make([]TileID, len(tiles))
	for i, t := range tiles {
		ids[i] = TileID{t.L, uint64(t.N)}
	}
	tree, err := r.store.Tree(r.ctx, ids...)
	if err != nil {
		return nil, err
	}
	for i, t := range tiles {
		if len(tree.Tiles[i]) < t.W*tlog.HashSize {
			return nil, errTree
		}
		tree.Tiles[i] = tree.Tiles[i][:t.W*tlog.HashSize]
	}
	return tree.Tiles, nil
}

func (*tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

// ProveEntry returns the proof that a tree contains an entry, and the hash of the entry's leaf: what RFC 6962 calls an audit path, at
// most 32 bytes for each doubling of the tree. [tlog.CheckRecord] checks it.
//
// An error says that the entry is not in that tree, or that the store does not hold that tree any more.
func ProveEntry(ctx context.Context, store Store, tree tlog.Tree, number uint64) (tlog.RecordProof, tlog.Hash, error) {
	if tree.N <= 0 || number >= uint64(tree.N) {
		return nil, tlog.Hash{}, errors.New("audit: the entry is not in that tree")
	}
	hashes := tlog.TileHashReader(tree, &tileReader{ctx, store})
	leaf, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, int64(number))})
	if err != nil {
		return nil, tlog.Hash{}, err
	}
	proof, err := tlog.ProveRecord(tree.N, int64(number), hashes)
	return proof, leaf[0], err
}

// ProveTree returns the proof that a tree begins with the older one of so many entries. [tlog.CheckTree] checks it.
func ProveTree(ctx context.Context, store Store, tree tlog.Tree, older uint64) (tlog.TreeProof, error) {
	if older == 0 || older > uint64(tree.N) {
		return nil, errors.New("audit: the older tree must have at least one entry, and not more than the newer one")
	}
	return tlog.ProveTree(tree.N, int64(older), tlog.TileHashReader(tree, &tileReader{ctx, store}))
}

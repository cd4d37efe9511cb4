package audit

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"
)

// A Store holds entries and the tree over them in whatever database the library system has. Its methods are safe for concurrent use, also by
// several processes, and honor ctx. Errors contain no rows. A store keeps no slice that it is given and hands out none that it
// keeps. store/storetest proves an implementation.
type Store interface {
	// Append adds entries at the end of the log, in their order, durably and all or none. It gives them numbers; what
	// they carry as Number is ignored. Numbers have no gaps, are never given twice, and follow the order in which
	// appends became visible: whoever sees an entry sees all before it, then and later. An entry with a Key that is there already is
	// left out. On a store on a transaction of the caller's the entries are there when that commits.
	Append(ctx context.Context, entries []Entry) error

	// Entries returns entries that q asks for, at most q.Limit, after q.Cursor. Without Tags and Actions they are in the order of
	// their numbers; with them in an order of the store's choosing, and every one that was there before the
	// first page is on exactly one page. Fewer than q.Limit do not mean the end; an empty Page.Cursor does.
	// Entries that were pruned are left out. Nothing is held open when it returns.
	Entries(ctx context.Context, q Query) (Page, error)

	// Tree returns what was last written by Advance, and of the tiles those asked for, all as of one moment.
	Tree(ctx context.Context, tiles ...TileID) (Tree, error)

	// Advance makes a change durable, all or nothing, if the tree still has the size a.From: otherwise it returns
	// [ErrConflict] and does nothing. Of removed entries nothing that was given to Append stays, Key and Tags included.
	Advance(ctx context.Context, a Advance) error
}

// ErrConflict means that somebody else was faster: the tree has grown meanwhile.
var ErrConflict = errors.New("audit: the tree was changed meanwhile")

// A Query asks for a page of entries. The conditions must all hold.
type Query struct {
	From, To uint64 // numbers From ≤ n < To; To 0: no end

	Tags    []Tag    // entries about one of these; none: about whomever. At most some hundred
	Actions []Action // of one of these; none: whatever it was

	Since, Until time.Time // Since ≤ Entry.Time < Until; zero: no bound

	Cursor string // opaque; empty for the first page
	Limit  int    // at least 1
}

// A Page is what a Query brought. Of the entries Number and Body are filled in; they are the caller's.
type Page struct {
	Entries []Entry
	Cursor  string // where the next page begins; empty: there is none
}

// A TileID says which part of the tree a tile is: the hashes of level 8·Level, from number 256·N on, as in the tiles of [tlog] of height 8.
type TileID struct {
	Level int
	N     uint64
}

// A Tile is 1 to 256 hashes of 32 bytes each.
type Tile struct {
	TileID
	Data []byte
}

// A Tree is the state of the tree over the entries.
type Tree struct {
	Size       uint64   // so many entries have a leaf
	Next       uint64   // the number that the next entry will have: entries there are, counting those that were pruned
	Checkpoint []byte   // the last one, signed; nil: none yet
	Tiles      [][]byte // one for each tile asked for, with all hashes that were written; nil: there is none
}

// An Advance is a change of the tree.
type Advance struct {
	From       uint64 // the Size it has
	Size       uint64 // and gets; not less
	Checkpoint []byte
	Tiles      []Tile // to be written, in place of what is there

	Remove []Range  // entries to be removed; that they are gone already is not an error
	Drop   []TileID // tiles to be removed; likewise
}

func sortTags(tags []Tag) []Tag {
	compare := func(a, b Tag) int { return bytes.Compare(a[:], b[:]) }
	slices.SortFunc(tags, compare)
	return slices.Compact(tags)
}

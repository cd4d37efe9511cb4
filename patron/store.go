package patron

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/crypto"
)

// Facts are the plain operational facts of a patron, which rules and reports need. They name nobody.
type Facts struct {
	Group      string
	Categories []string // statistical categories, as codes
	Library    string   // home library
	Expires    time.Time
	Wish       Wish      // about the reading history
	WishSince  time.Time // zero: always
}

// A Wish is what a patron wants to become of their reading history.
type Wish string

// The wishes. None is the zero value.
const (
	WishNone   Wish = ""
	WishKeep   Wish = "keep"
	WishForget Wish = "forget"
)

// A Row is a patron as a [Store] holds it: sealed. The zero Row is no patron.
type Row struct {
	ID       ID
	Version  uint64 // 1 when it is inserted, one more with every write
	Facts    Facts  // times are to the microsecond, in UTC
	Segments []SealedSegment
	Tokens   []crypto.Token // of its identifiers; no two alike, and nobody else has them
	Lookups  []crypto.Token // by which it is found, too; others may have them as well. No two alike
	Indexed  uint64         // the change of the index keys with which the tokens and lookups were made

	Restricted time.Time // since when only those look at it who may restrict: GDPR article 18; zero: it is not. To the microsecond, like the facts
	Erasing    time.Time // when its erasure was asked for, which waits for what is still owed; zero: it was not
}

// A SealedSegment is one segment. A segment without content is left out.
type SealedSegment struct {
	Segment  access.Segment
	Revision uint64 // the row's version in which it was last written
	Data     []byte
}

// A Store holds patrons in whatever tables the library system already has. Methods are safe for concurrent use, also by
// several processes, and honor ctx. A token of Row.Tokens belongs to one patron, one of Row.Lookups to any number. Errors contain no rows. What a method returns is the caller's.
type Store interface {
	// Get returns a patron, or [ErrNotFound].
	Get(ctx context.Context, id ID) (Row, error)

	// Find returns who has each of the tokens, among their Tokens or their Lookups, and the newest change of the index keys that
	// was ever written, both as of one moment. Tokens that nobody has are left out. There may be thousands of tokens. Of one
	// that more than 1,000 patrons have, some 1,000 of them are enough.
	Find(ctx context.Context, tokens []crypto.Token) (Found, error)

	// Write makes all writes of the batch durable in one transaction, or none of them. Errors: a [*ConflictError] when a row is
	// not of the version that the write replaces, a [*DuplicateError] when one of its Tokens belongs to somebody else, and
	// [ErrStaleIndexes] when batch.Indexed is less than the newest ever written; when it is greater, it becomes that.
	Write(ctx context.Context, batch Batch) error

	// Rows returns at most q.Limit rows whose Indexed is less than q.IndexedBefore (0: all rows), with q.Erasing only those that wait to be erased, that follow after q.After in
	// a fixed order of the store's choosing; the row with that ID may be gone by now. It returns fewer than q.Limit rows only at the end.
	// A row that is there during all calls of such a series is left out by none.
	Rows(ctx context.Context, q Query) ([]Row, error)
}

// Found is what [Store.Find] returns.
type Found struct {
	Owners  map[crypto.Token][]ID // each patron once, in any order
	Indexed uint64
}

// A Batch is a list of writes that belong together. An ID occurs once in it.
type Batch struct {
	Indexed uint64 // the change of the index keys with which all its tokens were made
	Writes  []Write
}

// A Write inserts a row, replaces one whole, with all its segments, tokens and lookups, or removes it.
type Write struct {
	Row    Row    // Row.Version is Old+1
	Old    uint64 // the version that is replaced; 0: there must be none
	Remove bool   // of Row, only the ID counts then
}

// A Query asks for a page of rows.
type Query struct {
	IndexedBefore uint64
	Erasing       bool // only rows whose Erasing is set
	After         ID   // zero: from the beginning
	Limit         int
}

// Grants is where break-glass grants are kept. Methods are safe for concurrent use and honor ctx.
type Grants interface {
	// AddGrant stores a grant durably, unless the actor has one that nobody has reviewed: [access.ErrUnreviewed]. Of several calls for one
	// actor at the same time, one succeeds.
	AddGrant(ctx context.Context, g Grant) error

	// Grant returns a grant, or [ErrNotFound].
	Grant(ctx context.Context, id string) (Grant, error)

	// Unreviewed returns the grants that nobody has reviewed: of one actor, or of all when actor is empty; oldest first.
	Unreviewed(ctx context.Context, actor string) ([]Grant, error)

	// ReviewGrant stores who reviewed a grant, and when. Errors: [ErrNotFound]; [ErrReviewed] when that was done already.
	ReviewGrant(ctx context.Context, id, reviewer string, at time.Time) error
}

// A Grant is a break-glass grant with its reason, which is sealed under the patron's key: it may say anything.
type Grant struct {
	access.Grant
	Reason []byte
}

// What a store, and so a directory, may say.
var (
	ErrNotFound     = errors.New("patron: not found")
	ErrConflict     = errors.New("patron: somebody else has changed it meanwhile")
	ErrDuplicate    = errors.New("patron: an identifier belongs to another patron")
	ErrStaleIndexes = errors.New("patron: the index keys have changed")
	ErrReviewed     = access.ErrReviewed
)

// A ConflictError says which row is not of the version that was to be replaced. It is an [ErrConflict].
type ConflictError struct{ ID ID }

func (e *ConflictError) Error() string        { return fmt.Sprintf("%v: %v", ErrConflict, e.ID) }
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// A DuplicateError says which row could not be written because one of its tokens is somebody else's. It is an [ErrDuplicate].
type DuplicateError struct{ ID ID }

func (e *DuplicateError) Error() string        { return ErrDuplicate.Error() }
func (e *DuplicateError) Is(target error) bool { return target == ErrDuplicate }

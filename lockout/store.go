package lockout

import (
	"context"
	"time"
)

// A Store keeps how many guesses were made. Methods are safe for concurrent use, also by several processes on the same data, and honor ctx.
// Time comes from the caller and never from the store; it is kept to the microsecond. How a [State] changes is [Admit] and [Settle],
// which a store calls within its transaction, or does the same in its own language: storetest.TestLockouts compares them.
type Store interface {
	// Reserve takes one guess of every slot, or of none, as [Admit] says, in one atomic step. The slots are few, and their keys all different.
	// When it returns an error, a guess may have been taken.
	Reserve(ctx context.Context, now time.Time, slots []Slot) (Verdict, error)

	// Conclude says how the guess came out that Reserve took of these slots, as [Settle] says, in one atomic step.
	Conclude(ctx context.Context, now time.Time, slots []Slot, c Conclusion) (Verdict, error)

	// Hold puts a hold on a name until then, with the key [Name.Hold]. The zero time lifts it, and forgets all failures under that name
	// but of guesses that are not concluded yet: see [State.Forget]. A name of which nothing is known is no error.
	Hold(ctx context.Context, now time.Time, name Name, until time.Time) error

	// States returns what is kept, a page at a time, in any order. It leaves out none that was there all the time; one that changes meanwhile may come
	// twice. What has ended by now may be among it.
	States(ctx context.Context, now time.Time, q Query) (Page, error)
}

// A Local store ends with the process and is seen by no other. Only on such a store a [Guard] may draw its own key.
type Local interface {
	Store
	Local()
}

// A Timekeeper is a store that several processes share and that keeps one time for them, so that a clock that somebody sets ends no lock. A Guard asks it
// when it begins and from then on counts by its own monotonic clock; it asks again now and then, and when the two have parted the clock was set.
type Timekeeper interface {
	// Sync returns the store's time, that of its clock and an offset that it keeps, and how often the offset was changed: its edition. If mine is not zero and the
	// store's time is apart from it by more than [Apart], although the edition is the one that the caller has seen, then its clock was set: it changes the offset, so that its
	// time is mine, and the edition. If the edition is another one, somebody else has seen to it, whose time it returns. All in one atomic step.
	Sync(ctx context.Context, mine time.Time, seen int64) (now time.Time, edition int64, err error)
}

// Apart is how far two clocks may be apart without one of them having been set.
const Apart = 2 * time.Second

// A Name is an account, a login that leads to no account, or a source: the first 80 bits of an HMAC. Nobody without the Guard's key can tell whose.
type Name [10]byte

// A Key is what guesses are counted under: a name, then 5 bytes for the lane (zero: the common one), then one for what is counted.
type Key [16]byte

// What is counted, in the last byte of a key.
const (
	countRecent byte = iota // at an account, within the lock's duration
	countDaily
	countHold
	countSource
)

func (n Name) key(lane [5]byte, what byte) (k Key) {
	copy(k[:], n[:])
	copy(k[len(n):], lane[:])
	k[len(k)-1] = what
	return k
}

// Hold returns the key of a hold by staff.
func (n Name) Hold() Key { return n.key([5]byte{}, countHold) }

// Common returns the keys under which guesses from no particular device are counted: within the lock's duration, and by the day.
func (n Name) Common() (recent, daily Key) {
	return n.key([5]byte{}, countRecent), n.key([5]byte{}, countDaily)
}

// Range returns the first and the last key that a name can have, for stores that keep them in order.
func (n Name) Range() (first, last Key) {
	for i := range last {
		last[i] = 0xff
	}
	copy(first[:], n[:])
	copy(last[:], n[:])
	return first, last
}

// Source returns the key under which the guesses of a source are counted.
func (n Name) Source() Key { return n.key([5]byte{}, countSource) }

// IsSource reports whether it is the key of a source.
func (k Key) IsSource() bool { return k[len(k)-1] == countSource }

// Name returns whose key it is.
func (k Key) Name() Name { return Name(k[:len(Name{})]) }

// IsHold reports whether it is the key of a hold.
func (k Key) IsHold() bool { return k[len(k)-1] == countHold }

// A Slot is one limit that a guess has to keep.
type Slot struct {
	Key      Key
	Attempts int           // so many guesses in Duration; 0: nothing is counted, but there may be a hold
	Duration time.Duration // and for how long it is locked when they are used up
	Clears   bool          // a right guess makes the earlier ones forgotten
}

// A Conclusion says how a guess came out.
type Conclusion struct {
	Reserved time.Time // when it was reserved
	Result   Result
}

// A Result is how a guess came out.
type Result uint8

// The results.
const (
	Wrong     Result = iota
	Right            // the password was right
	Abandoned        // nothing was compared
)

// An Answer is what becomes of a guess.
type Answer uint8

// The answers.
const (
	Admitted Answer = iota
	Busy            // guesses that are being checked use up what is left
	Locked
	Late // of Conclude: it took longer than MaxCheck, and counts as wrong
)

// A Verdict is the answer with its reasons.
type Verdict struct {
	Answer Answer
	Slot   int           // the number of the slot that refuses
	Wait   time.Duration // of Locked: until it ends

	// Left is how many guesses are left besides this one: the least of all slots.
	Left int

	// Crossed has a bit for each slot (1 << its number) that is locked since a guess of which nobody was told yet. For every lock, one call says it.
	Crossed uint8
}

// A Query asks for a page of states.
type Query struct {
	Name   *Name  // nil: all
	Cursor string // empty: the first page
	Limit  int    // at least 1; a page may hold a few more or less
}

// A Page is some states. An empty Cursor says that it is the last.
type Page struct {
	Entries []Entry
	Cursor  string
}

// An Entry is a state with its key.
type Entry struct {
	Key   Key
	State State
}

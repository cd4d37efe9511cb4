package postgres

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carrel-project/carrel/lockout"
)

// Lockouts counts guesses, for all machines that reach the database. It is safe for concurrent use if its DB is. Give it a *sql.DB: in a transaction of the caller's a guess is
// counted when that is committed, and the rows of the account and the source are locked until then.
//
// A guess is one call of a function that the migration made, in one round trip. Guesses at one account or from one source wait for each other while the server
// writes to its disk; others do not. Limit the pool (SetMaxOpenConns), so that a crowd of logins does not use up the server's connections.
type Lockouts struct {
	db    DB
	owned bool // each call is a transaction of its own

	places chan struct{} // full while as many reserve as may: conclusions do not wait behind a thousand who are about to begin
	calls  atomic.Int64  // of Reserve, that have ended
	walk   sync.Mutex
	after  lockout.Key // pruned up to this one
}

var (
	_ lockout.Store      = (*Lockouts)(nil)
	_ lockout.Timekeeper = (*Lockouts)(nil)
)

// NewLockouts returns the store in db. It neither creates nor migrates tables.
func NewLockouts(db DB) *Lockouts {
	_, owned := db.(beginner)
	return &Lockouts{db: db, owned: owned, places: make(chan struct{}, maxPlaces)}
}

// Reserve implements lockout.Store.
func (l *Lockouts) Reserve(ctx context.Context, now time.Time, slots []lockout.Slot) (v lockout.Verdict, err error) {
	if crowd, err := l.queue(ctx); err != nil || crowd {
		return lockout.Verdict{Answer: lockout.Busy}, err
	}
	defer func() { <-l.places }()
	keys, limits, periods, _ := arrays(slots)
	var wait int64
	err = l.row(ctx, "reserve a guess", reserveQuery, []any{now.UnixMicro(), lockout.MaxCheck.Microseconds(), keys, limits, periods}, &v.Answer, &v.Slot, &wait, &v.Left, &v.Crossed)
	if err != nil {
		return lockout.Verdict{}, err
	}
	v.Wait = time.Duration(wait) * time.Microsecond
	l.prune(ctx, now)
	return v, nil
}

// maxPlaces is how many reserve at a time in this process, and maxQueue how long a reservation waits for others of it.
const (
	maxPlaces = 16
	maxQueue  = time.Second
)

// queue waits for a place. A crowd is more than the server takes in that time: it is well, there are just too many.
func (l *Lockouts) queue(ctx context.Context) (crowd bool, err error) {
	select {
	case l.places <- struct{}{}:
		return false, nil
	default:
	}
	before, late := l.calls.Load(), time.NewTimer(maxQueue)
	defer late.Stop()
	for {
		select {
		case l.places <- struct{}{}:
			return false, nil
		case <-ctx.Done():
			return false, failed("reserve a guess", ctx.Err())
		case <-late.C:
			if l.calls.Load() != before {
				return true, nil
			}
		}
	}
}

// Conclude implements lockout.Store. A guess that was right or abandoned does not wait for the server's disk to take that down: should it be lost, the guess counts as wrong.
func (l *Lockouts) Conclude(ctx context.Context, now time.Time, slots []lockout.Slot, c lockout.Conclusion) (v lockout.Verdict, err error) {
	if err := ctx.Err(); err != nil {
		return v, failed("conclude a guess", err)
	}
	reserved := c.Reserved.UnixMicro()
	if now.UnixMicro() >= reserved+lockout.MaxCheck.Microseconds() {
		return lockout.Verdict{Answer: lockout.Late}, nil
	}
	_, pool := l.db.(*sql.DB) // on a *sql.Conn somebody may have begun a transaction of which we do not know
	keys, limits, periods, clears := arrays(slots)
	err = l.row(ctx, "conclude a guess", concludeQuery,
		[]any{now.UnixMicro(), lockout.MaxCheck.Microseconds(), keys, limits, periods, clears, reserved, int(c.Result), pool && c.Result != lockout.Wrong}, &v.Crossed)
	return v, err
}

// row runs a statement that returns one row, and is a transaction by itself. It is run again when the server says that it undid it for others' sake, and never when nobody knows
// whether it did: the guess would count twice.
func (l *Lockouts) row(ctx context.Context, op, query string, args []any, dest ...any) error {
	for n := 0; ; n++ {
		err := failed(op, l.db.QueryRowContext(ctx, query, args...).Scan(dest...))
		var known *Error
		if err == nil || !l.owned || n+1 == tries || !again(err) || !errors.As(err, &known) || !known.undone() {
			return err
		}
		select {
		case <-time.After(pause<<n/2 + rand.N(pause<<n)):
		case <-ctx.Done():
			return failed(op, ctx.Err())
		}
	}
}

// Hold implements lockout.Store.
func (l *Lockouts) Hold(ctx context.Context, now time.Time, name lockout.Name, until time.Time) error {
	if !until.IsZero() {
		key := name.Hold()
		_, err := change(ctx, l.db, "hold an account", `INSERT INTO lockouts VALUES ($1::bytea, 0, 0, 0, 0, 0, 0, $2::bigint, $2)
			ON CONFLICT (key) DO UPDATE SET until = excluded.until, expires = excluded.expires`, key[:], until.UnixMicro())
		return err
	}
	first, last := name.Range()
	_, err := change(ctx, l.db, "unlock an account", forgetQuery, now.UnixMicro(), lockout.MaxCheck.Microseconds(), first[:], last[:])
	return err
}

var lastName = lockout.Name{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

var errCursor = errors.New("postgres: not a cursor of this store")

// States implements lockout.Store, in the order of the keys.
func (l *Lockouts) States(ctx context.Context, _ time.Time, q lockout.Query) (page lockout.Page, err error) {
	const op = "read guesses"
	var first, last lockout.Key
	if q.Name != nil {
		first, last = q.Name.Range()
	} else {
		_, last = lastName.Range()
	}
	compare := ">="
	if q.Cursor != "" {
		if n, err := hex.Decode(first[:], []byte(q.Cursor)); err != nil || n != len(first) {
			return page, errCursor
		}
		compare = ">"
	}
	rows, err := l.db.QueryContext(ctx, "SELECT "+stateColumns+" FROM lockouts WHERE key "+compare+" $1::bytea AND key <= $2::bytea ORDER BY key LIMIT $3::bigint", first[:], last[:], max(q.Limit, 1))
	if err != nil {
		return page, failed(op, err)
	}
	defer rows.Close()
	for rows.Next() {
		e, err := scanState(rows)
		if err != nil {
			return page, failed(op, err)
		}
		page.Entries = append(page.Entries, e)
	}
	if n := len(page.Entries); n > 0 && n >= q.Limit {
		page.Cursor = hex.EncodeToString(page.Entries[n-1].Key[:])
	}
	return page, failed(op, rows.Err())
}

// serverTime is the server's clock in microseconds. It moves on within a transaction.
const serverTime = "floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

// Sync implements lockout.Timekeeper, by the server's clock.
func (l *Lockouts) Sync(ctx context.Context, mine time.Time, seen int64) (time.Time, int64, error) {
	const op = "read the time of guesses"
	for {
		var us, edition int64
		err := failed(op, l.db.QueryRowContext(ctx, "SELECT "+serverTime+" + apart, edition FROM lockout_clock").Scan(&us, &edition))
		var known *Error
		if errors.As(err, &known) && known.State == codeNoTable { // this is the first that a Guard asks
			if serr := CheckSchema(ctx, l.db); serr != nil {
				return time.Time{}, 0, serr
			}
		}
		if err != nil {
			return time.Time{}, 0, err
		}
		now := time.UnixMicro(us)
		if mine.IsZero() || edition != seen || now.Sub(mine).Abs() <= lockout.Apart {
			return now, edition, nil
		}
		// The edition makes it one step: of several who want to set the time, one does, and the others look again.
		n, err := change(ctx, l.db, "keep the time of guesses", "UPDATE lockout_clock SET apart = $1::bigint - "+serverTime+", edition = edition + 1 WHERE edition = $2::bigint", mine.UnixMicro(), edition)
		if err != nil || n == 1 {
			return mine, edition + 1, err
		}
	}
}

// prune deletes rows that say nothing any more, some at a time: a walk through the table that goes on with every few calls. What fails is tried again. In a transaction of the
// caller's it is left to others: an error would end that.
func (l *Lockouts) prune(ctx context.Context, now time.Time) {
	const every, some = 64, 1000
	if l.calls.Add(1)%every != 0 || !l.owned || !l.walk.TryLock() {
		return
	}
	defer l.walk.Unlock()
	var last []byte
	err := l.db.QueryRowContext(ctx, pruneQuery, l.after[:], some, now.UnixMicro()).Scan(&last)
	switch {
	case err == nil:
		copy(l.after[:], last)
	case errors.Is(err, sql.ErrNoRows): // the walk is at its end
		l.after = lockout.Key{}
	}
}

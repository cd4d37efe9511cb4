package sqlite

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carrel-project/carrel/lockout"
)

// Lockouts counts guesses, for all processes that have the file open. It is safe for concurrent use if its DB is. Make one for a database and keep it: those who
// write in one process wait for each other in it, which is quicker than waiting for the file.
type Lockouts struct {
	db   DB
	turn chan struct{} // full while somebody writes
	next chan struct{} // full while somebody waits for the turn to reserve a guess: conclusions do not wait behind a thousand who are about to begin
	done atomic.Int64  // how many reservations have had their turn

	mu    sync.Mutex
	stmts map[string]*sql.Stmt

	calls atomic.Int64 // of Reserve
	after lockout.Key  // pruned up to this one; of whoever has the turn
}

var (
	_ lockout.Store      = (*Lockouts)(nil)
	_ lockout.Timekeeper = (*Lockouts)(nil)
)

// NewLockouts returns the store in db. It neither creates nor migrates tables.
func NewLockouts(db DB) *Lockouts {
	return &Lockouts{db: db, turn: make(chan struct{}, 1), next: make(chan struct{}, 1), stmts: map[string]*sql.Stmt{}}
}

// Reserve implements lockout.Store, in one statement if the guess is admitted.
func (l *Lockouts) Reserve(ctx context.Context, now time.Time, slots []lockout.Slot) (v lockout.Verdict, err error) {
	if crowd, err := l.queue(ctx); err != nil || crowd {
		return lockout.Verdict{Answer: lockout.Busy}, err
	}
	began := false
	err = l.write(ctx, func() (err error) {
		<-l.next
		began = true
		v, err = l.decide(ctx, now, slots)
		return err
	})
	if !began {
		<-l.next
	}
	if err != nil {
		return lockout.Verdict{}, err
	}
	l.done.Add(1)
	l.prune(ctx, now)
	return v, nil
}

// maxQueue is how long a reservation waits for others of this process.
const maxQueue = time.Second

// queue waits until it is this reservation that is next. A crowd is more than the file takes in that time: it is well, there are just too many.
func (l *Lockouts) queue(ctx context.Context) (crowd bool, err error) {
	before, late := l.done.Load(), time.NewTimer(maxQueue)
	defer late.Stop()
	for {
		select {
		case l.next <- struct{}{}:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		case <-late.C:
			if l.done.Load() != before {
				return true, nil
			}
		}
	}
}

// decide reserves, or says what is in the way.
func (l *Lockouts) decide(ctx context.Context, now time.Time, slots []lockout.Slot) (lockout.Verdict, error) {
	for {
		v, err := l.reserve(ctx, now, slots)
		if err != nil || v.Answer == lockout.Admitted {
			return v, err
		}
		states, err := l.read(ctx, slots)
		if err != nil {
			return v, err
		}
		if v = lockout.Admit(states, slots, now); v.Crossed != 0 {
			err := l.cross(ctx, now, slots, &v)
			return v, err
		}
		if v.Answer != lockout.Admitted || !counts(slots) {
			return v, nil
		}
		// Another process has given its guess back since.
	}
}

// counts reports whether any slot counts.
func counts(slots []lockout.Slot) bool {
	for i := range slots {
		if slots[i].Attempts > 0 {
			return true
		}
	}
	return false
}

// reserve counts a guess if no slot is locked. The answer is Locked if one is, or may be.
func (l *Lockouts) reserve(ctx context.Context, now time.Time, slots []lockout.Slot) (lockout.Verdict, error) {
	const op = "reserve a guess"
	v := lockout.Verdict{Answer: lockout.Locked, Left: -1}
	if !counts(slots) {
		return v, nil
	}
	rows, err := l.query(ctx, op, reserveQuery(len(slots)), slotArgs(slots, sql.Named("now", now.UnixMicro()), sql.Named("check", lockout.MaxCheck.Microseconds())))
	if err != nil {
		return v, err
	}
	defer rows.Close()
	for rows.Next() {
		var key []byte
		var used int
		if err := rows.Scan(&key, &used); err != nil {
			return v, failed(op, err)
		}
		v.Answer = lockout.Admitted
		if left := slots[slotOf(slots, key)].Attempts - used; v.Left < 0 || left < v.Left {
			v.Left = max(left, 0)
		}
	}
	return v, failed(op, rows.Err())
}

// read returns the states of slots.
func (l *Lockouts) read(ctx context.Context, slots []lockout.Slot) ([]lockout.State, error) {
	const op = "read guesses"
	states := make([]lockout.State, len(slots))
	rows, err := l.query(ctx, op, "WITH "+want(len(slots))+" SELECT "+stateColumns+" FROM want JOIN lockouts USING (key)", slotArgs(slots))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		e, err := scanState(rows)
		if err != nil {
			return nil, failed(op, err)
		}
		states[slotOf(slots, e.Key[:])] = e.State
	}
	return states, failed(op, rows.Err())
}

// cross notes that guesses that were never concluded have locked slots. Of several callers, one does.
func (l *Lockouts) cross(ctx context.Context, now time.Time, slots []lockout.Slot, v *lockout.Verdict) error {
	found := v.Crossed
	v.Crossed = 0
	for i := range slots {
		if found&(1<<i) == 0 {
			continue
		}
		n, err := change(ctx, l.db, "note a lock", "UPDATE lockouts SET open = 0, older = 0 WHERE key = ? AND open + older > 0 AND lease + ? <= ? AND until > ?",
			slots[i].Key[:], lockout.MaxCheck.Microseconds(), now.UnixMicro(), now.UnixMicro())
		if err != nil {
			return err
		}
		if n == 1 {
			v.Crossed |= 1 << i
		}
	}
	return nil
}

// Conclude implements lockout.Store, in one statement.
func (l *Lockouts) Conclude(ctx context.Context, now time.Time, slots []lockout.Slot, c lockout.Conclusion) (v lockout.Verdict, err error) {
	const op = "conclude a guess"
	if err := ctx.Err(); err != nil {
		return v, err
	}
	if now.UnixMicro() >= c.Reserved.UnixMicro()+lockout.MaxCheck.Microseconds() {
		return lockout.Verdict{Answer: lockout.Late}, nil
	}
	err = l.write(ctx, func() error {
		rows, err := l.query(ctx, op, concludeQuery(len(slots)),
			slotArgs(slots, sql.Named("now", now.UnixMicro()), sql.Named("reserved", c.Reserved.UnixMicro()), sql.Named("result", int(c.Result)), sql.Named("check", lockout.MaxCheck.Microseconds())))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var key []byte
			var locked bool
			if err := rows.Scan(&key, &locked); err != nil {
				return failed(op, err)
			}
			if locked && c.Result == lockout.Wrong {
				v.Crossed |= 1 << slotOf(slots, key)
			}
		}
		return failed(op, rows.Err())
	})
	return v, err
}

// Hold implements lockout.Store.
func (l *Lockouts) Hold(ctx context.Context, now time.Time, name lockout.Name, until time.Time) error {
	return l.write(ctx, func() error {
		if !until.IsZero() {
			key := name.Hold()
			_, err := change(ctx, l.db, "hold an account", `INSERT INTO lockouts VALUES (?1, 0, 0, 0, 0, 0, 0, ?2, ?2)
				ON CONFLICT (key) DO UPDATE SET until = excluded.until, expires = excluded.expires`, key[:], until.UnixMicro())
			return err
		}
		first, last := name.Range()
		_, err := change(ctx, l.db, "unlock an account", `UPDATE lockouts SET start = ?1, earlier = 0, until = 0,
			failed = CASE WHEN lease > ?1 THEN open + older WHEN lease + ?2 > ?1 THEN open ELSE 0 END,
			open = iif(lease > ?1, open, 0), older = CASE WHEN lease > ?1 THEN older WHEN lease + ?2 > ?1 THEN open ELSE 0 END,
			lease = iif(lease <= ?1 AND lease + ?2 > ?1, lease + ?2, lease) WHERE key BETWEEN ?3 AND ?4`, now.UnixMicro(), lockout.MaxCheck.Microseconds(), first[:], last[:])
		return err
	})
}

var lastName = lockout.Name{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

var errCursor = errors.New("sqlite: not a cursor of this store")

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
	rows, err := l.db.QueryContext(ctx, "SELECT "+stateColumns+" FROM lockouts WHERE key "+compare+" ? AND key <= ? ORDER BY key LIMIT ?", first[:], last[:], max(q.Limit, 1))
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

// Sync implements lockout.Timekeeper, by this machine's clock.
func (l *Lockouts) Sync(ctx context.Context, mine time.Time, seen int64) (time.Time, int64, error) {
	const op = "read the time of guesses"
	for {
		var apart, edition int64
		if err := l.db.QueryRowContext(ctx, "SELECT apart, edition FROM lockout_clock").Scan(&apart, &edition); err != nil {
			if serr := New(l.db).CheckSchema(ctx); serr != nil { // this is the first that a Guard asks
				return time.Time{}, 0, serr
			}
			return time.Time{}, 0, failed(op, err)
		}
		clock := time.Now().Round(0)
		now := clock.Add(time.Duration(apart) * time.Microsecond)
		if mine.IsZero() || edition != seen || now.Sub(mine).Abs() <= lockout.Apart {
			return now, edition, nil
		}
		var n int64
		err := l.write(ctx, func() (err error) {
			n, err = change(ctx, l.db, "keep the time of guesses", "UPDATE lockout_clock SET apart = ?, edition = edition + 1 WHERE edition = ?", mine.Sub(clock).Microseconds(), edition)
			return err
		})
		if err != nil || n == 1 {
			return mine, edition + 1, err
		}
	}
}

// write runs f while nobody else in this process writes.
func (l *Lockouts) write(ctx context.Context, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-l.turn }()
	return f()
}

// prune deletes rows that say nothing any more, some at a time: a walk through the table that goes on with every few calls. What fails is tried again.
func (l *Lockouts) prune(ctx context.Context, now time.Time) {
	const every, some = 64, 1000
	if l.calls.Add(1)%every != 0 {
		return
	}
	l.write(ctx, func() error {
		var last []byte
		err := l.db.QueryRowContext(ctx, "SELECT key FROM lockouts WHERE key > ? ORDER BY key LIMIT 1 OFFSET ?", l.after[:], some).Scan(&last)
		if err != nil { // there are not so many more
			_, end := lastName.Range()
			last = end[:]
		}
		_, cerr := change(ctx, l.db, "prune guesses", "DELETE FROM lockouts WHERE key > ? AND key <= ? AND expires <= ?", l.after[:], last, now.UnixMicro())
		if l.after = (lockout.Key{}); err == nil {
			copy(l.after[:], last)
		}
		return cerr
	})
}

// query runs a statement that returns rows. Those of a *sql.DB are prepared once: parsing takes longer than running them.
func (l *Lockouts) query(ctx context.Context, op, query string, args []any) (*sql.Rows, error) {
	db, ok := l.db.(*sql.DB)
	if !ok {
		rows, err := l.db.QueryContext(ctx, query, args...)
		return rows, failed(op, err)
	}
	l.mu.Lock()
	s := l.stmts[query]
	l.mu.Unlock()
	if s == nil {
		var err error
		if s, err = db.PrepareContext(ctx, query); err != nil {
			return nil, failed(op, err)
		}
		l.mu.Lock()
		l.stmts[query] = s
		l.mu.Unlock()
	}
	rows, err := s.QueryContext(ctx, args...)
	return rows, failed(op, err)
}

package postgres

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"math"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
)

// Circulation is a store of circulation records. It is safe for concurrent use, by any number of machines, if its DB is.
//
// What identifies lies apart from what happened: a record is anonymous from birth, and its borrower, the other persons it names, what was written about them and its pointers are rows of small
// tables beside it, which unlinking deletes. Deleted rows stay in the server's files until they are vacuumed, and in its write-ahead log, replicas and backups for longer: what lies there are
// pseudonyms, if the library system saves such, as carrel import does.
type Circulation struct {
	db    DB
	trail *audit.Trail // nil: none
	by    audit.Event
}

var (
	_ anonymize.Store    = (*Circulation)(nil)
	_ anonymize.Finisher = (*Circulation)(nil)
	_ anonymize.Deferrer = (*Circulation)(nil)
)

// New returns the store in db. It neither creates nor migrates tables.
func New(db DB) *Circulation { return &Circulation{db: db} }

// WithTrail returns the same store, which writes an event into the trail for every batch that it unlinks, in the same transaction: the receipt,
// where nobody can change it. The Actor, Role, Channel and Approval of by say who sweeps. The trail's entries must be in the same database.
func (c *Circulation) WithTrail(trail *audit.Trail, by audit.Event) *Circulation {
	return &Circulation{db: c.db, trail: trail, by: by}
}

// CheckSchema is the function of this name, for the store's database.
func (c *Circulation) CheckSchema(ctx context.Context) error { return CheckSchema(ctx, c.db) }

// Receipts returns the receipts of all batches in the order in which they were written.
func (c *Circulation) Receipts(ctx context.Context) ([]anonymize.Receipt, error) {
	const op = "read receipts"
	var list []anonymize.Receipt
	err := c.read(ctx, op, func() error {
		list = nil
		var body string
		return each(ctx, op, c.db, "SELECT body FROM receipts ORDER BY id", nil, []any{&body}, func() error {
			var r anonymize.Receipt
			if err := json.Unmarshal([]byte(body), &r); err != nil {
				return errors.New("postgres: a receipt is damaged")
			}
			list = append(list, r)
			return nil
		})
	})
	return list, err
}

// A record's number begins with its kind, so that a kind is one range of every table and a page one sequential read.
const kindShift = 40

func firstOf(k circulation.Kind) int64 { return (int64(k) - 1) << kindShift }
func lastOf(k circulation.Kind) int64  { return int64(k)<<kindShift - 1 }

// A shardBlock is how many neighbouring numbers belong to one shard: so many that two workers seldom write into the same page of a table.
const shardBlock = 12

// none stands for NULL. For a loan's start it also sorts where a start that is not known belongs: before all others.
const none = math.MinInt64

// A tx is a transaction that writes. Its errors are fit to be shown.
type tx struct {
	ctx context.Context // of the one call that the transaction serves
	op  string
	db  DB
}

// exec returns the number of rows changed.
func (t *tx) exec(query string, args ...any) (int64, error) {
	return change(t.ctx, t.db, t.op, query, args...)
}

// get reads one row. It reports whether there is one.
func (t *tx) get(query string, args []any, dest ...any) (bool, error) {
	found := false
	err := each(t.ctx, t.op, t.db, query, args, dest, func() error {
		found = true
		return nil
	})
	return found, err
}

func (c *Circulation) write(ctx context.Context, op string, repeatable bool, f func(*tx) error) error {
	how := onceAlone
	if repeatable {
		how = anyTimes
	}
	return transactPatiently(ctx, c.db, op, how, failover, func(db DB) error { return f(&tx{ctx, op, db}) })
}

// byIndex, run at the beginning of a transaction, keeps the server from reading a large table whole to find a page's rows in it, which it sometimes takes for the better way: when a table was just filled, say, and nobody has counted yet what is in it.
const byIndex = "; SET LOCAL enable_seqscan = off; SET LOCAL enable_mergejoin = off; SET LOCAL jit = off"

// read runs something that only reads, again if the server goes away meanwhile.
func (c *Circulation) read(ctx context.Context, op string, do func() error) error {
	if _, ok := c.db.(*sql.DB); !ok { // a connection that is lost does not come back
		return do()
	}
	return persist(ctx, op, failover, func() (error, bool) { return do(), true })
}

package sqlite

import (
	"bytes"
	"database/sql"
	"strings"

	"github.com/carrel-project/carrel/lockout"
)

// want is a table of n slots.
func want(n int) string {
	return "want (key, attempts, period, clears) AS (VALUES (?, ?, ?, ?)" + strings.Repeat(", (?, ?, ?, ?)", n-1) + ")"
}

// slotArgs returns what want takes, and after it the named arguments: SQLite numbers them all in the order in which they stand in the query.
func slotArgs(slots []lockout.Slot, named ...any) (args []any) {
	for i := range slots {
		s := &slots[i]
		args = append(args, s.Key[:], s.Attempts, s.Duration.Microseconds(), s.Clears)
	}
	return append(args, named...)
}

func slotOf(slots []lockout.Slot, key []byte) int {
	for i := range slots {
		if bytes.Equal(slots[i].Key[:], key) {
			return i
		}
	}
	return 0 // the query asked for no other
}

// seen is lockout.State.At: the slots with their states as they are now. Those of which nothing is known are all zero.
const seen = `seen AS (
	SELECT key, attempts, period, clears, coalesce(lease, 0) AS lease, iif(until > :now, until, 0) AS until,
		CASE WHEN until > :now THEN start WHEN until <> 0 OR start + 2 * period <= :now THEN 0 WHEN start + period <= :now THEN start + period ELSE coalesce(start, 0) END AS start,
		CASE WHEN until > :now THEN failed WHEN until <> 0 OR start + period <= :now THEN 0 ELSE coalesce(failed, 0) END AS failed,
		CASE WHEN until > :now THEN earlier WHEN until <> 0 OR start + 2 * period <= :now THEN 0 WHEN start + period <= :now THEN failed ELSE coalesce(earlier, 0) END AS earlier,
		CASE WHEN until > :now THEN open WHEN until <> 0 OR start + 2 * period <= :now OR lease <= :now THEN 0 ELSE coalesce(open, 0) END AS open
	FROM want LEFT JOIN lockouts USING (key))`

// reserveQuery is lockout.Admit: one guess more in each slot, if none is locked.
func reserveQuery(n int) string {
	return "WITH " + want(n) + ", " + seen + `
INSERT INTO lockouts (key, start, failed, earlier, open, lease, until, expires)
SELECT key, iif(failed + earlier = 0, :now, start), failed + 1, earlier, open + 1, :now + :check,
	iif(failed + 1 + earlier >= attempts, :now + period, 0), :now + 2 * period + :check
FROM seen WHERE attempts > 0 AND NOT EXISTS (SELECT 1 FROM seen WHERE until > :now)
ON CONFLICT (key) DO UPDATE SET start = excluded.start, failed = excluded.failed, earlier = excluded.earlier, open = excluded.open,
	lease = excluded.lease, until = excluded.until, expires = excluded.expires
RETURNING key, failed + earlier`
}

// concludeQuery is lockout.Settle. It returns the keys with whether they are locked now and nobody is being checked.
func concludeQuery(n int) string {
	return "WITH " + want(n) + ", " + seen + `,
fewer AS (SELECT key, period, lease, until, start, failed, earlier, max(open - 1, 0) AS open,
	:result = 1 AND clears AS clear, :result <> 0 AS back, earlier > 0 AND (:reserved < start OR failed = 0) AS before
	FROM seen WHERE attempts > 0)
UPDATE lockouts SET
	start   = iif(f.clear, :now, f.start),
	failed  = CASE WHEN f.clear THEN f.open WHEN f.back AND NOT f.before THEN max(f.failed - 1, 0) ELSE f.failed END,
	earlier = CASE WHEN f.clear THEN 0 WHEN f.back AND f.before THEN f.earlier - 1 ELSE f.earlier END,
	open    = f.open,
	until   = CASE WHEN f.back THEN 0 WHEN f.until > :now AND f.open = 0 THEN :now + f.period ELSE f.until END
FROM fewer AS f WHERE lockouts.key = f.key
RETURNING key, until > 0 AND open = 0`
}

const stateColumns = "key, start, failed, earlier, open, lease, until"

func scanState(rows *sql.Rows) (e lockout.Entry, err error) {
	var key []byte
	s := &e.State
	err = rows.Scan(&key, &s.Start, &s.Failed, &s.Earlier, &s.Open, &s.Lease, &s.Until)
	copy(e.Key[:], key)
	return e, err
}

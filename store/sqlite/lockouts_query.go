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
const seen = `aged AS (
	SELECT key, attempts, period, clears, coalesce(start, 0) AS start, coalesce(failed, 0) AS failed, coalesce(earlier, 0) AS earlier, coalesce(until, 0) AS until,
		iif(lease > :now, open, 0) AS open, CASE WHEN lease > :now THEN older WHEN lease + :check > :now THEN open ELSE 0 END AS older,
		iif(lease <= :now AND lease + :check > :now, lease + :check, coalesce(lease, 0)) AS lease
	FROM want LEFT JOIN lockouts USING (key)
), seen AS (
	SELECT key, attempts, period, clears, lease, iif(until > :now, until, 0) AS until,
		CASE WHEN until > :now THEN start WHEN until <> 0 OR start + 2 * period <= :now THEN 0 WHEN start + period <= :now THEN start + period ELSE start END AS start,
		CASE WHEN until > :now THEN failed WHEN until <> 0 OR start + period <= :now THEN 0 ELSE failed END AS failed,
		CASE WHEN until > :now THEN earlier WHEN until <> 0 OR start + 2 * period <= :now THEN 0 WHEN start + period <= :now THEN failed ELSE earlier END AS earlier,
		iif(until > :now OR until = 0 AND start + 2 * period > :now, open, 0) AS open, iif(until > :now OR until = 0 AND start + 2 * period > :now, older, 0) AS older
	FROM aged)`

// reserveQuery is lockout.Admit: one guess more in each slot, if none is locked.
func reserveQuery(n int) string {
	return "WITH " + want(n) + ", " + seen + `
INSERT INTO lockouts (key, start, failed, earlier, lease, open, older, until, expires)
SELECT key, iif(failed + earlier = 0, :now, start), failed + 1, earlier, iif(open + older = 0, :now + :check, lease), open + 1, older,
	iif(failed + 1 + earlier >= attempts, :now + period, 0), :now + 2 * period + :check
FROM seen WHERE attempts > 0 AND NOT EXISTS (SELECT 1 FROM seen WHERE until > :now)
ON CONFLICT (key) DO UPDATE SET start = excluded.start, failed = excluded.failed, earlier = excluded.earlier, lease = excluded.lease,
	open = excluded.open, older = excluded.older, until = excluded.until, expires = excluded.expires
RETURNING key, failed + earlier`
}

// concludeQuery is lockout.Settle. It returns the keys with whether they are locked now and nobody is being checked.
func concludeQuery(n int) string {
	return "WITH " + want(n) + ", " + seen + `,
which AS (SELECT *, older > 0 AND (:reserved < lease - :check OR open = 0) AS from_older FROM seen WHERE attempts > 0),
fewer AS (SELECT key, period, lease, until, start, failed, earlier, iif(from_older, open, max(open - 1, 0)) AS open, older - from_older AS older,
	:result = 1 AND clears AS clear, :result <> 0 AS back, earlier > 0 AND (:reserved < start OR failed = 0) AS before
	FROM which)
UPDATE lockouts SET
	start   = iif(f.clear, :now, f.start),
	failed  = CASE WHEN f.clear THEN f.open + f.older WHEN f.back AND NOT f.before THEN max(f.failed - 1, 0) ELSE f.failed END,
	earlier = CASE WHEN f.clear THEN 0 WHEN f.back AND f.before THEN f.earlier - 1 ELSE f.earlier END,
	lease   = f.lease,
	open    = f.open,
	older   = f.older,
	until   = CASE WHEN f.back THEN 0 WHEN f.until > :now AND f.open + f.older = 0 THEN :now + f.period ELSE f.until END
FROM fewer AS f WHERE lockouts.key = f.key
RETURNING key, until > 0 AND open + older = 0`
}

const stateColumns = "key, start, failed, earlier, lease, open, older, until"

func scanState(rows *sql.Rows) (e lockout.Entry, err error) {
	var key []byte
	s := &e.State
	err = rows.Scan(&key, &s.Start, &s.Failed, &s.Earlier, &s.Lease, &s.Open, &s.Older, &s.Until)
	copy(e.Key[:], key)
	return e, err
}

package postgres

import (
	"database/sql"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/carrel-project/carrel/lockout"
)

// What the migration's functions are called with. Slots are passed as arrays, which are written as text because drivers do not agree on how to take them.
const (
	reserveQuery  = "SELECT answer, slot, wait, remaining, crossed FROM lockout_reserve($1::bigint, $2::bigint, $3::text::bytea[], $4::text::bigint[], $5::text::bigint[])"
	concludeQuery = "SELECT lockout_conclude($1::bigint, $2::bigint, $3::text::bytea[], $4::text::bigint[], $5::text::bigint[], $6::text::boolean[], $7::bigint, $8::integer, $9::boolean)"
)

// An array is a PostgreSQL array, as text. Its elements need no quoting but what they bring along.
type array struct{ strings.Builder }

func (a *array) add(element string) {
	if a.Len() == 0 {
		a.WriteByte('{')
	} else {
		a.WriteByte(',')
	}
	a.WriteString(element)
}

func (a *array) text() string {
	if a.Len() == 0 {
		return "{}"
	}
	return a.String() + "}"
}

// arrays returns the columns of slots.
func arrays(slots []lockout.Slot) (keys, limits, periods, clears string) {
	var k, l, p, c array
	for i := range slots {
		s := &slots[i]
		k.add(`"\\x` + hex.EncodeToString(s.Key[:]) + `"`)
		l.add(strconv.Itoa(s.Attempts))
		p.add(strconv.FormatInt(s.Duration.Microseconds(), 10))
		c.add(strconv.FormatBool(s.Clears))
	}
	return k.text(), l.text(), p.text(), c.text()
}

// forgetQuery is lockout.State.Forget for all keys from $3 to $4. It locks them in their order, like all others.
const forgetQuery = `WITH mine AS (SELECT key FROM lockouts WHERE key BETWEEN $3::bytea AND $4::bytea ORDER BY key FOR UPDATE)
UPDATE lockouts AS l SET start = $1::bigint, earlier = 0, until = 0,
	failed = CASE WHEN lease > $1 THEN open + older WHEN lease + $2::bigint > $1 THEN open ELSE 0 END,
	open   = CASE WHEN lease > $1 THEN open ELSE 0 END,
	older  = CASE WHEN lease > $1 THEN older WHEN lease + $2 > $1 THEN open ELSE 0 END,
	lease  = CASE WHEN lease <= $1 AND lease + $2 > $1 THEN lease + $2 ELSE lease END
FROM mine WHERE l.key = mine.key`

// pruneQuery deletes what has expired among the next $2 rows after $1, but waits for nobody. It returns the last of those rows, or none if there are fewer.
const pruneQuery = `WITH walk AS MATERIALIZED (SELECT key, expires FROM lockouts WHERE key > $1::bytea ORDER BY key LIMIT $2::integer),
mine AS (SELECT l.key FROM lockouts AS l WHERE l.key IN (SELECT key FROM walk WHERE expires <= $3::bigint) AND l.expires <= $3 ORDER BY l.key FOR UPDATE SKIP LOCKED),
gone AS (DELETE FROM lockouts AS l USING mine WHERE l.key = mine.key AND l.expires <= $3)
SELECT key FROM walk ORDER BY key OFFSET $2 - 1`

const stateColumns = "key, start, failed, earlier, lease, open, older, until"

func scanState(rows *sql.Rows) (e lockout.Entry, err error) {
	var key []byte
	s := &e.State
	err = rows.Scan(&key, &s.Start, &s.Failed, &s.Earlier, &s.Lease, &s.Open, &s.Older, &s.Until)
	copy(e.Key[:], key)
	return e, err
}

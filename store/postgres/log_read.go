package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/carrel-project/carrel/audit"
)

const opEntries = "read the trail"

const (
	trailPageBytes = 16 << 20 // end a page early: an entry may have megabytes
	trailLook      = 128      // rows that are looked at together, at least, where a query may ask for few of them
	trailLookMost  = 2048
)

// A logReading is one call of Entries.
type logReading struct {
	*Log
	ctx          context.Context
	q            *audit.Query
	from, to     int64  // numbers
	since, until int64  // microseconds
	tags         []byte // side by side
	actions      string // as JSON
	at           logCursor
	page         audit.Page
	size         int // of the bodies
}

// Entries implements audit.Store. With Tags they come in the order of the numbers; with Actions only, in the order of their times.
func (l *Log) Entries(ctx context.Context, q audit.Query) (audit.Page, error) {
	if q.Limit < 1 {
		return audit.Page{}, failed(opEntries, ctx.Err())
	}
	r := &logReading{Log: l, ctx: ctx, q: &q, from: trailNumber(q.From), to: math.MaxInt64, since: math.MinInt64, until: math.MaxInt64, tags: []byte{}}
	if q.To > 0 {
		r.to = trailNumber(q.To)
	}
	if !q.Since.IsZero() {
		r.since = trailTime(q.Since)
	}
	if !q.Until.IsZero() {
		r.until = trailTime(q.Until)
	}
	for _, tag := range q.Tags {
		r.tags = append(r.tags, tag[:]...)
	}
	actions, err := json.Marshal(append([]audit.Action{}, q.Actions...))
	if err != nil {
		return audit.Page{}, failed(opEntries, err)
	}
	r.actions = string(actions)
	if err := r.begin(); err != nil {
		return audit.Page{}, err
	}
	for !r.full() && r.at.phase != 0 {
		if err := r.look(); err != nil {
			return audit.Page{}, err
		}
	}
	r.page.Cursor = r.at.String()
	return r.page, nil
}

// trailTime rounds up: entries have whole microseconds, so that what is before or after t stays so.
func trailTime(t time.Time) int64 {
	n := t.UnixMicro()
	if time.UnixMicro(n).Before(t) {
		n++
	}
	return n
}

// A logCursor is a place in the order of a query.
type logCursor struct {
	phase  byte  // by what is read; 0: the end
	end    int64 // entries before this number there were when the first page was read
	time   int64
	number int64
}

const (
	byNumber = 'n'
	byTag    = 't'
	byAction = 'a'
)

func (c logCursor) String() string {
	if c.phase == 0 {
		return ""
	}
	return fmt.Sprintf("%c.%d.%d.%d", c.phase, c.end, c.time, c.number)
}

var errLogCursor = errors.New("postgres: read the trail: not a cursor of this query")

func (r *logReading) begin() error {
	phase := byte(byNumber)
	switch {
	case len(r.tags) > 0:
		phase = byTag
	case len(r.q.Actions) > 0:
		phase = byAction
	}
	if text := r.q.Cursor; text != "" {
		c := &r.at
		n, err := fmt.Sscanf(text, "%c.%d.%d.%d", &c.phase, &c.end, &c.time, &c.number)
		if err != nil || n != 4 || c.String() != text || c.phase != phase {
			return errLogCursor
		}
	}
	if r.at.phase == 0 || phase == byNumber {
		if err := r.number(r.ctx, opEntries); err != nil {
			return err
		}
	}
	if r.at.phase != 0 {
		return nil
	}
	r.at = logCursor{phase: phase, end: math.MaxInt64, time: r.since, number: r.from}
	if phase == byNumber {
		return nil
	}
	return failed(opEntries, r.db.QueryRowContext(r.ctx, "SELECT "+trailNext).Scan(&r.at.end))
}

func (r *logReading) full() bool {
	return len(r.page.Entries) >= r.q.Limit || r.size >= trailPageBytes
}

// Each of the queries returns the rows that it has looked at, in order, so that the cursor can pass them, and the bodies of those that are asked for.
// Of each tag and of each action it reads no more rows than it may return. The planner takes what is unnested for few rows, as they are.
const (
	readNumbers = `
		SELECT number, time, asked, CASE WHEN asked THEN body END FROM (
			SELECT number, time, body, time >= $3 AND time < $4 AS asked FROM trail_entries
			WHERE number >= $1 AND number < $2 ORDER BY number LIMIT $5
		) AS x ORDER BY number`

	readTags = `
		WITH found AS MATERIALIZED (
			SELECT DISTINCT t.number
			FROM unnest(ARRAY (SELECT substring(CAST($6 AS bytea) FROM 16*i + 1 FOR 16) FROM generate_series(0, length(CAST($6 AS bytea))/16 - 1) AS i)) AS asked (tag)
			CROSS JOIN LATERAL (
				SELECT number FROM trail_tags WHERE tag = asked.tag AND number >= $1 AND number < $2 ORDER BY number LIMIT $5
			) AS t ORDER BY t.number LIMIT $5
		)
		SELECT number, time, asked, CASE WHEN asked THEN body END FROM (
			SELECT found.number, coalesce(e.time, 0) AS time, e.body, e.number IS NOT NULL AND e.time >= $3 AND e.time < $4
				AND (CAST($7 AS text) = '[]' OR e.action IN (SELECT json_array_elements_text(CAST($7 AS json)))) AS asked
			FROM found LEFT JOIN trail_entries e ON e.number = found.number
		) AS x ORDER BY number`

	readActions = `
		SELECT e.number, e.time, true, e.body FROM (SELECT DISTINCT json_array_elements_text(CAST($6 AS json)) AS action) AS a
		CROSS JOIN LATERAL (
			SELECT number, time, body FROM trail_entries
			WHERE action = a.action AND (time, number) >= ($3, $7) AND time < $4 AND number >= $1 AND number < $2
			ORDER BY time, number LIMIT $5
		) AS e ORDER BY e.time, e.number LIMIT $5`
)

var errPageFull = errors.New("the page is full")

// look looks at some rows and puts those asked for on the page.
func (r *logReading) look() error {
	limit := r.q.Limit - len(r.page.Entries)
	to := min(r.to, r.at.end)
	first := max(r.from, r.at.number)
	if r.at.phase == byTag || !r.q.Since.IsZero() || !r.q.Until.IsZero() {
		limit = max(limit, trailLook)
	}
	limit = min(limit, trailLookMost)
	query, args := readNumbers, []any{first, to, r.since, r.until, limit}
	switch r.at.phase {
	case byTag:
		query, args = readTags, append(args, r.tags, r.actions)
	case byAction:
		query, args = readActions, []any{r.from, to, r.at.time, r.until, limit, r.actions, r.at.number}
	}
	if r.from >= to || r.at.phase != byAction && first >= to {
		r.at.phase = 0
		return nil
	}
	var number, at int64
	var asked bool
	var body []byte
	n := 0
	err := each(r.ctx, opEntries, r.db, query, args, []any{&number, &at, &asked, &body}, func() error {
		if r.full() {
			return errPageFull
		}
		n++
		r.at.time, r.at.number = at, number+1
		if asked {
			r.page.Entries = append(r.page.Entries, audit.Entry{Number: uint64(number), Body: body})
			r.size += len(body)
		}
		return nil
	})
	switch {
	case errors.Is(err, errPageFull):
		return nil
	case err != nil:
		return err
	case n < limit:
		r.at.phase = 0
	}
	return nil
}

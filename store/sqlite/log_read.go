package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/carrel-project/carrel/audit"
)

const opEntries = "read the trail"

// pageBytes ends a page early: an entry may have megabytes.
const pageBytes = 16 << 20

// A logReading is one call of Entries.
type logReading struct {
	*Log
	ctx          context.Context
	q            *audit.Query
	from, to     int64 // numbers
	since, until int64 // microseconds
	tags         []audit.Tag
	actions      []string
	at           logCursor
	page         audit.Page
	size         int    // of the bodies
	buffer       []byte // in which they lie
}

// Entries implements audit.Store. With Tags they come tag by tag, each in the order of the numbers; with Actions only, action by action in the
// order of their times; then, in the order of their numbers, those that were not indexed yet when the first page was read.
func (l *Log) Entries(ctx context.Context, q audit.Query) (audit.Page, error) {
	if q.Limit < 1 {
		return audit.Page{}, failed(opEntries, ctx.Err())
	}
	r := &logReading{Log: l, ctx: ctx, q: &q, from: bound(q.From), to: math.MaxInt64, since: math.MinInt64, until: math.MaxInt64}
	if q.To > 0 {
		r.to = bound(q.To)
	}
	if !q.Since.IsZero() {
		r.since = microseconds(q.Since)
	}
	if !q.Until.IsZero() {
		r.until = microseconds(q.Until)
	}
	r.tags = slices.Clone(q.Tags)
	slices.SortFunc(r.tags, func(a, b audit.Tag) int { return bytes.Compare(a[:], b[:]) })
	r.tags = slices.Compact(r.tags)
	for _, a := range q.Actions {
		r.actions = append(r.actions, string(a))
	}
	slices.Sort(r.actions)
	r.actions = slices.Compact(r.actions)
	if err := r.begin(); err != nil {
		return audit.Page{}, err
	}
	for !r.full() && r.at.phase != 0 {
		var err error
		switch r.at.phase {
		case byTag:
			err = r.readTags()
		case byAction:
			err = r.readActions()
		case byNumber:
			err = r.readNumbers()
		}
		if err != nil {
			return audit.Page{}, err
		}
	}
	r.page.Cursor = r.at.String()
	return r.page, nil
}

// microseconds rounds up: entries have whole ones, so that what is before or after t stays so.
func microseconds(t time.Time) int64 {
	n := t.UnixMicro()
	if time.UnixMicro(n).Before(t) {
		n++
	}
	return n
}

// A logCursor is a place in the order of a query.
type logCursor struct {
	phase   byte  // 0: the end
	indexed int64 // entries before this number are read by the index
	end     int64 // those there were when the first page was read
	list    int   // of the tags or actions
	time    int64
	number  int64
}

// The phases.
const (
	byTag    = 't'
	byAction = 'a'
	byNumber = 'n'
)

func (c logCursor) String() string {
	if c.phase == 0 {
		return ""
	}
	return fmt.Sprintf("%c.%d.%d.%d.%d.%d", c.phase, c.indexed, c.end, c.list, c.time, c.number)
}

var errLogCursor = errors.New("sqlite: read the trail: not a cursor of this query")

func (r *logReading) begin() error {
	if text := r.q.Cursor; text != "" {
		c := &r.at
		n, err := fmt.Sscanf(text, "%c.%d.%d.%d.%d.%d", &c.phase, &c.indexed, &c.end, &c.list, &c.time, &c.number)
		lists := len(r.tags)
		if c.phase == byAction {
			lists = len(r.actions)
		}
		if err != nil || n != 6 || c.String() != text || c.phase != byNumber && (c.list < 0 || c.list >= lists) ||
			!bytes.ContainsRune([]byte{byTag, byAction, byNumber}, rune(c.phase)) {
			return errLogCursor
		}
		return nil
	}
	r.at = logCursor{phase: byNumber, end: math.MaxInt64, number: r.from}
	if len(r.tags)+len(r.actions) == 0 {
		return nil
	}
	s, err := r.state(r.ctx, opEntries)
	if err != nil {
		return err
	}
	r.at.indexed, r.at.end = s.indexed, s.next
	switch {
	case r.from >= s.indexed:
	case len(r.tags) > 0:
		r.at.phase = byTag
	default:
		r.at.phase, r.at.time = byAction, r.since
	}
	return nil
}

func (r *logReading) left() int  { return r.q.Limit - len(r.page.Entries) }
func (r *logReading) full() bool { return r.left() <= 0 || r.size >= pageBytes }

// add puts an entry on the page. Bodies lie side by side in buffers that grow with the page.
func (r *logReading) add(number int64, body []byte) {
	if len(body) > cap(r.buffer)-len(r.buffer) {
		r.buffer = make([]byte, 0, max(len(body), min(max(2*cap(r.buffer), 1<<10), 1<<18)))
	}
	at := len(r.buffer)
	r.buffer = append(r.buffer, body...)
	r.page.Entries = append(r.page.Entries, audit.Entry{Number: uint64(number), Body: r.buffer[at:len(r.buffer):len(r.buffer)]})
	r.size += len(body)
}

// each calls f for every row until the page is full, and reports how many rows there were.
func (r *logReading) each(query string, args, dest []any, f func() error) (n int, err error) {
	rows, err := r.query(r.ctx, opEntries, query, args...)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for !r.full() && rows.Next() {
		n++
		if err := rows.Scan(dest...); err != nil {
			return n, failed(opEntries, err)
		}
		if err := f(); err != nil {
			return n, err
		}
	}
	if err := rows.Err(); err != nil {
		return n, failed(opEntries, err)
	}
	return n, failed(opEntries, rows.Close())
}

// unindexed goes on with what is not in the index.
func (r *logReading) unindexed() {
	r.at = logCursor{phase: byNumber, indexed: r.at.indexed, end: r.at.end, number: max(r.from, r.at.indexed)}
}

const readNumbers = `SELECT number, body FROM trail_entries WHERE number >= ? AND number < ? ORDER BY number LIMIT ?`

const readFiltered = `SELECT number, action, tags, body FROM trail_entries
	WHERE number >= ? AND number < ? AND time >= ? AND time < ? ORDER BY number LIMIT ?`

func (r *logReading) readNumbers() error {
	to, limit := min(r.to, r.at.end), r.left()
	if r.at.number >= to {
		r.at.phase = 0
		return nil
	}
	var number int64
	var action, tags, body sql.RawBytes
	var n int
	var err error
	r.page.Entries = slices.Grow(r.page.Entries, int(min(int64(limit), to-r.at.number, 4096)))
	if len(r.tags)+len(r.actions) == 0 && r.q.Since.IsZero() && r.q.Until.IsZero() {
		n, err = r.each(readNumbers, []any{r.at.number, to, limit}, []any{&number, &body}, func() error {
			r.add(number, body)
			r.at.number = number + 1
			return nil
		})
	} else {
		n, err = r.each(readFiltered, []any{r.at.number, to, r.since, r.until, limit}, []any{&number, &action, &tags, &body}, func() error {
			if r.asked(string(action), tags) {
				r.add(number, body)
			}
			r.at.number = number + 1
			return nil
		})
	}
	if err == nil && n < limit && !r.full() || r.at.number >= to {
		r.at.phase = 0
	}
	return err
}

// asked reports whether an entry is one of the actions and about one of the tags.
func (r *logReading) asked(action string, tags []byte) bool {
	if len(r.actions) > 0 {
		if _, ok := slices.BinarySearch(r.actions, action); !ok {
			return false
		}
	}
	return len(r.tags) == 0 || r.firstTag(tags) >= 0
}

// firstTag returns the place in r.tags of the first of an entry's tags, which are sorted, that is asked for; -1 if there is none.
func (r *logReading) firstTag(tags []byte) int {
	for ; len(tags) >= tagSize; tags = tags[tagSize:] {
		i, ok := slices.BinarySearchFunc(r.tags, tags[:tagSize], func(a audit.Tag, b []byte) int { return bytes.Compare(a[:], b) })
		if ok {
			return i
		}
	}
	return -1
}

// Walk goes from tag to tag, and for each through the runs that have tags of its month. CROSS JOIN is SQLite's way to say that what stands left is
// read first: so the rows come by tags, and a page reads no more of the index than it needs.
const readTags = `
	WITH RECURSIVE walk (k, run) AS (
		SELECT 1, (SELECT min(run) FROM trail_tags WHERE month = substr(?1, 1, 2) AND run >= ?2 >> 12) WHERE length(?1) > 0
		UNION ALL
		SELECT k, (SELECT min(t.run) FROM trail_tags t WHERE t.month = substr(?1, k, 2) AND t.run > walk.run) FROM walk WHERE run IS NOT NULL
		UNION ALL
		SELECT k + 16, (SELECT min(t.run) FROM trail_tags t WHERE t.month = substr(?1, k + 16, 2) AND t.run >= ?3 >> 12)
			FROM walk WHERE run IS NULL AND k + 16 < length(?1)
	)
	SELECT (walk.k - 1) / 16, e.number, e.action, e.tags, e.body FROM walk
	CROSS JOIN trail_tags t ON t.month = substr(?1, walk.k, 2) AND t.run = walk.run AND t.tag = substr(?1, walk.k, 16)
		AND t.number >= CASE walk.k WHEN 1 THEN ?2 ELSE ?3 END AND t.number < ?4
	CROSS JOIN trail_entries e ON e.number = t.number
	WHERE e.time >= ?5 AND e.time < ?6 LIMIT ?7`

func (r *logReading) readTags() error {
	first, limit := r.at.list, r.left()
	args := []any{packTags(r.tags[first:]), max(r.from, r.at.number), r.from, min(r.to, r.at.indexed), r.since, r.until, limit}
	var list int
	var number int64
	var action, tags, body sql.RawBytes
	n, err := r.each(readTags, args, []any{&list, &number, &action, &tags, &body}, func() error {
		list += first
		if list < r.at.list || list == r.at.list && number < r.at.number {
			return errOrder
		}
		// An entry about several of them comes several times, and is taken the first time.
		if r.firstTag(tags) == list && r.asked(string(action), tags) {
			r.add(number, body)
		}
		r.at.list, r.at.number = list, number+1
		return nil
	})
	if err == nil && n < limit && !r.full() {
		r.unindexed()
	}
	return err
}

// errOrder guards what the cursor relies on, which SQLite does but does not promise.
var errOrder = errors.New("sqlite: read the trail: the rows are not in the order of the index")

const readActions = `
	SELECT x.time, e.number, e.body FROM trail_actions x CROSS JOIN trail_entries e ON e.number = x.number
	WHERE x.action = ? AND (x.time, x.number) >= (?, ?) AND x.time < ? AND x.number >= ? AND x.number < ?
	ORDER BY x.time, x.number LIMIT ?`

func (r *logReading) readActions() error {
	limit := r.left()
	args := []any{r.actions[r.at.list], r.at.time, r.at.number, r.until, r.from, min(r.to, r.at.indexed), limit}
	var at, number int64
	var body sql.RawBytes
	n, err := r.each(readActions, args, []any{&at, &number, &body}, func() error {
		r.add(number, body)
		r.at.time, r.at.number = at, number+1
		return nil
	})
	if err != nil || n == limit || r.full() {
		return err
	}
	if r.at.list++; r.at.list == len(r.actions) {
		r.unindexed()
	} else {
		r.at.time, r.at.number = r.since, 0
	}
	return nil
}

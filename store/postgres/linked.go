package postgres

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

const opRead = "read records"

// somebody stands in for every borrower: rules never look inside, so a sweep does not even read it.
const somebody circulation.Borrower = "somebody"

// Linked implements anonymize.Store. The order is that of the records' numbers; under a plan, that of the time from which they are worth reading.
func (c *Circulation) Linked(ctx context.Context, q anonymize.Query) (page anonymize.Page, err error) {
	err = c.read(ctx, opRead, func() error {
		page, err = c.page(ctx, q)
		return err
	})
	return page, err
}

func (c *Circulation) page(ctx context.Context, q anonymize.Query) (anonymize.Page, error) {
	at, err := c.place(ctx, q)
	if err != nil {
		return anonymize.Page{}, err
	}
	p := reading{query: q}
	if err := p.read(ctx, c.db, at); err != nil {
		return anonymize.Page{}, err
	}
	early := at.isEarly()
	if early && len(p.records) == 0 {
		early = false
		if err := p.read(ctx, c.db, at.due(q.Kind)); err != nil {
			return anonymize.Page{}, err
		}
	}
	if at.plan != 0 {
		// What another plan has put off in between would be missing: then the pass begins anew, with everything.
		number, _, err := newestPlan(ctx, c.db, opRead)
		if err != nil {
			return anonymize.Page{}, err
		}
		if number != at.plan {
			q.Plan, q.Cursor = "", ""
			return c.page(ctx, q)
		}
	}
	if len(p.records) == 0 {
		return anonymize.Page{}, nil
	}
	if q.Kind == circulation.KindLoan {
		if err := p.fees(ctx, c.db); err != nil {
			return anonymize.Page{}, err
		}
	}
	p.setVersions()
	page := anonymize.Page{Records: p.records}
	if len(p.records) == q.Limit {
		last := len(p.records) - 1
		next := cursor{n: p.numbers[last]}
		if at.plan != 0 {
			next = cursor{at.plan, p.plans[last], p.nexts[last], next.n}
		}
		page.Cursor = next.String()
	} else if early {
		page.Cursor = at.due(q.Kind).String()
	}
	return page, nil
}

// A cursor says where a page ends. Plan is the plan under which the sweep reads, 0 if it reads all; then only n counts.
type cursor struct{ plan, was, next, n int64 }

// Under a plan there come first the records of earlier ones, all of them, and then those of this one that are due. In one condition the server would not see where the second ends, and read on.
func (c cursor) isEarly() bool { return c.was < c.plan && c.plan != 0 }
func (c cursor) due(k circulation.Kind) cursor {
	return cursor{c.plan, c.plan, none + 1, firstOf(k) - 1}
}

func (c cursor) String() string {
	if c.plan == 0 {
		return strconv.FormatInt(c.n, 10)
	}
	return fmt.Sprintf("%d.%d.%d.%d", c.plan, c.was, c.next, c.n)
}

func parseCursor(s string) (c cursor, err error) {
	words := strings.Split(s, ".")
	to := []*int64{&c.plan, &c.was, &c.next, &c.n}
	if len(words) == 1 {
		to = to[3:]
	}
	if len(words) != len(to) {
		return c, errCursor
	}
	for i, w := range words {
		if *to[i], err = strconv.ParseInt(w, 10, 64); err != nil {
			return c, errCursor
		}
	}
	return c, nil
}

// place returns where a page begins.
func (c *Circulation) place(ctx context.Context, q anonymize.Query) (cursor, error) {
	if q.Cursor != "" {
		return parseCursor(q.Cursor)
	}
	at := cursor{was: -1, next: none + 1, n: firstOf(q.Kind) - 1}
	if q.Plan == "" {
		return at, nil
	}
	number, name, err := newestPlan(ctx, c.db, opRead)
	if err != nil || name != q.Plan { // another policy was swept meanwhile: everything is read
		return at, err
	}
	// As long as nothing was put off, everything is read, too, and in the order of the numbers that is faster.
	var n int64
	err = each(ctx, opRead, c.db, "SELECT n FROM links WHERE (n >> 40) = $1 AND plan = $2 ORDER BY next, n LIMIT 1", []any{int64(q.Kind) - 1, number}, []any{&n}, func() error {
		at.plan = number
		return nil
	})
	return at, err
}

// A reading is a page as it comes together.
type reading struct {
	query                           anonymize.Query
	records                         []circulation.Record
	numbers, versions, plans, nexts []int64
	snapshot                        string
}

func (p *reading) integer(expression string, set func(r *circulation.Record, n int64)) column {
	return column{expression: expression, integer: func(row int, n int64) { set(&p.records[row], n) }}
}

func (p *reading) text(expression string, set func(r *circulation.Record, s string)) column {
	return column{expression: expression, text: func(row int, s string) { set(&p.records[row], s) }}
}

// list gathers what is not a record's.
func list(expression string, to *[]int64) column {
	return column{expression: expression, integer: func(_ int, n int64) { *to = append(*to, n) }}
}

// columns are those of the records that the query needs.
func (p *reading) columns() []column {
	list := []column{
		p.text("r.id", func(r *circulation.Record, s string) { r.ID = s }),
		p.integer("r.ended", func(r *circulation.Record, n int64) { r.Ended = moment(n) }),
		p.integer(flagsColumn, func(r *circulation.Record, n int64) {
			r.Status = circulation.Status(n & 1)
			r.Lost, r.ClaimedReturned, r.Hold = n&2 != 0, n&4 != 0, n&8 != 0
		}),
	}
	if p.query.Kind == circulation.KindFee {
		list = append(list,
			p.integer("coalesce(r.fee_status, 0)", func(r *circulation.Record, n int64) {
				r.Fees = []circulation.FeeSummary{{Status: circulation.FeeStatus(n), Closed: r.Ended}}
			}),
			p.text("r.method", func(r *circulation.Record, s string) { r.Fees[0].Method = s }))
	}
	want := func(need anonymize.Needs, c column) {
		if p.query.Needs&need != 0 {
			list = append(list, c)
		}
	}
	want(anonymize.NeedGroup, p.text("r.grp", func(r *circulation.Record, s string) { r.Group = s }))
	want(anonymize.NeedLibrary, p.text("r.library", func(r *circulation.Record, s string) { r.Library = s }))
	want(anonymize.NeedLocation, p.text("r.location", func(r *circulation.Record, s string) { r.Location = s }))
	want(anonymize.NeedType, p.text("r.type", func(r *circulation.Record, s string) { r.Type = s }))
	want(anonymize.NeedItem, p.text("r.item", func(r *circulation.Record, s string) { r.Item = s }))
	want(anonymize.NeedGroupNow, p.text("p.grp", func(r *circulation.Record, s string) { r.GroupNow = s }))
	want(anonymize.NeedExpires, p.integer("p.expires", func(r *circulation.Record, n int64) { r.BorrowerExpires = moment(n) }))
	want(anonymize.NeedWish, p.integer("coalesce(p.wish, 0)", func(r *circulation.Record, n int64) { r.Wish = circulation.Wish(n) }))
	want(anonymize.NeedWish, p.integer("p.wish_since", func(r *circulation.Record, n int64) { r.WishSince = moment(n) }))
	want(anonymize.NeedNewerByBorrower, p.integer("coalesce(p.loans - l.seq, 0)", func(r *circulation.Record, n int64) { r.NewerByBorrower = int(n) }))
	want(anonymize.NeedNewerOfItem, p.integer("coalesce((SELECT i.loans FROM items i WHERE i.item = r.item) - l.item_seq, 0)",
		func(r *circulation.Record, n int64) { r.NewerOfItem = int(n) }))
	return list
}

// flagsColumn packs what is one bit each.
const flagsColumn = `(r.status = 1)::integer + 2 * r.lost::integer + 4 * r.claimed_returned::integer
	+ 8 * (l.person IN (SELECT person FROM holds WHERE until IS NULL OR until > $1))::integer`

const needsPerson = anonymize.NeedGroupNow | anonymize.NeedExpires | anonymize.NeedWish | anonymize.NeedNewerByBorrower

// read reads the records themselves.
func (p *reading) read(ctx context.Context, db DB, after cursor) error {
	columns := []column{list("l.n", &p.numbers), list("l.version", &p.versions)}
	if after.plan != 0 {
		columns = append(columns, list("l.plan", &p.plans), list("l.next", &p.nexts))
	}
	columns = append(columns, p.columns()...)
	q := p.query
	at := q.At.UnixMicro()
	var where, order string
	args := []any{at, q.Limit}
	if after.plan == 0 {
		// Of both tables, so that they are merged from there on and not from the beginning.
		where = "l.n > $3 AND l.n <= $4 AND r.n > $3 AND r.n <= $4"
		order = "l.n"
		args = append(args, after.n, lastOf(q.Kind))
	} else {
		where = "(l.n >> 40) = $3 AND l.plan = $4 AND (l.next, l.n) > ($5, $6) AND l.next <= $1"
		order = "l.plan, l.next, l.n"
		args = append(args, int64(q.Kind)-1, after.was, after.next, after.n)
		if after.isEarly() {
			where = "(l.n >> 40) = $3 AND (l.plan, l.next, l.n) > (CAST($4 AS integer), $5, $6) AND l.plan < $7"
			args = append(args, after.plan)
		}
	}
	if q.Shard.Of > 1 {
		// Of a CASE the server supposes that it holds for half of the rows; of an equation, for so few that it would rather read the tables whole.
		where += fmt.Sprintf(" AND CASE (l.n >> %d) %% $%d WHEN $%d THEN true END", shardBlock, len(args)+1, len(args)+2)
		args = append(args, int64(q.Shard.Of), int64(q.Shard.Index))
	}
	from := "links l JOIN records r ON r.n = l.n"
	if q.Needs&needsPerson != 0 {
		from += " LEFT JOIN persons p ON p.p = l.person"
	}
	return p.run(ctx, db, columns, "SELECT $columns FROM "+from+" WHERE "+where+" AND l.person IS NOT NULL ORDER BY "+order+" LIMIT $2", args)
}

// run reads records with a query for columns, the first two of which are their numbers and versions.
func (p *reading) run(ctx context.Context, db DB, columns []column, query string, args []any) error {
	// A function that may not run in parallel keeps the server from starting processes for a page, which takes longer than to read it.
	const snapshot = "CAST(pg_current_snapshot() AS text) || left(set_config('jit', 'off', true), 0)"
	var err error
	p.snapshot, err = readColumns(ctx, db, opRead, columns, snapshot, query, args, func(rows int) {
		p.records = slices.Grow(p.query.Reuse[:0], rows)[:rows]
		for i := range p.records {
			p.records[i] = circulation.Record{Kind: p.query.Kind, Borrower: somebody}
		}
		for _, list := range []*[]int64{&p.numbers, &p.versions} {
			*list = make([]int64, 0, rows)
		}
	})
	return err
}

// fees adds to loans what they know of their fees. What happens to a fee after the loans were read changes the loan's version, so the decision is refused.
func (p *reading) fees(ctx context.Context, db DB) error {
	where, args := within(p.numbers)
	var loans, statuses, closed []int64
	var methods []string
	_, err := readColumns(ctx, db, "read fees", []column{
		list("loan", &loans), list("status", &statuses), list("closed", &closed),
		{expression: "method", text: func(_ int, s string) { methods = append(methods, s) }},
	}, "''", `SELECT $columns FROM (
			SELECT t.target AS loan, coalesce(f.fee_status, 0::smallint) AS status, f.ended AS closed, f.method
			FROM ties t JOIN records f ON f.n = t.n WHERE `+strings.ReplaceAll(where, "$n", "t.target")+` AND f.n >> 40 = 3
			UNION ALL
			SELECT loan, status, closed, method FROM fee_summaries WHERE `+strings.ReplaceAll(where, "$n", "loan")+`) y`, args, func(int) {})
	if err != nil || len(loans) == 0 {
		return err
	}
	index := make(map[int64]int, len(p.numbers))
	for i, n := range p.numbers {
		index[n] = i
	}
	for j, loan := range loans {
		if i, ok := index[loan]; ok {
			p.records[i].Fees = append(p.records[i].Fees, circulation.FeeSummary{Status: circulation.FeeStatus(statuses[j]), Closed: moment(closed[j]), Method: methods[j]})
		}
	}
	return nil
}

// within is a condition on the column $n that holds for numbers, and perhaps for others between them: a stretch, where they lie close together, and a list elsewhere.
func within(numbers []int64) (condition string, args []any) {
	first, last := numbers[0], numbers[0]
	for _, n := range numbers {
		first, last = min(first, n), max(last, n)
	}
	if last-first < 16*int64(len(numbers)) {
		return "$n BETWEEN $1 AND $2", []any{first, last}
	}
	return "$n = ANY (CAST($1 AS bigint[]))", []any{int64Array(numbers)}
}

// setVersions writes all tokens of a page into one string and cuts it up.
func (p *reading) setVersions() {
	b := make([]byte, 0, (32+len(p.snapshot))*len(p.records))
	ends := make([]int, len(p.records))
	for i := range p.records {
		b = token{p.numbers[i], p.versions[i], checksum(p.records[i].ID), p.snapshot}.append(b)
		ends[i] = len(b)
	}
	all, from := string(b), 0
	for i, to := range ends {
		p.records[i].Version, from = all[from:to], to
	}
}

package sqlite

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// somebody stands in for every borrower: rules never look inside, so a sweep does not even read it.
const somebody circulation.Borrower = "somebody"

// A horizon is what was true before a page was read.
type horizon struct {
	change int64  // the last one: what is written in between makes a conflict, never a stale decision
	number int64  // of the plan in force
	plan   string // its name

	indexed int64 // the serial of the kind up to which all records are in the index of plans
}

func (c *Circulation) horizon(ctx context.Context, kind circulation.Kind) (h horizon, err error) {
	err = c.db.QueryRowContext(ctx, "SELECT last, number, name, COALESCE((SELECT indexed FROM serials WHERE kind = ?), 0) FROM changes, plan", int64(kind)).
		Scan(&h.change, &h.number, &h.plan, &h.indexed)
	return h, failed("read records", err)
}

// Linked implements anonymize.Store. The order is that of the records' numbers; under a plan it is told in awake.
func (c *Circulation) Linked(ctx context.Context, q anonymize.Query) (anonymize.Page, error) {
	for {
		h, err := c.horizon(ctx, q.Kind)
		if err != nil {
			return anonymize.Page{}, err
		}
		planned := q.Plan != "" && q.Plan == h.plan
		read, cursor, err := (*reading)(nil), "", error(nil)
		if planned {
			read, cursor, err = c.awake(ctx, q, h)
		} else {
			read, cursor, err = c.everything(ctx, q)
		}
		if err != nil {
			return anonymize.Page{}, err
		}
		if planned { // or what another plan has put off in between would be missing
			var number int64
			if err := c.db.QueryRowContext(ctx, "SELECT number FROM plan").Scan(&number); err != nil {
				return anonymize.Page{}, failed("read records", err)
			}
			if number != h.number {
				continue
			}
		}
		if len(read.records) == 0 {
			return anonymize.Page{}, nil
		}
		read.sort()
		setVersions(read.records, read.numbers, h.change)
		if q.Kind == circulation.KindLoan {
			if err := c.fees(ctx, read.records, read.numbers); err != nil {
				return anonymize.Page{}, err
			}
		}
		return anonymize.Page{Records: read.records, Cursor: cursor}, nil
	}
}

// everything reads a page in the usual order.
func (c *Circulation) everything(ctx context.Context, q anonymize.Query) (r *reading, cursor string, err error) {
	after := firstOf(q.Kind) - 1
	if _, underPlan := parseMark(q.Cursor); q.Cursor != "" && !underPlan { // see awake
		if after, err = strconv.ParseInt(q.Cursor, 10, 64); err != nil {
			return nil, "", fmt.Errorf("sqlite: the cursor is not one that Linked returned")
		}
	}
	r = newReading(q)
	if err := c.page(ctx, r, "", "l.n > ?5 AND l.n <= ?6", "l.n", after, lastOf(q.Kind)); err != nil {
		return nil, "", err
	}
	if r.left() == 0 {
		cursor = strconv.FormatInt(r.numbers[len(r.numbers)-1], 10)
	}
	return r, cursor, nil
}

// A reading is a page as it fills.
type reading struct {
	q       anonymize.Query
	records []circulation.Record
	numbers []int64
	key     mark // of the last record, if it was read under a plan: its plan and next
}

func newReading(q anonymize.Query) *reading {
	room := min(q.Limit, 1<<14)
	return &reading{q: q, records: slices.Grow(q.Reuse[:0], room), numbers: make([]int64, 0, room)}
}

// left is how many records the page has room for.
func (r *reading) left() int { return max(r.q.Limit, 1) - len(r.records) }

// sort puts the records into the order of their numbers, in which fees come.
func (r *reading) sort() {
	if slices.IsSorted(r.numbers) {
		return
	}
	order := make([]int, len(r.numbers))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(r.numbers[a], r.numbers[b]) })
	records, numbers := make([]circulation.Record, len(order)), make([]int64, len(order))
	for i, from := range order {
		records[i], numbers[i] = r.records[from], r.numbers[from]
	}
	r.records, r.numbers = records, numbers
}

// page reads the records themselves, with their numbers, until there is no room left. The condition's arguments are ?5 and so on.
func (c *Circulation) page(ctx context.Context, to *reading, index, where, order string, args ...any) error {
	q := to.q
	var r circulation.Record
	// Integers are scanned into any, which database/sql hands over as they are; into *int64 it takes the
	// way through reflection, which for a million records is noticeable.
	var n, ended, flags, feeStatus, expires, wish, wishSince, newer, newerOfItem, plan, next any
	columns := []string{"l.n", "r.id", "r.ended", flagsColumn}
	dest := []any{&n, &r.ID, &ended, &flags}
	want := func(need anonymize.Needs, column string, to any) {
		if q.Needs&need == need {
			columns, dest = append(columns, column), append(dest, to)
		}
	}
	var method string
	if q.Kind == circulation.KindFee {
		want(0, "r.fee_status", &feeStatus)
		want(0, "r.method", &method)
	}
	want(anonymize.NeedGroup, "r.grp", &r.Group)
	want(anonymize.NeedLibrary, "r.library", &r.Library)
	want(anonymize.NeedLocation, "r.location", &r.Location)
	want(anonymize.NeedType, "r.type", &r.Type)
	want(anonymize.NeedItem, "r.item", &r.Item)
	want(anonymize.NeedGroupNow, "p.grp", &r.GroupNow)
	want(anonymize.NeedExpires, "p.expires", &expires)
	want(anonymize.NeedWish, "p.wish", &wish)
	want(anonymize.NeedWish, "p.wish_since", &wishSince)
	want(anonymize.NeedNewerByBorrower, "p.loans - l.seq", &newer)
	want(anonymize.NeedNewerOfItem, "(SELECT i.loans FROM items i WHERE i.item = r.item) - l.item_seq", &newerOfItem)
	if index != "" {
		want(0, "l.plan", &plan)
		want(0, "l.next", &next)
	}

	query := "SELECT " + strings.Join(columns, ", ") + " FROM links l " + index + " CROSS JOIN records r ON r.n = l.n"
	if q.Needs&(anonymize.NeedGroupNow|anonymize.NeedExpires|anonymize.NeedWish|anonymize.NeedNewerByBorrower) != 0 {
		query += " CROSS JOIN persons p ON p.p = l.person"
	}
	query += " WHERE " + where + " AND l.person IS NOT NULL"
	if q.Shard.Of > 1 {
		query += " AND l.n % ?3 = ?4"
	}
	query += " ORDER BY " + order + " LIMIT ?2"
	args = append([]any{q.At.UnixMicro(), to.left(), q.Shard.Of, q.Shard.Index}, args...)

	r.Kind, r.Borrower = q.Kind, somebody
	err := each(ctx, "read records", c.db, query, args, dest, func() error {
		r.Ended, r.BorrowerExpires, r.WishSince = instant(ended), instant(expires), instant(wishSince)
		f := integer(flags)
		r.Status = circulation.Status(f & 1)
		r.Lost, r.ClaimedReturned, r.Hold = f&2 != 0, f&4 != 0, f&8 != 0
		r.Wish = circulation.Wish(integer(wish))
		r.NewerByBorrower, r.NewerOfItem = int(integer(newer)), int(integer(newerOfItem))
		if q.Kind == circulation.KindFee {
			r.Fees = []circulation.FeeSummary{{Status: circulation.FeeStatus(integer(feeStatus)), Closed: r.Ended, Method: method}}
		}
		to.records, to.numbers = append(to.records, r), append(to.numbers, integer(n))
		to.key.plan, to.key.next = integer(plan), integer(next)
		return nil
	})
	return err
}

// flagsColumn packs what is one bit each: every column costs a conversion in database/sql.
const flagsColumn = `(r.status = 1) + 2 * (r.lost <> 0) + 4 * (r.claimed_returned <> 0)
	+ 8 * (l.person IN (SELECT person FROM holds WHERE until IS NULL OR until > ?1))`

// fees adds to loans what they know of their fees.
func (c *Circulation) fees(ctx context.Context, records []circulation.Record, numbers []int64) error {
	const query = `
		SELECT t.target, f.fee_status, f.ended, f.method
		FROM json_each(?1) span CROSS JOIN ties t INDEXED BY ties_target ON t.target BETWEEN span.value->>0 AND span.value->>1
		CROSS JOIN records f ON f.n = t.n WHERE f.n >> 40 = 3
		UNION ALL
		SELECT loan, s.status, s.closed, s.method FROM json_each(?1) span CROSS JOIN fee_summaries s INDEXED BY fee_summaries_loan
		ON s.loan BETWEEN span.value->>0 AND span.value->>1
		ORDER BY 1`
	var loan, status, closed any
	var method string
	i := 0
	return each(ctx, "read fees", c.db, query, []any{spans(numbers)},
		[]any{&loan, &status, &closed, &method}, func() error {
			for i < len(numbers) && numbers[i] < integer(loan) {
				i++
			}
			if i < len(numbers) && numbers[i] == integer(loan) {
				records[i].Fees = append(records[i].Fees, circulation.FeeSummary{
					Status: circulation.FeeStatus(integer(status)), Closed: instant(closed), Method: method})
			}
			return nil
		})
}

// setVersions writes all tokens of a page into one string and cuts it up.
func setVersions(records []circulation.Record, numbers []int64, change int64) {
	b := make([]byte, 0, 32*len(records))
	ends := make([]int, len(records))
	for i := range records {
		b = token{change, numbers[i], checksum(records[i].ID)}.append(b)
		ends[i] = len(b)
	}
	all, from := string(b), 0
	for i, to := range ends {
		records[i].Version, from = all[from:to], to
	}
}

// Times are UTC microseconds in the database; NULL is the zero time, not known.

func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

func instant(v any) time.Time {
	if us, ok := v.(int64); ok {
		return time.UnixMicro(us).UTC()
	}
	return time.Time{}
}

// integer is 0 for NULL.
func integer(v any) int64 {
	i, _ := v.(int64)
	return i
}

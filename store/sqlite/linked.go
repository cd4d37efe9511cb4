package sqlite

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// somebody stands in for every borrower: rules never look inside, so a sweep does not even read it.
const somebody circulation.Borrower = "somebody"

// Linked implements anonymize.Store. The order is that of the records' numbers.
func (c *Circulation) Linked(ctx context.Context, q anonymize.Query) (anonymize.Page, error) {
	after := firstOf(q.Kind) - 1
	if q.Cursor != "" {
		var err error
		if after, err = strconv.ParseInt(q.Cursor, 10, 64); err != nil {
			return anonymize.Page{}, fmt.Errorf("sqlite: the cursor is not one that Linked returned")
		}
	}
	// The change is read before the page: what is written in between makes a conflict, never a stale decision.
	var change int64
	if err := c.db.QueryRowContext(ctx, "SELECT last FROM changes").Scan(&change); err != nil {
		return anonymize.Page{}, failed("read records", err)
	}
	records, numbers, err := c.page(ctx, q, after)
	if err != nil || len(records) == 0 {
		return anonymize.Page{}, err
	}
	setVersions(records, numbers, change)
	last := numbers[len(numbers)-1]
	if q.Kind == circulation.KindLoan {
		if err := c.fees(ctx, records, numbers); err != nil {
			return anonymize.Page{}, err
		}
	}
	page := anonymize.Page{Records: records}
	if len(records) == q.Limit {
		page.Cursor = strconv.FormatInt(last, 10)
	}
	return page, nil
}

// page reads the records themselves, with their numbers.
func (c *Circulation) page(ctx context.Context, q anonymize.Query, after int64) ([]circulation.Record, []int64, error) {
	var r circulation.Record
	// Integers are scanned into any, which database/sql hands over as they are; into *int64 it takes the
	// way through reflection, which for a million records is noticeable.
	var n, ended, flags, feeStatus, expires, wish, wishSince, newer, newerOfItem any
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

	query := "SELECT " + strings.Join(columns, ", ") + " FROM links l CROSS JOIN records r ON r.n = l.n"
	if q.Needs&(anonymize.NeedGroupNow|anonymize.NeedExpires|anonymize.NeedWish|anonymize.NeedNewerByBorrower) != 0 {
		query += " CROSS JOIN persons p ON p.p = l.person"
	}
	query += " WHERE l.n > ?2 AND l.n <= ?3 AND l.person IS NOT NULL"
	args := []any{q.At.UnixMicro(), after, lastOf(q.Kind), q.Limit}
	if q.Shard.Of > 1 {
		query += " AND l.n % ?5 = ?6"
		args = append(args, q.Shard.Of, q.Shard.Index)
	}
	query += " ORDER BY l.n LIMIT ?4"

	records := make([]circulation.Record, 0, min(q.Limit, 1<<14))
	numbers := make([]int64, 0, min(q.Limit, 1<<14))
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
		records, numbers = append(records, r), append(numbers, integer(n))
		return nil
	})
	return records, numbers, err
}

// flagsColumn packs what is one bit each: every column costs a conversion in database/sql.
const flagsColumn = `(r.status = 1) + 2 * (r.lost <> 0) + 4 * (r.claimed_returned <> 0)
	+ 8 * (l.person IN (SELECT person FROM holds WHERE until IS NULL OR until > ?1))`

// fees adds to loans what they know of their fees.
func (c *Circulation) fees(ctx context.Context, records []circulation.Record, numbers []int64) error {
	const query = `
		SELECT t.target, f.fee_status, f.ended, f.method
		FROM ties t INDEXED BY ties_target CROSS JOIN records f ON f.n = t.n
		WHERE t.target BETWEEN ?1 AND ?2 AND f.n >> 40 = 3
		UNION ALL
		SELECT loan, status, closed, method FROM fee_summaries WHERE loan BETWEEN ?1 AND ?2
		ORDER BY 1`
	var loan, status, closed any
	var method string
	i := 0
	return each(ctx, "read fees", c.db, query, []any{numbers[0], numbers[len(numbers)-1]},
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

package sqlite

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// How records sleep.
//
// A link carries the number of the plan under which the record was put off, and until when. The record is asleep if that is the plan in force
// and the time has not come. A plan's number is that of the change to the store in which it came into force, so numbers only
// grow, and what is awake, plan < current OR plan = current AND next <= at, is the beginning of an index.
//
// Records that were never put off are not in the index: most have the highest numbers, and a sweep reads all links behind the number up to which
// the index is complete. Resume moves that on, when it has come to be far behind.
//
// What changes a record sets its link's plan to 0. What changes a borrower or an item, whose records lie all over the place, only leaves
// word beside them, and the next Resume wakes their records: an account bears the number of its last change, and a borrower or an item
// who saw a hold or another loan is marked as stirred. Defer leaves a record alone if its link or its borrower's account bears a later number than that of the change after which
// it was read, if its borrower or item is stirred, and if somebody was stirred no longer since it was read. So no order of these calls
// lets a change be lost, nor does a process that is killed between them.

// awhile stands for: until something changes.
const awhile = math.MaxInt64

// newerNeeds are the needs for which loans that are added or moved must wake others.
const newerNeeds = anonymize.NeedNewerByBorrower | anonymize.NeedNewerOfItem

// A plan is what the row of the table says.
type plan struct {
	number, settled, cleared int64
	name                     string
	needs                    anonymize.Needs
}

func (t *tx) plan() (p plan, err error) {
	var needs int64
	err = t.get("SELECT number, settled, cleared, name, needs FROM plan", nil, &p.number, &p.settled, &p.cleared, &p.name, &needs)
	if errors.Is(err, errNone) {
		err = fmt.Errorf("sqlite: %s: the table plan has no row", t.op)
	}
	p.needs = anonymize.Needs(needs)
	return p, err
}

// Resume implements anonymize.Deferrer. Borrowers and items are settled in one transaction: in time in proportion to their records, or to all links if they
// are many.
func (c *Circulation) Resume(ctx context.Context, name string, needs anonymize.Needs) error {
	if name == "" {
		return errors.New("sqlite: a plan needs a name")
	}
	needs &= newerNeeds
	return c.aside(ctx, "begin a sweep", func(t *tx) error {
		p, err := t.plan()
		if err != nil {
			return err
		}
		// The same name with other needs would be a mistake of somebody's; then everything is read, too.
		if err := t.index(); err != nil {
			return err
		}
		if p.name != name || p.needs != needs {
			if _, err := t.exec("UPDATE plan SET number = ?1, settled = ?1, name = ?2, needs = ?3", t.change, name, int64(needs)); err != nil {
				return err
			}
			return t.calm()
		}
		return t.settle(p)
	})
}

// settle wakes the records of all borrowers and items of whom something changed since this was done last.
func (t *tx) settle(p plan) error {
	if err := t.wakePersons(p); err != nil {
		return err
	}
	if _, err := t.exec(wakeItems, p.number); err != nil {
		return err
	}
	if _, err := t.exec("UPDATE plan SET settled = ?", t.change); err != nil {
		return err
	}
	return t.calm()
}

// calm says that nobody is stirred any more, and since when.
func (t *tx) calm() error {
	persons, err := t.exec("UPDATE persons SET stirred = 0 WHERE stirred = 1")
	if err != nil {
		return err
	}
	items, err := t.exec("UPDATE items SET stirred = 0 WHERE stirred = 1")
	if err == nil && persons+items > 0 {
		_, err = t.exec("UPDATE plan SET cleared = ?", t.change)
	}
	return err
}

// index puts records that were never put off into the index, so that the next sweeps need not read all links behind the number up to which it is
// complete. Where most were not, a sweep reads them anyway, and puts those off that it keeps.
func (t *tx) index() error {
	const few, many = 8, 1 << 16
	type stretch struct{ kind, from, to int64 }
	var behind []stretch
	var s stretch
	err := each(t.ctx, t.op, t.db, "SELECT kind, indexed, last FROM serials WHERE last - indexed >= ?", []any{many}, []any{&s.kind, &s.from, &s.to}, func() error {
		behind = append(behind, s)
		return nil
	})
	if err != nil {
		return err
	}
	for _, s := range behind {
		first := firstOf(circulation.Kind(s.kind))
		const never = "n > ?1 AND n <= ?2 AND plan IS NULL AND person IS NOT NULL"
		var n int64
		if err := t.get("SELECT count(*) FROM links WHERE "+never, []any{first + s.from, first + s.to}, &n); err != nil {
			return err
		}
		if n > (s.to-s.from)/few {
			continue
		}
		if _, err := t.exec("UPDATE links SET plan = 0 WHERE "+never, first+s.from, first+s.to); err != nil {
			return err
		}
		if _, err := t.exec("UPDATE serials SET indexed = ? WHERE kind = ?", s.to, s.kind); err != nil {
			return err
		}
	}
	return nil
}

// stirredPersons are those of whom something changed after ?1, or who are stirred.
const stirredPersons = `
	SELECT p FROM persons WHERE version > ?1 UNION ALL SELECT p FROM persons WHERE stirred = 1`

func (t *tx) wakePersons(p plan) error {
	var stirred, blocks, numbers int64
	if err := t.get("SELECT count(*) FROM ("+stirredPersons+")", []any{p.settled}, &stirred); err != nil || stirred == 0 {
		return err
	}
	if err := t.get("SELECT sum((last >> 16) + 1), sum(last) FROM serials", nil, &blocks, &numbers); err != nil {
		return err
	}
	where := "person IN (" + stirredPersons + ")"
	if stirred*blocks*4 < numbers { // see countPersons
		where = `n IN (` + allBlocks + `
			SELECT l.n FROM (` + stirredPersons + `) s CROSS JOIN blocks b
			CROSS JOIN links l INDEXED BY links_person ON l.n >> 16 = b.block AND l.person = s.p)`
	}
	_, err := t.exec("UPDATE links SET plan = 0 WHERE plan = ?2 AND "+where, p.settled, p.number)
	return err
}

// allBlocks are the blocks of the indexes on links.
const allBlocks = `
	WITH RECURSIVE blocks (block, end) AS (
		SELECT (kind - 1) << 24, ((kind - 1) << 24) + (last >> 16) FROM serials
		UNION ALL SELECT block + 1, end FROM blocks WHERE block < end)`

const wakeItems = `
	UPDATE links SET plan = 0 WHERE plan = ?1 AND n IN (` + loansOfStirredItems + `)`

// loansOfStirredItems are the numbers of the loans of items that are stirred.
const loansOfStirredItems = `
	SELECT r.n FROM items i INDEXED BY items_stirred CROSS JOIN records r INDEXED BY records_item
	ON r.item = i.item AND r.item <> '' AND r.n < 1 << 40 WHERE i.stirred = 1`

// Defer implements anonymize.Deferrer.
func (c *Circulation) Defer(ctx context.Context, d anonymize.Deferral) error {
	groups := understandDeferral(d)
	if len(groups) == 0 {
		return failed("put records off", ctx.Err())
	}
	return c.aside(ctx, "put records off", func(t *tx) error {
		p, err := t.plan()
		if err != nil || p.name != d.Plan {
			return err
		}
		for _, g := range groups {
			// What was read before the plan came into force, or before somebody was stirred no longer, may have changed unnoticed. A change that has not been made is of a state of the
			// database that was replaced by a backup.
			if g.change < max(p.number, p.cleared) || g.change >= t.change {
				continue
			}
			if _, err := t.exec(putOff, g.change, p.number, g.until()); err != nil {
				return err
			}
		}
		return nil
	})
}

// putOff writes until when the records of ?3 sleep under plan ?2, but for those of which something changed after ?1.
const putOff = `
	UPDATE links SET plan = ?2, next = x.until
	FROM (SELECT CAST(key AS INTEGER) AS number, value AS until FROM json_each(?3)) x
	WHERE n = x.number AND version <= ?1 AND person IS NOT NULL
	AND person NOT IN (` + stirredPersons + `)
	AND n NOT IN (` + loansOfStirredItems + `)`

// A deferralGroup is records to put off that were read after the same change.
type deferralGroup struct {
	change  int64
	records []numberedUntil
}

type numberedUntil struct{ n, until int64 }

// until writes a JSON object: until when each number sleeps.
func (g deferralGroup) until() string {
	b := []byte{'{'}
	for i, r := range g.records {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = strconv.AppendInt(b, r.n, 10)
		b = append(b, '"', ':')
		b = strconv.AppendInt(b, r.until, 10)
	}
	return string(append(b, '}'))
}

// understandDeferral reads the versions; what bears no version of its own is left out.
func understandDeferral(d anonymize.Deferral) (groups []deferralGroup) {
	for _, r := range d.Records {
		v, ok := parseToken(r.Version)
		if !ok || v.id != checksum(r.ID) || v.n < firstOf(d.Kind) || v.n > lastOf(d.Kind) {
			continue
		}
		until := int64(awhile)
		if !r.Until.IsZero() {
			until = r.Until.UnixMicro()
		}
		i := len(groups) - 1
		if i < 0 || groups[i].change != v.change {
			if i = slices.IndexFunc(groups, func(g deferralGroup) bool { return g.change == v.change }); i < 0 {
				i, groups = len(groups), append(groups, deferralGroup{change: v.change})
			}
		}
		groups[i].records = append(groups[i].records, numberedUntil{v.n, until})
	}
	return groups
}

// Count implements anonymize.Deferrer. It takes time in proportion to the links.
func (c *Circulation) Count(ctx context.Context, kind circulation.Kind, shard anonymize.Shard) (n int, err error) {
	query, args := "SELECT count(*) FROM links WHERE n BETWEEN ?1 AND ?2 AND person IS NOT NULL", []any{firstOf(kind), lastOf(kind)}
	if shard.Of > 1 {
		query, args = query+" AND n % ?3 = ?4", append(args, shard.Of, shard.Index)
	}
	return n, failed("count records", c.db.QueryRowContext(ctx, query, args...).Scan(&n))
}

// A mark is where a page under a plan ends, as of one plan: a place in the index, up to the number up to which it was complete, or, if that is passed, the
// number of a record behind it.
type mark struct{ number, indexed, plan, next, n int64 }

// String writes a cursor, which differs from those of pages in the usual order.
func (m mark) String() string {
	return fmt.Sprintf("%d.%d.%d.%d.%d", m.number, m.indexed, m.plan, m.next, m.n)
}

func parseMark(cursor string) (m mark, ok bool) {
	words := strings.Split(cursor, ".")
	to := []*int64{&m.number, &m.indexed, &m.plan, &m.next, &m.n}
	if len(words) != len(to) {
		return mark{}, false
	}
	for i, w := range words {
		var err error
		if *to[i], err = strconv.ParseInt(w, 10, 64); err != nil {
			return mark{}, false
		}
	}
	return m, true
}

// awake reads a page under the plan in force: first what is awake of the index, block by block and in its order, then what lies behind it in the order of
// numbers. A record that was read moves towards the beginning when it is woken, and out of what is awake when it is put off, so that
// nothing is read twice in a pass.
func (c *Circulation) awake(ctx context.Context, q anonymize.Query, h horizon) (r *reading, cursor string, err error) {
	r = newReading(q)
	at := q.At.UnixMicro()
	m, inside := parseMark(q.Cursor)
	if inside = inside && m.number == h.number; !inside {
		// The pass begins, or begins anew: the plan was replaced in its middle, and what was left out under that is to be read now.
		m = mark{number: h.number, indexed: firstOf(q.Kind) + h.indexed, n: firstOf(q.Kind)}
	}
	if m.n <= m.indexed {
		const condition = "l.n >> 16 = ?5 AND l.n <= ?6 AND l.plan IS NOT NULL AND "
		block := m.n >> 16
		if inside {
			err = c.page(ctx, r, "INDEXED BY links_plan", condition+"l.plan = ?7 AND l.next = ?8 AND l.n > ?9", "l.n", block, m.indexed, m.plan, m.next, m.n)
		}
		for ; err == nil && r.left() > 0 && block <= m.indexed>>16; block++ {
			where, args := condition+"(l.plan, l.next) <= (?7, ?8)", []any{block, m.indexed, h.number, at}
			if inside {
				where, args = where+" AND (l.plan, l.next) > (?9, ?10)", append(args, m.plan, m.next)
			}
			inside = false
			err = c.page(ctx, r, "INDEXED BY links_plan", where, "l.plan, l.next, l.n", args...)
		}
	}
	if err == nil && r.left() > 0 {
		err = c.page(ctx, r, "", "l.n > ?5 AND l.n <= ?6 AND (l.plan IS NULL OR (l.plan, l.next) <= (?7, ?8))", "l.n",
			max(m.n, m.indexed), lastOf(q.Kind), h.number, at)
	}
	if err == nil && r.left() == 0 {
		m.plan, m.next, m.n = r.key.plan, r.key.next, r.numbers[len(r.numbers)-1]
		cursor = m.String()
	}
	return r, cursor, err
}

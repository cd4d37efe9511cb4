package postgres

import (
	"context"
	"math"
	"slices"
	"strconv"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// How records are put off.
//
// A link bears the plan under which its record was put off, and until when. Numbers of plans only grow, so what is worth reading is one range of an index: the links of all earlier plans, and
// of this one those whose time has come. Whatever changes a record or a fee of it sets the plan to 0. What an account says, and the loans that make others older, would be too many links to
// write in passing: they leave a mark at the person or the item, and the next sweep begins by waking their records.

// Marks of a person.
const (
	freshAccount = 1
	freshLoans   = 2
)

// newestPlan returns the plan that counts: 0 if there is none yet.
func newestPlan(ctx context.Context, db DB, op string) (number int64, name string, err error) {
	err = each(ctx, op, db, "SELECT number, name FROM plans ORDER BY number DESC LIMIT 1", nil, []any{&number, &name}, func() error { return nil })
	return number, name, err
}

// Resume implements anonymize.Deferrer. Of several that begin at once, the others wait until the first has woken what is to be woken.
//
// Borrowers and items get their numbers in transactions of their own: in one, those of the few who borrowed since the last sweep would bear the same as what they borrowed.
func (c *Circulation) Resume(ctx context.Context, plan string, needs anonymize.Needs) error {
	another := false // then everything is read anyway
	err := c.write(ctx, "begin a sweep", true, func(t *tx) error {
		if _, err := t.exec("LOCK TABLE plans IN EXCLUSIVE MODE"); err != nil { // others may read
			return err
		}
		_, name, err := newestPlan(ctx, t.db, t.op)
		if err != nil {
			return err
		}
		if another = name != plan; another {
			if _, err := t.exec("INSERT INTO plans (name) VALUES ($1)", plan); err != nil {
				return err
			}
			if _, err := t.exec("DELETE FROM plans WHERE number < (SELECT max(number) FROM plans)"); err != nil {
				return err
			}
		}
		mask := freshAccount
		if needs&anonymize.NeedNewerByBorrower != 0 {
			mask |= freshLoans
		}
		return t.wake(settlePersons, wakePersons, wakeBusyPersons, another, mask)
	})
	if err != nil || needs&anonymize.NeedNewerOfItem == 0 {
		return err // marks at items wait for a policy that asks for them
	}
	return c.write(ctx, "begin a sweep", true, func(t *tx) error {
		if _, err := t.exec("LOCK TABLE plans IN EXCLUSIVE MODE"); err != nil {
			return err
		}
		return t.wake(settleItems, wakeItems, wakeBusyItems, another)
	})
}

// wake takes marks away, and wakes the records of those that had them. It does not wait for those whose rows somebody is just writing to: they keep their marks, and their records are woken, too.
//
// A mark goes together with a change: whoever read a record before, and wants to put it off now, is refused, though the mark is gone. It also means that no row of a person bears the
// transaction of their last loan any more, which the loan's row bears too.
func (t *tx) wake(settle, wake, wakeBusy string, nobody bool, args ...any) error {
	if nobody {
		_, err := t.exec(settle)
		return err
	}
	if _, err := t.exec("WITH settled AS ("+settle+" RETURNING marked.*) "+wake, args...); err != nil {
		return err
	}
	_, err := t.exec(wakeBusy, args...)
	return err
}

const (
	settlePersons = `UPDATE persons SET fresh = 0, counted = pg_current_xact_id(), changed = ` + settledChange + `
		FROM (SELECT p, fresh FROM persons WHERE fresh <> 0 ORDER BY p FOR NO KEY UPDATE SKIP LOCKED) marked WHERE persons.p = marked.p`
	settledChange   = `CASE WHEN marked.fresh & 1 <> 0 THEN pg_current_xact_id() ELSE changed END`
	wakePersons     = wakeThem + ` FROM settled WHERE links.person = settled.p AND links.plan <> 0 AND settled.fresh & $1 <> 0`
	wakeBusyPersons = wakeThem + ` FROM persons p WHERE links.person = p.p AND links.plan <> 0 AND p.fresh <> 0 AND p.fresh & $1 <> 0`

	settleItems = `UPDATE items SET fresh = false, counted = pg_current_xact_id()
		FROM (SELECT item FROM items WHERE fresh ORDER BY item FOR NO KEY UPDATE SKIP LOCKED) marked WHERE items.item = marked.item`
	wakeItems     = wakeThem + ` FROM settled s JOIN records r ON r.item = s.item AND r.item <> '' AND r.n < 1099511627776 WHERE links.n = r.n AND links.plan <> 0`
	wakeBusyItems = wakeThem + ` FROM items i JOIN records r ON r.item = i.item AND r.item <> '' AND r.n < 1099511627776 WHERE i.fresh AND links.n = r.n AND links.plan <> 0`

	// The time goes, too, or the record would come behind those of earlier plans that are being read, and so be read twice.
	wakeThem = `UPDATE links SET plan = 0, next = 0`
)

// Defer implements anonymize.Deferrer.
func (c *Circulation) Defer(ctx context.Context, d anonymize.Deferral) error {
	b := anonymize.Batch{Kind: d.Kind}
	until := make(map[int64]int64, len(d.Records))
	for _, r := range d.Records {
		b.Targets = append(b.Targets, anonymize.Target{ID: r.ID, Version: r.Version})
	}
	targets, _ := understand(&b)
	for _, r := range d.Records {
		if v, ok := parseToken(r.Version, ""); ok {
			until[v.n] = math.MaxInt64
			if !r.Until.IsZero() {
				until[v.n] = r.Until.UnixMicro()
			}
		}
	}
	if len(targets) == 0 {
		return failed("put records off", ctx.Err())
	}
	return c.write(ctx, "put records off", true, func(t *tx) error {
		// Whoever wakes waits for this, and the other way round: what is woken must not be put off by somebody of whom nothing is to be seen yet.
		begin := "LOCK TABLE plans IN ROW EXCLUSIVE MODE" + byIndex
		if _, ours := c.db.(beginner); ours { // a crash of the server that loses this costs a reading, so nobody waits for the disk; but what else is in a transaction of the caller's may cost more
			begin += "; SET LOCAL synchronous_commit = off"
		}
		if _, err := t.exec(begin); err != nil {
			return err
		}
		number, name, err := newestPlan(ctx, t.db, t.op)
		if err != nil || name != d.Plan { // another policy was swept meanwhile
			return err
		}
		for _, g := range together(targets) {
			if err := t.putOff(g, number, until, d.Needs); err != nil {
				return err
			}
		}
		return nil
	})
}

func (t *tx) putOff(g group, plan int64, until map[int64]int64, needs anonymize.Needs) error {
	numbers := numbersOf(g.targets)
	versions, nexts := make([]int64, len(numbers)), make([]int64, len(numbers))
	for i, x := range g.targets {
		versions[i], nexts[i] = x.version, until[x.n]
	}
	query := `UPDATE links l SET plan = $2, next = want.next
		FROM unnest(CAST($3 AS bigint[]), CAST($4 AS bigint[]), CAST($5 AS bigint[])) AS want (n, version, next)
		WHERE l.n = ANY (CAST($3 AS bigint[])) AND l.n = want.n AND l.version = want.version AND l.person NOT IN (SELECT person FROM holds WHERE ` + hasChanged + ` UNION ALL SELECT p FROM persons WHERE ` + hasChanged + `
			UNION ALL SELECT p FROM persons WHERE ` + hasCounted + `)`
	if needs&anonymize.NeedNewerOfItem != 0 {
		query += ` AND NOT EXISTS (SELECT FROM records r JOIN items ON items.item = r.item WHERE r.n = l.n AND r.item <> '' AND ` + hasCounted + `)`
	}
	_, err := t.exec(query, g.snapshot, plan, int64Array(numbers), int64Array(versions), int64Array(nexts))
	return err
}

// Count implements anonymize.Deferrer.
func (c *Circulation) Count(ctx context.Context, kind circulation.Kind, shard anonymize.Shard) (n int, err error) {
	query := "SELECT count(*) FROM links WHERE n BETWEEN $1 AND $2 AND person IS NOT NULL"
	args := []any{firstOf(kind), lastOf(kind)}
	if shard.Of > 1 {
		query += " AND (n >> " + strconv.Itoa(shardBlock) + ") % $3 = $4"
		args = slices.Concat(args, []any{int64(shard.Of), int64(shard.Index)})
	}
	err = c.read(ctx, "count records", func() error {
		return failed("count records", c.db.QueryRowContext(ctx, query, args...).Scan(&n))
	})
	return n, err
}

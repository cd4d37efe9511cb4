package postgres

import (
	"context"
	"maps"
	"slices"
	"time"
)

// Finish implements anonymize.Finisher. It forgets the legal holds that have run out, and the borrowers of whom something was unlinked and whom no record names any more, who are on no list of
// patrons and under no legal hold. Its time follows what was unlinked since the last Finish.
//
// It does not clear the server's files, which would take time in proportion to what is kept: the tables are set to be vacuumed soon.
//
// Each of its transactions takes what others have to wait for before it waits for anything itself.
func (c *Circulation) Finish(ctx context.Context) error {
	err := c.write(ctx, "finish", true, func(t *tx) error {
		_, err := t.exec(settleCounts)
		return err
	})
	if err != nil {
		return err
	}
	err = c.write(ctx, "finish", true, func(t *tx) error {
		_, err := t.exec("WITH over AS (DELETE FROM holds WHERE until <= $1 RETURNING person) INSERT INTO leavers SELECT person FROM over", time.Now().UnixMicro())
		return err
	})
	if err != nil {
		return err
	}
	return c.write(ctx, "finish", true, func(t *tx) error {
		// Of two that finish at once, the other goes on with what is left.
		if _, err := t.exec("LOCK TABLE leavers IN SHARE ROW EXCLUSIVE MODE"); err != nil {
			return err
		}
		var some, many bool
		if _, err := t.get("SELECT count(*) > 0, coalesce(bool_or(person IS NULL), false) FROM leavers", nil, &some, &many); err != nil || !some {
			return err
		}
		of := "AND p IN (SELECT person FROM leavers)"
		if many {
			of = ""
		}
		const unnamed = `NOT listed AND NOT EXISTS (SELECT FROM links WHERE person = p) AND NOT EXISTS (SELECT FROM companions WHERE person = p)
			AND NOT EXISTS (SELECT FROM holds WHERE person = p) `
		if many {
			// Looking up one borrower after the other, the server would come across all the rows that were deleted.
			if _, err := t.exec("SET LOCAL enable_nestloop = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL max_parallel_workers_per_gather = 0"); err != nil {
				return err
			}
		}
		leaving, err := t.numbers("SELECT p FROM persons WHERE " + unnamed + of)
		if err != nil {
			return err
		}
		if many {
			if _, err := t.exec("SET LOCAL enable_nestloop TO DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT; SET LOCAL enable_indexonlyscan TO DEFAULT; SET LOCAL max_parallel_workers_per_gather TO DEFAULT"); err != nil {
				return err
			}
		}
		// Whoever saves a record of a person has the person's row until that is committed. Such a one is left to the next time; of the others, whose rows are taken first, what is seen
		// after that is what there is.
		list := int64Array(slices.Collect(maps.Keys(leaving)))
		idle, err := t.numbers("SELECT p FROM persons WHERE p = ANY (CAST($1 AS bigint[])) ORDER BY p FOR UPDATE SKIP LOCKED", list)
		if err != nil {
			return err
		}
		if _, err := t.exec("DELETE FROM persons WHERE p = ANY (CAST($1 AS bigint[])) AND "+unnamed, int64Array(slices.Collect(maps.Keys(idle)))); err != nil {
			return err
		}
		for p := range idle {
			delete(leaving, p)
		}
		_, err = t.exec("WITH done AS (DELETE FROM leavers) INSERT INTO leavers SELECT * FROM unnest(CAST($1 AS bigint[]))", int64Array(slices.Collect(maps.Keys(leaving))))
		return err
	})
}

// settleCounts gives all borrowers who were marked since the last sweep the same transaction of their last count or change, and with it a row of that transaction: their loans' rows, and the items', bear the one in which the
// loan was counted, and whoever compares them would know who had what though the loan was unlinked. The marks stay; so what is to be woken is.
const settleCounts = `UPDATE persons SET counted = pg_current_xact_id(), changed = ` + settledChange + `
	FROM (SELECT p, fresh FROM persons WHERE fresh <> 0 ORDER BY p FOR NO KEY UPDATE SKIP LOCKED) marked WHERE persons.p = marked.p`

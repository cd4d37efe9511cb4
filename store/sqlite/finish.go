package sqlite

import (
	"context"
	"errors"
	"strings"
	"time"
)

// Finish implements anonymize.Finisher. It forgets the legal holds that have run out, and the borrowers whom no
// record names any more, who are on no list of patrons and under no legal hold; clears what ANALYZE sampled of
// borrowers; wipes the copies of deleted rows out of the tables that identify; and empties the write-ahead log, in
// which everything that was ever written lives on. It takes time in proportion to the links that are kept.
//
// It does not write the facts anew, which would take time in proportion to the whole history: what a policy's
// keep-fields dropped from them may live on in unused parts of pages, of records and of items, until VACUUM.
//
// In a caller's transaction the log stays as it is: call Finish again on the *sql.DB.
func (c *Circulation) Finish(ctx context.Context) error {
	err := c.write(ctx, "finish", (*tx).finish)
	if err != nil && !errors.Is(err, errNothing) {
		return err
	}
	if _, ok := c.db.(beginner); !ok {
		return nil
	}
	var busy, pages, moved int
	if err := c.db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &pages, &moved); err != nil {
		return failed("empty the log", err)
	}
	if busy != 0 { // somebody still reads an older state: what was deleted is not gone
		return &Error{Op: "empty the log", Code: codeBusy}
	}
	return nil
}

// errNothing says that nothing changed since the last Finish, so that even its transaction can be dropped.
var errNothing = errors.New("sqlite: nothing to finish")

func (t *tx) finish() error {
	var unfinished int
	if err := t.get("SELECT unfinished FROM changes", nil, &unfinished); err != nil {
		return err
	}
	over, err := t.exec("DELETE FROM holds WHERE until <= ?", time.Now().UnixMicro())
	if err != nil {
		return err
	}
	if unfinished <= 1 && over == 0 { // this one counts, too
		return errNothing
	}
	if _, err := t.exec("UPDATE changes SET unfinished = 0"); err != nil {
		return err
	}
	// That a borrower and an item are stirred may be because of a loan that was unlinked.
	p, err := t.plan()
	if err != nil {
		return err
	}
	if err := t.settle(p); err != nil {
		return err
	}
	_, err = t.exec(`
		DELETE FROM persons WHERE listed = 0
		AND p NOT IN (SELECT person FROM links WHERE person IS NOT NULL)
		AND p NOT IN (SELECT person FROM companions)
		AND p NOT IN (SELECT person FROM holds)`)
	if err != nil {
		return err
	}
	// sqlite_stat4 holds rows of indexes, borrowers among them. It exists only where somebody ran ANALYZE.
	var there int
	if err := t.get("SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_stat4'", nil, &there); err != nil {
		return err
	}
	if there > 0 {
		// All of it: only then the table gives up its pages, copies in their unused parts included.
		if _, err := t.exec("DELETE FROM sqlite_stat4"); err != nil {
			return err
		}
	}
	for _, table := range []string{"persons", "links", "companions", "personal", "ties", "fee_summaries", "holds"} {
		if err := t.wipe(table); err != nil {
			return err
		}
	}
	return nil
}

// wipe writes a table anew. secure_delete overwrites a cell when it is deleted, but not the copies that
// splitting and merging pages leave in their unused parts: after 240,000 of 300,000 loans were unlinked,
// 84 KB there were not zero, copies of deleted and of kept links alike. A page that a table gives up is
// overwritten whole; so the rows step aside, the table gives up all of its pages, and the rows come back. Where
// they step to has the same columns and indexes, because then SQLite copies rows without looking into them.
func (t *tx) wipe(table string) error {
	const aside = "carrel_aside"
	var statements []string
	var statement string
	err := each(t.ctx, t.op, t.db, "SELECT sql FROM sqlite_schema WHERE tbl_name = ?1 AND name LIKE ?1 || '%' AND type IN ('table', 'index') ORDER BY type DESC",
		[]any{table}, []any{&statement}, func() error {
			statements = append(statements, strings.ReplaceAll(statement, table, aside))
			return nil
		})
	if err != nil {
		return err
	}
	statements = append(statements,
		"INSERT INTO "+aside+" SELECT * FROM "+table,
		"DELETE FROM "+table,
		"INSERT INTO "+table+" SELECT * FROM "+aside,
		"DROP TABLE "+aside)
	for _, statement := range statements {
		// Not prepared: the table is another one each time.
		if _, err := t.db.ExecContext(t.ctx, statement); err != nil {
			return failed(t.op, err)
		}
	}
	return nil
}

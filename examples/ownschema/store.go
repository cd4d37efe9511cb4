package main

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

//go:embed schema.sql
var schema string

// dsn opens SQLite so that writers wait for each other instead of failing, foreign keys are looked at,
// and what is erased is overwritten.
func dsn(path string) string {
	return "file:" + path + "?_txlock=immediate&_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)" +
		"&_pragma=foreign_keys(on)&_pragma=secure_delete(on)"
}

// A store shows carrel the library system's own loans and fees. Copy it, put in your tables, and
// run storetest until it is green: that is all there is to adopting anonymize.
type store struct{ db *sql.DB }

var _ anonymize.Store = store{}

// Both SELECTs bring the same columns in the same order, so that one loop reads them. The patron
// is a LEFT JOIN: a borrower whose account is gone must not hide their loans.
const (
	linkedLoans = `
		SELECT a.id, a.geaendert, a.leser_nr, a.lesergruppe, a.zweigstelle, a.standort, a.medientyp, a.exemplar,
			a.ausgeliehen, a.rueckgabe, a.rueckgabe IS NOT NULL, a.verlust, a.angeblich_zurueck, a.neuere_leser, a.neuere_exemplar,
			coalesce(l.gruppe, ''), l.gueltig_bis, coalesce(l.verlauf, ''), l.verlauf_seit,
			(SELECT json_group_array(json_object('stand', stand, 'beglichen', beglichen, 'zahlart', zahlart)) FROM (
				SELECT stand, beglichen, zahlart FROM gebuehr WHERE ausleihe_id = a.id
				UNION ALL SELECT 'erledigt', beglichen, zahlart FROM gebuehr_spur WHERE ausleihe_id = a.id))
		FROM ausleihe a LEFT JOIN leser l ON l.nr = a.leser_nr
		WHERE a.leser_nr IS NOT NULL AND a.id > :after AND a.id % :of = :shard ORDER BY a.id LIMIT :limit`
	linkedFees = `
		SELECT a.id, a.geaendert, a.leser_nr, a.lesergruppe, a.zweigstelle, '', a.art, '',
			a.entstanden, a.beglichen, a.stand = 'erledigt', 0, 0, 0, 0,
			coalesce(l.gruppe, ''), l.gueltig_bis, coalesce(l.verlauf, ''), l.verlauf_seit,
			json_array(json_object('stand', a.stand, 'beglichen', a.beglichen, 'zahlart', a.zahlart))
		FROM gebuehr a LEFT JOIN leser l ON l.nr = a.leser_nr
		WHERE a.leser_nr IS NOT NULL AND a.id > :after AND a.id % :of = :shard ORDER BY a.id LIMIT :limit`
)

// Linked implements [anonymize.Store]. The order is that of the primary key, and so is the cursor: the
// next page begins after the last ID, whatever was unlinked before it.
func (s store) Linked(ctx context.Context, q anonymize.Query) (anonymize.Page, error) {
	query := map[circulation.Kind]string{circulation.KindLoan: linkedLoans, circulation.KindFee: linkedFees}[q.Kind]
	if query == "" {
		return anonymize.Page{}, ctx.Err() // this system has no requests, sharing or notices
	}
	after, _ := strconv.ParseInt(q.Cursor, 10, 64) // 0 for the first page
	rows, err := s.db.QueryContext(ctx, query, sql.Named("after", after),
		sql.Named("of", max(q.Shard.Of, 1)), sql.Named("shard", q.Shard.Index), sql.Named("limit", q.Limit))
	if err != nil {
		return anonymize.Page{}, wrap(ctx, "reading", err)
	}
	defer rows.Close() // nothing is open when Linked returns: the sweep is about to write
	var page anonymize.Page
	for rows.Next() {
		r := circulation.Record{Kind: q.Kind}
		var fees, verlauf string
		var started, ended, expires, since sql.NullInt64
		err := rows.Scan(&r.ID, &r.Version, &r.Borrower, &r.Group, &r.Library, &r.Location, &r.Type, &r.Item,
			&started, &ended, &r.Status, &r.Lost, &r.ClaimedReturned, &r.NewerByBorrower, &r.NewerOfItem,
			&r.GroupNow, &expires, &verlauf, &since, &fees)
		if err != nil {
			return anonymize.Page{}, wrap(ctx, "reading", err)
		}
		if r.Fees, err = parseFees(fees); err != nil {
			return anonymize.Page{}, err
		}
		r.Wish = map[string]circulation.Wish{"behalten": circulation.WishKeep, "vergessen": circulation.WishForget}[verlauf]
		r.Started, r.Ended, r.BorrowerExpires, r.WishSince = instant(started), instant(ended), instant(expires), instant(since)
		page.Records = append(page.Records, r)
	}
	if err := rows.Err(); err != nil {
		return anonymize.Page{}, wrap(ctx, "reading", err)
	}
	if n := len(page.Records); n == q.Limit {
		page.Cursor = page.Records[n-1].ID
	}
	return page, nil
}

// The exceptions are in the WHERE of the UPDATE itself, beside the version: between looking and writing
// there is no moment in which a fee could be charged. A row that does not match is a conflict.
const (
	unlinkLoan = `
		UPDATE ausleihe SET leser_nr = NULL, vertreter_nr = NULL, buerge_nr = NULL, bediener_nr = NULL,
			bemerkung = NULL, notiz = NULL, geaendert = geaendert + 1
		WHERE id = :id AND geaendert = :version AND leser_nr IS NOT NULL
			AND rueckgabe IS NOT NULL AND NOT verlust AND NOT angeblich_zurueck
			AND NOT EXISTS (SELECT 1 FROM gebuehr WHERE ausleihe_id = ausleihe.id AND stand <> 'erledigt')`
	unlinkFee = `
		UPDATE gebuehr SET leser_nr = NULL, zahler_nr = NULL, bediener_nr = NULL,
			bemerkung = NULL, notiz = NULL, geaendert = geaendert + 1
		WHERE id = :id AND geaendert = :version AND leser_nr IS NOT NULL AND stand = 'erledigt'`
)

// afterwards returns the statements that undo what points at an unlinked record and from it.
func afterwards(k circulation.Kind) []string {
	if k == circulation.KindLoan {
		return []string{
			`UPDATE gebuehr SET ausleihe_id = NULL WHERE ausleihe_id = :id`,
			`DELETE FROM gebuehr_spur WHERE ausleihe_id = :id`,
		}
	}
	return []string{ // the loan still names its borrower, and its rules may ask about the fee
		`INSERT INTO gebuehr_spur SELECT ausleihe_id, beglichen, zahlart FROM gebuehr WHERE id = :id AND ausleihe_id IS NOT NULL`,
		`UPDATE gebuehr SET ausleihe_id = NULL WHERE id = :id`,
	}
}

// What a policy's keep-fields may take from the facts. Leave it out if your policies have none.
const (
	loanFacts = `SELECT lesergruppe, zweigstelle, standort, medientyp, exemplar, ausgeliehen, frist, rueckgabe FROM ausleihe WHERE id = :id`
	keepLoan  = `UPDATE ausleihe SET lesergruppe = :group, zweigstelle = :library, standort = :location, medientyp = :type,
			exemplar = :item, ausgeliehen = :started, frist = :due, rueckgabe = :ended WHERE id = :id`
	feeFacts = `SELECT lesergruppe, zweigstelle, '', art, '', entstanden, NULL, beglichen FROM gebuehr WHERE id = :id`
	keepFee  = `UPDATE gebuehr SET lesergruppe = :group, zweigstelle = :library, art = :type,
			entstanden = :started, beglichen = :ended WHERE id = :id`
)

// Unlink implements [anonymize.Store].
func (s store) Unlink(ctx context.Context, b anonymize.Batch) (conflicts []string, err error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, wrap(ctx, "unlinking", err)
	}
	defer tx.Rollback()
	b.Targets = distinct(b.Targets)
	for _, t := range b.Targets {
		done, err := unlink(ctx, tx, b, t)
		if err != nil {
			return nil, wrap(ctx, "unlinking", err)
		}
		if !done {
			conflicts = append(conflicts, t.ID)
		}
	}
	receipt, err := json.Marshal(b.Receipt(conflicts))
	if err != nil {
		return nil, err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO beleg (text) VALUES (:text)`, sql.Named("text", string(receipt))); err != nil {
		return nil, wrap(ctx, "unlinking", err)
	}
	return conflicts, wrap(ctx, "unlinking", tx.Commit())
}

// unlink strips one record and reports whether it did.
func unlink(ctx context.Context, tx *sql.Tx, b anonymize.Batch, t anonymize.Target) (bool, error) {
	strip, facts, coarsen := unlinkLoan, loanFacts, keepLoan
	if b.Kind == circulation.KindFee {
		strip, facts, coarsen = unlinkFee, feeFacts, keepFee
	}
	id := sql.Named("id", t.ID)
	res, err := tx.ExecContext(ctx, strip, id, sql.Named("version", t.Version))
	if err != nil {
		return false, err
	}
	if n, err := res.RowsAffected(); n == 0 || err != nil {
		return false, err
	}
	for _, statement := range afterwards(b.Kind) {
		if _, err := tx.ExecContext(ctx, statement, id); err != nil {
			return false, err
		}
	}
	if b.Keep == nil {
		return true, nil
	}
	f := circulation.Facts{Kind: b.Kind}
	var started, due, ended sql.NullInt64
	err = tx.QueryRowContext(ctx, facts, id).Scan(&f.Group, &f.Library, &f.Location, &f.Type, &f.Item, &started, &due, &ended)
	if err != nil {
		return false, err
	}
	f.Started, f.Due, f.Ended = instant(started), instant(due), instant(ended)
	b.Keep.Apply(&f)
	_, err = tx.ExecContext(ctx, coarsen, id, sql.Named("group", f.Group), sql.Named("library", f.Library),
		sql.Named("location", f.Location), sql.Named("type", f.Type), sql.Named("item", f.Item),
		sql.Named("started", stamp(f.Started)), sql.Named("due", stamp(f.Due)), sql.Named("ended", stamp(f.Ended)))
	return true, err
}

// distinct drops targets that are named twice: they would be counted twice.
func distinct(targets []anonymize.Target) (once []anonymize.Target) {
	seen := make(map[string]bool, len(targets))
	for _, t := range targets {
		if !seen[t.ID] {
			seen[t.ID] = true
			once = append(once, t)
		}
	}
	return once
}

// parseFees reads [{"stand": "erledigt", "beglichen": 1772000000000000, "zahlart": "bar"}, …].
func parseFees(text string) ([]circulation.FeeSummary, error) {
	var rows []struct {
		Stand     string
		Beglichen *int64
		Zahlart   string
	}
	if err := json.Unmarshal([]byte(text), &rows); err != nil {
		return nil, errors.New("ownschema: the database returned fees that are no JSON")
	}
	fees := make([]circulation.FeeSummary, len(rows))
	for i, row := range rows {
		fees[i].Method = row.Zahlart
		switch row.Stand { // what is not known to be settled is owed
		case "erledigt":
			fees[i].Status = circulation.FeeClosed
		case "strittig":
			fees[i].Status = circulation.FeeInProcess
		}
		if row.Beglichen != nil {
			fees[i].Closed = time.UnixMicro(*row.Beglichen).UTC()
		}
	}
	return fees, nil
}

// wrap says what failed and nothing else: a driver's error may quote the row.
func wrap(ctx context.Context, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("ownschema: %s failed", what)
}

func stamp(t time.Time) sql.NullInt64 { return sql.NullInt64{Int64: t.UnixMicro(), Valid: !t.IsZero()} }

func instant(n sql.NullInt64) time.Time {
	if !n.Valid {
		return time.Time{}
	}
	return time.UnixMicro(n.Int64).UTC()
}

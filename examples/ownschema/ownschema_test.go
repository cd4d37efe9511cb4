package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.TestCirculation(t, func(t *testing.T) storetest.Circulation { return open(t) })
}

func BenchmarkStore(b *testing.B) {
	storetest.BenchmarkCirculation(b, func(b *testing.B) storetest.Circulation { return open(b) })
}

func open(t testing.TB) storetest.Circulation {
	db, err := sql.Open("sqlite", dsn(filepath.Join(t.TempDir(), "bibliothek.db")))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	_, err = db.Exec(schema)
	require.NoError(t, err)
	d := desk{db}
	return storetest.Circulation{
		Store:       store{db},
		Kinds:       []circulation.Kind{circulation.KindLoan, circulation.KindFee},
		ID:          func(n int) string { return strconv.Itoa(n*7919%100_000_007 + 1) }, // numbers, and in no order
		Save:        d.save,
		SaveAccount: d.saveAccount,
		Receipts:    d.receipts,
		Dump:        d.dump,
	}
}

// A desk is the part of the library system that writes loans and fees, as far as the tests need it.
type desk struct{ db *sql.DB }

// A record without borrower stays as it is, and a fee cannot be charged for it.
const (
	saveLoan = `
		INSERT INTO ausleihe (id, leser_nr, vertreter_nr, buerge_nr, bediener_nr, lesergruppe, zweigstelle, standort, medientyp,
			exemplar, ausgeliehen, frist, rueckgabe, verlust, angeblich_zurueck, bemerkung, notiz)
		VALUES (:id, :borrower, :proxy, :sponsor, :staff, :group, :library, :location, :type,
			:item, :started, :due, :ended, :lost, :claimed, :comment, :note)
		ON CONFLICT (id) DO UPDATE SET leser_nr = excluded.leser_nr, vertreter_nr = excluded.vertreter_nr,
			buerge_nr = excluded.buerge_nr, bediener_nr = excluded.bediener_nr, lesergruppe = excluded.lesergruppe,
			zweigstelle = excluded.zweigstelle, standort = excluded.standort, medientyp = excluded.medientyp,
			exemplar = excluded.exemplar, ausgeliehen = excluded.ausgeliehen, frist = excluded.frist,
			rueckgabe = excluded.rueckgabe, verlust = excluded.verlust, angeblich_zurueck = excluded.angeblich_zurueck,
			bemerkung = excluded.bemerkung, notiz = excluded.notiz, geaendert = geaendert + 1
		WHERE leser_nr IS NOT NULL AND (:version = '' OR geaendert = :version)`
	saveFee = `
		INSERT INTO gebuehr (id, ausleihe_id, leser_nr, zahler_nr, bediener_nr, lesergruppe, zweigstelle, art, betrag,
			entstanden, beglichen, stand, zahlart, bemerkung, notiz)
		VALUES (:id, (SELECT id FROM ausleihe WHERE id = :loan AND leser_nr IS NOT NULL), :borrower, :sponsor, :staff,
			:group, :library, :type, :amount, :started, :ended, :feestatus, :method, :comment, :note)
		ON CONFLICT (id) DO UPDATE SET ausleihe_id = excluded.ausleihe_id, leser_nr = excluded.leser_nr,
			zahler_nr = excluded.zahler_nr, bediener_nr = excluded.bediener_nr, lesergruppe = excluded.lesergruppe,
			zweigstelle = excluded.zweigstelle, art = excluded.art, betrag = excluded.betrag, entstanden = excluded.entstanden,
			beglichen = excluded.beglichen, stand = excluded.stand, zahlart = excluded.zahlart,
			bemerkung = excluded.bemerkung, notiz = excluded.notiz, geaendert = geaendert + 1
		WHERE leser_nr IS NOT NULL AND (:version = '' OR geaendert = :version)`
)

func (d desk) save(ctx context.Context, entries ...circulation.Entry) error {
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, e := range entries {
		p, err := e.Parts()
		if err != nil {
			return err
		}
		f := p.Facts
		null := func(s string) any {
			if s == "" {
				return nil
			}
			return s
		}
		names := map[circulation.Role]string{}
		for _, l := range p.Links {
			names[l.Role] = string(l.Person)
		}
		texts := map[circulation.TextField]string{}
		for _, t := range p.Texts {
			texts[t.Field] = t.Value
		}
		loan := ""
		for _, to := range p.Points {
			loan = to.ID
		}
		statement := saveLoan
		if f.Kind == circulation.KindFee {
			statement = saveFee
		}
		_, err = tx.ExecContext(ctx, statement,
			sql.Named("id", f.ID), sql.Named("version", f.Version), sql.Named("loan", null(loan)),
			sql.Named("borrower", null(names[circulation.RoleBorrower])), sql.Named("proxy", null(names[circulation.RoleProxy])),
			sql.Named("sponsor", null(names[circulation.RoleSponsor])), sql.Named("staff", null(names[circulation.RoleStaff])),
			sql.Named("group", f.Group), sql.Named("library", f.Library), sql.Named("location", f.Location),
			sql.Named("type", f.Type), sql.Named("item", f.Item), sql.Named("amount", int64(f.Amount)),
			sql.Named("started", stamp(f.Started)), sql.Named("due", stamp(f.Due)), sql.Named("ended", stamp(f.Ended)),
			sql.Named("lost", f.Lost), sql.Named("claimed", f.ClaimedReturned),
			sql.Named("feestatus", []string{"offen", "strittig", "erledigt"}[f.FeeStatus]), sql.Named("method", f.Method),
			sql.Named("comment", null(texts[circulation.TextComment])), sql.Named("note", null(texts[circulation.TextNote])))
		if err != nil {
			return err
		}
	}
	return tx.Commit()
}

func (d desk) saveAccount(ctx context.Context, a circulation.Account) error {
	_, err := d.db.ExecContext(ctx, `INSERT OR REPLACE INTO leser VALUES (:nr, :group, :expires, :wish, :since)`,
		sql.Named("nr", string(a.Borrower)), sql.Named("group", a.Group), sql.Named("expires", stamp(a.Expires)),
		sql.Named("wish", []string{"", "behalten", "vergessen"}[a.Wish]), sql.Named("since", stamp(a.WishSince)))
	return err
}

func (d desk) receipts(ctx context.Context) (receipts []anonymize.Receipt, err error) {
	err = d.rows(ctx, `SELECT text FROM beleg ORDER BY nr`, func(columns []any) error {
		var r anonymize.Receipt
		err := json.Unmarshal([]byte(columns[0].(string)), &r)
		receipts = append(receipts, r)
		return err
	})
	return receipts, err
}

// dump asks the database which tables there are, so that a table added next year cannot be forgotten.
func (d desk) dump(ctx context.Context) (string, error) {
	var tables []string
	err := d.rows(ctx, `SELECT name FROM sqlite_schema WHERE type = 'table'`, func(columns []any) error {
		tables = append(tables, columns[0].(string))
		return nil
	})
	var text strings.Builder
	for _, table := range tables {
		if err != nil {
			break
		}
		err = d.rows(ctx, `SELECT * FROM `+table, func(columns []any) error {
			fmt.Fprintln(&text, table, columns)
			return nil
		})
	}
	return text.String(), err
}

func (d desk) rows(ctx context.Context, query string, do func(columns []any) error) error {
	rows, err := d.db.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return err
	}
	for rows.Next() {
		columns, pointers := make([]any, len(names)), make([]any, len(names))
		for i := range columns {
			pointers[i] = &columns[i]
		}
		if err := rows.Scan(pointers...); err != nil {
			return err
		}
		if err := do(columns); err != nil {
			return err
		}
	}
	return rows.Err()
}

func TestRun(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out, filepath.Join(t.TempDir(), "bibliothek.db")))
	require.Equal(t, `record  decision  rule       reasons                eligible
loan 1  unlink    students                          2026-03-05
loan 2  keep      students   newer-loans            2027-03-20
loan 3  keep      everybody  period-not-passed      2026-08-27
loan 4  keep      money      fee-period-not-passed  2027-12-02
loan 5  keep      money      open-fee               not known yet
loan 6  keep      students   unfinished             not known yet
loan 7  keep      students   lost                   not known yet
fee 1   keep      settled    period-not-passed      2026-12-02
fee 2   keep      settled    unfinished open-fee    not known yet
fee 3   unlink    settled                           2026-03-01

kind  unlinked  by rule     kept  by reason
fee   1         settled 1   2     open-fee 1, period-not-passed 1, unfinished 1
loan  1         students 1  6     fee-period-not-passed 1, lost 1, newer-loans 1, open-fee 1, period-not-passed 1, unfinished 1
`, out.String())
}

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nyaruka/phonenumbers"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

// profileColumns are the columns of a file of patrons that are sealed.
const profileColumns = "barcode username external prefix first middle last suffix email day_phone evening_phone mobile_phone " +
	"street extra city region postcode country birth"

// A patronRow is a row of a file of patrons: what the rules see of them, and what is sealed.
type patronRow struct {
	line    int
	account circulation.Account
	profile patron.Profile
}

func (f *importFile) patron(r *row) patronRow {
	p := patronRow{line: f.line}
	a := &p.account
	a.Borrower, a.Group, a.Expires, a.WishSince = r.person("patron"), r.text("group"), r.time("expires"), r.time("history_since")
	facts := patron.Facts{Group: a.Group, Categories: r.list("categories"), Library: r.text("library"), Expires: a.Expires, WishSince: a.WishSince}
	switch r.word("history", "", "keep", "forget") {
	case "keep":
		a.Wish, facts.Wish = circulation.WishKeep, patron.WishKeep
	case "forget":
		a.Wish, facts.Wish = circulation.WishForget, patron.WishForget
	}
	p.profile = patron.Profile{Facts: facts, Birth: r.date("birth")}
	f.fill(&p.profile, r)
	return p
}

func (f *importFile) fill(p *patron.Profile, r *row) {
	for _, id := range [...]struct{ use, column string }{{"patron", "patron"}, {"barcode", "barcode"}, {"username", "username"}, {"external", "external"}} {
		if v := r.secret(id.column); !v.IsEmpty() {
			p.Identifiers = append(p.Identifiers, patron.Identifier{Use: id.use, Value: v})
		}
	}
	name := patron.Name{Prefix: r.secret("prefix"), First: r.secret("first"), Middle: r.secret("middle"), Last: r.secret("last"), Suffix: r.secret("suffix")}
	if !allEmpty(name.Prefix, name.First, name.Middle, name.Last, name.Suffix) {
		p.Names = append(p.Names, name)
	}
	at := patron.Address{Street: r.secret("street"), Extra: r.secret("extra"), City: r.secret("city"),
		Region: r.secret("region"), Postcode: r.secret("postcode"), Country: r.secret("country")}
	if !allEmpty(at.Street, at.Extra, at.City, at.Region, at.Postcode, at.Country) {
		p.Addresses = append(p.Addresses, at)
	}
	for _, phone := range [...]struct{ use, column string }{{"day", "day_phone"}, {"evening", "evening_phone"}, {"mobile", "mobile_phone"}} {
		if v := r.text(phone.column); v != "" {
			p.Phones = append(p.Phones, patron.Phone{Use: phone.use, Number: crypto.NewSecret(international(v, f.region))})
		}
	}
	if v := r.secret("email"); !v.IsEmpty() {
		p.Emails = append(p.Emails, patron.Email{Address: v})
	}
}

func allEmpty(list ...crypto.Secret) bool {
	return !slices.ContainsFunc(list, func(s crypto.Secret) bool { return !s.IsEmpty() })
}

func (r *row) secret(column string) crypto.Secret { return crypto.NewSecret(r.text(column)) }

// date reads a date, with or without a time after it.
func (r *row) date(column string) crypto.Secret {
	t := r.time(column)
	if t.IsZero() {
		return crypto.Secret{}
	}
	if day := r.text(column); len(day) >= 10 {
		if _, err := time.Parse(time.DateOnly, day[:10]); err == nil {
			return crypto.NewSecret(day[:10]) // whatever the zone: a birthday is a day
		}
	}
	return crypto.NewSecret(t.Format(time.DateOnly))
}

// international writes a phone number as E.164. What is no number, or lacks its country, stays as it is.
func international(number, region string) string {
	n, err := phonenumbers.Parse(number, region)
	if err != nil || !phonenumbers.IsPossibleNumber(n) {
		return number
	}
	return phonenumbers.Format(n, phonenumbers.E164)
}

func knownRegion(region string) bool {
	return region == "" || phonenumbers.GetCountryCodeForRegion(region) != 0
}

const patronBatch = 4000

// savePatrons takes a file of patrons over, in one transaction: what the rules see into the accounts, and everything, sealed,
// into the directory.
func (f *importFile) savePatrons(ctx context.Context, d *database, flags importFlags, p *progress) (saved circulation.Saved, err error) {
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return saved, d.refused(ctx, err)
	}
	defer tx.Rollback() // does nothing after Commit
	if err := d.load(ctx, tx); err != nil {
		return saved, err
	}
	keys, dir, err := d.patronsIn(ctx, tx, flags)
	if err != nil {
		return saved, err
	}
	var waiting []patronRow
	flush := func() error {
		done, err := f.savePage(ctx, d.circulation(tx), dir, waiting)
		saved.Added += done.Added
		saved.Updated += done.Updated
		saved.Same += done.Same
		waiting = waiting[:0]
		return err
	}
	var broken error
	err = f.read(p, func(r *row) bool {
		one := f.patron(r)
		if r.err != nil {
			f.note(rowError{f.line, r.err.Error()})
		}
		if f.bad > 0 {
			return true
		}
		if waiting = append(waiting, one); len(waiting) == patronBatch {
			broken = flush()
		}
		return broken == nil
	})
	if err == nil {
		err = broken
	}
	if err == nil {
		err = flush()
	}
	if err == nil && f.bad > 0 {
		err = errBadRows
	}
	if err == nil {
		if err = tx.Commit(); err != nil {
			err = d.refused(ctx, err)
		}
	}
	if err == nil { // the events were committed with the patrons
		return saved, d.withTrail(ctx, keys, flags.anchors, func(*audit.Trail) error { return nil })
	}
	tx.Rollback()
	if n := saved.Added + saved.Updated; n > 0 { // what the trail said of them was rolled back, too
		undone := byCommand(flags.actor, "integration")
		undone.Action, undone.Outcome, undone.Why, undone.Purpose, undone.Count = audit.Import, audit.Failed, "rolled-back", "sync", n
		ctx := context.WithoutCancel(ctx)
		if terr := d.withTrail(ctx, keys, flags.anchors, func(t *audit.Trail) error { return t.Record(ctx, undone) }); terr != nil {
			return circulation.Saved{}, fmt.Errorf("%w; and the audit trail cannot be written", err)
		}
	}
	return circulation.Saved{}, err
}

// patronsIn opens the directory within a transaction.
func (d *database) patronsIn(ctx context.Context, tx *sql.Tx, flags importFlags) (*crypto.Keyring, *patron.Directory, error) {
	files, err := d.findKeys(flags.keys)
	if err != nil {
		return nil, nil, err
	}
	keys, err := files.open(ctx, d.keys(tx), d.circulation(tx))
	if err != nil {
		return nil, nil, err
	}
	trail, err := d.trailIn(ctx, tx, keys, flags.anchors)
	if err != nil {
		return nil, nil, err
	}
	dir, err := d.directory(tx, keys, trail, nil)
	return keys, dir, err
}

func (f *importFile) savePage(ctx context.Context, accounts circulationStore, dir *patron.Directory, rows []patronRow) (patron.Imported, error) {
	done, err := dir.Import(ctx, jobCall(f.actor, "integration", "sync"), patron.Source{Key: "patron", Returning: f.returning}, func(yield func(patron.Profile, error) bool) {
		for i := range rows {
			if !yield(rows[i].profile, nil) {
				return
			}
		}
	}, nil)
	if err != nil {
		return done, patronProblem(err)
	}
	left := map[int]bool{} // rows of whom nothing is taken over, and nothing is wrong
	for _, refused := range done.Refused {
		switch {
		case errors.Is(refused.Err, patron.ErrReturning):
			f.gone++
		case errors.Is(refused.Err, patron.ErrRestricted), errors.Is(refused.Err, patron.ErrErasing):
			f.left++
		default:
			f.note(rowError{rows[refused.Row-1].line, refusal(refused.Err)})
		}
		left[refused.Row-1] = true
	}
	_, err = accounts.SaveAccounts(ctx, func(yield func(circulation.Account, error) bool) {
		for i := range rows {
			if !left[i] && !yield(rows[i].account, nil) {
				return
			}
		}
	})
	return done, err
}

// refusal says why a patron was not taken over. The directory's words repeat no value.
func refusal(err error) string {
	if errors.Is(err, patron.ErrDuplicate) {
		return "an identifier (patron, barcode, username or external) belongs to another patron"
	}
	return fmt.Sprint(patronProblem(err))
}

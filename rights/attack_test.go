package rights_test

// What somebody who knew the source tried, each of which worked once.

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/rights"
	"github.com/carrel-project/carrel/store/sqlite"
)

// A rotation between the first step and the look: the tokens are stale, nothing is found, and the certificate says erased. The open loan is not seen.
func TestAttackRotateDuringErase(t *testing.T) {
	eachDatabase(t, func(t *testing.T, l *library) {
		id := l.join(1)
		n := l.history(1)
		open := loan("open", l.borrower(1))
		open.Returned = time.Time{}
		l.save(open)
		o := l.over(&hooked{l.store, func() {
			_, err := l.keys.Rotate(t.Context(), nil)
			require.NoError(t, err)
		}}, rights.Config{})
		c, err := o.Erase(t.Context(), officer, id, demand)
		t.Logf("of %d records and an open loan: err=%v key=%v records=%v kept=%v; still linked: %d", n, err, c.Erased.Key, c.Erased.Records, c.Kept, l.named(id, 1))
		require.Error(t, err, "an open loan was not seen")
	})
}

// A rotation after the look.
func TestAttackRotateAfterLook(t *testing.T) {
	eachDatabase(t, func(t *testing.T, l *library) {
		id := l.join(1)
		l.history(1)
		o := l.over(&afterLook{store: l.store, then: func() {
			_, err := l.keys.Rotate(t.Context(), nil)
			require.NoError(t, err)
		}}, rights.Config{})
		c, err := o.Erase(t.Context(), officer, id, demand)
		require.NoError(t, err)
		require.Zero(t, l.named(id, 1), "key=%v records=%v kept=%v", c.Erased.Key, c.Erased.Records, c.Kept)
	})
}

// Another process rotated before: this one has the patron's key in its cache.
func TestAttackRotatedElsewhere(t *testing.T) {
	l := newLibrary(t)
	id := l.join(1)
	l.history(1)
	open := loan("open", l.borrower(1))
	open.Returned = time.Time{}
	l.save(open)
	l2 := openLibrary(t, l.path, rights.Config{})
	_, err := l2.keys.Rotate(t.Context(), nil)
	require.NoError(t, err)
	_, err = l.dir.View(t.Context(), officer, id, 0)
	require.NoError(t, err)
	c, err := l.Erase(t.Context(), officer, id, demand)
	t.Logf("err=%v key=%v records=%v kept=%v; still linked: %d", err, c.Erased.Key, c.Erased.Records, c.Kept, l2.named(id, 1))
	require.Error(t, err, "an open loan was not seen")
}

// EraseAgain in a process that has not noticed a rotation.
func TestAttackAgainRotatedElsewhere(t *testing.T) {
	l := newLibrary(t)
	id := l.join(1)
	l.erase(id)
	l.save(loan("late", l.borrower(1)))
	l2 := openLibrary(t, l.path, rights.Config{})
	_, err := l2.keys.Rotate(t.Context(), nil)
	require.NoError(t, err)
	a, err := l.EraseAgain(t.Context(), officer)
	require.NoError(t, err)
	require.Equal(t, 1, a.Persons, "%+v", a)
}

// A row and key that came back by a manual restore (pg_restore): no purge takes them.
func TestAttackRowCameBack(t *testing.T) {
	l := newLibrary(t)
	id := l.join(1)
	l.history(1)
	row, err := patronsOf(l).Get(t.Context(), id)
	require.NoError(t, err)
	l.erase(id)
	row.Version = 1
	require.NoError(t, patronsOf(l).Write(t.Context(), patron.Batch{Indexed: row.Indexed, Writes: []patron.Write{{Row: row}}}))
	_, err = l.Purge(t.Context(), officer, rights.Purge{Request: demand})
	require.NoError(t, err)
	_, err = l.EraseAgain(t.Context(), officer)
	require.NoError(t, err)
	_, err = l.dir.Find(t.Context(), officer, secret("2900000001"))
	require.ErrorIs(t, err, patron.ErrNotFound, "a forgotten patron is found by bar code after the nightly purge")
}

// Restricted: held only under the tokens of now. A rotation elsewhere? and identifiers of an import meanwhile.
func TestAttackRestrictRotate(t *testing.T) {
	l := newLibrary(t)
	id := l.join(1)
	l.history(1)
	l2 := openLibrary(t, l.path, rights.Config{})
	_, err := l2.keys.Rotate(t.Context(), nil)
	require.NoError(t, err)
	_, err = l.dir.View(t.Context(), officer, id, 0)
	require.NoError(t, err)
	require.NoError(t, l.Restrict(t.Context(), officer, id, demand))
	p, err := l2.Purge(t.Context(), officer, rights.Purge{ExpiredBefore: time.Now()})
	require.NoError(t, err)
	require.Zero(t, p.Erased, "%+v", p)
}

// A forgotten patron comes back with the next list of the student system, and the late loans with them.
func TestAttackImportBringsBack(t *testing.T) {
	l := newLibrary(t)
	l.erase(l.join(1))
	done, err := l.dir.Import(t.Context(), officer, patron.Source{}, iter.Seq2[patron.Profile, error](one(profile(1))), nil)
	require.NoError(t, err)
	l.save(loan("late", l.borrower(1)))
	_, err = l.Purge(t.Context(), officer, rights.Purge{Request: demand})
	require.NoError(t, err)
	a, err := l.EraseAgain(t.Context(), officer)
	require.NoError(t, err)
	require.Zero(t, done.Added, "added %d; again %+v; loans linked: %d", done.Added, a, l.namedBy(l.borrower(1)))
}

// Partial erasure and a lookup by birth.
func TestAttackReduceLookup(t *testing.T) {
	l := newLibrary(t)
	birth, err := patron.NewLookup("by-birth", "names.last", "birth.date")
	if err != nil {
		t.Fatal(err)
	}
	matrix, err := access.ParseMatrix([]byte(strings.Replace(rules, "erase, restrict]", "erase, restrict, reindex]", 1)))
	require.NoError(t, err)
	l.dir, err = patron.New(patron.Config{Store: patronsOf(l), Keys: l.keys, Access: matrix, Recorder: l.trail, Lookups: []patron.Lookup{birth}})
	require.NoError(t, err)
	l.with(rights.Config{})
	id := l.join(1)
	require.NoError(t, l.dir.Reindex(t.Context(), officer, nil))
	open := loan("open", l.borrower(1))
	open.Returned = time.Time{}
	l.save(open)
	got, err := l.dir.FindBy(t.Context(), officer, "by-birth", secret("%s", canary(1)), secret("1984-02-29"))
	t.Log(got, err)
	_, err = l.Erase(t.Context(), officer, id, rights.Request{Partial: true})
	require.NoError(t, err)
	got, err = l.dir.FindBy(t.Context(), officer, "by-birth", secret("%s", canary(1)), secret("1984-02-29"))
	require.ErrorIs(t, err, patron.ErrNotFound, "%v", got)
	row, err := patronsOf(l).Get(t.Context(), id)
	require.NoError(t, err)
	require.Empty(t, row.Lookups)
}

// A hold that has run out keeps the token of somebody who is forgotten.
func TestAttackExpiredHold(t *testing.T) {
	eachDatabase(t, func(t *testing.T, l *library) {
		id := l.join(1)
		l.history(1)
		require.NoError(t, l.store.AddHold(t.Context(), circulation.Hold{Borrower: l.borrower(1), Ref: "case 7", Until: time.Now().Add(50 * time.Millisecond)}))
		time.Sleep(60 * time.Millisecond)
		c := l.erase(id)
		require.True(t, c.Erased.Key)
		var n int
		require.NoError(t, l.db.QueryRow("SELECT count(*) FROM persons WHERE borrower = '"+string(l.borrower(1))+"'").Scan(&n))
		require.Zero(t, n, "the token, which the keyring opens, is there after Erase (until Finish)")
	})
}

var _ = context.Background

// Shredded by `carrel keys shred` (Keyring.Shred), then erased: loans under identifiers stay linked for ever, and the certificate says erased.
func TestAttackShredThenErase(t *testing.T) {
	l := newLibrary(t)
	id := l.join(1)
	l.history(1)
	require.NoError(t, l.keys.Shred(t.Context(), id.Subject()))
	c := l.opened(l.erase(id))
	a, err := l.EraseAgain(t.Context(), officer)
	require.NoError(t, err)
	require.Zero(t, l.named(id, 1), "certificate: key=%v kept=%v records=%v; again: %+v", c.Erased.Key, c.Kept, c.Erased.Records, a)
}

// The date in the certificate, with the keyring tended once a night by its schedule, as docs/keys.md says.
func TestAttackDateNightly(t *testing.T) {
	l := newLibrary(t)
	clock := time.Now()
	now := func() time.Time { return clock }
	kek, err := crypto.OpenKEK(l.path + ".kek")
	require.NoError(t, err)
	keys, err := crypto.OpenKeyring(t.Context(), crypto.Config{Path: l.path + ".keys", KEK: kek, Store: keysOf(l), Tokens: l.store, Now: now})
	require.NoError(t, err)
	require.NoError(t, keys.SetSchedule(t.Context(), crypto.Schedule{Every: 36 * time.Hour, Horizon: 36 * time.Hour}))
	trail, err := audit.New(t.Context(), audit.Config{Store: l.log, Keys: keys, Anchors: []audit.Anchor{audit.NewFileAnchor(l.path + ".anchor")}})
	require.NoError(t, err)
	defer trail.Close(context.Background())
	matrix, err := access.ParseMatrix([]byte(rules))
	require.NoError(t, err)
	dir, err := patron.New(patron.Config{Store: patronsOf(l), Keys: keys, Access: matrix, Recorder: trail})
	require.NoError(t, err)
	o, err := rights.New(rights.Config{Directory: dir, Circulation: l.store, Keys: keys, Trail: trail, Now: now})
	require.NoError(t, err)
	id, err := dir.Create(t.Context(), officer, profile(1))
	require.NoError(t, err)
	w, err := keysOf(l).Key(t.Context(), id.Subject())
	require.NoError(t, err)
	c, err := o.Erase(t.Context(), officer, id, demand)
	require.NoError(t, err)
	start := clock
	for clock.Before(c.Unreachable.InBackups) {
		clock = clock.Add(24 * time.Hour)
		_, err := keys.Tend(t.Context(), nil)
		require.NoError(t, err)
	}
	s, err := keys.Status()
	require.NoError(t, err)
	t.Logf("certificate: %v after; now %v after; epochs %+v", c.Unreachable.InBackups.Sub(start), clock.Sub(start), s.Epochs)
	for _, e := range s.Epochs {
		require.NotEqual(t, w.Epoch, e.Number, "at the date of the certificate the epoch's key is there")
	}
}

// An erasure is refused when the schedule was changed by another process.
func TestAttackStaleSchedule(t *testing.T) {
	l := newLibrary(t)
	id := l.join(1)
	require.NoError(t, l.keys.SetSchedule(t.Context(), crypto.Schedule{Every: 24 * time.Hour, Horizon: 24 * time.Hour}))
	l2 := openLibrary(t, l.path, rights.Config{})
	require.NoError(t, l2.keys.SetSchedule(t.Context(), crypto.Schedule{Every: 24 * time.Hour, Horizon: 240 * time.Hour}))
	c := l.erase(id)
	require.Greater(t, time.Until(c.Unreachable.InBackups), 240*time.Hour, "%v", c.Unreachable.InBackups)
	require.NoError(t, l2.keys.SetSchedule(t.Context(), crypto.Schedule{Every: 24 * time.Hour, Horizon: 2400 * time.Hour}))
	c = l.erase(id)
	require.Greater(t, time.Until(c.Unreachable.InBackups), 2400*time.Hour, "second: %v", c.Unreachable.InBackups)
}

// One whose key is of an epoch that the keyring does not have stops every purge.
func TestAttackOneStopsPurge(t *testing.T) {
	l := newLibrary(t)
	for n := range 5 {
		l.join(n)
	}
	_, err := l.db.Exec("UPDATE subject_keys SET epoch = 99 WHERE subject = (SELECT min(subject) FROM subject_keys WHERE length(subject) = 36)")
	require.NoError(t, err)
	l = openLibrary(t, l.path, rights.Config{})
	p, err := l.Purge(t.Context(), officer, rights.Purge{ExpiredBefore: time.Now()})
	require.NoError(t, err, "%+v", p)
	require.Equal(t, 4, p.Erased)
}

// A restricted patron, and the nightly purge with --partial.
func TestAttackPartialErasesRestricted(t *testing.T) {
	eachDatabase(t, func(t *testing.T, l *library) {
		id := l.join(1)
		l.join(2)
		l.history(1)
		before := l.named(id, 1)
		require.NoError(t, l.Restrict(t.Context(), officer, id, demand))
		p, err := l.Purge(t.Context(), officer, rights.Purge{Request: rights.Request{Partial: true}, Patrons: []patron.ID{id}})
		require.NoError(t, err)
		v, err := l.dir.View(t.Context(), officer, id, 0)
		require.NoError(t, err)
		t.Logf("%+v; records %d before, %d after; birth %q, notes %d", p, before, l.named(id, 1), v.Profile.Birth.Reveal(), len(v.Profile.Notes))
		require.Equal(t, before, l.named(id, 1), "they were taken out of others' records")
		require.NotEmpty(t, v.Profile.Notes, "segments of a restricted record were erased")
	})
}

// The same with the legal hold of a case.
func TestAttackPartialErasesHeld(t *testing.T) {
	l := newLibrary(t)
	id := l.join(1)
	l.join(2)
	l.history(1)
	before := l.named(id, 1)
	require.NoError(t, l.store.AddHold(t.Context(), circulation.Hold{Borrower: l.borrower(1), Ref: "case 7"}))
	_, err := l.Erase(t.Context(), officer, id, rights.Request{Partial: true})
	require.NoError(t, err)
	require.Equal(t, before, l.named(id, 1), "somebody under a legal hold was taken out of others' records")
}

// A hold is on one of several tokens: records under the others go.
func TestAttackHoldOnOneToken(t *testing.T) {
	l := newLibrary(t)
	id := l.join(1)
	n := l.history(1)
	require.NoError(t, l.store.AddHold(t.Context(), circulation.Hold{Borrower: l.borrower(1), Ref: "case 7"}))
	c, err := l.Erase(t.Context(), officer, id, rights.Request{Partial: true})
	require.NoError(t, err)
	require.Empty(t, c.Erased.Records, "of %d records of a person under a legal hold", n)
}

// What a copy says of others: the borrower's group, in a loan that was only collected for them.
func TestAttackCopyOfProxy(t *testing.T) {
	l := newLibrary(t)
	l.join(1)
	two := l.join(2)
	x := loan("ones", l.borrower(1))
	x.Group, x.Proxy = "patients-of-ward-7", l.borrower(2)
	x.Categories = []string{"disabled"}
	l.save(x)
	key, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	var out bytes.Buffer
	_, err = l.Export(t.Context(), officer, two, demand, &out, key.Recipient())
	require.NoError(t, err)
	require.NotContains(t, unzipped(t, out.Bytes(), key), "patients-of-ward-7", "group of the borrower in the proxy's copy")
}

// Two purges at once.
func TestAttackTwoPurges(t *testing.T) {
	l := newLibrary(t)
	for n := range 40 {
		l.join(n)
	}
	l2 := openLibrary(t, l.path, rights.Config{})
	done := make(chan error, 2)
	var a, b rights.Purged
	go func() {
		var err error
		a, err = l.Purge(context.Background(), officer, rights.Purge{ExpiredBefore: time.Now()})
		done <- err
	}()
	go func() {
		var err error
		b, err = l2.Purge(context.Background(), officer, rights.Purge{ExpiredBefore: time.Now()})
		done <- err
	}()
	e1, e2 := <-done, <-done
	t.Logf("%+v %+v", a, b)
	require.NoError(t, e1)
	require.NoError(t, e2)
}

// Erasing waits; the patron's own restriction meanwhile, and settled: the purge erases the restricted.
func TestAttackErasingThenRestrictedHoldReleased(t *testing.T) {
	l := newLibrary(t)
	id := l.join(1)
	require.NoError(t, l.Restrict(t.Context(), officer, id, demand))
	ok, err := l.store.ReleaseHold(t.Context(), l.borrower(1), "restriction") // carrel hold release
	require.NoError(t, err)
	require.True(t, ok)
	for _, r := range []string{id.String(), patron.Reference("barcode", "2900000001")} {
		_, err = l.store.ReleaseHold(t.Context(), l.token(r), "restriction")
		require.NoError(t, err)
	}
	p, err := l.Purge(t.Context(), officer, rights.Purge{ExpiredBefore: time.Now()})
	require.NoError(t, err)
	require.Zero(t, p.Erased)
}

// An open fee that the patron pays for another (sponsor) is not seen.
func TestAttackSponsorOfOpenFee(t *testing.T) {
	l := newLibrary(t)
	l.join(1)
	id := l.join(2)
	l.save(circulation.Fee{ID: "x", Borrower: l.borrower(1), Sponsor: l.borrower(2), Charged: began})
	c, err := l.Erase(t.Context(), officer, id, demand)
	require.Error(t, err, "%+v", c.Erased)
}

// An account that is prolonged while a purge is under way is erased all the same.
func TestAttackProlongedMeanwhile(t *testing.T) {
	l := newLibrary(t)
	id := map[patron.ID]bool{l.join(1): true, l.join(2): true}
	first := true
	var prolonged patron.ID
	p, err := l.Purge(t.Context(), officer, rights.Purge{ExpiredBefore: time.Now(), Done: func(done patron.ID, _ rights.Certificate, _ error) error {
		if !first {
			return nil
		}
		first = false
		delete(id, done)
		for prolonged = range id {
			v, err := l.dir.View(t.Context(), officer, prolonged, 0)
			require.NoError(t, err)
			f := v.Profile.Facts
			f.Expires = time.Now().AddDate(3, 0, 0)
			require.NoError(t, l.dir.Update(t.Context(), officer, prolonged, patron.Update{Facts: &f}))
		}

		return nil
	}})
	require.NoError(t, err)
	_, err = l.dir.View(t.Context(), officer, prolonged, 0)
	require.NoError(t, err, "a patron whose account is valid for three years more was erased: %+v", p)
}

// The address of a recipient stays in the other's record.
func TestAttackRecipientAddressStays(t *testing.T) {
	eachDatabase(t, func(t *testing.T, l *library) {
		l.join(1)
		id := l.join(2)
		l.save(circulation.Notice{ID: "n", Borrower: l.borrower(1), Recipient: l.borrower(2), Type: "overdue", Created: began, Sent: over, Outcome: circulation.NoticeSent, Address: l.text(canary(2) + "@example.org"), Body: l.text("Dear " + canary(2))},
			circulation.Sharing{ID: "s", Borrower: l.borrower(1), Recipient: l.borrower(2), Item: "i", Requested: began, State: circulation.SharingShipped, Address: l.text("street of " + canary(2))})
		c := l.erase(id)
		require.True(t, c.Erased.Key)
		texts, err := l.keys.Pseudonyms(patron.Texts)
		require.NoError(t, err)
		page, err := l.store.Named(t.Context(), rights.Query{Persons: []circulation.Borrower{l.borrower(1)}, Limit: 10})
		require.NoError(t, err)
		for _, r := range page.Records {
			for _, x := range r.Texts {
				s, err := texts.Open(x.Value)
				require.NoError(t, err)
				if strings.Contains(s.Reveal(), canary(2)) {
					t.Errorf("%v %v %v: %q opens after the certificate (unreachable here since %v)", r.Kind, r.ID, x.Field, s.Reveal(), c.Unreachable.Here)
				}
			}
		}
	})
}

func ids(list ...patron.Identifier) patron.Update {
	return patron.Update{Segments: access.SetOf(access.Identifiers), Profile: patron.Profile{Identifiers: list}}
}

func (l *library) namedBy(tokens ...circulation.Borrower) int {
	page, err := l.store.Named(l.t.Context(), rights.Query{Persons: tokens, Limit: 10_000})
	require.NoError(l.t, err)
	return len(page.Records)
}

type hooked struct {
	store
	first func()
}

func (h *hooked) Named(ctx context.Context, q rights.Query) (rights.Page, error) {
	if f := h.first; f != nil {
		h.first = nil
		f()
	}
	return h.store.Named(ctx, q)
}

func (l *library) over(s store, cfg rights.Config) *rights.Office {
	cfg.Directory, cfg.Circulation, cfg.Keys, cfg.Trail = l.dir, s, l.keys, l.trail
	o, err := rights.New(cfg)
	require.NoError(l.t, err)
	return o
}

// An identifier that is added between Erase's look and Begin is forgotten: loans under it stay linked, and no tombstone of it is written.
func TestAttackIdentifierDuringErase(t *testing.T) {
	l := newLibrary(t)
	id := l.join(1)
	extra := l.token(patron.Reference("barcode", "777"))
	open := loan("open", extra)
	open.Returned = time.Time{}
	l.save(loan("closed", extra), open)
	o := l.over(&hooked{l.store, func() {
		require.NoError(t, l.dir.Update(t.Context(), officer, id, ids(append(profile(1).Identifiers, patron.Identifier{Use: "barcode", Value: secret("777")})...)))
	}}, rights.Config{})
	c, err := o.Erase(t.Context(), officer, id, demand)
	if err != nil {
		t.Logf("refused: %v", err)
		return
	}
	t.Logf("certificate: key=%v kept=%v records=%v", c.Erased.Key, c.Kept, c.Erased.Records)
	require.Zero(t, l.namedBy(extra), "records name a forgotten patron")
}

// Copy of a restricted patron by somebody with the right to export but not to restrict.
func TestAttackCopyRestricted(t *testing.T) {
	l := newLibrary(t)
	id := l.join(1)
	require.NoError(t, l.Restrict(t.Context(), officer, id, demand))
	matrix, err := access.ParseMatrix([]byte(strings.Replace(rules, "may: [create, change, import, export, find, erase, restrict]", "may: [export]", 1)))
	require.NoError(t, err)
	dir, err := patron.New(patron.Config{Store: patronsOf(l), Keys: l.keys, Access: matrix, Recorder: l.trail})
	require.NoError(t, err)
	_, err = dir.View(t.Context(), officer, id, 0)
	require.ErrorIs(t, err, patron.ErrDenied)
	v, err := dir.Copy(t.Context(), officer, id, "x")
	require.ErrorIs(t, err, patron.ErrDenied, "a restricted record was exported: %s", revealed(v))
}

func revealed(v patron.View) string {
	if len(v.Profile.Names) == 0 {
		return ""
	}
	return v.Profile.Names[0].Last.Reveal()
}

type failing struct{ store }

func (failing) AddHold(context.Context, circulation.Hold) error { return errors.New("killed") }

// Killed between the restriction and its hold: the purge erases a restricted patron.
func TestAttackPurgeRestricted(t *testing.T) {
	l := newLibrary(t)
	id := l.join(1)
	l.history(1)
	require.Error(t, l.over(failing{l.store}, rights.Config{}).Restrict(t.Context(), officer, id, demand))
	row, err := patronsOf(l).Get(t.Context(), id)
	require.NoError(t, err)
	require.False(t, row.Restricted.IsZero(), "the row is restricted")
	p, err := l.Purge(t.Context(), officer, rights.Purge{ExpiredBefore: time.Now()})
	require.NoError(t, err)
	require.Zero(t, p.Erased, "a restricted patron was erased")
}

// A restriction set while an erasure is between look and Begin.
func TestAttackRestrictDuringErase(t *testing.T) {
	l := newLibrary(t)
	id := l.join(1)
	n := l.history(1)
	o := l.over(&afterLook{store: l.store, then: func() { require.NoError(t, l.Restrict(t.Context(), officer, id, demand)) }}, rights.Config{})
	c, err := o.Erase(t.Context(), officer, id, demand)
	t.Logf("%v key=%v kept=%v segs=%v", err, c.Erased.Key, len(c.Kept), c.Erased.Segments)
	require.GreaterOrEqual(t, l.named(id, 1), n)
	v, err := l.dir.View(t.Context(), officer, id, 0)
	require.NoError(t, err)
	require.NotEmpty(t, v.Profile.Notes, "the record of a restricted patron was reduced")
}

type afterLook struct {
	store
	then func()
}

func (h *afterLook) Named(ctx context.Context, q rights.Query) (rights.Page, error) {
	p, err := h.store.Named(ctx, q)
	if f := h.then; f != nil {
		h.then = nil
		f()
	}
	return p, err
}

// A fee that is kept points at the loan that was unlinked.
func TestAttackKeptFeePointsAtLoan(t *testing.T) {
	eachDatabase(t, func(t *testing.T, l *library) {
		id := l.join(1)
		b := l.borrower(1)
		l.save(loan("noted", b), circulation.Fee{ID: "fee", Borrower: b, Type: "overdue", Amount: 1250, Charged: began, Closed: over, Status: circulation.FeeClosed, Outcome: circulation.FeePaid, Method: "cash", Loan: "noted"})
		retain, err := anonymize.ParsePolicy([]byte("carrel-retention: 1\nid: books\nrevision: 1\ntitle: Bookkeeping\nrecords:\n  fees:\n    - {name: accounts, why: Accounts are kept for seven years, after: P7Y}\n"))
		require.NoError(t, err)
		l.with(rights.Config{Retain: retain})
		c, err := l.Erase(t.Context(), officer, id, rights.Request{Approval: "x", Partial: true})
		require.NoError(t, err)
		t.Logf("%+v", c)
		page, err := l.store.Named(t.Context(), rights.Query{Persons: []circulation.Borrower{b}, Limit: 10})
		require.NoError(t, err)
		for _, r := range page.Records {
			t.Logf("%v %v points %v", r.Kind, r.ID, r.Points)
			require.Empty(t, r.Points, "the loan counted as unlinked is still reachable from the patron's fee")
		}
	})
}

// Certificate date of an installation whose pseudonyms never end.
func TestAttackDateWithoutTokens(t *testing.T) {
	l := newLibrary(t)
	id := l.join(1)
	l.history(1)
	kek, err := crypto.OpenKEK(l.path + ".kek")
	require.NoError(t, err)
	keys, err := crypto.OpenKeyring(t.Context(), crypto.Config{Path: l.path + ".keys", KEK: kek, Store: keysOf(l)}) // no Tokens
	require.NoError(t, err)
	require.NoError(t, keys.SetSchedule(t.Context(), crypto.Schedule{Every: time.Hour, Horizon: 24 * time.Hour}))
	trail, err := audit.New(t.Context(), audit.Config{Store: l.log, Keys: keys, Anchors: []audit.Anchor{audit.NewFileAnchor(l.path + ".anchor")}})
	require.NoError(t, err)
	defer trail.Close(context.Background())
	matrix, err := access.ParseMatrix([]byte(rules))
	require.NoError(t, err)
	dir, err := patron.New(patron.Config{Store: patronsOf(l), Keys: keys, Access: matrix, Recorder: trail})
	require.NoError(t, err)
	o, err := rights.New(rights.Config{Directory: dir, Circulation: l.store, Keys: keys, Trail: trail})
	require.NoError(t, err)
	c, err := o.Erase(t.Context(), officer, id, demand)
	require.NoError(t, err)
	require.Zero(t, c.Unreachable.InBackups, "pseudonyms of this keyring have one key for ever")
}

func patronsOf(l *library) patron.Store { return sqlite.NewPatrons(l.db) }

func keysOf(l *library) crypto.KeyStore { return sqlite.NewKeys(l.db) }

func unzipped(t *testing.T, data []byte, id age.Identity) string {
	r, err := age.Decrypt(bytes.NewReader(data), id)
	require.NoError(t, err)
	plain, err := io.ReadAll(r)
	require.NoError(t, err)
	z, err := zip.NewReader(bytes.NewReader(plain), int64(len(plain)))
	require.NoError(t, err)
	var all string
	for _, f := range z.File {
		r, err := f.Open()
		require.NoError(t, err)
		b, err := io.ReadAll(r)
		require.NoError(t, err)
		all += string(b)
	}
	return all
}

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

// sealPatrons makes keys beside the database and puts made-up people into the directory, who have the borrower numbers of the
// synthetic library. What it seals is noted, to be searched for.
func (d *demo) sealPatrons(ctx context.Context) error {
	files := keyFiles{keyring: d.db.path + ".keys", kek: d.db.path + ".keys.kek"}
	kek, err := d.makeKeys(files)
	if err != nil {
		return err
	}
	d.keys = kek
	if d.seal, err = newSealer(ctx, d.keys, d.db); err != nil {
		return err
	}
	return d.db.withTrail(ctx, d.keys, d.anchors(), func(t *audit.Trail) error {
		dir, err := d.db.directory(d.db.db, d.keys, t, nil)
		if err != nil {
			return err
		}
		d.secrets = map[string]bool{}
		rng := rand.New(rand.NewPCG(d.seed, 3))
		p := newProgress(d.cmd.ErrOrStderr(), "sealing", int64(d.lib.Patrons()))
		done, err := dir.Import(ctx, jobCall("", "integration", "sync"), patron.Source{}, func(yield func(patron.Profile, error) bool) {
			n := 0
			for a := range d.lib.Accounts() {
				n++
				if !yield(d.somebody(rng, n, a), nil) {
					return
				}
			}
		}, func(i patron.Imported) { p.set(int64(i.Added), thousands(i.Added)+" patrons") })
		p.end()
		if err == nil && len(done.Refused) > 0 {
			err = done.Refused[0].Err
		}
		return patronProblem(err)
	})
}

// verify checks the trail against its anchor.
func (d *demo) verify(ctx context.Context) (t demoTrail, err error) {
	cfg := audit.VerifyConfig{Store: d.db.log(d.db.db)}
	if cfg.Verifier, err = verifier(ctx, d.keys); err != nil {
		return t, err
	}
	if cfg.Key, err = d.keys.TrailKey(ctx); err != nil {
		return t, keyProblem(err)
	}
	for _, path := range d.anchors() {
		list, err := audit.NewFileAnchor(path).Checkpoints()
		if err != nil {
			return t, trailProblem(err)
		}
		cfg.Anchored = append(cfg.Anchored, list)
	}
	v, err := audit.Verify(ctx, cfg)
	return demoTrail{v.Entries, v.Checkpoints, len(v.Findings)}, trailProblem(err)
}

func (d *demo) makeKeys(files keyFiles) (*crypto.Keyring, error) {
	if err := crypto.CreateKEK(files.kek); err != nil {
		return nil, keyProblem(err)
	}
	kek, err := files.openKEK()
	if err != nil {
		return nil, err
	}
	if err := crypto.CreateKeyring(files.keyring, kek); err != nil {
		return nil, keyProblem(err)
	}
	return d.db.open(d.cmd.Context(), files)
}

// somebody makes up a person whom nobody knows: their names are syllables.
func (d *demo) somebody(rng *rand.Rand, n int, a circulation.Account) patron.Profile {
	first, last := syllables(rng, 3), syllables(rng, 4)
	barcode := fmt.Sprintf("29%012d", rng.Int64N(1_000_000_000_000))
	email := strings.ToLower(first+"."+last) + fmt.Sprint(n, "@example.org")
	street := fmt.Sprintf("%s street %d", syllables(rng, 4), 1+rng.IntN(99))
	for _, s := range []string{last, barcode, email, street, string(a.Borrower)} {
		d.secrets[s] = true
	}
	d.barcode = barcode
	f := patron.Facts{Group: a.Group, Expires: a.Expires}
	switch a.Wish {
	case circulation.WishKeep:
		f.Wish, f.WishSince = patron.WishKeep, a.WishSince
	case circulation.WishForget:
		f.Wish, f.WishSince = patron.WishForget, a.WishSince
	}
	return patron.Profile{Facts: f,
		Names:       []patron.Name{{First: crypto.NewSecret(first), Last: crypto.NewSecret(last)}},
		Addresses:   []patron.Address{{Street: crypto.NewSecret(street), Postcode: crypto.NewSecret(fmt.Sprintf("%05d", rng.IntN(100_000)))}},
		Emails:      []patron.Email{{Address: crypto.NewSecret(email)}},
		Identifiers: []patron.Identifier{{Use: "patron", Value: crypto.NewSecret(string(a.Borrower))}, {Use: "barcode", Value: crypto.NewSecret(barcode)}},
		Birth:       crypto.NewSecret(fmt.Sprintf("%d-%02d-%02d", 1940+rng.IntN(68), 1+rng.IntN(12), 1+rng.IntN(28))),
	}
}

func syllables(rng *rand.Rand, n int) string {
	const consonants, vowels = "bdfgklmnprstvz", "aeiou"
	var b strings.Builder
	for range n {
		b.WriteByte(consonants[rng.IntN(len(consonants))])
		b.WriteByte(vowels[rng.IntN(len(vowels))])
	}
	s := b.String()
	return strings.ToUpper(s[:1]) + s[1:]
}

// sealed returns an entry as the database may hold it: whom it names as pseudonyms, what was written about them as noise.
func (s *sealer) sealed(e circulation.Entry) (circulation.Entry, error) {
	var err error
	who := func(list ...*circulation.Borrower) {
		for _, b := range list {
			if err == nil {
				*b, err = s.borrower(string(*b))
			}
		}
	}
	text := func(list ...*string) {
		for _, t := range list {
			if err == nil {
				*t, err = s.text(*t)
			}
		}
	}
	switch x := e.(type) {
	case circulation.Loan:
		who(&x.Borrower, &x.Proxy, &x.Sponsor, &x.Staff)
		text(&x.Comment, &x.Note)
		return x, err
	case circulation.Request:
		who(&x.Borrower, &x.Proxy, &x.Recipient)
		text(&x.Address, &x.Comment, &x.Note)
		return x, err
	case circulation.Sharing:
		who(&x.Borrower, &x.Proxy, &x.Sponsor, &x.Recipient)
		text(&x.Address, &x.Comment, &x.Note)
		return x, err
	case circulation.Fee:
		who(&x.Borrower, &x.Sponsor, &x.Staff)
		text(&x.Comment, &x.Note)
		return x, err
	case circulation.Notice:
		who(&x.Borrower, &x.Recipient)
		text(&x.Address, &x.Body, &x.Note)
		return x, err
	}
	return nil, fmt.Errorf("an entry of an unknown kind")
}

package rights

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

// Config is what an office is made of.
type Config struct {
	Directory   *patron.Directory
	Circulation Circulation     // whose borrowers are tokens of [patron.Borrowers], and whose texts are such or plain
	Keys        *crypto.Keyring // that of the directory
	Trail       *audit.Trail    // that of the directory: it signs certificates

	// Reporter reads the trail for copies: who saw what of the patron. Nil: that is not in them.
	Reporter *audit.Reporter

	// Types are the types of identifiers that borrower tokens are made of, besides the ID: best one whose values are never changed and never given to anybody else. What a record says by a number is taken for
	// that of whoever has it now. Nil: all types.
	Types []string

	// Borrowers yields all borrowers that the circulation store knows, in any order; what is erased meanwhile does not matter to it. [Office.EraseAgain] needs it. Nil: who comes back by a late export, or with a database that
	// was restored, is not looked for.
	Borrowers func(ctx context.Context) iter.Seq2[circulation.Borrower, error]

	// Policy is the library's retention policy. What it holds (legal holds on items and records) is not erased, and its keep-fields say how coarse the facts of what is unlinked become, as in
	// a sweep. Nil: there is none, and the facts stay whole.
	Policy *anonymize.Policy

	// Retain is a policy that says what must be kept although a patron demands erasure, because a law says so: bookkeeping, mostly. What it keeps is kept, until the date that it
	// says; a kind of which it has no rules is not kept by it. Nil: nothing is.
	Retain *anonymize.Policy

	Now func() time.Time // nil: time.Now
}

// An Office does what patrons demand. It is safe for concurrent use as far as its stores are.
type Office struct {
	Config
	borrowers, texts *crypto.Pseudonyms
	strict           *anonymize.Policy // which unlinks all but exceptions
}

// New returns an office.
func New(cfg Config) (*Office, error) {
	switch {
	case cfg.Directory == nil:
		return nil, errors.New("rights: Config.Directory is nil, want that of the patrons")
	case cfg.Circulation == nil:
		return nil, errors.New("rights: Config.Circulation is nil, want the store of circulation records: without it nobody knows what is owed")
	case cfg.Keys == nil:
		return nil, errors.New("rights: Config.Keys is nil, want the directory's keyring")
	case cfg.Trail == nil:
		return nil, errors.New("rights: Config.Trail is nil, want the directory's trail")
	}
	o := &Office{Config: cfg}
	if o.Now == nil {
		o.Now = time.Now
	}
	data, err := anonymize.Preset("strict")
	if err == nil {
		o.strict, err = anonymize.ParsePolicy(data)
	}
	if err == nil {
		o.borrowers, err = cfg.Keys.Pseudonyms(patron.Borrowers)
	}
	if err == nil {
		o.texts, err = cfg.Keys.Pseudonyms(patron.Texts)
	}
	if err != nil {
		return nil, err
	}
	return o, nil
}

// counts reports whether borrower tokens are made of such references.
func (o *Office) counts(r crypto.Secret) bool {
	use, _, is := strings.Cut(r.Reveal(), ":")
	return !is || o.Types == nil || slices.Contains(o.Types, use)
}

// persons returns all tokens by which circulation records may name a patron, of all living epochs.
func (o *Office) persons(references []crypto.Secret) (all []circulation.Borrower, err error) {
	for _, r := range references {
		if !o.counts(r) {
			continue
		}
		tokens, err := o.borrowers.Tokens(r.Reveal())
		if err != nil {
			return nil, err
		}
		for _, t := range tokens {
			all = append(all, circulation.Borrower(t))
		}
	}
	return all, nil
}

// A Request says under what a patron's demand is done.
type Request struct {
	Approval string // reference of the demand or of who decided on it, for the trail and the certificate

	// Partial erases what may go although something is owed, and keeps the rest and the key until that is settled: see [Office.Purge], which then does the rest.
	Partial bool

	// DryRun changes nothing, and says what would be done: in a certificate that is not signed.
	DryRun bool
}

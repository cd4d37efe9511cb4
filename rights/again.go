package rights

import (
	"context"
	"errors"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

// Again says what was erased once more.
type Again struct {
	Looked  int            `json:"looked"`            // borrowers
	Persons int            `json:"persons"`           // of them, in whose name something was unlinked, or is kept
	Records map[string]int `json:"records,omitempty"` // that named them, by kind
	Rows    int            `json:"rows"`              // of patrons, that had come back
	Kept    []Kept         `json:"kept,omitempty"`    // what names them still, and why
}

var errNoBorrowers = errors.New("rights: Config.Borrowers is nil, want all borrowers that the circulation store knows")

// EraseAgain erases once more who is forgotten and has come back: with a database that was restored, or an export that was late. It goes through Config.Borrowers and unlinks the records of those who are forgotten that began before they were;
// what began later is somebody else's, who has the number now. Then it removes the rows of patrons whose keys are destroyed. It needs the right to erase.
//
// Nothing is asked of whether something is owed but what protects a record in the store itself; that is in Again.Kept, for somebody to decide: there is nobody any more from whom it could be claimed. Tokens
// of another installation, and of an epoch that has ended, lead to nobody and stay.
func (o *Office) EraseAgain(ctx context.Context, call patron.Call) (Again, error) {
	if o.Borrowers == nil {
		return Again{}, errNoBorrowers
	}
	for _, err := range o.Directory.Leaving(ctx, call, patron.Leaving{Erasing: true}) { // asks access
		if err != nil {
			return Again{}, err
		}
		break
	}
	a, err := o.recall(ctx)
	if err == nil {
		a.Rows, err = o.Directory.RemoveForgotten(ctx, call)
	}
	return a, err
}

// recall goes through all borrowers.
func (o *Office) recall(ctx context.Context) (Again, error) {
	a := Again{Records: map[string]int{}}
	const limit = 1000
	var references []crypto.Secret
	flush := func() error {
		if len(references) == 0 {
			return nil
		}
		gone, err := o.Directory.Gone(ctx, references...)
		if err != nil {
			return err
		}
		for i, g := range gone {
			if g.Since.IsZero() {
				continue
			}
			if err := o.recallOne(ctx, references[i], g, &a); err != nil {
				return err
			}
		}
		references = references[:0]
		return nil
	}
	for b, err := range o.Borrowers(ctx) {
		if err != nil {
			return a, err
		}
		a.Looked++
		reference, err := o.borrowers.Open(string(b))
		if errors.Is(err, crypto.ErrNotPseudonym) {
			continue
		} else if err != nil {
			return a, err
		}
		if references = append(references, reference); len(references) == limit {
			if err := flush(); err != nil {
				return a, err
			}
		}
	}
	return a, flush()
}

func (o *Office) recallOne(ctx context.Context, reference crypto.Secret, g patron.Departed, a *Again) error {
	var f found
	before := total(a.Records)
	err := o.steadily(ctx, []crypto.Secret{reference}, func(persons []circulation.Borrower) (err error) {
		// If somebody has the number now, it is theirs who others' records mention, and the account.
		f, err = o.clearOnce(ctx, persons, g.Since, g.Lives, a.Records)
		return err
	})
	if err != nil {
		return err
	}
	if total(a.Records) > before || len(f.kept) > 0 {
		a.Persons++
	}
	a.Kept = append(a.Kept, f.kept...)
	return nil
}

func total(by map[string]int) (n int) {
	for _, k := range by {
		n += k
	}
	return n
}

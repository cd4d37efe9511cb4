package rights

import (
	"context"
	"errors"
	"iter"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

// Again says what was erased once more.
type Again struct {
	Looked  int            `json:"looked"`            // borrowers
	Persons int            `json:"persons"`           // of them, who are forgotten
	Records map[string]int `json:"records,omitempty"` // that named them, by kind
	Kept    []Kept         `json:"kept,omitempty"`    // what names them still, and why
}

// EraseAgain goes through the borrowers of the circulation store and unlinks the records of those who are forgotten: a database that was restored knows them again, and an export that came late names them. Borrowers yields all that
// the store knows, in any order; what is erased meanwhile does not matter to it. It needs the right to erase.
//
// Nothing is asked of whether something is owed but what protects a record in the store itself; that is in Again.Kept, for somebody to decide: there is nobody any more from whom it could be claimed. Tokens
// of another installation, and of an epoch that has ended, lead to nobody and stay.
func (o *Office) EraseAgain(ctx context.Context, call patron.Call, borrowers iter.Seq2[circulation.Borrower, error]) (Again, error) {
	a := Again{Records: map[string]int{}}
	for _, err := range o.Directory.Leaving(ctx, call, patron.Leaving{Erasing: true}) { // asks access
		if err != nil {
			return a, err
		}
		break
	}
	const limit = 1000
	var some []circulation.Borrower
	var references []crypto.Secret
	flush := func() error {
		if len(some) == 0 {
			return nil
		}
		gone, err := o.Directory.Gone(ctx, references...)
		if err != nil {
			return err
		}
		for i, b := range some {
			if !gone[i] {
				continue
			}
			a.Persons++
			kept, err := o.clear(ctx, []circulation.Borrower{b}, a.Records)
			if err != nil {
				return err
			}
			a.Kept = append(a.Kept, kept...)
		}
		some, references = some[:0], references[:0]
		return nil
	}
	for b, err := range borrowers {
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
		if some, references = append(some, b), append(references, reference); len(some) == limit {
			if err := flush(); err != nil {
				return a, err
			}
		}
	}
	return a, flush()
}

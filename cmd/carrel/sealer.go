package main

import (
	"context"
	"errors"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/postgres"
	"github.com/carrel-project/carrel/store/sqlite"
)

// A sealer turns what exports say about people into what the database may hold. It is for one goroutine.
type sealer struct {
	borrowers *crypto.Pseudonyms
	texts     *crypto.Pseudonyms
	known     map[string]circulation.Borrower // most borrowers come many times
}

// newSealer makes pseudonyms of the epoch that those in the database are of.
func newSealer(ctx context.Context, keys *crypto.Keyring, d *database) (*sealer, error) {
	epoch, err := d.TokenEpoch(ctx)
	if ctx.Err() != nil {
		return nil, d.refused(ctx, err)
	} else if err != nil {
		return nil, err
	}
	of := func(name string) (*crypto.Pseudonyms, error) {
		p, err := keys.Pseudonyms(name)
		if err != nil {
			return nil, err
		}
		return p.Of(epoch)
	}
	s := &sealer{known: map[string]circulation.Borrower{}}
	if s.borrowers, err = of(patron.Borrowers); err != nil {
		return nil, keyProblem(err)
	}
	// Deterministic as well, so that the same export imported twice changes nothing.
	s.texts, err = of(patron.Texts)
	return s, keyProblem(err)
}

// rotatedMeanwhile says what a stale token means: between the sealer and the transaction somebody rotated the keys.
func rotatedMeanwhile(err error) error {
	if errors.Is(err, sqlite.ErrStaleToken) || errors.Is(err, postgres.ErrStaleToken) {
		return errors.New("the keys were rotated meanwhile; run it again")
	}
	return err
}

// borrower returns the pseudonym of a borrower, by the number that the library system has for them, and nobody for nobody.
func (s *sealer) borrower(reference string) (circulation.Borrower, error) {
	if reference == "" {
		return "", nil
	}
	if b, ok := s.known[reference]; ok {
		return b, nil
	}
	token, err := s.borrowers.Token(patron.Reference("patron", reference))
	if err != nil {
		return "", err
	}
	const bound = 1 << 17
	if len(s.known) >= bound {
		clear(s.known)
	}
	s.known[reference] = circulation.Borrower(token)
	return circulation.Borrower(token), nil
}

func (s *sealer) text(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	return s.texts.Token(text)
}

package main

import (
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

// A sealer turns what exports say about people into what the database may hold. It is for one goroutine.
type sealer struct {
	borrowers *crypto.Pseudonyms
	texts     *crypto.Pseudonyms
	known     map[string]circulation.Borrower // most borrowers come many times
}

func newSealer(keys *crypto.Keyring) (*sealer, error) {
	s := &sealer{known: map[string]circulation.Borrower{}}
	var err error
	if s.borrowers, err = keys.Pseudonyms(patron.Borrowers); err != nil {
		return nil, err
	}
	// Deterministic as well, so that the same export imported twice changes nothing.
	s.texts, err = keys.Pseudonyms("text")
	return s, err
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

package crypto

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/tink-crypto/tink-go/v2/tink"
)

// Pseudonyms turns references to people into tokens and back. Equal references have equal tokens, so that records of one
// person can be counted and swept together; without the key a token tells nothing else. It is safe for concurrent use.
type Pseudonyms struct {
	name     string
	versions hidden[[]pseudonymVersion] // the one that new tokens are made with comes first
}

type pseudonymKey struct {
	Version uint32 `json:"version"`
	Key     []byte `json:"key"`
}

type pseudonymVersion struct {
	number uint32
	daead  tink.DeterministicAEAD
	bound  []byte
}

// ErrNotPseudonym means that a text is not a token made by this keyring under this name.
var ErrNotPseudonym = errors.New("crypto: not a pseudonym that this keyring made")

// Pseudonyms returns the pseudonyms of that name. Tokens of different names have nothing in common.
func (k *Keyring) Pseudonyms(name string) (*Pseudonyms, error) {
	if name == "" {
		return nil, errors.New("crypto: pseudonyms need a name")
	}
	s := k.state.Load()
	var versions []pseudonymVersion
	for _, v := range s.content.Pseudonyms {
		// Each name has keys of its own, derived, so that a new name needs no change of the keyring.
		key := make([]byte, 0, sivSize)
		for half := range uint64(sivSize / 16) {
			part := mac(v.Key, appendNumber(appendPart([]byte(labelPseudonym), name), half))
			key = append(key, part[:]...)
		}
		d, err := newDeterministic(key)
		clear(key)
		if err != nil {
			return nil, errDamaged
		}
		b := appendPart([]byte(labelPseudonym), s.id[:])
		b = appendNumber(appendPart(b, name), uint64(v.Version))
		versions = append(versions, pseudonymVersion{v.Version, d, b})
	}
	return &Pseudonyms{name, hide(versions)}, nil
}

// Tokens look like this, to be told from what they replace; the number is the key's version.
const tokenPrefix = "cp"

var tokenText = base64.RawURLEncoding.Strict()

// Token returns the token of a reference: ASCII letters, digits, "-" and "_", about 26 more than four thirds of its length.
func (p *Pseudonyms) Token(reference string) (string, error) {
	return p.versions()[0].token(reference)
}

func (v pseudonymVersion) token(reference string) (string, error) {
	ct, err := v.daead.EncryptDeterministically([]byte(reference), v.bound)
	if err != nil {
		return "", errors.New("crypto: a reference cannot be made a pseudonym")
	}
	return tokenPrefix + tokenText.EncodeToString(append(binary.AppendUvarint(make([]byte, 0, 5+len(ct)), uint64(v.number)), ct...)), nil
}

// Tokens returns the tokens of a reference under all living versions of the key, to look for its records.
func (p *Pseudonyms) Tokens(reference string) ([]string, error) {
	all := make([]string, 0, len(p.versions()))
	for _, v := range p.versions() {
		t, err := v.token(reference)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

// Open returns the reference behind a token, or [ErrNotPseudonym].
func (p *Pseudonyms) Open(token string) (Secret, error) {
	text, ok := strings.CutPrefix(token, tokenPrefix)
	if !ok {
		return Secret{}, ErrNotPseudonym
	}
	data, err := tokenText.DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return Secret{}, ErrNotPseudonym
	}
	number, n := binary.Uvarint(data)
	if n <= 0 || len(binary.AppendUvarint(nil, number)) != n {
		return Secret{}, ErrNotPseudonym
	}
	for _, v := range p.versions() {
		if uint64(v.number) != number {
			continue
		}
		plain, err := v.daead.DecryptDeterministically(data[n:], v.bound)
		if err != nil {
			return Secret{}, ErrNotPseudonym
		}
		return NewSecret(string(plain)), nil
	}
	return Secret{}, ErrNotPseudonym
}

// Is reports whether a text looks like a token, of this keyring or another.
func (p *Pseudonyms) Is(text string) bool {
	_, err := p.Open(text)
	return err == nil
}

// Pairwise returns one-way pseudonyms for a recipient outside. Each recipient sees another one for the same subject, so that two of
// them cannot join what they got; nobody, keyring or not, gets from it to the subject but by trying all of them. It is
// HMAC-SHA-256, 128 bits, as 22 letters and digits.
func (k *Keyring) Pairwise(recipient string) (func(Subject) string, error) {
	if recipient == "" {
		return nil, fmt.Errorf("crypto: pairwise pseudonyms need a recipient")
	}
	s := k.state.Load()
	key := s.content.Pseudonyms[0].Key
	b := appendPart([]byte(labelPairwise), s.id[:])
	b = appendPart(b, recipient)
	return func(subject Subject) string {
		m := mac(key, appendPart(b[:len(b):len(b)], string(subject)))
		return tokenText.EncodeToString(m[:])
	}, nil
}

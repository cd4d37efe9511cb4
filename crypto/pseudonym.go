package crypto

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"

	"github.com/tink-crypto/tink-go/v2/tink"
)

// Pseudonyms turns references to people into tokens and back. Equal references have equal tokens, so that records of one
// person can be counted and swept together; without the key a token tells nothing else. It is safe for concurrent use.
//
// With Config.Tokens the keys change with the epoch. Tokens of all epochs that have not ended are opened, also of one that another process has begun. Tokens of whatever name that are kept where that TokenStore
// does not renew them are dead when their epoch has ended.
type Pseudonyms struct {
	name  string
	keys  *Keyring
	epoch uint32 // of which tokens are made; 0: the newest
	made  atomic.Pointer[pseudonymVersions]
}

// pseudonymVersions are the keys of one state of the keyring, ready for use.
type pseudonymVersions struct {
	of   *keys
	list hidden[[]pseudonymVersion] // the newest comes first
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
	p := &Pseudonyms{name: name, keys: k}
	_, err := p.versions(k.state.Load())
	return p, err
}

// Of returns the same pseudonyms, which make tokens of an epoch: that of the store's ([TokenStore]), so that they are found there. 0 is the oldest that there is.
//
// Errors: [ErrNoEpoch].
func (p *Pseudonyms) Of(epoch uint32) (*Pseudonyms, error) {
	s, err := p.keys.refresh(p.keys.state.Load()) // which another process may have begun or ended
	if err != nil {
		return nil, err
	}
	all, err := p.versions(s)
	if err != nil {
		return nil, err
	}
	if epoch == 0 {
		epoch = all[len(all)-1].number
	}
	if !s.makes(epoch) {
		return nil, ErrNoEpoch
	}
	return &Pseudonyms{name: p.name, keys: p.keys, epoch: epoch}, nil
}

// versions returns the keys of a state of the keyring, the newest first.
func (p *Pseudonyms) versions(s *keys) ([]pseudonymVersion, error) {
	if made := p.made.Load(); made != nil && made.of == s {
		return made.list(), nil
	}
	name := p.name
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
	p.made.Store(&pseudonymVersions{s, hide(versions)})
	return versions, nil
}

// Tokens look like this, to be told from what they replace; the number is the key's version.
const tokenPrefix = "cp"

var tokenText = base64.RawURLEncoding.Strict()

// Token returns the token of a reference: ASCII letters, digits, "-" and "_", about 26 more than four thirds of its length.
func (p *Pseudonyms) Token(reference string) (string, error) {
	s, err := p.keys.recent()
	if err != nil {
		return "", err
	}
	all, err := p.versions(s)
	if err != nil {
		return "", err
	}
	for _, v := range all {
		if p.epoch == 0 || v.number == p.epoch {
			return v.token(reference)
		}
	}
	return "", ErrNoEpoch
}

func (v pseudonymVersion) token(reference string) (string, error) {
	ct, err := v.daead.EncryptDeterministically([]byte(reference), v.bound)
	if err != nil {
		return "", errors.New("crypto: a reference cannot be made a pseudonym")
	}
	return tokenPrefix + tokenText.EncodeToString(append(binary.AppendUvarint(make([]byte, 0, 5+len(ct)), uint64(v.number)), ct...)), nil
}

// Tokens returns the tokens of a reference under all living versions of the key, the newest first, to look for its records. It looks whether another process has
// begun an epoch: what is found by none of them is not there.
func (p *Pseudonyms) Tokens(reference string) ([]string, error) {
	s, err := p.keys.refresh(p.keys.state.Load())
	if err != nil {
		return nil, err
	}
	versions, err := p.versions(s)
	if err != nil {
		return nil, err
	}
	all := make([]string, 0, len(versions))
	for _, v := range versions {
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
	number, sealed, ok := splitToken(token)
	if !ok {
		return Secret{}, ErrNotPseudonym
	}
	s := p.keys.state.Load()
	versions, err := p.versions(s)
	if err == nil && number > versions[0].number { // of an epoch that another process has begun
		if s, err = p.keys.refresh(s); err == nil {
			versions, err = p.versions(s)
		}
	}
	if err != nil {
		return Secret{}, err
	}
	for _, v := range versions {
		if v.number != number {
			continue
		}
		plain, err := v.daead.DecryptDeterministically(sealed, v.bound)
		if err != nil {
			return Secret{}, ErrNotPseudonym
		}
		return NewSecret(string(plain)), nil
	}
	return Secret{}, ErrNotPseudonym
}

// splitToken takes a token apart.
func splitToken(token string) (epoch uint32, sealed []byte, ok bool) {
	text, ok := strings.CutPrefix(token, tokenPrefix)
	if !ok {
		return 0, nil, false
	}
	data, err := tokenText.DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return 0, nil, false
	}
	number, n := binary.Uvarint(data)
	if n <= 0 || number > math.MaxUint32 || len(binary.AppendUvarint(nil, number)) != n || len(data)-n < sivOverhead {
		return 0, nil, false
	}
	return uint32(number), data[n:], true
}

// TokenEpoch returns the epoch of which a token is, if a text looks like one: so a store can tell, without any key, one that was made before its tokens were renewed.
func TokenEpoch(token string) (epoch uint32, ok bool) {
	epoch, _, ok = splitToken(token)
	return epoch, ok
}

const sivOverhead = 16 // AES-SIV

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
	key := s.content.Pairwise
	if len(key) == 0 { // a keyring of an earlier carrel, whose pseudonyms have one key
		key = s.content.Pseudonyms[0].Key
	}
	b := appendPart([]byte(labelPairwise), s.id[:])
	b = appendPart(b, recipient)
	return func(subject Subject) string {
		m := mac(key, appendPart(b[:len(b):len(b)], string(subject)))
		return tokenText.EncodeToString(m[:])
	}, nil
}

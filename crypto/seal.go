package crypto

import (
	"context"
	"errors"
	"fmt"
)

const formatVersion = 1

// Overhead is how many bytes longer sealed data is than its plaintext.
const Overhead = 1 + 12 + 16

// A Plain is something to seal. Label says what it is (a segment of a patron record, a note of the audit trail), Revision
// which version of that. Both have to be known to open it.
type Plain struct {
	Label    string
	Revision uint64
	Value    Secret
}

// A Sealed is something to open.
type Sealed struct {
	Label    string
	Revision uint64
	Data     []byte
}

// Seal seals values of one subject, whose key must exist. The result has one element for each of them, in their order.
func (k *Keyring) Seal(ctx context.Context, subject Subject, values ...Plain) ([][]byte, error) {
	key, err := k.key(ctx, subject)
	if err != nil {
		return nil, err
	}
	out := make([][]byte, len(values))
	bound := make([]byte, 0, 256)
	for i, v := range values {
		bound = key.boundTo(bound[:0], v.Label, v.Revision)
		sealed, err := key.aead.Encrypt([]byte(v.Value.Reveal()), bound)
		if err != nil {
			return nil, errors.New("crypto: a value cannot be sealed")
		}
		out[i] = append(make([]byte, 0, 1+len(sealed)), formatVersion)
		out[i] = append(out[i], sealed...)
	}
	if key.dead.Load() {
		return nil, ErrShredded
	}
	return out, nil
}

// Open opens what was sealed for one subject: all of it or, with an error, nothing. The result has one element for each part,
// in their order.
//
// Errors: [ErrNotAuthentic], [ErrShredded], [ErrNoKey], [ErrNoEpoch], [ErrLedger], and those of the key store.
func (k *Keyring) Open(ctx context.Context, subject Subject, parts ...Sealed) ([]Secret, error) {
	key, err := k.key(ctx, subject)
	if err != nil {
		return nil, err
	}
	out := make([]Secret, len(parts))
	bound := make([]byte, 0, 256)
	for i, p := range parts {
		if len(p.Data) < Overhead {
			return nil, ErrNotAuthentic
		}
		if v := p.Data[0]; v != formatVersion {
			return nil, fmt.Errorf("%w: of format %d, want %d", ErrNotAuthentic, v, formatVersion)
		}
		bound = key.boundTo(bound[:0], p.Label, p.Revision)
		plain, err := key.aead.Decrypt(p.Data[1:], bound)
		if err != nil {
			return nil, ErrNotAuthentic
		}
		out[i] = newSecret(plain)
	}
	if key.dead.Load() {
		return nil, ErrShredded
	}
	return out, nil
}

// boundTo appends the associated data. The format version is in the label.
func (k *subjectKey) boundTo(b []byte, label string, revision uint64) []byte {
	b = append(b, k.bound...)
	b = appendPart(b, label)
	return appendNumber(b, revision)
}

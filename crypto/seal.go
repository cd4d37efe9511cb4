package crypto

import (
	"context"
	"slices"
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
	aead := key.aead()
	for i, v := range values {
		text := v.Value.Reveal()
		sealed := append(make([]byte, 0, Overhead+len(text)), formatVersion)
		out[i] = aead.Seal(sealed, nil, []byte(text), boundTo(slices.Clip(key.bound), v.Label, v.Revision))
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
	size, longest := 0, 0
	for _, p := range parts {
		if len(p.Data) < Overhead || p.Data[0] != formatVersion {
			return nil, ErrNotAuthentic
		}
		size += len(p.Data) - Overhead
		longest = max(longest, len(p.Label))
	}
	// One buffer holds all the plaintexts, and behind them the associated data of each in turn: a record is opened as a
	// whole, and a buffer for each part would take half as long as opening it.
	buffer := make([]byte, size+len(key.bound)+8+longest+8)
	texts, bound := buffer[:0:size], append(buffer[size:size], key.bound...)
	ends := make([]int, len(parts))
	aead := key.aead()
	for i, p := range parts {
		if texts, err = aead.Open(texts, nil, p.Data[1:], boundTo(bound, p.Label, p.Revision)); err != nil {
			return nil, ErrNotAuthentic
		}
		ends[i] = len(texts)
	}
	if key.dead.Load() {
		return nil, ErrShredded
	}
	return newSecrets(texts, ends), nil
}

// boundTo appends to subjectKey.bound what is bound besides. The format version is in the label with which that begins.
func boundTo(b []byte, label string, revision uint64) []byte {
	return appendNumber(appendPart(b, label), revision)
}

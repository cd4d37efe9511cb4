package crypto

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"unsafe"
)

// A Secret is a text that does not print. [Secret.Reveal] is the one way to it, so that every place where plaintext
// is handled can be found by that name.
//
// The text is behind a function and not in a field, because fmt and debuggers' printers walk unexported fields of
// structs that contain a Secret without calling its methods (golang/go#18281); of a function they see an address.
// Formatting prints "[redacted]". Encoding as text, JSON, XML or gob fails, so that a mask is never stored for a
// value. A Secret cannot be compared with ==.
//
// The zero value is the empty text. A Secret is immutable and safe for concurrent use. Those that were opened together lie in one
// piece of memory, which lives as long as any of them.
type Secret struct {
	reveal func(int) string
	part   int // which of the texts behind reveal: those that were opened together share it
}

// NewSecret returns s as a secret. Go keeps copies of strings where it likes; what is no longer referred to is
// not wiped from memory.
func NewSecret(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{reveal: func(int) string { return s }}
}

// newSecrets makes one secret of each part of a text, which nobody else has and nobody will change: it spares the copies.
func newSecrets(text []byte, ends []int) []Secret {
	whole := unsafe.String(unsafe.SliceData(text), len(text))
	reveal := func(part int) string {
		if part == 0 {
			return whole[:ends[0]]
		}
		return whole[ends[part-1]:ends[part]]
	}
	secrets := make([]Secret, len(ends))
	for i := range secrets {
		secrets[i] = Secret{reveal, i}
	}
	return secrets
}

// Reveal returns the text.
func (s Secret) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal(s.part)
}

// IsEmpty reports whether the text is empty, without showing it.
func (s Secret) IsEmpty() bool { return s.Reveal() == "" }

// A hidden value does not print, for the same reason: keys lie behind one wherever a printer that follows pointers could come.
type hidden[T any] func() T

func hide[T any](v T) hidden[T] { return func() T { return v } }

const redacted = "[redacted]"

// Format prints "[redacted]" for every verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue returns "[redacted]".
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

var errNoEncoding = errors.New("crypto: a Secret is not encoded; reveal it where that is meant")

// MarshalText fails: see [Secret].
func (Secret) MarshalText() ([]byte, error) { return nil, errNoEncoding }

// GobEncode fails: see [Secret].
func (Secret) GobEncode() ([]byte, error) { return nil, errNoEncoding }

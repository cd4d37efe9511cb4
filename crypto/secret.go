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
// The zero value is the empty text. A Secret is immutable and safe for concurrent use.
type Secret struct{ reveal func() string }

// NewSecret returns s as a secret. Go keeps copies of strings where it likes; what is no longer referred to is
// not wiped from memory.
func NewSecret(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{func() string { return s }}
}

// newSecret is NewSecret for bytes that nobody else has and nobody will change: it spares the copy.
func newSecret(b []byte) Secret {
	return NewSecret(unsafe.String(unsafe.SliceData(b), len(b)))
}

// Reveal returns the text.
func (s Secret) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// IsEmpty reports whether the text is empty, without showing it.
func (s Secret) IsEmpty() bool { return s.reveal == nil || s.reveal() == "" }

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

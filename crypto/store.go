package crypto

import "context"

// A Subject is whom sealed data is about: an opaque reference that says nothing by itself, such as a random UUID. It is
// bound into all that is sealed for the subject, is at most 255 bytes long and not empty.
type Subject string

// A WrappedKey is a subject key, sealed under the key of an epoch. Without the keyring it is noise: it may lie in
// the library system's database and its backups. Wrapped is 60 bytes.
type WrappedKey struct {
	Subject Subject
	Epoch   uint32
	Wrapped []byte
}

// A KeyChange inserts a key, or replaces one.
type KeyChange struct {
	Key WrappedKey
	Old []byte // nil: insert. Otherwise replace, if what is stored is still this
}

// A KeyStore holds wrapped subject keys in whatever tables the library system already has. Methods are safe for
// concurrent use, also by several processes, and honor ctx. Errors contain no rows. A store keeps no slice that it is given and hands out none
// that it keeps.
type KeyStore interface {
	// Key returns the key of a subject, or [ErrNoKey].
	Key(ctx context.Context, subject Subject) (WrappedKey, error)

	// PutKeys makes the changes that apply, durably and in one transaction, and returns the subjects of those that do not:
	// an insert where there is a key already (it stays as it is), a replacement where the stored bytes are not Old or there is
	// no key any more. That is not an error. A subject occurs once in a call.
	PutKeys(ctx context.Context, changes []KeyChange) (lost []Subject, err error)

	// OlderKeys returns at most limit keys of epochs before the given one, whose subjects follow after in a fixed
	// order of the store's choosing; after is empty, or the subject of the last key of the page before, which may be gone by now. An
	// empty page is the end. A key that is there during all calls of such a series is left out by none.
	OlderKeys(ctx context.Context, before uint32, after Subject, limit int) ([]WrappedKey, error)

	// DeleteKey removes the key of a subject for good. That there is none is not an error.
	DeleteKey(ctx context.Context, subject Subject) error
}

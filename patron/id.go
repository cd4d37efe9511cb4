package patron

import (
	"errors"

	"github.com/google/uuid"

	"github.com/carrel-project/carrel/crypto"
)

// An ID is a patron's: a random UUID (version 4), which tells nothing, not even an age. The zero value is nobody's.
type ID [16]byte

// NewID draws an ID.
func NewID() ID { return ID(uuid.New()) }

var errNoID = errors.New("patron: an ID is a UUID of version 4, as in 6f9619ff-8b86-4d01-b42d-00cf4fc964ff")

// ParseID reads an ID in the form that [ID.String] writes, and no other.
func ParseID(s string) (ID, error) {
	u, err := uuid.Parse(s)
	if err != nil || u.Version() != 4 || u.Variant() != uuid.RFC4122 || u.String() != s {
		return ID{}, errNoID
	}
	return ID(u), nil
}

// String returns the ID as 36 characters.
func (id ID) String() string { return uuid.UUID(id).String() }

// IsZero reports whether it is nobody's.
func (id ID) IsZero() bool { return id == ID{} }

// Subject returns the ID as what the patron's data is sealed for.
func (id ID) Subject() crypto.Subject { return crypto.Subject(id.String()) }

// MarshalText writes the ID as String does.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what ParseID does.
func (id *ID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseID(string(text))
	return err
}

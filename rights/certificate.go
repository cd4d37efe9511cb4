package rights

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/patron"
)

// A Certificate says what became of a demand for erasure. Signed, it is a note of [audit.Trail.Sign] of the kind "certificate", with this as JSON: whoever has the
// installation's public key can check it with [OpenCertificate].
type Certificate struct {
	Number       string    `json:"certificate"`        // random; the trail's events of this erasure have it as their object
	Installation string    `json:"installation"`       // the keyring's ID
	Patron       patron.ID `json:"patron"`             // a random number that nothing in the database leads to any more, once Erased.Key is true
	Approval     string    `json:"approval,omitempty"` // reference under which it was decided
	Asked        time.Time `json:"asked,omitzero"`     // when it was first demanded, if something was owed then
	Issued       time.Time `json:"issued"`

	Erased       Erased   `json:"erased"`
	Kept         []Kept   `json:"kept,omitempty"`          // and why, and until when
	KeptSegments []string `json:"kept_segments,omitempty"` // of the patron's record, until what is kept may go

	// Unreachable says from when on nothing of the patron's can be opened, wherever it lies. Of a patron whose key stays it is zero.
	Unreachable Unreachable `json:"unreachable,omitzero"`

	// Signed is the whole as a signed note; nil: it could not be signed.
	Signed []byte `json:"-"`
}

// Erased says what is gone.
type Erased struct {
	Records  map[string]int `json:"records,omitempty"`  // circulation records that name nobody any more, by kind
	Mentions int            `json:"mentions,omitempty"` // records of others that mentioned the patron
	Segments []string       `json:"segments,omitempty"` // of the patron's record, when the rest stays
	Key      bool           `json:"key"`                // the key is destroyed, and the row is removed: all of it is gone
}

// Unreachable is when a destroyed key is gone everywhere.
type Unreachable struct {
	Here time.Time `json:"here"` // in the database, at once; and in any copy that is opened through this installation's keyring and erasure ledger

	// InBackups is when the epoch in which the key was wrapped has ended and its own key is destroyed: from then on also who has an old backup, the keyring of today and the key-encryption key opens
	// nothing. It holds if the keyring is rotated by its schedule. Zero: the schedule has no horizon, and it never ends.
	InBackups time.Time `json:"in_backups,omitzero"`
}

const certificateKind = "certificate"

// newNumber draws the number of a certificate.
func newNumber() string {
	var raw [16]byte
	rand.Read(raw[:])
	return hex.EncodeToString(raw[:])
}

// sign completes a certificate.
func (o *Office) sign(ctx context.Context, c *Certificate) error {
	c.Issued = o.Now().UTC().Truncate(time.Second)
	if c.Erased.Key {
		c.Unreachable.Here = c.Issued
		s, err := o.Keys.Status()
		if err != nil {
			return err
		}
		if s.Schedule.Horizon > 0 {
			end := s.Due // of the epoch that is current now, in which the key was wrapped at the latest
			if end.Before(c.Issued) {
				end = c.Issued
			}
			c.Unreachable.InBackups = end.Add(s.Schedule.Horizon).UTC()
		}
	}
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return errors.New("rights: the certificate cannot be written")
	}
	c.Signed, err = o.Trail.Sign(certificateKind, string(text))
	return err
}

// OpenCertificate checks a signed certificate with an installation's public key ([audit.VerifierKey]), and returns what it says.
//
// Errors: [audit.ErrStatement].
func OpenCertificate(signed []byte, verifierKey string) (Certificate, error) {
	text, err := audit.OpenStatement(certificateKind, signed, verifierKey)
	if err != nil {
		return Certificate{}, err
	}
	var c Certificate
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return Certificate{}, audit.ErrStatement
	}
	c.Signed = signed
	return c, nil
}

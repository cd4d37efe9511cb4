package anonymize

import (
	"errors"
	"time"

	"github.com/carrel-project/carrel/circulation"
)

// A Policy is a library's retention rules, read by [ParsePolicy]. It is immutable and safe for
// concurrent use.
type Policy struct {
	ID        string
	Revision  int
	Title     string
	Effective time.Time // zero: always
	digest    string
}

// Ref says which policy this is: id, revision and digest.
func (p *Policy) Ref() PolicyRef { return PolicyRef{ID: p.ID, Revision: p.Revision, Digest: p.digest} }

// ParsePolicy reads a policy file and runs its tests. Every error is a *PolicyError.
func ParsePolicy(data []byte) (*Policy, error) { return nil, errors.New("under construction") }

// Zone returns the time zone in which the policy counts days.
func (p *Policy) Zone() *time.Location { return time.UTC }

// Covers reports whether the policy has rules for a kind.
func (p *Policy) Covers(k circulation.Kind) bool { return false }

// Why returns the explanation of a rule as the policy file gives it, or "".
func (p *Policy) Why(k circulation.Kind, rule string) string { return "" }

// Decide says whether r is to be unlinked at the given time. It is pure and does not allocate.
func (p *Policy) Decide(r *circulation.Record, at time.Time) Decision { return Decision{} }

// A Warning is something a policy file may do but probably should not.
type Warning struct {
	Line    int
	Message string
}

// Lint returns what in the policy is probably not meant so.
func (p *Policy) Lint() []Warning { return nil }

// A PolicyError says what is wrong with a policy file, and where.
type PolicyError struct {
	Line, Column int    // from 1
	Key          string // the key or word at fault, as far as there is one
	Message      string
}

func (e *PolicyError) Error() string { return e.Message }

// Presets returns the names of the policies that come with carrel.
func Presets() []string { return nil }

// Preset returns the text of a policy that comes with carrel.
func Preset(name string) ([]byte, error) { return nil, errors.New("under construction") }

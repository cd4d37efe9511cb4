package anonymize

import (
	"context"
	"errors"
	"time"

	"github.com/carrel-project/carrel/circulation"
)

// Config adjusts a [Sweep]. The zero value sweeps everything.
type Config struct {
	Shard    Shard
	PageSize int              // records read and unlinked together; 0: a good one
	Progress func(Progress)   // called after each page, from one goroutine at a time
	Now      func() time.Time // nil means time.Now
}

// Progress says how far a sweep has come.
type Progress struct {
	Kind     circulation.Kind
	Read     int // records of the kind looked at so far
	Unlinked int // and unlinked (or, in a plan, to be unlinked)
}

// A Sweep applies one policy to one store.
type Sweep struct{ store Store }

// NewSweep returns a sweep of store under policy.
func NewSweep(store Store, policy *Policy, cfg Config) (*Sweep, error) {
	return nil, errors.New("under construction")
}

// Run unlinks what the policy says is due at the given time, which must not be later than now. The
// report counts what was done, also when the error is not nil.
func (s *Sweep) Run(ctx context.Context, at time.Time) (Report, error) { return Report{}, nil }

// Plan reports what Run would do at the given time, and writes nothing.
func (s *Sweep) Plan(ctx context.Context, at time.Time) (Report, error) { return Report{}, nil }

// A Report says what a sweep did. It marshals to the JSON that `carrel sweep --json` prints.
type Report struct {
	Policy  PolicyRef              `json:"policy"`
	At      time.Time              `json:"at"`
	DryRun  bool                   `json:"dry_run"`
	Kinds   map[string]*KindReport `json:"kinds"` // by kind's word
	Seconds float64                `json:"seconds"`
}

// A KindReport counts the records of one kind.
type KindReport struct {
	LinkedBefore int            `json:"linked_before"` // records that named a borrower
	Unlinked     int            `json:"unlinked"`      // rows changed; in a dry run, rows that would be
	Kept         int            `json:"kept"`          // records that still name a borrower
	Conflicts    int            `json:"conflicts"`     // due, but changed or protected when it came to writing; among the kept
	ByRule       map[string]int `json:"by_rule"`       // unlinked, by the rule that decided
	ByReason     map[string]int `json:"by_reason"`     // kept, by every reason that keeps them
}

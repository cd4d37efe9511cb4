package anonymize

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/carrel-project/carrel/circulation"
)

// What a sweep refuses to do.
var (
	ErrFuture       = errors.New("anonymize: the time is later than now; only a plan may look ahead")
	ErrNotEffective = errors.New("anonymize: the policy is not effective yet")
)

// defaultPage is large enough that a page's fixed costs vanish and small enough that two pages in memory
// do not count.
const defaultPage = 10_000

// Config adjusts a [Sweep]. The zero value sweeps everything.
type Config struct {
	Shard    Shard
	PageSize int              // records read and unlinked together; 0: 10,000
	Progress func(Progress)   // called after each page, from the goroutine that called Run or Plan
	Now      func() time.Time // nil: time.Now
}

// Progress says how far a sweep has come.
type Progress struct {
	Kind     circulation.Kind
	Read     int // records of the kind looked at so far
	Unlinked int // and unlinked (in a plan: to be unlinked)
}

// A Sweep applies one policy to one store. It is safe for concurrent use as far as the store is.
type Sweep struct {
	store  Store
	policy *Policy
	cfg    Config
}

// NewSweep returns a sweep of store under policy.
func NewSweep(store Store, policy *Policy, cfg Config) (*Sweep, error) {
	if store == nil || policy == nil {
		return nil, errors.New("anonymize: a sweep needs a store and a policy")
	}
	if err := cfg.Shard.validate(); err != nil {
		return nil, err
	}
	if cfg.PageSize < 0 {
		return nil, fmt.Errorf("anonymize: PageSize is %d, must not be negative", cfg.PageSize)
	}
	cfg.PageSize = cmp.Or(cfg.PageSize, defaultPage)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Sweep{store, policy, cfg}, nil
}

// Run unlinks what the policy says is due at the given time, which must not be later than now, and then
// lets a store that is a [Finisher] finish. It may be stopped anywhere, by ctx or by the power, and run
// again: the end state is the same. The report counts what was done, also when the error is not nil.
func (s *Sweep) Run(ctx context.Context, at time.Time) (Report, error) {
	if at.After(s.cfg.Now()) {
		return Report{}, ErrFuture
	}
	report, err := s.pass(ctx, at, false)
	if f, ok := s.store.(Finisher); ok && err == nil {
		err = f.Finish(ctx)
	}
	return report, err
}

// Plan reports what Run would do at the given time, and writes nothing.
func (s *Sweep) Plan(ctx context.Context, at time.Time) (Report, error) { return s.pass(ctx, at, true) }

func (s *Sweep) pass(ctx context.Context, at time.Time, plan bool) (Report, error) {
	began := time.Now()
	report := Report{Policy: s.policy.Ref(), At: at.UTC(), DryRun: plan, Kinds: map[string]*KindReport{}}
	if at.Before(s.policy.effective) {
		return report, fmt.Errorf("%w: it begins on %s", ErrNotEffective, s.policy.effective.In(s.policy.Zone()).Format(time.DateOnly))
	}
	for _, kind := range circulation.Kinds() {
		k := &KindReport{ByRule: map[string]int{}, ByReason: map[string]int{}}
		err := s.kind(ctx, kind, at, plan, k)
		if k.LinkedBefore > 0 || s.policy.Covers(kind) {
			report.Kinds[kind.String()] = k
		}
		report.Seconds = time.Since(began).Seconds()
		if err != nil {
			return report, err
		}
	}
	return report, nil
}

// A verdictPage is a page that was read and decided.
type verdictPage struct {
	read    int
	targets []Target
	reasons map[Reasons]int // kept records by the set of their reasons
	err     error
}

// kind sweeps the records of one kind. The next page is read and decided while the last is written.
func (s *Sweep) kind(ctx context.Context, kind circulation.Kind, at time.Time, plan bool, k *KindReport) error {
	ctx, cancel := context.WithCancel(ctx)
	pages := make(chan verdictPage, 1)
	go func() {
		defer close(pages)
		s.read(ctx, kind, at, pages)
	}()
	defer func() { // the reader has let go of the store when we return
		cancel()
		for range pages {
		}
	}()
	for page := range pages {
		if page.err != nil {
			return page.err
		}
		done, err := s.write(ctx, kind, at, plan, page.targets)
		if err != nil {
			return err
		}
		k.add(page, done)
		if s.cfg.Progress != nil {
			s.cfg.Progress(Progress{Kind: kind, Read: k.LinkedBefore, Unlinked: k.Unlinked})
		}
	}
	return ctx.Err()
}

// read sends the decided pages of a kind until there are no more, or until ctx ends.
func (s *Sweep) read(ctx context.Context, kind circulation.Kind, at time.Time, pages chan<- verdictPage) {
	q := Query{Kind: kind, Limit: s.cfg.PageSize, Shard: s.cfg.Shard, At: at, Needs: s.policy.needs}
	for {
		page, err := s.store.Linked(ctx, q)
		v := verdictPage{read: len(page.Records), reasons: map[Reasons]int{}, err: err}
		for i := range page.Records {
			r := &page.Records[i]
			if d := s.policy.Decide(r, at); d.Unlink {
				v.targets = append(v.targets, Target{ID: r.ID, Version: r.Version, Rule: d.Rule})
			} else {
				v.reasons[d.Reasons]++
			}
		}
		select {
		case pages <- v:
		case <-ctx.Done():
			return
		}
		if q.Cursor = page.Cursor; err != nil || q.Cursor == "" {
			return
		}
	}
}

// write unlinks the targets and returns the receipt; in a plan, the receipt that would be written.
func (s *Sweep) write(ctx context.Context, kind circulation.Kind, at time.Time, plan bool, targets []Target) (Receipt, error) {
	b := Batch{Kind: kind, At: at, Targets: targets, Keep: s.policy.keep[kind], Policy: s.policy.Ref(), Shard: s.cfg.Shard}
	if plan || len(targets) == 0 {
		return b.Receipt(nil), nil
	}
	conflicts, err := s.store.Unlink(ctx, b)
	if err != nil {
		return Receipt{}, err
	}
	return b.Receipt(conflicts), nil
}

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
	Unlinked     int            `json:"unlinked"`      // rows changed; in a plan, rows that would be
	Kept         int            `json:"kept"`          // records that still name a borrower
	Conflicts    int            `json:"conflicts"`     // among the kept: due, but changed or protected when it came to writing
	ByRule       map[string]int `json:"by_rule"`       // unlinked, by the rule that decided
	ByReason     map[string]int `json:"by_reason"`     // kept, by every reason; conflicts have none, the next sweep finds it
}

func (k *KindReport) add(page verdictPage, done Receipt) {
	k.LinkedBefore += page.read
	k.Unlinked += done.Unlinked
	k.Kept += page.read - done.Unlinked
	k.Conflicts += done.Conflicts
	for rule, n := range done.ByRule {
		k.ByRule[rule] += n
	}
	for reasons, n := range page.reasons {
		for _, name := range reasons.Names() {
			k.ByReason[name] += n
		}
	}
}

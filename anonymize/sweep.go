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
	Fast     bool             // do not count what a [Deferrer] put off: the report's totals are of what was read
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
	d, _ := s.store.(Deferrer)
	report, err := s.pass(ctx, at, false, d)
	if f, ok := s.store.(Finisher); ok && err == nil {
		err = f.Finish(ctx)
	}
	return report, err
}

// Plan reports what Run would do at the given time, and writes nothing.
func (s *Sweep) Plan(ctx context.Context, at time.Time) (Report, error) {
	return s.pass(ctx, at, true, nil)
}

// pass goes through the kinds. A Deferrer that is not nil is asked for what is worth reading only.
func (s *Sweep) pass(ctx context.Context, at time.Time, plan bool, d Deferrer) (Report, error) {
	began := time.Now()
	report := Report{Policy: s.policy.Ref(), At: at.UTC(), DryRun: plan, Partial: d != nil && s.cfg.Fast, Kinds: map[string]*KindReport{}}
	if at.Before(s.policy.effective) {
		return report, fmt.Errorf("%w: it begins on %s", ErrNotEffective, s.policy.effective.In(s.policy.Zone()).Format(time.DateOnly))
	}
	if d != nil {
		if err := d.Resume(ctx, s.policy.plan(), s.policy.needs); err != nil {
			return report, err
		}
	}
	for _, kind := range circulation.Kinds() {
		k := &KindReport{ByRule: map[string]int{}, ByReason: map[string]int{}}
		err := s.kind(ctx, kind, at, plan, d, k)
		if d != nil && err == nil && !s.cfg.Fast {
			err = s.countDeferred(ctx, kind, d, k)
		}
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
	asleep  []Deferred      // kept records that need not be read again for some time
	reasons map[Reasons]int // kept records by the set of their reasons
	err     error
}

// kind sweeps the records of one kind. The next page is read and decided while the last is written.
func (s *Sweep) kind(ctx context.Context, kind circulation.Kind, at time.Time, plan bool, d Deferrer, k *KindReport) error {
	ctx, cancel := context.WithCancel(ctx)
	pages := make(chan verdictPage, 1)
	go func() {
		defer close(pages)
		s.read(ctx, kind, at, d != nil, pages)
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
		if d != nil && worthDeferring(page, k) {
			if err := d.Defer(ctx, Deferral{Plan: s.policy.plan(), Kind: kind, Needs: s.policy.needs, Records: page.asleep}); err != nil {
				return err
			}
		}
		if s.cfg.Progress != nil {
			s.cfg.Progress(Progress{Kind: kind, Read: k.LinkedBefore, Unlinked: k.Unlinked})
		}
	}
	return ctx.Err()
}

// read sends the decided pages of a kind until there are no more, or until ctx ends. While one is decided the next is fetched.
func (s *Sweep) read(ctx context.Context, kind circulation.Kind, at time.Time, defers bool, pages chan<- verdictPage) {
	fetched, done := make(chan fetchedPage), make(chan []circulation.Record, 1)
	go func() {
		defer close(fetched)
		s.fetch(ctx, kind, at, defers, fetched, done)
	}()
	defer func() {
		for range fetched {
		}
	}()
	due := 0
	for page := range fetched {
		v := verdictPage{read: len(page.Records), targets: make([]Target, 0, due), reasons: map[Reasons]int{}, err: page.err}
		for i := range page.Records {
			r := &page.Records[i]
			if d := s.policy.Decide(r, at); d.Unlink {
				v.targets = append(v.targets, Target{ID: r.ID, Version: r.Version, Rule: d.Rule})
			} else {
				v.reasons[d.Reasons]++
				if until, ok := sleeps(r, d, at); ok && defers {
					v.asleep = append(v.asleep, Deferred{ID: r.ID, Version: r.Version, Until: until})
				}
			}
		}
		due = len(v.targets) // the next page will be much like this one
		select {
		case done <- page.Records:
		default:
		}
		select {
		case pages <- v:
		case <-ctx.Done():
			return
		}
	}
}

type fetchedPage struct {
	Page
	err error
}

// fetch sends the pages of a kind. From done come records that are not needed any more.
func (s *Sweep) fetch(ctx context.Context, kind circulation.Kind, at time.Time, defers bool, fetched chan<- fetchedPage, done <-chan []circulation.Record) {
	q := Query{Kind: kind, Limit: s.cfg.PageSize, Shard: s.cfg.Shard, At: at, Needs: s.policy.needs}
	if defers {
		q.Plan = s.policy.plan()
	}
	for {
		page, err := s.store.Linked(ctx, q)
		select {
		case fetched <- fetchedPage{page, err}:
		case <-ctx.Done():
			return
		}
		if q.Cursor = page.Cursor; err != nil || q.Cursor == "" {
			return
		}
		select {
		case q.Reuse = <-done:
		default:
			q.Reuse = nil
		}
	}
}

// worthDeferring reports that most of a page was kept, and most of what the sweep has read so far. To put a record off is a write, which costs many times
// what reading it does. Where most goes, as in the first night of a library that has kept everything so far, the few others are read once more in the next
// one, which then costs no more than what was done in this.
func worthDeferring(page verdictPage, k *KindReport) bool {
	return len(page.asleep) > 0 && len(page.asleep) >= len(page.targets) && k.Kept >= k.Unlinked
}

// countDeferred adds to the report of a kind the records that were kept without being read.
func (s *Sweep) countDeferred(ctx context.Context, kind circulation.Kind, d Deferrer, k *KindReport) error {
	n, err := d.Count(ctx, kind, s.cfg.Shard)
	if err != nil {
		return err
	}
	k.Deferred = max(0, n-k.Kept)
	k.LinkedBefore += k.Deferred
	k.Kept += k.Deferred
	return nil
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
	Partial bool                   `json:"partial,omitempty"` // Config.Fast: what was not read is not counted
	Kinds   map[string]*KindReport `json:"kinds"`             // by kind's word
	Seconds float64                `json:"seconds"`
}

// A KindReport counts the records of one kind.
type KindReport struct {
	LinkedBefore int            `json:"linked_before"` // records that named a borrower
	Unlinked     int            `json:"unlinked"`      // rows changed; in a plan, rows that would be
	Kept         int            `json:"kept"`          // records that still name a borrower
	Deferred     int            `json:"deferred"`      // among the kept: not read, because nothing has changed and they are not due before a known time; they have no reason here
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

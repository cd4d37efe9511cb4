package anonymize_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/internal/oracle"
)

// disagreement compares what the policy language says of r with what the oracle says, at every
// instant that matters and some others. Empty: they agree.
func disagreement(p *oracle.Policy, r *circulation.Record) string {
	policy, err := anonymize.ParsePolicy(p.YAML())
	if err != nil {
		return "refused: " + err.Error()
	}
	problem, _ := compare(policy, p, r)
	return problem
}

func compare(policy *anonymize.Policy, p *oracle.Policy, r *circulation.Record) (problem string, asked int) {
	before := clone(*r)
	exception := r.Status != circulation.Ended || r.Lost || r.ClaimedReturned || r.Hold
	for _, f := range r.Fees {
		exception = exception || f.Status != circulation.FeeClosed
	}
	first, found := p.FirstUnlink(r) // zero both when never and when at any time
	for _, at := range instants(p, r) {
		asked++
		got, want := policy.Decide(r, at), p.Decide(r, at)
		reasons := got.Reasons.Names()
		slices.Sort(reasons)
		switch {
		case got.Unlink != want.Unlink || got.Rule != want.Rule || !slices.Equal(reasons, want.Reasons):
			return fmt.Sprintf("at %s: unlink %v by %q because %v, the oracle: unlink %v by %q because %v",
				at.Format(time.RFC3339Nano), got.Unlink, got.Rule, reasons, want.Unlink, want.Rule, want.Reasons), asked
		case !got.EligibleAt.Equal(first):
			return fmt.Sprintf("at %s: eligible at %s, the oracle: %s (found %v)", at.Format(time.RFC3339Nano),
				got.EligibleAt.UTC().Format(time.RFC3339Nano), first.UTC().Format(time.RFC3339Nano), found), asked
		case got != policy.Decide(r, at):
			return "not deterministic at " + at.String(), asked
		case exception && got.Unlink:
			return "an exception holds, but unlink at " + at.String(), asked
		case got.Unlink && got.Reasons != 0:
			return "unlink, with reasons to keep, at " + at.String(), asked
		}
	}
	if e := policy.Decide(r, first).EligibleAt; !e.IsZero() {
		if !policy.Decide(r, e).Unlink {
			return "not unlinked when eligible, at " + e.String(), asked
		}
		if policy.Decide(r, e.Add(-time.Microsecond)).Unlink {
			return "unlinked before it is eligible, at " + e.String(), asked
		}
	}
	if !reflect.DeepEqual(before, *r) {
		return "the record has been changed", asked
	}
	return "", asked
}

// instants are all the turning points a microsecond before, at and after, and others at random.
func instants(p *oracle.Policy, r *circulation.Record) (list []time.Time) {
	for _, t := range p.Turns(r) {
		list = append(list, t.Add(-time.Microsecond), t, t.Add(time.Microsecond))
	}
	rng := rand.New(rand.NewPCG(uint64(len(list)), uint64(r.Ended.UnixMicro())))
	for range 12 {
		list = append(list, utc("2023-01-01").Add(time.Duration(rng.Int64N(int64(8*365*24*time.Hour)))))
	}
	list = append(list, utc("1901-02-03"), utc("2150-06-07"))
	for i := range list {
		list[i] = list[i].Truncate(time.Microsecond)
	}
	return list
}

func clone(r circulation.Record) circulation.Record {
	r.Categories, r.Fees = slices.Clone(r.Categories), slices.Clone(r.Fees)
	return r
}

// A generator makes policies and records that have to do with one another.
type generator struct {
	*rand.Rand
	shifts map[string][]time.Time // the clock changes of each zone
	clocks map[string]*oracle.Clock
}

func (g *generator) maybe(p float64) bool { return g.Float64() < p }

func pick[T any](g *generator, list ...T) T { return list[g.IntN(len(list))] }

// some picks one or two.
func some[T any](g *generator, list ...T) []T {
	g.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:1+g.IntN(2)]
}

var (
	groupCodes  = []string{"ug", "grad", "staff", "students"} // also a set's name
	randomZones = []string{"", "UTC", "Europe/Stockholm", "America/Havana", "America/Santiago", "Australia/Lord_Howe"}
)

func (g *generator) period() string {
	switch g.IntN(12) {
	case 0:
		return fmt.Sprintf("P%dM", 1+g.IntN(4))
	case 1:
		return fmt.Sprintf("P%dW", 1+g.IntN(8))
	case 2:
		return fmt.Sprintf("PT%dH", 1+g.IntN(72))
	case 3:
		return fmt.Sprintf("P%dDT%dH", 1+g.IntN(60), 1+g.IntN(30))
	case 4:
		return fmt.Sprintf("P%dM%dDT%dM%dS", 1+g.IntN(2), 1+g.IntN(20), 1+g.IntN(90), 1+g.IntN(90))
	case 5:
		return fmt.Sprintf("P%dM%dD", 1+g.IntN(3), 1+g.IntN(40))
	case 6:
		return "P1Y"
	}
	return fmt.Sprintf("P%dD", 1+g.IntN(60))
}

func (g *generator) rule(name string, k circulation.Kind) (m oracle.Rule) {
	m.Name = name
	if g.maybe(0.25) {
		m.Group = some(g, "ug", "grad", "staff", "students", "leavers")
	}
	if g.maybe(0.1) {
		m.GroupNow = some(g, "ug", "grad", "alumni")
	}
	if g.maybe(0.15) {
		m.Library = some(g, "main", "law")
	}
	if g.maybe(0.15) {
		m.Location = some(g, "stacks", "special")
	}
	if g.maybe(0.15) {
		m.Type = some(g, "book", "dvd")
	}
	if g.maybe(0.1) {
		m.PaidMethod = some(g, "cash", "card", "online")
	}
	if g.maybe(0.25) {
		m.Fee = pick(g, "none", "had")
	}
	if g.maybe(0.3) {
		m.PatronExpired = g.period()
	}
	switch g.IntN(9) {
	case 0, 1:
		m.After = "at once"
	case 2:
		m.After = "never"
	default:
		m.After = g.period()
	}
	switch g.IntN(8) {
	case 0:
		m.Since = "ended"
	case 1:
		m.Since = "expired"
	case 2, 3:
		if m.Fee != "none" {
			m.Fee, m.Since = "had", "fee-closed"
		}
	}
	if k == circulation.KindLoan && m.After != "never" && g.maybe(0.3) {
		m.KeepLast, m.Per = 1+g.IntN(5), "patron"
		if g.maybe(0.5) {
			m.AtMost = pick(g, "P380D", "P1Y5M", "P2Y", "P400DT1H") // longer than any of period
		}
		if m.AtMost != "" && g.maybe(0.5) {
			m.Per = "item"
		}
	}
	return m
}

func (g *generator) policy() *oracle.Policy {
	p := &oracle.Policy{Zone: pick(g, randomZones...), Match: pick(g, "", "first", "shortest", "shortest", "longest", "longest"),
		Default: pick(g, "", "", "keep", "unlink"), DayEnds: pick(g, "", "00:00", "03:00", "09:30", "00:30", "02:15")}
	if at := p.Zone + " " + p.DayEnds; g.clocks[at] == nil {
		g.clocks[at] = p.Clock()
	} else {
		p.Use(g.clocks[at])
	}
	if g.maybe(0.7) {
		p.Groups = []oracle.Set{{Name: "students", Members: []string{"ug", "grad"}}, {Name: "leavers", Members: []string{"grad", "alumni"}}}
	}
	if g.maybe(0.5) {
		p.ShortenTo = pick(g, "", "at once", g.period())
		p.ExtendTo = pick(g, "", "forever", "P1Y2M", g.period())
	}
	for i := range g.IntN(3) {
		h := oracle.Hold{Ref: fmt.Sprint("case ", i), Until: pick(g, "", "2026-03-08", "2026-10-31", "2026-09-05", "2026-06-15")}
		if g.maybe(0.6) {
			h.Items = some(g, "i1", "i2", "i3")
		}
		if len(h.Items) == 0 || g.maybe(0.3) {
			h.Record = some(g, "r1", "r2", "r3")
		}
		p.Holds = append(p.Holds, h)
	}
	kinds := circulation.Kinds()
	g.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	if i := slices.Index(kinds, circulation.KindLoan); g.maybe(0.7) {
		kinds[0], kinds[i] = kinds[i], kinds[0]
	}
	for _, k := range kinds[:1+g.IntN(2)] {
		kr := oracle.KindRules{Kind: k}
		for i := range 1 + g.IntN(4) {
			kr.Rules = append(kr.Rules, g.rule(fmt.Sprintf("%s-%d", oracle.Word(k), i), k))
		}
		p.Kinds = append(p.Kinds, kr)
	}
	return p
}

// date is a date near which something happens: often so that a period of the policy ends near a clock change.
func (g *generator) date(p *oracle.Policy, k circulation.Kind) time.Time {
	target := utc("2026-01-01").Add(time.Duration(g.Int64N(int64(400 * 24 * time.Hour)))).Truncate(time.Microsecond)
	if shifts := g.shifts[p.Zone]; len(shifts) > 0 && g.maybe(0.5) {
		target = pick(g, shifts...)
	}
	if rules, _ := p.Rules(k); len(rules) > 0 && g.maybe(0.7) {
		m := pick(g, rules...)
		for _, s := range []string{m.After, m.AtMost, m.PatronExpired, p.ShortenTo, p.ExtendTo} {
			if strings.HasPrefix(s, "P") && g.maybe(0.5) {
				q := oracle.MustPeriod(s)
				target = target.AddDate(-q.Years, -q.Months, -q.Weeks*7-q.Days)
				break
			}
		}
	}
	switch g.IntN(5) {
	case 0: // a midnight there
		return p.Clock().Date(target.Format("2006-01-02")).UTC()
	case 1: // the end of a day
		return p.Clock().RoundUp(target).UTC()
	case 2:
		return target.Add(time.Duration(g.IntN(5)-2) * time.Microsecond)
	case 3:
		return target.Add(time.Duration(g.IntN(9)-4) * 30 * time.Minute)
	}
	return target.Add(time.Duration(g.Int64N(int64(4 * 24 * time.Hour)))).Add(-48 * time.Hour).Truncate(time.Microsecond)
}

func (g *generator) record(p *oracle.Policy) *circulation.Record {
	k := pick(g, p.Kinds...).Kind
	if g.maybe(0.05) {
		k = pick(g, circulation.Kinds()...)
	}
	r := &circulation.Record{Kind: k, ID: pick(g, "r1", "r2", "r3", "r4", "r5", "r6"), Version: "1", Borrower: "p-1",
		Group: pick(g, groupCodes...), GroupNow: pick(g, "ug", "grad", "alumni", ""), Library: pick(g, "main", "law", ""),
		Location: pick(g, "stacks", "special", "closed"), Type: pick(g, "book", "dvd", "map"),
		Item: pick(g, "i1", "i2", "i4", "i5", "i6", ""), Status: circulation.Ended, Categories: []string{"dept-math"},
		NewerByBorrower: g.IntN(7), NewerOfItem: g.IntN(4)}
	if !g.maybe(0.08) {
		r.Ended = g.date(p, k)
		r.Started = r.Ended.Add(-time.Duration(g.IntN(60*24)) * time.Hour)
	}
	if g.maybe(0.03) {
		r.Borrower = ""
	}
	if g.maybe(0.03) {
		r.Status = circulation.Open
		if g.maybe(0.7) {
			r.Ended = time.Time{}
		}
	}
	r.Lost, r.ClaimedReturned, r.Hold = g.maybe(0.03), g.maybe(0.03), g.maybe(0.03)
	if g.maybe(0.7) {
		r.BorrowerExpires = g.date(p, k)
	}
	if g.maybe(0.7) {
		r.Wish = pick(g, circulation.WishKeep, circulation.WishForget)
		if g.maybe(0.5) {
			r.WishSince = pick(g, utc("2026-01-01"), r.Ended, r.Ended.Add(time.Microsecond), g.date(p, k))
		}
	}
	if n := g.IntN(3); k == circulation.KindFee || g.maybe(0.5) {
		if k == circulation.KindFee {
			n = 1
		}
		for range n {
			f := circulation.FeeSummary{Status: circulation.FeeClosed, Method: pick(g, "cash", "card", "")}
			if !g.maybe(0.1) {
				f.Closed = g.date(p, k)
			}
			if g.maybe(0.05) {
				f.Status = pick(g, circulation.FeeOpen, circulation.FeeInProcess)
				f.Closed = time.Time{}
			}
			r.Fees = append(r.Fees, f)
		}
		if k == circulation.KindFee && g.maybe(0.8) {
			r.Ended = r.Fees[0].Closed
		}
	}
	return r
}

func newGenerator(seed uint64) *generator {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 19)), shifts: map[string][]time.Time{}, clocks: map[string]*oracle.Clock{}}
	for _, zone := range randomZones {
		loc, err := time.LoadLocation(zone)
		if err != nil {
			panic(err)
		}
		t := utc("2025-06-01")
		for _, last := t.In(loc).Zone(); t.Before(utc("2028-01-01")); t = t.Add(30 * time.Minute) {
			if _, off := t.In(loc).Zone(); off != last {
				last = off
				g.shifts[zone] = append(g.shifts[zone], t)
			}
		}
	}
	return g
}

// shrink makes policy and record as small as they can be and still disagree.
func shrink(p *oracle.Policy, r *circulation.Record, bad func(*oracle.Policy, *circulation.Record) bool) (*oracle.Policy, *circulation.Record) {
	copyOf := func(p *oracle.Policy) *oracle.Policy {
		q := &oracle.Policy{ID: p.ID, Zone: p.Zone, DayEnds: p.DayEnds, Match: p.Match, Default: p.Default,
			Groups: slices.Clone(p.Groups), Holds: slices.Clone(p.Holds), ShortenTo: p.ShortenTo, ExtendTo: p.ExtendTo}
		for _, kr := range p.Kinds {
			q.Kinds = append(q.Kinds, oracle.KindRules{Kind: kr.Kind, Rules: slices.Clone(kr.Rules)})
		}
		return q
	}
	for again := true; again; {
		again = false
		var steps []func(*oracle.Policy, *circulation.Record)
		for i := range p.Kinds {
			steps = append(steps, func(p *oracle.Policy, _ *circulation.Record) { p.Kinds = slices.Delete(p.Kinds, i, i+1) })
			for j := range p.Kinds[i].Rules {
				steps = append(steps, func(p *oracle.Policy, _ *circulation.Record) {
					p.Kinds[i].Rules = slices.Delete(p.Kinds[i].Rules, j, j+1)
				})
				rule := reflect.TypeFor[oracle.Rule]()
				for f := range rule.NumField() {
					if name := rule.Field(f).Name; name == "Name" || name == "After" {
						continue
					}
					steps = append(steps, func(p *oracle.Policy, _ *circulation.Record) {
						reflect.ValueOf(&p.Kinds[i].Rules[j]).Elem().Field(f).SetZero()
					})
				}
				for _, after := range []string{"at once", "never", "P1D"} {
					if after == p.Kinds[i].Rules[j].After {
						break // never up again
					}
					steps = append(steps, func(p *oracle.Policy, _ *circulation.Record) { p.Kinds[i].Rules[j].After = after })
				}
			}
		}
		for i := range p.Holds {
			steps = append(steps, func(p *oracle.Policy, _ *circulation.Record) { p.Holds = slices.Delete(p.Holds, i, i+1) })
		}
		for _, f := range []string{"Zone", "DayEnds", "Match", "Default", "Groups", "ShortenTo", "ExtendTo"} {
			steps = append(steps, func(p *oracle.Policy, _ *circulation.Record) { reflect.ValueOf(p).Elem().FieldByName(f).SetZero() })
		}
		for i := range r.Fees {
			steps = append(steps, func(_ *oracle.Policy, r *circulation.Record) { r.Fees = slices.Delete(r.Fees, i, i+1) })
			steps = append(steps, func(_ *oracle.Policy, r *circulation.Record) { r.Fees[i].Method = "" })
		}
		record := reflect.TypeFor[circulation.Record]()
		for f := range record.NumField() {
			if name := record.Field(f).Name; name == "Kind" || name == "Borrower" || name == "Status" || name == "Fees" {
				continue
			}
			steps = append(steps, func(_ *oracle.Policy, r *circulation.Record) { reflect.ValueOf(r).Elem().Field(f).SetZero() })
		}
		for _, step := range steps {
			q, s := copyOf(p), clone(*r)
			step(q, &s)
			if reflect.DeepEqual(s, *r) && string(q.YAML()) == string(p.YAML()) || !bad(q, &s) {
				continue
			}
			p, r, again = q, &s, true
			break
		}
	}
	return p, r
}

func describe(r *circulation.Record) string {
	v, b := reflect.ValueOf(*r), strings.Builder{}
	for i := range v.NumField() {
		if !v.Field(i).IsZero() {
			fmt.Fprintf(&b, "  %s: %v\n", v.Type().Field(i).Name, v.Field(i).Interface())
		}
	}
	return b.String()
}

// report fails the test with the smallest policy and record on which bad still holds.
func report(t *testing.T, p *oracle.Policy, r *circulation.Record, problem func(*oracle.Policy, *circulation.Record) string) {
	t.Helper()
	family := func(s string) string { // refusals only shrink to refusals
		if strings.HasPrefix(s, "refused") {
			return "refused"
		}
		if s != "" {
			return "disagreement"
		}
		return ""
	}
	was := family(problem(p, r))
	p, r = shrink(p, r, func(p *oracle.Policy, r *circulation.Record) bool { return family(problem(p, r)) == was })
	t.Errorf("%s\n%s\nrecord:\n%s", problem(p, r), p.YAML(), describe(r))
}

func setting(t *testing.T, name string, otherwise int) int {
	if s := os.Getenv(name); s != "" {
		n, err := strconv.Atoi(s)
		require.NoError(t, err)
		return n
	}
	return otherwise
}

// CARREL_POLICIES and CARREL_SEED ask for more, or for others.
func TestDecideAgreesWithOracle(t *testing.T) {
	policies := setting(t, "CARREL_POLICIES", 1200)
	if testing.Short() {
		policies /= 6
	}
	g := newGenerator(uint64(setting(t, "CARREL_SEED", 1)))
	pairs, asked, failures := 0, 0, 0
	unlinked, waiting := map[string]int{}, map[string]int{}
	eligible, anyTime := 0, 0
	for range policies {
		p := g.policy()
		policy, err := anonymize.ParsePolicy(p.YAML())
		for range 10 {
			r := g.record(p)
			if err != nil {
				report(t, p, r, disagreement)
				failures++
				break
			}
			pairs++
			problem, n := compare(policy, p, r)
			asked += n
			if problem != "" {
				report(t, p, r, disagreement)
				failures++
				break
			}
			for _, at := range instants(p, r) {
				a := p.Decide(r, at)
				if a.Unlink {
					unlinked[a.Rule]++
				}
				for _, reason := range a.Reasons {
					waiting[reason]++
				}
			}
			if first, found := p.FirstUnlink(r); found && first.IsZero() {
				anyTime++
			} else if found {
				eligible++
			}
		}
		if failures >= 5 {
			t.Fatal("too many disagreements")
		}
	}
	t.Logf("%d pairs, %d instants, %d with a first instant, %d due at any time; unlinked by %v; kept by %v",
		pairs, asked, eligible, anyTime, unlinked, waiting)
	if failures > 0 || testing.Short() {
		return
	}
	// The cases must be about something.
	require.GreaterOrEqual(t, pairs, 10*policies)
	require.Greater(t, eligible, pairs/3)
	require.Greater(t, anyTime, pairs/200)
	require.Greater(t, unlinked["patron-wish"], asked/100)
	require.Greater(t, unlinked["default"], asked/200)
	require.Greater(t, unlinked["loans-2"], asked/200)
	all := anonymize.Reasons(1<<17 - 1).Names()
	for _, reason := range all {
		require.Greater(t, waiting[reason], asked/2000, reason)
	}
	require.Len(t, waiting, len(all))
}

// Without rules on the account's expiry, and without wishes to forget (which shorten some rules
// and not others), retention is shortest ≤ first ≤ longest.
func TestMatchOrdersRetention(t *testing.T) {
	policies := setting(t, "CARREL_POLICIES", 1200) / 2
	g := newGenerator(uint64(setting(t, "CARREL_SEED", 2)))
	strict := 0
	for range policies {
		p := g.policy()
		for i := range p.Kinds {
			for j := range p.Kinds[i].Rules {
				p.Kinds[i].Rules[j].PatronExpired = ""
			}
		}
		var parsed []*anonymize.Policy
		for _, p.Match = range []string{"shortest", "first", "longest"} {
			policy, err := anonymize.ParsePolicy(p.YAML())
			require.NoError(t, err)
			parsed = append(parsed, policy)
		}
		for range 10 {
			r := g.record(p)
			if r.Wish == circulation.WishForget {
				r.Wish = circulation.WishNone
			}
			var due []oracle.When
			for _, policy := range parsed {
				w := oracle.When{T: policy.Decide(r, utc("2026-05-05")).EligibleAt}
				if w.T.IsZero() {
					w.Always = policy.Decide(r, utc("1850-01-01")).Unlink
					w.Never = !w.Always
				}
				due = append(due, w)
			}
			if due[1].Before(due[0]) || due[2].Before(due[1]) {
				t.Fatalf("shortest, first, longest: %v\n%s\n%s", due, p.YAML(), describe(r))
			}
			if due[0].Before(due[2]) {
				strict++
			}
		}
	}
	t.Logf("%d records, in %d of them shortest is shorter than longest", policies*10, strict)
	require.Greater(t, strict, policies/2)
}

// Times are used to the microsecond: what is finer makes no difference, and never a late surprise.
func TestDecideIgnoresNanoseconds(t *testing.T) {
	policy, err := anonymize.ParsePolicy(loans(oracle.Rule{Name: "now", After: "at once"}).YAML())
	require.NoError(t, err)
	r := loan("2026-10-01T09:30:00.123456789Z")
	require.True(t, policy.Decide(&r, r.Ended).Unlink)
	require.False(t, policy.Decide(&r, r.Ended.Add(-time.Microsecond)).Unlink)
	policy, err = anonymize.ParsePolicy(loans(oracle.Rule{Name: "day", After: "P1D"}).YAML())
	require.NoError(t, err)
	r = loan("2026-10-01T00:00:00.000000999Z")
	require.Equal(t, utc("2026-10-02"), policy.Decide(&r, r.Ended).EligibleAt.UTC())
}

// The hot path does not allocate, whatever the policy.
func TestDecideDoesNotAllocate(t *testing.T) {
	g := newGenerator(7)
	for range 200 {
		p := g.policy()
		policy, err := anonymize.ParsePolicy(p.YAML())
		require.NoError(t, err)
		for range 5 {
			r, at := g.record(p), utc("2026-06-01")
			if n := testing.AllocsPerRun(3, func() { policy.Decide(r, at) }); n != 0 {
				t.Fatalf("%v allocations\n%s\n%s", n, p.YAML(), describe(r))
			}
		}
	}
}

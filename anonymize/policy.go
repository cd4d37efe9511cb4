package anonymize

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/internal/civil"
	"github.com/carrel-project/carrel/internal/closed"
)

// A Policy is a library's retention rules, read by [ParsePolicy]. It is immutable and safe for
// concurrent use.
type Policy struct {
	id, title string
	revision  int
	digest    string
	effective time.Time
	clock     clock
	groups    []groupSet

	match           match
	unlinkByDefault bool
	rules           [6][]rule // by kind; nil: the policy does not speak of it
	keep            [6]*Keep  // by kind; nil: all that does not identify stays

	heldItems, heldRecords map[string]int64 // until when; unknown: until released
	shortenTo, extendTo    *term            // patron-may; nil: wishes of that sort are ignored

	needs    Needs
	timed    bool // some rule begins to hold when an account has expired
	warnings []Warning
}

type match uint8

const (
	matchFirst match = iota
	matchShortest
	matchLongest
)

// Ref says which policy this is: id, revision and digest.
func (p *Policy) Ref() PolicyRef { return PolicyRef{ID: p.id, Revision: p.revision, Digest: p.digest} }

// Title returns the policy's title, or "".
func (p *Policy) Title() string { return p.title }

// Effective returns the instant before which [Sweep] refuses the policy; the zero time: none.
func (p *Policy) Effective() time.Time { return p.effective }

// Zone returns the time zone in which the policy counts days.
func (p *Policy) Zone() *time.Location { return p.clock.zone.Location() }

// Covers reports whether the policy has rules for a kind.
func (p *Policy) Covers(k circulation.Kind) bool { return p.rules[kindIndex(k)] != nil }

// Keep returns what stays on unlinked records of a kind; nil: all that does not identify.
func (p *Policy) Keep(k circulation.Kind) *Keep { return p.keep[kindIndex(k)] }

// Needs says which facts the policy looks at.
func (p *Policy) Needs() Needs { return p.needs }

// Why returns the explanation that the policy file gives of a rule, or "".
func (p *Policy) Why(k circulation.Kind, name string) string {
	for i := range p.rules[kindIndex(k)] {
		if u := &p.rules[kindIndex(k)][i]; u.name == name {
			return u.why
		}
	}
	return ""
}

// ParsePolicy reads a policy file and runs its tests: a policy whose tests fail is refused. Every error is
// a [*PolicyError].
func ParsePolicy(data []byte) (*Policy, error) {
	p, err := parsePolicy(data)
	return p, public(err)
}

func parsePolicy(data []byte) (*Policy, error) {
	root, err := closed.Parse(data, "policy", "; see `carrel policy init`")
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	p := &Policy{digest: "sha256:" + hex.EncodeToString(sum[:]), clock: clock{zone: civil.UTC()}}
	var version string
	var tests *yaml.Node
	err = closed.Mapping(root, "the policy", []closed.Field{
		{"carrel-retention", closed.Text(&version, "carrel-retention")},
		{"id", closed.Text(&p.id, "id")},
		{"revision", closed.Count(&p.revision, "revision")},
		{"title", closed.Text(&p.title, "title")},
		{"clock", p.readClock},
		{"effective", p.readEffective},
		{"match", choice(func(i int) { p.match = match(i) }, "match", "first", "shortest", "longest")},
		{"default", choice(func(i int) { p.unlinkByDefault = i == 1 }, "default", "keep", "unlink")},
		{"groups", p.readGroups},
		{"holds", p.readHolds},
		{"patron-may", p.readPatronMay},
		{"records", p.readRecords},
		{"keep-fields", p.readKeepFields},
		{"tests", func(n *yaml.Node) error { tests = n; return nil }},
	})
	switch {
	case err != nil:
		return nil, err
	case version != "1":
		return nil, closed.Fault(closed.Value(root, "carrel-retention"), "carrel-retention", "a policy begins with `carrel-retention: 1`, the version of its format that this carrel knows")
	case p.id == "":
		return nil, closed.Fault(root, "id", "the policy has no id")
	case !slices.ContainsFunc(p.rules[:], func(r []rule) bool { return r != nil }):
		return nil, closed.Fault(root, "records", "the policy has no records: name at least one kind and its rules, or nothing would ever be forgotten")
	}
	p.needs = p.collectNeeds()
	p.lint(root)
	if tests != nil {
		if err := p.runTests(tests); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *Policy) readClock(n *yaml.Node) error {
	return closed.Mapping(n, "clock", []closed.Field{
		{"zone", func(n *yaml.Node) error {
			name, err := closed.Scalar(n, "zone")
			if err != nil {
				return err
			}
			loc, err := time.LoadLocation(name)
			if err != nil || name == "Local" {
				return closed.Fault(n, name, "unknown time zone %q; want a name like Europe/Stockholm or UTC", name)
			}
			p.clock.zone = civil.In(loc)
			return nil
		}},
		{"day-ends", func(n *yaml.Node) error {
			s, err := closed.Scalar(n, "day-ends")
			if err != nil {
				return err
			}
			t, err := time.Parse("15:04", s)
			if err != nil || len(s) != 5 {
				return closed.Fault(n, s, `day-ends must be a time like "03:00"`)
			}
			p.clock.dayEnds = int64(t.Hour()*60+t.Minute()) * 60 * civil.Second
			return nil
		}},
	})
}

// day reads a date and returns the day.
func readDay(n *yaml.Node, what string) (int64, error) {
	s, err := closed.Scalar(n, what)
	if err != nil {
		return 0, err
	}
	t, err := time.Parse(time.DateOnly, s)
	if err != nil || t.Year() < 1900 || t.Year() > 2300 {
		return 0, closed.Fault(n, s, "%s must be a date like 2026-10-01", what)
	}
	day, _ := civil.UTC().Local(t.UnixMicro())
	return day, nil
}

func (p *Policy) readEffective(n *yaml.Node) error {
	day, err := readDay(n, "effective")
	if err == nil {
		p.effective = time.UnixMicro(p.clock.zone.Instant(day, 0)).UTC()
	}
	return err
}

func (p *Policy) readGroups(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return closed.Fault(n, "", "groups must be a mapping of names to lists of groups")
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, err := closed.Scalar(n.Content[i], "a group's name")
		if err != nil {
			return err
		}
		if p.set(name) != nil {
			return closed.Fault(n.Content[i], name, "the set %q is defined twice", name)
		}
		set := groupSet{name: name}
		if err := words(&set.codes, "the set "+strconv.Quote(name))(n.Content[i+1]); err != nil {
			return err
		}
		p.groups = append(p.groups, set)
	}
	return nil
}

func (p *Policy) set(name string) *groupSet {
	i := slices.IndexFunc(p.groups, func(s groupSet) bool { return s.name == name })
	if i < 0 {
		return nil
	}
	return &p.groups[i]
}

func (p *Policy) readHolds(n *yaml.Node) error {
	p.heldItems, p.heldRecords = map[string]int64{}, map[string]int64{}
	return each(n, "holds", func(n *yaml.Node) error {
		var ref string
		var items, records []string
		until := int64(unknown)
		err := closed.Mapping(n, "a hold", []closed.Field{
			{"ref", closed.Text(&ref, "ref")},
			{"item", words(&items, "item")},
			{"record", words(&records, "record")},
			{"until", func(n *yaml.Node) error {
				day, err := readDay(n, "until")
				until = p.clock.endOf(day)
				return err
			}},
		})
		switch {
		case err != nil:
			return err
		case ref == "":
			return closed.Fault(n, "ref", "a hold needs a ref: the case it belongs to")
		case items == nil && records == nil:
			return closed.Fault(n, "item", "a hold needs an item or a record")
		}
		for _, id := range items {
			p.heldItems[id] = max(p.heldItems[id], until)
		}
		for _, id := range records {
			p.heldRecords[id] = max(p.heldRecords[id], until)
		}
		return nil
	})
}

func (p *Policy) readPatronMay(n *yaml.Node) error {
	err := closed.Mapping(n, "patron-may", []closed.Field{
		{"shorten-to", readTerm(&p.shortenTo, "shorten-to", termName{"at once", termAtOnce})},
		{"extend-to", readTerm(&p.extendTo, "extend-to", termName{"forever", termNever})},
	})
	if err == nil && p.shortenTo == nil && p.extendTo == nil {
		return closed.Fault(n, "patron-may", "patron-may says neither shorten-to nor extend-to; leave it out to ignore wishes")
	}
	if err == nil && p.shortenTo != nil && p.extendTo != nil && p.extendTo.nominal() < p.shortenTo.nominal() {
		p.warn(closed.Value(n, "extend-to").Line, "extend-to is shorter than shorten-to: who wants their history kept is forgotten sooner than who does not")
	}
	return err
}

// A termName is a word that may stand for a period.
type termName struct {
	text    string
	meaning termWord
}

// readTerm reads a period or one of the words that may stand for it.
func readTerm(into **term, what string, names ...termName) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		s, err := closed.Scalar(n, what)
		if err != nil {
			return err
		}
		known := make([]string, len(names))
		for i, name := range names {
			if s == name.text {
				*into = &term{word: name.meaning}
				return nil
			}
			known[i] = name.text
		}
		per, err := parsePeriod(s)
		if err != nil {
			return closed.Fault(n, s, "%s: %s%s", what, err, hintUnlessPeriod(s, known))
		}
		*into = &term{period: per}
		return nil
	}
}

func hintUnlessPeriod(s string, known []string) string {
	if strings.HasPrefix(s, "P") {
		return ""
	}
	return closed.Hint(s, known)
}

func readPeriod(into **period, what string) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		s, err := closed.Scalar(n, what)
		if err != nil {
			return err
		}
		per, err := parsePeriod(s)
		if err != nil {
			return closed.Fault(n, s, "%s: %s", what, err)
		}
		*into = &per
		return nil
	}
}

// plural is the word under records and keep-fields.
func plural(k circulation.Kind) string {
	if k == circulation.KindSharing {
		return "sharing"
	}
	return k.String() + "s"
}

func (p *Policy) readRecords(n *yaml.Node) error {
	var fields []closed.Field
	for _, k := range circulation.Kinds() {
		fields = append(fields, closed.Field{plural(k), func(n *yaml.Node) error {
			rules := []rule{}
			err := each(n, plural(k), func(n *yaml.Node) error {
				u, err := p.readRule(n, k)
				if err != nil {
					return err
				}
				if slices.ContainsFunc(rules, func(o rule) bool { return o.name == u.name }) {
					return closed.Fault(closed.Value(n, "name"), u.name, "there is another rule %q for %s; names must differ, they stand in reports", u.name, plural(k))
				}
				rules = append(rules, u)
				return nil
			})
			if err == nil && len(rules) == 0 {
				return closed.Fault(n, plural(k), "%s has no rules; leave the kind out to keep all of its records", plural(k))
			}
			p.rules[k] = rules
			return err
		}})
	}
	return closed.Mapping(n, "records", fields)
}

func (p *Policy) readRule(n *yaml.Node, k circulation.Kind) (rule, error) {
	u := rule{line: n.Line}
	var after *term
	at := func(key string) *yaml.Node { return closed.Value(n, key) }
	err := closed.Mapping(n, "a rule", []closed.Field{
		{"name", closed.Text(&u.name, "name")},
		{"why", closed.Text(&u.why, "why")},
		{"group", p.readCondition(&u, ofGroup)},
		{"group-now", p.readCondition(&u, ofGroupNow)},
		{"library", p.readCondition(&u, ofLibrary)},
		{"location", p.readCondition(&u, ofLocation)},
		{"type", p.readCondition(&u, ofType)},
		{"payment-method", words(&u.methods, "payment-method")},
		{"fee", choice(func(i int) { u.fee = feeCondition(i + 1) }, "fee", "none", "had")},
		{"patron-expired", readPeriod(&u.expired, "patron-expired")},
		{"after", readTerm(&after, "after", termName{"at once", termAtOnce}, termName{"never", termNever})},
		{"since", choice(func(i int) { u.since = since(i) }, "since", "ended", "fee-closed", "expired")},
		{"keep-last", closed.Count(&u.keepLast, "keep-last")},
		{"per", choice(func(i int) { u.perItem = i == 1 }, "per", "patron", "item")},
		{"at-most", readPeriod(&u.atMost, "at-most")},
	})
	if err != nil {
		return u, err
	}
	switch {
	case u.name == "":
		return u, closed.Fault(n, "name", "a rule needs a name: it stands in every report")
	case u.name == RuleDefault || u.name == RulePatronWish:
		return u, closed.Fault(at("name"), u.name, "the name %q is reserved", u.name)
	case after == nil:
		return u, closed.Fault(n, "after", "rule %q does not say after what time; want a period, at once or never", u.name)
	case u.since == sinceFeeClosed && u.fee != feeHad:
		return u, closed.Fault(at("since"), "since", "since: fee-closed needs fee: had in the same rule")
	case u.keepLast > 0 && k != circulation.KindLoan:
		return u, closed.Fault(at("keep-last"), "keep-last", "keep-last counts newer loans, so it is for loans only")
	case u.keepLast > 0 && after.word == termNever:
		return u, closed.Fault(at("keep-last"), "keep-last", "after: never keeps everything, so keep-last says nothing")
	case u.keepLast == 0 && u.atMost != nil:
		return u, closed.Fault(at("at-most"), "at-most", "at-most bounds keep-last, which rule %q does not have", u.name)
	case u.keepLast == 0 && at("per") != n:
		return u, closed.Fault(at("per"), "per", "per belongs to keep-last, which rule %q does not have", u.name)
	case u.perItem && u.atMost == nil:
		return u, closed.Fault(at("per"), "at-most", "per: item needs at-most: an item that nobody borrows again would keep its last borrowers for ever")
	case u.atMost != nil && after.word == termPeriod && u.atMost.nominal() < after.period.nominal():
		return u, closed.Fault(at("at-most"), "at-most", "at-most is shorter than after")
	}
	u.after = *after
	p.timed = p.timed || u.expired != nil
	return u, nil
}

// readCondition reads the values of an attribute. Among groups the name of a set stands for its groups.
func (p *Policy) readCondition(u *rule, of attribute) func(*yaml.Node) error {
	return func(n *yaml.Node) error {
		var list []string
		if err := words(&list, attributeWords[of])(n); err != nil {
			return err
		}
		if of == ofGroup || of == ofGroupNow {
			list = p.expand(n, list)
		}
		u.conditions = append(u.conditions, newCondition(of, list))
		return nil
	}
}

func (p *Policy) expand(n *yaml.Node, named []string) (codes []string) {
	for _, name := range named {
		if set := p.set(name); set != nil {
			codes = append(codes, set.codes...)
			continue
		}
		codes = append(codes, name)
		p.suspectGroup(n, name)
	}
	return codes
}

func (p *Policy) readKeepFields(n *yaml.Node) error {
	var fields []closed.Field
	for _, k := range circulation.Kinds() {
		if k != circulation.KindNotice {
			fields = append(fields, closed.Field{plural(k), func(n *yaml.Node) error { return p.readKeep(n, k) }})
		}
	}
	if n.Kind == yaml.MappingNode {
		for i := 0; i < len(n.Content); i += 2 {
			if n.Content[i].Value == plural(circulation.KindNotice) {
				return closed.Fault(n.Content[i], "notices", "notices are removed whole, so nothing of them can be kept")
			}
		}
	}
	return closed.Mapping(n, "keep-fields", fields)
}

func (p *Policy) readKeep(n *yaml.Node, k circulation.Kind) error {
	keep := &Keep{dates: map[string]grain{}, stays: map[string]bool{}, groups: p.groups, zone: p.clock.zone}
	var fields []closed.Field
	for _, f := range circulation.Fields(k) {
		word := f.Keep
		switch {
		case word == "" || slices.ContainsFunc(fields, func(o closed.Field) bool { return o.Key == word }):
		case word == "group":
			fields = append(fields, closed.Field{word, choice(func(i int) { keep.group = [...]string{"keep", "set"}[i] }, word, "keep", "set")})
		case isDate(word):
			fields = append(fields, closed.Field{word, choice(func(i int) { keep.dates[word] = grain(i + 1) }, word, "keep", "day", "month", "quarter", "year")})
		default:
			fields = append(fields, closed.Field{word, choice(func(int) { keep.stays[word] = true }, word, "keep")})
		}
	}
	p.keep[k] = keep
	return closed.Mapping(n, "keep-fields of "+plural(k), fields)
}

func isDate(word string) bool {
	return slices.Contains([]string{"loaned", "due", "returned", "requested", "charged", "closed"}, word)
}

func (p *Policy) collectNeeds() (needs Needs) {
	for _, rules := range p.rules {
		for i := range rules {
			u := &rules[i]
			for _, n := range []struct {
				used bool
				need Needs
			}{
				{u.list(ofGroup) != nil, NeedGroup}, {u.list(ofGroupNow) != nil, NeedGroupNow},
				{u.list(ofLibrary) != nil, NeedLibrary}, {u.list(ofLocation) != nil, NeedLocation}, {u.list(ofType) != nil, NeedType},
				{u.expired != nil || u.since == sinceExpired, NeedExpires},
				{u.keepLast > 0 && !u.perItem, NeedNewerByBorrower}, {u.keepLast > 0 && u.perItem, NeedNewerOfItem},
			} {
				if n.used {
					needs |= n.need
				}
			}
		}
	}
	if len(p.heldItems) > 0 {
		needs |= NeedItem
	}
	if p.shortenTo != nil || p.extendTo != nil {
		needs |= NeedWish
	}
	return needs
}

// A Warning is something that a policy file may say but probably does not mean.
type Warning struct {
	Line    int    // 0: the file as a whole
	Message string // one line
}

// String returns the warning with its place.
func (w Warning) String() string {
	if w.Line == 0 {
		return w.Message
	}
	return fmt.Sprintf("line %d: %s", w.Line, w.Message)
}

// Lint returns what in the policy is probably not meant so, in the order of the file.
func (p *Policy) Lint() []Warning { return slices.Clone(p.warnings) }

package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/carrel-project/carrel/circulation"
)

// Save inserts entries or brings them up to date, by kind and ID, as they stream in, in one transaction:
// all of them or none. An error that the sequence yields ends it and is returned as it is. The sequence
// must not itself use the store's database.
//
// An entry may only point at records that were saved before it; otherwise the error is an
// [*UnknownPointerError]. If its Version is not empty, it must be the stored record's, or the error is
// [ErrConflict]. A record that names nobody never comes to name somebody: it is left as it is and
// counted as already unlinked. An entry that no longer names the borrower of its record unlinks the record.
//
// A loan whose start is not known counts as older than all whose start is.
func (c *Circulation) Save(ctx context.Context, entries iter.Seq2[circulation.Entry, error]) (circulation.Saved, error) {
	var saved circulation.Saved
	err := c.write(ctx, "save", func(t *tx) error {
		s := &saving{tx: t, persons: map[circulation.Borrower]int64{}, serials: map[circulation.Kind]int64{}}
		if err := s.begin(); err != nil {
			return err
		}
		for e, err := range entries {
			if err == nil {
				err = s.entry(e)
			}
			if err != nil {
				return err
			}
		}
		saved = s.saved
		return s.end()
	})
	if err != nil {
		return circulation.Saved{}, err
	}
	return saved, nil
}

// saving is the state of one Save.
type saving struct {
	*tx
	saved    circulation.Saved
	persons  map[circulation.Borrower]int64 // a cache
	serials  map[circulation.Kind]int64     // the last number given, by kind
	newLoans int64                          // numbers from here on are loans that this Save added
	recount  recount                        // loans to be counted anew
}

func (s *saving) begin() error {
	var kind, last int64
	err := each(s.ctx, s.op, s.db, "SELECT kind, last FROM serials", nil, []any{&kind, &last}, func() error {
		s.serials[circulation.Kind(kind)] = last
		return nil
	})
	s.newLoans = firstOf(circulation.KindLoan) + s.serials[circulation.KindLoan] + 1
	return err
}

func (s *saving) end() error {
	for kind, last := range s.serials {
		if _, err := s.exec("UPDATE serials SET last = ? WHERE kind = ?", last, int64(kind)); err != nil {
			return err
		}
	}
	return s.count()
}

// found is a record as it is stored.
type found struct {
	n                           int64
	alive                       bool // not unlinked: it has a row in links
	person, version, personSeen any
	values                      []any
	companions, texts, ties     string
}

// find reads a record; its number is 0 if there is none: serials begin at 1.
func (s *saving) find(f circulation.Facts) (r found, err error) {
	// Most entries of an import are new, and a query of many columns costs many times what one of few does.
	if err = s.get("SELECT n FROM records WHERE n >> 40 = ?1 AND id = ?2", []any{int64(f.Kind) - 1, f.ID}, &r.n); err != nil {
		if errors.Is(err, errNone) {
			err = nil
		}
		return found{}, err
	}
	r.values = make([]any, len(factColumns))
	dest := []any{&r.n, &r.alive, &r.person, &r.version, &r.personSeen, &r.companions, &r.texts, &r.ties}
	for i := range r.values {
		dest = append(dest, &r.values[i])
	}
	err = s.get(findRecord, []any{r.n}, dest...)
	return r, err
}

var findRecord = `
	SELECT r.n, l.n IS NOT NULL, l.person, l.version, p.version,
		COALESCE((SELECT group_concat(role || ' ' || person) FROM (SELECT role, person FROM companions c WHERE c.n = r.n ORDER BY role, person)), ''),
		COALESCE((SELECT group_concat(field || char(31) || value, char(30)) FROM (SELECT field, value FROM personal x WHERE x.n = r.n ORDER BY field)), ''),
		COALESCE((SELECT group_concat(target) FROM (SELECT target FROM ties t WHERE t.n = r.n ORDER BY target)), ''),
		r.` + strings.Join(factColumns[:], ", r.") + `
	FROM records r LEFT JOIN links l ON l.n = r.n LEFT JOIN persons p ON p.p = l.person
	WHERE r.n = ?1`

func (s *saving) entry(e circulation.Entry) error {
	parts, err := e.Parts()
	if err != nil {
		return err
	}
	f := parts.Facts
	r, err := s.find(f)
	if err != nil {
		return err
	}
	if f.Version != "" && !r.is(f) {
		return fmt.Errorf("%w: %s %s", ErrConflict, f.Kind, f.ID)
	}
	named := len(parts.Links) > 0
	switch {
	case r.n == 0:
	case !r.alive, r.person == nil && named:
		s.saved.AlreadyUnlinked++
		return nil
	case r.person != nil && !named:
		return s.nameless(f, r)
	}
	ties, err := s.ties(parts)
	if err != nil {
		return err
	}
	person, companions, err := s.links(parts.Links)
	if err != nil {
		return err
	}
	texts := parts.Texts
	if !named {
		// No sweep would ever come by and remove what was written about nobody's record.
		texts = nil
	}
	slices.SortFunc(texts, func(a, b circulation.Text) int { return cmp.Compare(a.Field, b.Field) })
	values := valuesOf(f)
	if r.n == 0 {
		return s.insert(f, values, person, companions, texts, ties)
	}
	return s.replace(f, r, values, person, companions, texts, ties)
}

// is reports whether the stored record is still what the facts' version says was read.
func (r found) is(f circulation.Facts) bool {
	v, ok := parseToken(f.Version)
	return ok && r.alive && v.n == r.n && v.id == checksum(f.ID) &&
		integer(r.version) <= v.change && integer(r.personSeen) <= v.change
}

// A companion is a person beside the borrower.
type companion struct{ role, person int64 }

func (s *saving) links(links []circulation.Link) (person any, companions []companion, err error) {
	for _, l := range links {
		p, err := s.person(l.Person)
		if err != nil {
			return nil, nil, err
		}
		if l.Role == circulation.RoleBorrower {
			person = p
		} else {
			companions = append(companions, companion{int64(l.Role), p})
		}
	}
	slices.SortFunc(companions, func(a, b companion) int { return cmp.Or(cmp.Compare(a.role, b.role), cmp.Compare(a.person, b.person)) })
	return person, slices.Compact(companions), nil
}

// person returns the number of a borrower, which it gives out on first sight.
func (s *saving) person(b circulation.Borrower) (int64, error) {
	if p, ok := s.persons[b]; ok {
		return p, nil
	}
	p, err := s.tx.person(b)
	if err != nil {
		return 0, err
	}
	const bound = 1 << 16
	if len(s.persons) >= bound {
		clear(s.persons)
	}
	s.persons[b] = p
	return p, nil
}

func (t *tx) person(b circulation.Borrower) (p int64, err error) {
	err = t.get("SELECT p FROM persons WHERE borrower = ?", []any{string(b)}, &p)
	if !errors.Is(err, errNone) {
		return p, err
	}
	err = t.get("INSERT INTO persons (borrower, version) VALUES (?, ?) RETURNING p", []any{string(b), t.change}, &p)
	return p, err
}

// ties returns the numbers of the records an entry points at, without those that name nobody any more.
func (s *saving) ties(parts circulation.Parts) (ties []int64, err error) {
	for _, p := range parts.Points {
		var n int64
		var alive bool
		err := s.get(`SELECT r.n, l.n IS NOT NULL FROM records r LEFT JOIN links l ON l.n = r.n
			WHERE r.n >> 40 = ?1 AND r.id = ?2`, []any{int64(p.Kind) - 1, p.ID}, &n, &alive)
		switch {
		case errors.Is(err, errNone):
			return nil, &UnknownPointerError{From: circulation.Pointer{Kind: parts.Facts.Kind, ID: parts.Facts.ID}, To: p}
		case err != nil:
			return nil, err
		case !alive:
			s.saved.PointersDropped++
		default:
			ties = append(ties, n)
		}
	}
	slices.Sort(ties)
	return slices.Compact(ties), nil
}

func (s *saving) insert(f circulation.Facts, values []any, person any, companions []companion, texts []circulation.Text, ties []int64) error {
	s.serials[f.Kind]++
	n := firstOf(f.Kind) + s.serials[f.Kind]
	if _, err := s.exec(insertRecord, append([]any{n, f.ID}, values...)...); err != nil {
		return err
	}
	// A loan is counted at the end, when all are there: until then its seq is NULL.
	var seq, itemSeq any = int64(0), int64(0)
	if f.Kind == circulation.KindLoan {
		if person != nil {
			seq = nil
		}
		if f.Item != "" {
			itemSeq = nil
		}
	}
	if _, err := s.exec("INSERT INTO links (n, person, version, seq, item_seq) VALUES (?, ?, ?, ?, ?)", n, person, s.change, seq, itemSeq); err != nil {
		return err
	}
	if err := s.beside(n, companions, texts, ties); err != nil {
		return err
	}
	s.saved.Added++
	return s.touch(f.Kind, ties)
}

var insertRecord = "INSERT INTO records (n, id, " + factList + ") VALUES (?, ?" + strings.Repeat(", ?", len(factColumns)) + ")"

// beside writes the rows of the small tables.
func (s *saving) beside(n int64, companions []companion, texts []circulation.Text, ties []int64) error {
	for _, c := range companions {
		if _, err := s.exec("INSERT INTO companions (n, role, person) VALUES (?, ?, ?)", n, c.role, c.person); err != nil {
			return err
		}
	}
	for _, x := range texts {
		if _, err := s.exec("INSERT INTO personal (n, field, value) VALUES (?, ?, ?)", n, int64(x.Field), x.Value); err != nil {
			return err
		}
	}
	for _, target := range ties {
		if _, err := s.exec("INSERT INTO ties (n, target) VALUES (?, ?)", n, target); err != nil {
			return err
		}
	}
	return nil
}

// touch gives the loans of a fee a new version: rules look at their fees.
func (s *saving) touch(kind circulation.Kind, ties []int64) error {
	if kind != circulation.KindFee {
		return nil
	}
	for _, loan := range ties {
		if _, err := s.exec("UPDATE links SET version = ? WHERE n = ?", s.change, loan); err != nil {
			return err
		}
	}
	return nil
}

func (s *saving) replace(f circulation.Facts, r found, values []any, person any, companions []companion, texts []circulation.Text, ties []int64) error {
	sameFacts, samePerson := slices.Equal(values, r.values), person == r.person
	sameBeside := joinCompanions(companions) == r.companions && joinTexts(texts) == r.texts && joinNumbers(ties) == r.ties
	if sameFacts && samePerson && sameBeside {
		s.saved.Same++
		return nil
	}
	if f.Kind == circulation.KindLoan {
		sameStart := values[columnStarted] == r.values[columnStarted]
		sameItem := values[columnItem] == r.values[columnItem]
		if err := s.uncount(r, values, !samePerson || !sameStart, !sameItem || !sameStart); err != nil {
			return err
		}
	}
	if !sameFacts {
		if err := s.update(r.n, values); err != nil {
			return err
		}
	}
	if _, err := s.exec("UPDATE links SET person = ?, version = ? WHERE n = ?", person, s.change, r.n); err != nil {
		return err
	}
	if !sameBeside {
		for _, table := range []string{"companions", "personal", "ties"} {
			if _, err := s.exec("DELETE FROM "+table+" WHERE n = ?", r.n); err != nil {
				return err
			}
		}
		if err := s.beside(r.n, companions, texts, ties); err != nil {
			return err
		}
	}
	s.saved.Updated++
	return s.touch(f.Kind, append(ties, splitNumbers(r.ties)...))
}

// nameless unlinks a record that its own library system no longer knows the borrower of.
func (s *saving) nameless(f circulation.Facts, r found) error {
	if err := s.update(r.n, valuesOf(f)); err != nil {
		return err
	}
	if _, err := s.exec("DELETE FROM links WHERE n = ?", r.n); err != nil {
		return err
	}
	s.saved.Updated++
	if err := s.touch(f.Kind, splitNumbers(r.ties)); err != nil {
		return err
	}
	return s.strip(f.Kind, []int64{r.n})
}

// The three join functions write rows of the small tables as findRecord does, to be compared.

func joinCompanions(list []companion) string {
	words := make([]string, len(list))
	for i, c := range list {
		words[i] = strconv.FormatInt(c.role, 10) + " " + strconv.FormatInt(c.person, 10)
	}
	return strings.Join(words, ",")
}

func joinTexts(list []circulation.Text) string {
	words := make([]string, len(list))
	for i, x := range list {
		words[i] = strconv.Itoa(int(x.Field)) + "\x1f" + x.Value
	}
	return strings.Join(words, "\x1e")
}

func joinNumbers(list []int64) string {
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = strconv.FormatInt(n, 10)
	}
	return strings.Join(words, ",")
}

func splitNumbers(joined string) (list []int64) {
	for word := range strings.SplitSeq(joined, ",") {
		if n, err := strconv.ParseInt(word, 10, 64); err == nil {
			list = append(list, n)
		}
	}
	return list
}

package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// Save inserts entries or brings them up to date, by kind and ID, as they stream in, in one transaction:
// all of them or none. An error that the sequence yields ends it and is returned as it is. The sequence
// must not itself use the store's database.
//
// An entry may only point at records that were saved before it; otherwise the error is an
// [*UnknownPointerError]. If its Version is not empty, it must be the stored record's, or the error is
// [ErrConflict]. A record that names nobody never comes to name somebody: it is left as it is and
// counted as already unlinked. Only a fee's status and loan are still taken from such an entry, for they decide what
// may become of the loan. An entry that no longer names the borrower of its record unlinks the record, unless an
// exception protects that now: then it keeps its link, and is counted.
//
// A loan whose start is not known counts as older than all whose start is.
func (c *Circulation) Save(ctx context.Context, entries iter.Seq2[circulation.Entry, error]) (circulation.Saved, error) {
	var saved circulation.Saved
	err := c.write(ctx, "save", func(t *tx) error {
		s := &saving{tx: t, persons: map[circulation.Borrower]int64{}, serials: map[circulation.Kind]int64{}, decks: map[circulation.Kind]*deck{}, waiting: map[circulation.Pointer]bool{}}
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
	serials  map[circulation.Kind]int64     // the last number reserved, by kind
	decks    map[circulation.Kind]*deck     // numbers that are reserved and not yet given
	added    []newcomer                     // records that wait to be written
	waiting  map[circulation.Pointer]bool   // the same by ID
	newLoans int64                          // numbers from here on are loans that this Save added
	recount  recount                        // loans to be counted anew
	needs    anonymize.Needs                // of the plan in force: whether newer loans wake older ones
}

func (s *saving) begin() error {
	var kind, last int64
	err := each(s.ctx, s.op, s.db, "SELECT kind, last FROM serials", nil, []any{&kind, &last}, func() error {
		s.serials[circulation.Kind(kind)] = last
		return nil
	})
	if err != nil {
		return err
	}
	s.newLoans = firstOf(circulation.KindLoan) + s.serials[circulation.KindLoan] + 1
	p, err := s.plan()
	s.needs = p.needs
	return err
}

const most = 1 << 15 // records in a block

// A deck is reserved serials in random order, and how many will be reserved next.
type deck struct {
	left []int64
	next int
}

// serial gives out a number. Numbers in order would be a key: an export sorted by borrower puts a person's
// loans side by side, and would do so for good. So they are dealt from shuffled blocks. Blocks that grow keep
// the gap that a Save leaves smaller than what it added, and a bound keeps the rows of a block in the cache.
//
// The generator of math/rand/v2 is seeded at random by the runtime. What it shuffles is no secret that
// opens anything: all it has to do is forget the order, and nothing of its state is kept.
func (s *saving) serial(k circulation.Kind) int64 {
	d := s.decks[k]
	if d == nil {
		d = &deck{next: 1}
		s.decks[k] = d
	}
	if len(d.left) == 0 {
		for range d.next {
			s.serials[k]++
			d.left = append(d.left, s.serials[k])
		}
		rand.Shuffle(len(d.left), func(i, j int) { d.left[i], d.left[j] = d.left[j], d.left[i] })
		d.next = min(2*d.next, most)
	}
	n := d.left[len(d.left)-1]
	d.left = d.left[:len(d.left)-1]
	return n
}

func (s *saving) end() error {
	if err := s.flush(); err != nil {
		return err
	}
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
	returned                    bool // a fee that was unlinked and opened again
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
	dest := []any{&r.n, &r.alive, &r.returned, &r.person, &r.version, &r.personSeen, &r.companions, &r.texts, &r.ties}
	for i := range r.values {
		dest = append(dest, &r.values[i])
	}
	err = s.get(findRecord, []any{r.n}, dest...)
	return r, err
}

var findRecord = `
	SELECT r.n, l.n IS NOT NULL, l.n IS NOT NULL AND l.person IS NULL AND l.seq IS NULL, l.person, l.version, p.version,
		COALESCE((SELECT group_concat(role || ' ' || person) FROM (SELECT role, person FROM companions c WHERE c.n = r.n ORDER BY role, person)), ''),
		COALESCE((SELECT group_concat(field || ' ' || length(CAST(value AS BLOB)) || ' ' || value, ',') FROM (SELECT field, value FROM personal x WHERE x.n = r.n ORDER BY field)), ''),
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
	if s.waiting[circulation.Pointer{Kind: f.Kind, ID: f.ID}] || slices.ContainsFunc(parts.Points, func(p circulation.Pointer) bool { return s.waiting[p] }) {
		if err := s.flush(); err != nil {
			return err
		}
	}
	r, err := s.find(f)
	if err != nil {
		return err
	}
	if f.Version != "" && !r.is(f) {
		return fmt.Errorf("%w: %s %s", ErrConflict, f.Kind, f.ID)
	}
	if r.n != 0 { // what becomes of it may depend on those that wait
		if err := s.flush(); err != nil {
			return err
		}
	}
	named := len(parts.Links) > 0
	switch {
	case r.n == 0:
	case f.Kind == circulation.KindFee && (!r.alive || r.returned || r.person == nil && named):
		s.saved.AlreadyUnlinked++
		return s.nobodys(parts, r)
	case !r.alive, r.person == nil && named:
		s.saved.AlreadyUnlinked++
		return nil
	case r.person != nil && !named:
		return s.nameless(parts, r)
	}
	ties, err := s.ties(parts, named)
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
	if errors.Is(err, errNone) {
		return t.newPerson(b)
	}
	return p, err
}

// newPerson gives a borrower a number, who has none. It is random for the same reason as a serial: in order of first sight
// it would tell persons by their first loans.
func (t *tx) newPerson(b circulation.Borrower) (p int64, err error) {
	if err := t.fresh(string(b)); err != nil {
		return 0, err
	}
	const numbers = 1 << 40
	for {
		p = 1 + rand.Int64N(numbers)
		// Not with RETURNING, which makes SQLite keep a journal of the statement: within a savepoint that takes the longer the
		// more was written before.
		n, err := t.exec("INSERT INTO persons (p, borrower, version) VALUES (?, ?, ?) ON CONFLICT (p) DO NOTHING", p, string(b), t.change)
		if err != nil || n == 1 {
			return p, err
		}
	}
}

// ties returns the numbers of the records an entry points at, without those that name nobody any more. Nor
// may a record that names somebody point at one that never did and has ended, or at a fee that was unlinked: it
// would join a person with what is anonymous.
func (s *saving) ties(parts circulation.Parts, named bool) (ties []int64, err error) {
	for _, p := range parts.Points {
		var n int64
		var alive bool
		err := s.get(`SELECT r.n, l.n IS NOT NULL AND (NOT ?3 OR l.person IS NOT NULL OR r.status <> 1 AND l.seq IS NOT NULL)
			FROM records r LEFT JOIN links l ON l.n = r.n
			WHERE r.n >> 40 = ?1 AND r.id = ?2`, []any{int64(p.Kind) - 1, p.ID, bit(named)}, &n, &alive)
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

// A newcomer is a record that waits to be written. A block's records are written in the order of their numbers,
// or the trees would be left a third larger: SQLite fills pages only when rows come in order.
type newcomer struct {
	n          int64
	facts      circulation.Facts
	values     []any
	person     any
	companions []companion
	texts      []circulation.Text
	ties       []int64
}

func (s *saving) insert(f circulation.Facts, values []any, person any, companions []companion, texts []circulation.Text, ties []int64) error {
	n := firstOf(f.Kind) + s.serial(f.Kind)
	s.added = append(s.added, newcomer{n, f, values, person, companions, texts, ties})
	s.waiting[circulation.Pointer{Kind: f.Kind, ID: f.ID}] = true
	s.saved.Added++
	if len(s.decks[f.Kind].left) == 0 || len(s.added) >= most {
		return s.flush()
	}
	return nil
}

// flush writes the records that wait.
func (s *saving) flush() error {
	slices.SortFunc(s.added, func(a, b newcomer) int { return cmp.Compare(a.n, b.n) })
	for _, x := range s.added {
		if err := s.write(x.n, x.facts, x.values, x.person, x.companions, x.texts, x.ties); err != nil {
			return err
		}
	}
	clear(s.added) // lets go of the values
	clear(s.waiting)
	s.added = s.added[:0]
	return nil
}

func (s *saving) write(n int64, f circulation.Facts, values []any, person any, companions []companion, texts []circulation.Text, ties []int64) error {
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
		if err := s.fresh(x.Value); err != nil {
			return err
		}
		if _, err := s.exec("INSERT INTO personal (n, field, value) VALUES (?, ?, ?)", n, int64(x.Field), x.Value); err != nil {
			return err
		}
	}
	return s.tie(n, ties)
}

func (s *saving) tie(n int64, ties []int64) error {
	for _, target := range ties {
		if _, err := s.exec("INSERT INTO ties (n, target) VALUES (?, ?)", n, target); err != nil {
			return err
		}
	}
	return nil
}

// touch gives the loans of a fee a new version, and wakes them: rules look at their fees.
func (s *saving) touch(kind circulation.Kind, ties []int64) error {
	if kind != circulation.KindFee {
		return nil
	}
	for _, loan := range ties {
		if _, err := s.exec("UPDATE links SET version = ?, plan = 0 WHERE n = ?", s.change, loan); err != nil {
			return err
		}
	}
	return nil
}

func (s *saving) replace(f circulation.Facts, r found, values []any, person any, companions []companion, texts []circulation.Text, ties []int64) error {
	sameBeside := joinCompanions(companions) == r.companions && joinTexts(texts) == r.texts
	if sameBeside && r.same(values, person, ties) {
		s.saved.Same++
		return nil
	}
	if err := s.refresh(f, r, values, person, ties); err != nil {
		return err
	}
	if !sameBeside {
		for _, table := range []string{"companions", "personal"} {
			if _, err := s.exec("DELETE FROM "+table+" WHERE n = ?", r.n); err != nil {
				return err
			}
		}
		if err := s.beside(r.n, companions, texts, nil); err != nil {
			return err
		}
	}
	s.saved.Updated++
	return nil
}

func (r found) same(values []any, person any, ties []int64) bool {
	return slices.Equal(values, r.values) && person == r.person && joinNumbers(ties) == r.ties
}

// refresh gives a record that has a link new facts, another borrower and other ties, and a new version, and wakes it.
func (s *saving) refresh(f circulation.Facts, r found, values []any, person any, ties []int64) error {
	if f.Kind == circulation.KindLoan {
		sameStart := values[columnStarted] == r.values[columnStarted]
		sameItem := values[columnItem] == r.values[columnItem]
		if err := s.uncount(r, values, person != r.person || !sameStart, !sameItem || !sameStart); err != nil {
			return err
		}
	}
	if !slices.Equal(values, r.values) {
		if err := s.update(r.n, values); err != nil {
			return err
		}
	}
	if _, err := s.exec("UPDATE links SET person = ?, version = ?, plan = 0 WHERE n = ?", person, s.change, r.n); err != nil {
		return err
	}
	if joinNumbers(ties) != r.ties {
		if _, err := s.exec("DELETE FROM ties WHERE n = ?", r.n); err != nil {
			return err
		}
		if err := s.tie(r.n, ties); err != nil {
			return err
		}
	}
	if person == nil && f.Status == circulation.Ended { // see ties
		if _, err := s.exec(partNamed, r.n); err != nil {
			return err
		}
	}
	return s.touch(f.Kind, append(ties, splitNumbers(r.ties)...))
}

// partNamed removes the pointers of records that name somebody at a record that does not.
const partNamed = `
	DELETE FROM ties WHERE target = ?1 AND n IN (
		SELECT t.n FROM ties t CROSS JOIN links l ON l.n = t.n WHERE t.target = ?1 AND l.person IS NOT NULL)`

// nameless unlinks a record that its own library system no longer knows the borrower of, if no exception
// protects it. What does not say who it is about is brought up to date in either case.
func (s *saving) nameless(p circulation.Parts, r found) error {
	f := p.Facts
	var kept bool
	err := s.get(keepsLink, []any{r.n, r.person, time.Now().UnixMicro()}, &kept)
	if err != nil {
		return err
	}
	values := valuesOf(f)
	if kept || f.Status != circulation.Ended || f.Lost || f.ClaimedReturned || f.Kind == circulation.KindFee && f.FeeStatus != circulation.FeeClosed {
		s.saved.KeptLinked++
		ties, err := s.ties(p, true)
		if err != nil || r.same(values, r.person, ties) {
			return err
		}
		return s.refresh(f, r, values, r.person, ties)
	}
	if err := s.update(r.n, values); err != nil {
		return err
	}
	s.saved.Updated++
	return s.part(f.Kind, r)
}

// keepsLink says whether something beside the record protects it: a fee of the loan, or a hold on the borrower.
const keepsLink = `
	SELECT EXISTS (SELECT 1 FROM ties t CROSS JOIN records f ON f.n = t.n
		WHERE t.target = ?1 AND (f.fee_status <> 2 OR f.n >> 40 = 3 AND f.fee_status IS NULL))
	OR EXISTS (SELECT 1 FROM holds WHERE person = ?2 AND (until IS NULL OR until > ?3))`

// part deletes the link of a record and all that goes with it.
func (s *saving) part(k circulation.Kind, r found) error {
	if _, err := s.exec("DELETE FROM links WHERE n = ?", r.n); err != nil {
		return err
	}
	if err := s.touch(k, splitNumbers(r.ties)); err != nil {
		return err
	}
	return s.strip(k, []int64{r.n})
}

// nobodys brings a fee up to date that names nobody and must not come to: as long as it is owed, it protects
// its loan. One that was unlinked gets a link without a person for that time, and a tie to the loan.
func (s *saving) nobodys(p circulation.Parts, r found) error {
	f, closed := p.Facts, p.Facts.FeeStatus == circulation.FeeClosed
	if !r.alive && closed {
		return nil
	}
	unlinked := !r.alive || r.returned
	ties, err := s.ties(p, unlinked)
	if unknown := (*UnknownPointerError)(nil); !r.alive && errors.As(err, &unknown) {
		return nil
	}
	if err != nil {
		return err
	}
	if !r.alive && len(ties) == 0 {
		return nil // there is nothing to protect
	}
	values := valuesOf(f)
	if unlinked {
		// What a policy's keep-fields took from the fee does not come back.
		all := values
		values = slices.Clone(r.values)
		for _, i := range settled {
			values[i] = all[i]
		}
	}
	if !r.alive {
		// The loan remembers this fee as closed, if keep-fields left enough to tell.
		for _, loan := range ties {
			_, err := s.exec(`DELETE FROM fee_summaries WHERE rowid = (SELECT rowid FROM fee_summaries
				WHERE loan = ?1 AND status IS ?2 AND closed IS ?3 AND method = ?4 LIMIT 1)`,
				loan, r.values[columnFeeStatus], r.values[columnEnded], r.values[columnMethod])
			if err != nil {
				return err
			}
		}
		if _, err := s.exec("INSERT INTO links (n, version, item_seq) VALUES (?, ?, 0)", r.n, s.change); err != nil {
			return err
		}
	}
	if r.alive && r.same(values, nil, ties) {
		return nil
	}
	if err := s.refresh(f, r, values, nil, ties); err != nil || !r.returned || !closed {
		return err
	}
	r.ties = joinNumbers(ties)
	return s.part(f.Kind, r)
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
		words[i] = strconv.Itoa(int(x.Field)) + " " + strconv.Itoa(len(x.Value)) + " " + x.Value
	}
	return strings.Join(words, ",")
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

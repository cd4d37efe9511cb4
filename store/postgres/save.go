package postgres

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carrel-project/carrel/circulation"
)

// blockSize is how many entries are looked up and written together, and mostPending how many new records may wait for their links, which are written when their loans are counted.
const (
	blockSize   = 10_000
	mostPending = 500_000
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
//
// Several may save at once. Those that change the same records or persons wait for each other; of two that wait for each other in a circle the server undoes one, which is done again if it has at most 10,000 entries.
func (c *Circulation) Save(ctx context.Context, entries iter.Seq2[circulation.Entry, error]) (circulation.Saved, error) {
	var saved circulation.Saved
	err := stream(ctx, c.db, "save", entries, func(t *tx, entries iter.Seq2[circulation.Entry, error]) error {
		s := newSaving(t)
		if err := s.run(entries); err != nil {
			return err
		}
		saved = s.saved
		return nil
	})
	if err != nil {
		return circulation.Saved{}, err
	}
	return saved, nil
}

// saving is the state of one Save.
type saving struct {
	*tx
	saved   circulation.Saved
	people  map[circulation.Borrower]int64 // a cache of persons whose rows this transaction has
	decks   map[circulation.Kind]*deck     // numbers that are reserved and not yet given
	room    int                            // how many entries are in the block
	added   []newcomer                     // new records that are not written yet
	waiting map[circulation.Pointer]int64  // new records without a link yet, those that are written included
	pending []*newLink

	savepoints int // that were set so far
}

func newSaving(t *tx) *saving {
	return &saving{tx: t, people: map[circulation.Borrower]int64{}, decks: map[circulation.Kind]*deck{},
		waiting: map[circulation.Pointer]int64{}}
}

// A deck is reserved serials in random order, and how many will be reserved next.
type deck struct {
	left []int64
	next int
}

// serial gives out a number. Numbers in order would be a key: an export sorted by borrower puts a person's
// loans side by side, and would do so for good. So they are dealt from shuffled blocks. Blocks that grow keep
// the gap that a Save leaves smaller than what it added.
//
// The generator of math/rand/v2 is seeded at random by the runtime. What it shuffles is no secret that
// opens anything: all it has to do is forget the order, and nothing of its state is kept.
func (s *saving) serial(k circulation.Kind) (int64, error) {
	d := s.decks[k]
	if d == nil {
		d = &deck{next: 1}
		s.decks[k] = d
	}
	if len(d.left) == 0 {
		var n int64
		err := each(s.ctx, s.op, s.db, "SELECT nextval('serials_"+strconv.Itoa(int(k))+"') FROM generate_series(1, $1)", []any{d.next}, []any{&n}, func() error {
			d.left = append(d.left, firstOf(k)+n)
			return nil
		})
		if err != nil {
			return 0, err
		}
		rand.Shuffle(len(d.left), func(i, j int) { d.left[i], d.left[j] = d.left[j], d.left[i] })
		d.next = min(2*d.next, blockSize)
	}
	n := d.left[len(d.left)-1]
	d.left = d.left[:len(d.left)-1]
	return n, nil
}

// A prepared entry is taken apart and fit to be stored.
type prepared struct {
	circulation.Parts
	facts facts
}

// A block is entries that are looked at together, and what ended the sequence behind them, if it was not its end.
type block struct {
	list     []prepared
	err      error
	panicked any
}

// run saves a sequence of entries. The next block is read and taken apart while the server is busy with the last.
func (s *saving) run(entries iter.Seq2[circulation.Entry, error]) error {
	blocks, enough := make(chan block, 1), make(chan struct{})
	go func() {
		defer close(blocks)
		var b block
		defer func() {
			b.panicked = recover() // of the sequence: it is for the one who called
			select {
			case blocks <- b:
			case <-enough:
			}
		}()
		there := map[circulation.Pointer]bool{}
		for e, err := range entries {
			var p prepared
			if err == nil {
				p, err = prepare(e)
			}
			if b.err = err; err != nil {
				return
			}
			// An entry that is about, or points at, a record of the same block begins a new one.
			self := pointer(&p)
			if there[self] || len(b.list) == blockSize || slices.ContainsFunc(p.Points, func(to circulation.Pointer) bool { return there[to] }) {
				select {
				case blocks <- b:
				case <-enough:
					return
				}
				size := 16
				if len(b.list) == blockSize {
					size = blockSize
				}
				b.list = make([]prepared, 0, size)
				clear(there)
			}
			b.list, there[self] = append(b.list, p), true
		}
	}()
	defer func() { // who calls may end the sequence when nobody reads it any more
		close(enough)
		for range blocks {
		}
	}()
	for b := range blocks {
		if err := s.look(b.list); err != nil {
			return err
		}
		if b.panicked != nil {
			panic(b.panicked)
		}
		if b.err != nil {
			return b.err
		}
	}
	return s.writePending()
}

// prepare takes an entry apart, and refuses one that PostgreSQL cannot keep.
func prepare(e circulation.Entry) (p prepared, err error) {
	if p.Parts, err = e.Parts(); err != nil {
		return p, err
	}
	p.facts = factsOf(p.Facts)
	ok := storable(p.Facts.ID) && p.facts.storable() && storable(p.Facts.Categories...)
	for _, l := range p.Links {
		ok = ok && storable(string(l.Person))
	}
	for _, x := range p.Texts {
		ok = ok && storable(x.Value)
	}
	for _, x := range p.Points {
		ok = ok && storable(x.ID)
	}
	if !ok {
		return p, fmt.Errorf("postgres: save: %s %q: %w", p.Facts.Kind, p.Facts.ID, errText)
	}
	return p, nil
}

// look goes through the block. Most entries of an import are new, or as they are stored, and what these need is asked and written for all of them together; the others are taken one by one.
func (s *saving) look(block []prepared) error {
	if len(block) == 0 {
		return nil
	}
	s.room = len(block)
	numbers, err := s.find(block)
	if err != nil {
		return err
	}
	if err := s.meet(block); err != nil {
		return err
	}
	var there []int64
	for i := range block {
		if numbers[i] != 0 && s.waiting[pointer(&block[i])] == 0 {
			there = append(there, numbers[i])
		}
	}
	stored, err := s.stored(there)
	if err != nil {
		return err
	}
	points := make(map[circulation.Pointer]aim, len(block))
	if err := s.targets(block, points); err != nil {
		return err
	}
	for i := range block {
		p := &block[i]
		if numbers[i] == 0 {
			if err := s.add(p, points); err != nil {
				return err
			}
			continue
		}
		if r := stored[numbers[i]]; r != nil && s.isStored(*p, *r, points) {
			s.saved.Same++
			continue
		}
		// What becomes of it may depend on those before it. What was read of those after it stays true: none of them points at it, or is it.
		if err := s.writePending(); err != nil {
			return err
		}
		if err := s.change(*p, numbers[i]); err != nil {
			return err
		}
	}
	if err := s.writeAdded(); err != nil {
		return err
	}
	if len(s.pending) >= mostPending {
		return s.writePending()
	}
	return nil
}

// mayLeave has Finish look whether any record names these persons.
func (s *saving) mayLeave(links []circulation.Link) error {
	var persons []int64
	for _, l := range links {
		persons = append(persons, s.people[l.Person])
	}
	if len(persons) == 0 {
		return nil
	}
	_, err := s.exec("INSERT INTO leavers SELECT * FROM unnest(CAST($1 AS bigint[]))", int64Array(persons))
	return err
}

func pointer(p *prepared) circulation.Pointer {
	return circulation.Pointer{Kind: p.Facts.Kind, ID: p.Facts.ID}
}

// find returns the numbers of the block's records, 0 for those that are new.
func (s *saving) find(block []prepared) ([]int64, error) {
	list := make([]circulation.Pointer, len(block))
	for i := range block {
		list[i] = pointer(&block[i])
	}
	return s.numbersOf(list)
}

func (s *saving) numbersOf(list []circulation.Pointer) ([]int64, error) {
	numbers := make([]int64, len(list))
	if len(list) == 0 {
		return numbers, nil
	}
	kinds, ids := make([]int, len(list)), make([]string, len(list))
	for i, p := range list {
		kinds[i], ids[i] = int(p.Kind)-1, p.ID
	}
	var i, n int64
	err := each(s.ctx, s.op, s.db, `SELECT w.i, r.n FROM unnest(CAST($1 AS bigint[]), CAST($2 AS text[])) WITH ORDINALITY AS w (kind, id, i)
		JOIN records r ON (r.n >> 40) = w.kind AND r.id = w.id`, []any{int64Array(kinds), textArray(ids)}, []any{&i, &n}, func() error {
		numbers[i-1] = n
		return nil
	})
	return numbers, err
}

// meet learns the numbers of all persons of the block.
func (s *saving) meet(block []prepared) error {
	const bound = 1 << 20
	if len(s.people) > bound {
		clear(s.people)
	}
	var missing []circulation.Borrower
	for i := range block {
		for _, l := range block[i].Links {
			if s.people[l.Person] == 0 {
				missing = append(missing, l.Person)
			}
		}
	}
	known, err := s.persons(missing, "KEY SHARE")
	for b, p := range known {
		s.people[b] = p
	}
	return err
}

// found is a record as it is stored.
type found struct {
	n                       int64
	alive                   bool  // not unlinked: it has a row in links
	returned                bool  // a fee that was unlinked and opened again
	person                  int64 // 0: nobody
	version                 int64
	facts                   facts
	companions, texts, ties string
}

// stored reads records.
func (s *saving) stored(numbers []int64) (map[int64]*found, error) {
	all := make(map[int64]*found, len(numbers))
	if len(numbers) == 0 {
		return all, nil
	}
	var r found
	dest := append([]any{&r.n, &r.alive, &r.returned, &r.person, &r.version, &r.companions, &r.texts, &r.ties}, r.facts.dest()...)
	err := each(s.ctx, s.op, s.db, findRecords, []any{int64Array(numbers)}, dest, func() error {
		one := r
		all[r.n] = &one
		return nil
	})
	return all, err
}

var findRecords = `
	SELECT r.n, l.n IS NOT NULL, l.n IS NOT NULL AND l.person IS NULL AND l.seq IS NULL, coalesce(l.person, 0), coalesce(l.version, 0),
		coalesce((SELECT string_agg(role || ' ' || person, ',' ORDER BY role, person) FROM companions c WHERE c.n = r.n), ''),
		coalesce((SELECT string_agg(field || ' ' || octet_length(value) || ' ' || value, ',' ORDER BY field) FROM personal x WHERE x.n = r.n), ''),
		coalesce((SELECT string_agg(CAST(target AS text), ',' ORDER BY target) FROM ties t WHERE t.n = r.n), ''), ` + factList("r.") + `
	FROM records r LEFT JOIN links l ON l.n = r.n WHERE r.n = ANY (CAST($1 AS bigint[]))`

// An aim is a record that an entry of the block points at.
type aim struct {
	n     int64 // 0: there is none
	alive bool  // it has a row in links
	named bool  // which names somebody
	open  bool  // it names nobody, but is not over, and was not unlinked before
}

// mayBePointedAt says whether a record may be pointed at by one that names somebody, or nobody. One that names somebody may not point at one that never did and has ended, or at a fee that was unlinked: it
// would join a person with what is anonymous.
func (x aim) mayBePointedAt(named bool) bool { return x.alive && (!named || x.named || x.open) }

// targets finds what the entries of a block point at, and keeps it from being unlinked before this transaction is committed. What the saving itself has added is linked first.
func (s *saving) targets(block []prepared, points map[circulation.Pointer]aim) error {
	var list []circulation.Pointer
	for i := range block {
		for _, x := range block[i].Points {
			if _, ok := points[x]; ok {
				continue
			}
			if s.waiting[x] != 0 {
				if err := s.writePending(); err != nil {
					return err
				}
			}
			points[x] = aim{}
			list = append(list, x)
		}
	}
	if len(list) == 0 {
		return nil
	}
	numbers, err := s.numbersOf(list)
	if err != nil {
		return err
	}
	of := make(map[int64]circulation.Pointer, len(list))
	for i, n := range numbers {
		if n != 0 {
			of[n] = list[i]
			points[list[i]] = aim{n: n}
		}
	}
	var x aim
	return each(s.ctx, s.op, s.db, `SELECT l.n, l.person IS NOT NULL, l.person IS NULL AND l.seq IS NOT NULL AND r.status <> 1
		FROM links l JOIN records r ON r.n = l.n WHERE l.n = ANY (CAST($1 AS bigint[])) ORDER BY l.n FOR UPDATE OF l`, []any{int64Array(numbers)}, []any{&x.n, &x.named, &x.open}, func() error {
		x.alive = true
		points[of[x.n]] = x
		return nil
	})
}

// ties returns the numbers of the records an entry points at, without those that name nobody any more, and how many these are.
func ties(p prepared, named bool, points map[circulation.Pointer]aim) (list []int64, dropped int, err error) {
	for _, to := range p.Points {
		switch x := points[to]; {
		case x.n == 0:
			return nil, 0, &UnknownPointerError{From: pointer(&p), To: to}
		case !x.mayBePointedAt(named):
			dropped++
		default:
			list = append(list, x.n)
		}
	}
	slices.Sort(list)
	return slices.Compact(list), dropped, nil
}

// A companion is a person beside the borrower.
type companion struct{ role, person int64 }

// links returns the person that an entry names, 0 for nobody, and those beside it.
func (s *saving) links(links []circulation.Link) (person int64, companions []companion) {
	for _, l := range links {
		if p := s.people[l.Person]; l.Role == circulation.RoleBorrower {
			person = p
		} else {
			companions = append(companions, companion{int64(l.Role), p})
		}
	}
	slices.SortFunc(companions, func(a, b companion) int { return cmp.Or(cmp.Compare(a.role, b.role), cmp.Compare(a.person, b.person)) })
	return person, slices.Compact(companions)
}

// texts returns what is kept of what was written. No sweep would ever come by and remove what was written about nobody's record.
func texts(p prepared) []circulation.Text {
	if len(p.Links) == 0 {
		return nil
	}
	slices.SortFunc(p.Texts, func(a, b circulation.Text) int { return cmp.Compare(a.Field, b.Field) })
	return p.Texts
}

// isStored reports that an entry says what is stored, so that nothing is to be done.
func (s *saving) isStored(p prepared, r found, points map[circulation.Pointer]aim) bool {
	person, companions := s.links(p.Links)
	if p.Facts.Version != "" || !r.alive || r.returned || (r.person == 0) != (person == 0) {
		return false
	}
	list, dropped, err := ties(p, person != 0, points)
	return err == nil && dropped == 0 && r.same(p.facts, person, list) && joinCompanions(companions) == r.companions && joinTexts(texts(p)) == r.texts
}

func (r *found) same(f facts, person int64, ties []int64) bool {
	return f == r.facts && person == r.person && joinNumbers(ties) == r.ties
}

// A newcomer is a record that waits to be written.
type newcomer struct {
	parts *prepared // until it is written
	newLink
}

// add takes in a new record.
func (s *saving) add(p *prepared, points map[circulation.Pointer]aim) error {
	if p.Facts.Version != "" {
		return fmt.Errorf("%w: %s %s", ErrConflict, p.Facts.Kind, p.Facts.ID)
	}
	list, dropped, err := ties(*p, len(p.Links) > 0, points)
	if err != nil {
		return err
	}
	n, err := s.serial(p.Facts.Kind)
	if err != nil {
		return err
	}
	person, companions := s.links(p.Links)
	f := p.facts
	if s.added == nil {
		s.added = make([]newcomer, 0, s.room)
	}
	s.added = append(s.added, newcomer{p, newLink{n: n, kind: p.Facts.Kind, person: person, started: f.started, item: f.item, companions: companions, texts: texts(*p), ties: list}})
	s.waiting[pointer(p)] = n
	s.saved.Added++
	s.saved.PointersDropped += dropped
	return nil
}

// writeAdded writes the new records; their links stay pending. One whose ID somebody else has saved meanwhile is there now, and is brought up to date like any other.
func (s *saving) writeAdded() error {
	if len(s.added) == 0 {
		return nil
	}
	added := make([]*newcomer, len(s.added))
	for i := range added {
		added[i] = &s.added[i]
	}
	s.added = nil
	slices.SortFunc(added, func(a, b *newcomer) int { return cmp.Compare(a.n, b.n) })
	r := rows{make([]int64, 0, len(added)), make([]string, 0, len(added)), make([]facts, 0, len(added))}
	for i := range added {
		r.add(added[i].n, added[i].parts.Facts.ID, added[i].parts.facts)
	}
	inserted, err := s.insertRecords(&r)
	if err != nil {
		return err
	}
	var late []prepared
	for _, x := range added {
		if inserted != nil && !inserted[x.n] {
			late = append(late, *x.parts)
			delete(s.waiting, pointer(x.parts))
			s.saved.Added--
			continue
		}
		x.parts = nil
		s.pending = append(s.pending, &x.newLink)
	}
	if len(late) == 0 {
		return nil
	}
	numbers, err := s.find(late)
	if err != nil {
		return err
	}
	if err := s.writePending(); err != nil {
		return err
	}
	for i, p := range late {
		if numbers[i] == 0 { // and is gone again
			return &Error{Op: s.op, State: codeSerialize}
		}
		if err := s.change(p, numbers[i]); err != nil {
			return err
		}
	}
	return nil
}

// change brings a record up to date that is there.
func (s *saving) change(p prepared, n int64) error {
	r, err := s.take(n)
	if err != nil {
		return err
	}
	f := p.Facts
	if f.Version != "" {
		if ok, err := s.is(f, r); err != nil {
			return err
		} else if !ok {
			return fmt.Errorf("%w: %s %s", ErrConflict, f.Kind, f.ID)
		}
	}
	if err := s.meet([]prepared{p}); err != nil {
		return err
	}
	points := map[circulation.Pointer]aim{}
	if err := s.targets([]prepared{p}, points); err != nil {
		return err
	}
	named := len(p.Links) > 0
	if !r.alive || r.person == 0 && named { // the persons' rows may have been made for nothing
		if err := s.mayLeave(p.Links); err != nil {
			return err
		}
	}
	switch {
	case f.Kind == circulation.KindFee && (!r.alive || r.returned || r.person == 0 && named):
		s.saved.AlreadyUnlinked++
		return s.nobodys(p, r, points)
	case !r.alive, r.person == 0 && named:
		s.saved.AlreadyUnlinked++
		return nil
	case r.person != 0 && !named:
		return s.nameless(p, r, points)
	}
	list, dropped, err := ties(p, named, points)
	if err != nil {
		return err
	}
	s.saved.PointersDropped += dropped
	person, companions := s.links(p.Links)
	return s.replace(f.Kind, r, factsOf(f), person, companions, texts(p), list)
}

// take reads a record and keeps others from changing it. Whoever changes one takes its link or, if there is none, the record.
func (s *saving) take(n int64) (found, error) {
	for _, query := range []string{
		"SELECT n FROM links WHERE n = $1 FOR UPDATE",
		"SELECT n FROM records WHERE n = $1 FOR UPDATE",
		"SELECT n FROM links WHERE n = $1 FOR UPDATE",
	} {
		var got int64
		if ok, err := s.get(query, []any{n}, &got); err != nil {
			return found{}, err
		} else if ok && strings.Contains(query, "links") {
			break
		}
	}
	all, err := s.stored([]int64{n})
	if err != nil {
		return found{}, err
	}
	if all[n] == nil {
		return found{}, &Error{Op: s.op, State: codeSerialize}
	}
	return *all[n], nil
}

// is reports whether the stored record is still what the facts' version says was read.
func (s *saving) is(f circulation.Facts, r found) (bool, error) {
	v, ok := parseToken(f.Version, "")
	if !ok || !r.alive || v.n != r.n || v.id != checksum(f.ID) || v.version != r.version {
		return false, nil
	}
	var changed bool
	_, err := s.get("SELECT EXISTS (SELECT FROM persons WHERE p = $2 AND "+hasChanged+")", []any{v.snapshot, r.person}, &changed)
	return !changed, err
}

func (s *saving) replace(k circulation.Kind, r found, f facts, person int64, companions []companion, texts []circulation.Text, ties []int64) error {
	sameBeside := joinCompanions(companions) == r.companions && joinTexts(texts) == r.texts
	if sameBeside && r.same(f, person, ties) {
		s.saved.Same++
		return nil
	}
	if err := s.refresh(k, r, f, person, ties); err != nil {
		return err
	}
	if !sameBeside {
		if _, err := s.exec("WITH gone AS (DELETE FROM companions WHERE n = $1 RETURNING person) INSERT INTO leavers SELECT person FROM gone", r.n); err != nil {
			return err
		}
		if _, err := s.exec("DELETE FROM personal WHERE n = $1", r.n); err != nil {
			return err
		}
		if err := s.beside([]*newLink{{n: r.n, companions: companions, texts: texts}}); err != nil {
			return err
		}
	}
	s.saved.Updated++
	return nil
}

// beside writes the rows of the small tables.
func (s *saving) beside(list []*newLink) error {
	var companionN, companionRole, companionPerson, textN, textField, tieN, tieTarget []int64
	var values []string
	for _, x := range list {
		for _, c := range x.companions {
			companionN, companionRole, companionPerson = append(companionN, x.n), append(companionRole, c.role), append(companionPerson, c.person)
		}
		for _, t := range x.texts {
			textN, textField, values = append(textN, x.n), append(textField, int64(t.Field)), append(values, t.Value)
		}
		for _, t := range x.ties {
			tieN, tieTarget = append(tieN, x.n), append(tieTarget, t)
		}
	}
	if len(companionN) > 0 {
		_, err := s.exec("INSERT INTO companions (n, role, person) SELECT * FROM unnest(CAST($1 AS bigint[]), CAST($2 AS smallint[]), CAST($3 AS bigint[]))",
			int64Array(companionN), int64Array(companionRole), int64Array(companionPerson))
		if err != nil {
			return err
		}
	}
	if len(textN) > 0 {
		if err := s.fresh(values...); err != nil {
			return err
		}
		_, err := s.exec("INSERT INTO personal (n, field, value) SELECT * FROM unnest(CAST($1 AS bigint[]), CAST($2 AS smallint[]), CAST($3 AS text[]))",
			int64Array(textN), int64Array(textField), textArray(values))
		if err != nil {
			return err
		}
	}
	if len(tieN) > 0 {
		_, err := s.exec("INSERT INTO ties (n, target) SELECT * FROM unnest(CAST($1 AS bigint[]), CAST($2 AS bigint[]))", int64Array(tieN), int64Array(tieTarget))
		return err
	}
	return nil
}

// touch gives the loans of a fee a new version: rules look at their fees.
func (s *saving) touch(loans []int64) error {
	if len(loans) == 0 {
		return nil
	}
	_, err := s.exec("UPDATE links SET version = version + 1, plan = 0, next = 0 WHERE n = ANY (CAST($1 AS bigint[]))", int64Array(loans))
	return err
}

// refresh gives a record that has a link new facts, another borrower and other ties, and a new version.
func (s *saving) refresh(k circulation.Kind, r found, f facts, person int64, ties []int64) error {
	moved := f.started != r.facts.started
	ofPerson, ofItem := moved || person != r.person, moved || f.item != r.facts.item
	if k != circulation.KindLoan {
		ofPerson, ofItem = false, false
	}
	if err := s.uncount(r, f, ofPerson, ofItem); err != nil {
		return err
	}
	if f != r.facts {
		var one rows
		one.add(r.n, "", f)
		if err := s.updateRecords(&one); err != nil {
			return err
		}
	}
	if _, err := s.exec("UPDATE links SET person = nullif(CAST($2 AS bigint), 0), version = version + 1, plan = 0, next = 0 WHERE n = $1", r.n, person); err != nil {
		return err
	}
	if person != r.person && r.person != 0 {
		if _, err := s.exec("INSERT INTO leavers VALUES ($1)", r.person); err != nil {
			return err
		}
	}
	if joinNumbers(ties) != r.ties {
		if _, err := s.exec("DELETE FROM ties WHERE n = $1", r.n); err != nil {
			return err
		}
		if err := s.beside([]*newLink{{n: r.n, ties: ties}}); err != nil {
			return err
		}
	}
	if person == 0 && f.status == int64(circulation.Ended) { // see mayBePointedAt
		if _, err := s.exec(partNamed, r.n); err != nil {
			return err
		}
	}
	if k == circulation.KindFee {
		if err := s.touch(append(splitNumbers(r.ties), ties...)); err != nil {
			return err
		}
	}
	return s.countAgain(r.n, f, person, ofPerson, ofItem)
}

// partNamed removes the pointers of records that name somebody at a record that does not.
const partNamed = `
	DELETE FROM ties WHERE target = $1 AND n IN (
		SELECT t.n FROM ties t JOIN links l ON l.n = t.n WHERE t.target = $1 AND l.person IS NOT NULL)`

// nameless unlinks a record that its own library system no longer knows the borrower of, if no exception
// protects it. What does not say who it is about is brought up to date in either case.
func (s *saving) nameless(p prepared, r found, points map[circulation.Pointer]aim) error {
	// Who unlinks must see all holds: see Unlink.
	if _, err := s.exec("LOCK TABLE holds IN SHARE MODE"); err != nil {
		return err
	}
	var kept bool
	if _, err := s.get(keepsLink, []any{r.n, r.person, time.Now().UnixMicro()}, &kept); err != nil {
		return err
	}
	f := p.facts
	fee := p.Facts.Kind == circulation.KindFee
	if kept || p.Facts.Status != circulation.Ended || f.lost || f.claimedReturned || fee && p.Facts.FeeStatus != circulation.FeeClosed {
		s.saved.KeptLinked++
		list, dropped, err := ties(p, true, points)
		s.saved.PointersDropped += dropped
		if err != nil || r.same(f, r.person, list) {
			return err
		}
		return s.refresh(p.Facts.Kind, r, f, r.person, list)
	}
	var one rows
	one.add(r.n, "", f)
	if err := s.updateRecords(&one); err != nil {
		return err
	}
	s.saved.Updated++
	return s.leave(p.Facts.Kind, r)
}

// keepsLink says whether something beside the record protects it: a fee of the loan, or a hold on the borrower.
const keepsLink = `
	SELECT EXISTS (SELECT FROM ties t JOIN records f ON f.n = t.n
		WHERE t.target = $1 AND (f.fee_status <> 2 OR f.n >> 40 = 3 AND f.fee_status IS NULL))
	OR EXISTS (SELECT FROM holds WHERE person = $2 AND (until IS NULL OR until > $3))`

// leave deletes the link of a record and all that goes with it.
func (s *saving) leave(k circulation.Kind, r found) error {
	if _, err := s.exec("WITH gone AS (DELETE FROM links WHERE n = $1 RETURNING person) INSERT INTO leavers SELECT person FROM gone WHERE person IS NOT NULL", r.n); err != nil {
		return err
	}
	if k == circulation.KindFee {
		if err := s.touch(splitNumbers(r.ties)); err != nil {
			return err
		}
	}
	return s.strip(k, []int64{r.n})
}

// nobodys brings a fee up to date that names nobody and must not come to: as long as it is owed, it protects
// its loan. One that was unlinked gets a link without a person for that time, and a tie to the loan.
func (s *saving) nobodys(p prepared, r found, points map[circulation.Pointer]aim) error {
	closed := p.Facts.FeeStatus == circulation.FeeClosed
	if !r.alive && closed {
		return nil
	}
	unlinked := !r.alive || r.returned
	list, dropped, err := ties(p, unlinked, points)
	if err != nil {
		if !r.alive {
			return nil // what it points at is not known: there is nothing to protect
		}
		return err
	}
	s.saved.PointersDropped += dropped
	if !r.alive && len(list) == 0 {
		return nil // there is nothing to protect
	}
	f := p.facts
	if unlinked {
		// What a policy's keep-fields took from the fee does not come back.
		all := f
		f = r.facts
		f.settle(all)
	}
	if !r.alive {
		// The loan remembers this fee as closed, if keep-fields left enough to tell.
		for _, loan := range list {
			_, err := s.exec(`DELETE FROM fee_summaries WHERE ctid = (SELECT ctid FROM fee_summaries
				WHERE loan = $1 AND status = $2 AND closed IS NOT DISTINCT FROM nullif($3::bigint, -9223372036854775808) AND method = $4 LIMIT 1)`,
				loan, r.facts.feeStatus, r.facts.ended, r.facts.method)
			if err != nil {
				return err
			}
		}
		if _, err := s.exec("INSERT INTO links (n, item_seq) VALUES ($1, 0)", r.n); err != nil {
			return err
		}
	}
	if r.alive && r.same(f, 0, list) {
		return nil
	}
	if err := s.refresh(p.Facts.Kind, r, f, 0, list); err != nil || !r.returned || !closed {
		return err
	}
	r.ties = joinNumbers(list)
	return s.leave(p.Facts.Kind, r)
}

// The three join functions write rows of the small tables as findRecords does, to be compared.

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

package postgres

import (
	"cmp"
	"maps"
	"slices"

	"github.com/carrel-project/carrel/circulation"
)

// How newer loans are counted.
//
// A linked loan carries seq: how many of its borrower's loans, ever, started no later than it did; the borrower's row carries how many there were in all. The difference is the number of newer
// loans. When a loan is unlinked neither changes, so the count does not depend on what was unlinked before.
//
// A loan that arrives late, with an earlier start than some that are there, raises the seq of all that are newer. Where among the unlinked ones it belongs cannot be known: those between its
// neighbours count as older. In terms of u = seq minus the rank among the linked loans, which is the number of unlinked ones that started no later: a new loan takes the u of the next newer
// linked loan, or that of the end if there is none, and then every seq is u plus the new rank.
//
// All of this is done for many new loans at once, whose links are written together with their counts, and for items in the same way.

// A newLink is a link that is not written yet, with the rows of the small tables beside it. What is about counts is only used of loans.
type newLink struct {
	n            int64
	kind         circulation.Kind
	person       int64 // 0: nobody
	started      int64
	item         string
	companions   []companion
	texts        []circulation.Text
	ties         []int64
	seq, itemSeq int64
}

// A standing is a loan in the line of its borrower's or its item's loans.
type standing struct {
	n, started, seq int64
}

// renumber returns the line with the newcomers in it, and what of it that was there changes. There are those that are linked, in order of their start, of so many that there ever were; the newcomers' seqs are set.
func renumber(there []standing, total int64, newcomers []*standing) (changed []standing) {
	byStart := func(a, b standing) int { return cmp.Compare(a.started, b.started) }
	slices.SortFunc(there, byStart)
	slices.SortFunc(newcomers, func(a, b *standing) int { return cmp.Compare(a.started, b.started) })
	// unlinked[i] is the least u of there[i:].
	unlinked := make([]int64, len(there)+1)
	unlinked[len(there)] = total - int64(len(there))
	for i, rank := len(there)-1, len(there); i >= 0; i-- {
		if i+1 < len(there) && there[i].started != there[i+1].started {
			rank = i + 1
		}
		u := there[i].seq - int64(rank)
		if i+1 < len(there) {
			u = min(u, unlinked[i+1])
		}
		unlinked[i] = u
	}
	seq := func(started int64) int64 {
		before := func(x standing, t int64) int { return cmp.Compare(x.started, t) }
		first, _ := slices.BinarySearchFunc(there, started, before)
		after := first
		for after < len(there) && there[after].started == started {
			after++
		}
		new, _ := slices.BinarySearchFunc(newcomers, started+1, func(x *standing, t int64) int { return cmp.Compare(x.started, t) })
		return unlinked[first] + int64(after+new)
	}
	for _, x := range newcomers {
		x.seq = seq(x.started)
	}
	for _, x := range there {
		if now := seq(x.started); now != x.seq {
			x.seq = now
			changed = append(changed, x)
		}
	}
	return changed
}

// writePending writes all that waits: the new records, their counts, links, and what is beside them.
func (s *saving) writePending() error {
	if err := s.writeAdded(); err != nil {
		return err
	}
	if len(s.pending) == 0 {
		return nil
	}
	pending := s.pending
	s.pending = nil
	clear(s.waiting)
	slices.SortFunc(pending, func(a, b *newLink) int { return cmp.Compare(a.n, b.n) })
	var loans []*newLink
	for i := range pending {
		if pending[i].kind == circulation.KindLoan {
			loans = append(loans, pending[i])
		}
	}
	if err := s.count(loans, true, true); err != nil {
		return err
	}
	for some := range slices.Chunk(pending, blockSize) {
		if err := s.link(some); err != nil {
			return err
		}
	}
	return nil
}

func (s *saving) link(some []*newLink) error {
	numbers, persons, seqs, itemSeqs := make([]int64, len(some)), make([]int64, len(some)), make([]int64, len(some)), make([]int64, len(some))
	var loans []int64
	for i, x := range some {
		numbers[i], persons[i], seqs[i], itemSeqs[i] = x.n, x.person, x.seq, x.itemSeq
		if x.person == 0 {
			persons[i] = none
		}
		if x.kind == circulation.KindFee {
			loans = append(loans, x.ties...)
		}
	}
	_, err := s.exec(`INSERT INTO links (n, person, seq, item_seq)
		SELECT * FROM unnest(CAST($1 AS bigint[]), CAST($2 AS bigint[]), CAST($3 AS integer[]), CAST($4 AS integer[]))`,
		int64Array(numbers), int64Array(persons), int64Array(seqs), int64Array(itemSeqs))
	if err != nil {
		return err
	}
	if err := s.beside(some); err != nil {
		return err
	}
	return s.touch(loans)
}

// count gives loans their places among those of their borrowers and items.
func (s *saving) count(loans []*newLink, ofPersons, ofItems bool) error {
	if ofPersons {
		err := count(s.tx, loans, counting[int64]{
			owner: func(x *newLink) int64 { return x.person },
			set:   func(x *newLink, seq int64) { x.seq = seq },
			array: int64Array[int64],
			lock:  "SELECT p, loans FROM persons WHERE p = ANY (CAST($1 AS bigint[])) ORDER BY p FOR NO KEY UPDATE",
			there: `SELECT l.person, l.n, coalesce(r.started, -9223372036854775808), l.seq FROM links l JOIN records r ON r.n = l.n
				WHERE l.person = ANY (CAST($1 AS bigint[])) AND l.n < 1099511627776 AND l.seq IS NOT NULL`,
			renumber: "UPDATE links SET seq = u.seq FROM unnest(CAST($1 AS bigint[]), CAST($2 AS integer[])) AS u (n, seq) WHERE links.n = u.n",
			raise: `UPDATE persons SET loans = loans + u.more, fresh = fresh | 2, counted = pg_current_xact_id()
				FROM unnest(CAST($1 AS bigint[]), CAST($2 AS integer[])) AS u (p, more) WHERE persons.p = u.p`,
		})
		if err != nil {
			return err
		}
	}
	if !ofItems {
		return nil
	}
	return count(s.tx, loans, counting[string]{
		owner: func(x *newLink) string { return x.item },
		set:   func(x *newLink, seq int64) { x.itemSeq = seq },
		array: textArray,
		create: `INSERT INTO items (item, loans, counted) SELECT u.item, u.more, '3' FROM unnest(CAST($1 AS text[]), CAST($2 AS integer[])) AS u (item, more)
			ON CONFLICT DO NOTHING RETURNING item`,
		lock: "SELECT item, loans FROM items WHERE item = ANY (CAST($1 AS text[])) ORDER BY item FOR NO KEY UPDATE",
		there: `SELECT r.item, l.n, coalesce(r.started, -9223372036854775808), l.item_seq FROM records r JOIN links l ON l.n = r.n
			WHERE r.item = ANY (CAST($1 AS text[])) AND r.item <> '' AND r.n < 1099511627776 AND l.item_seq IS NOT NULL`,
		renumber: "UPDATE links SET item_seq = u.seq FROM unnest(CAST($1 AS bigint[]), CAST($2 AS integer[])) AS u (n, seq) WHERE links.n = u.n",
		// An item that this transaction made or marked itself needs no mark: no older loan of it was read by anybody.
		raise: `UPDATE items SET loans = loans + u.more, fresh = fresh OR ` + notOurs + `, counted = CASE WHEN ` + notOurs + ` THEN pg_current_xact_id() ELSE counted END
			FROM unnest(CAST($1 AS text[]), CAST($2 AS integer[])) AS u (item, more) WHERE items.item = u.item`,
	})
}

// notOurs holds for a row that was last written by another transaction, or under another savepoint.
const notOurs = "items.xmin <> CAST(pg_current_xact_id() AS xid)"

// counting says how loans are counted by their owners: borrowers, or items.
type counting[K cmp.Ordered] struct {
	owner func(*newLink) K // its zero value: it has none
	set   func(x *newLink, seq int64)
	array func([]K) string

	create   string // makes the rows of owners that have none, and returns whose these are
	lock     string // takes their rows, in order, and returns how many loans they ever had
	there    string // the linked loans that they have
	renumber string // moves some of these
	raise    string // adds to how many they ever had
}

// someOwners is how many owners' loans are in memory at once.
const someOwners = 20_000

func count[K cmp.Ordered](t *tx, loans []*newLink, c counting[K]) error {
	of := map[K][]*newLink{}
	var nobody K
	for _, x := range loans {
		if owner := c.owner(x); owner != nobody {
			of[owner] = append(of[owner], x)
		}
	}
	// In order, so that of two who count the same ones neither waits for one who waits for it.
	for owners := range slices.Chunk(slices.Sorted(maps.Keys(of)), someOwners) {
		if err := countSome(t, owners, of, c); err != nil {
			return err
		}
	}
	return nil
}

func countSome[K cmp.Ordered](t *tx, owners []K, of map[K][]*newLink, c counting[K]) error {
	var owner K
	old := owners // that have a row
	if c.create != "" {
		created := map[K]bool{}
		more := make([]int, len(owners))
		for i, owner := range owners {
			more[i] = len(of[owner])
		}
		err := each(t.ctx, t.op, t.db, c.create, []any{c.array(owners), int64Array(more)}, []any{&owner}, func() error {
			created[owner] = true
			return nil
		})
		if err != nil {
			return err
		}
		old = slices.DeleteFunc(slices.Clone(owners), func(owner K) bool { return created[owner] })
	}
	totals := make(map[K]int64, len(old))
	var total int64
	var known []K // that have had loans
	if len(old) > 0 {
		err := each(t.ctx, t.op, t.db, c.lock, []any{c.array(old)}, []any{&owner, &total}, func() error {
			if totals[owner] = total; total > 0 {
				known = append(known, owner)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	there := map[K][]standing{}
	if len(known) > 0 {
		var x standing
		err := each(t.ctx, t.op, t.db, c.there, []any{c.array(known)}, []any{&owner, &x.n, &x.started, &x.seq}, func() error {
			there[owner] = append(there[owner], x)
			return nil
		})
		if err != nil {
			return err
		}
	}
	var numbers, seqs []int64
	for _, owner := range owners {
		newcomers := make([]*standing, len(of[owner]))
		for j, x := range of[owner] {
			newcomers[j] = &standing{started: x.started}
		}
		for _, x := range renumber(there[owner], totals[owner], slices.Clone(newcomers)) {
			numbers, seqs = append(numbers, x.n), append(seqs, x.seq)
		}
		for j, x := range of[owner] {
			c.set(x, newcomers[j].seq)
		}
	}
	if len(numbers) > 0 {
		if _, err := t.exec(c.renumber, int64Array(numbers), int64Array(seqs)); err != nil {
			return err
		}
	}
	if len(old) == 0 {
		return nil
	}
	more := make([]int, len(old))
	for i, owner := range old {
		more[i] = len(of[owner])
	}
	_, err := t.exec(c.raise, c.array(old), int64Array(more))
	return err
}

// uncount takes a loan out of the counts of its borrower, its item or both, before its facts change to f. It is to be counted anew after that: see countAgain.
func (s *saving) uncount(r found, f facts, ofPerson, ofItem bool) error {
	if ofPerson && r.person != 0 {
		_, err := s.exec(`UPDATE links SET seq = CASE WHEN links.n <> $2 THEN seq - 1 END FROM records r
			WHERE links.person = $1 AND links.n < 1099511627776 AND r.n = links.n AND (coalesce(r.started, -9223372036854775808) >= $3 OR r.n = $2)`,
			r.person, r.n, r.facts.started)
		if err != nil {
			return err
		}
		// The borrower's other loans may have fewer newer ones now: what was read of them is out of date.
		if _, err := s.exec("UPDATE persons SET loans = loans - 1, fresh = fresh | 3, counted = pg_current_xact_id(), changed = pg_current_xact_id() WHERE p = $1", r.person); err != nil {
			return err
		}
	}
	if !ofItem {
		return nil
	}
	if r.facts.item != "" {
		// The older ones have fewer newer ones now: what was read of them is out of date.
		_, err := s.exec(`UPDATE links SET item_seq = item_seq - CASE WHEN coalesce(r.started, -9223372036854775808) >= $3 THEN 1 ELSE 0 END, version = version + 1, plan = 0, next = 0
			FROM records r WHERE r.item = $1 AND r.item <> '' AND r.n < 1099511627776 AND links.n = r.n AND links.n <> $2`, r.facts.item, r.n, r.facts.started)
		if err != nil {
			return err
		}
		if _, err := s.exec("UPDATE items SET loans = loans - 1, fresh = true, counted = pg_current_xact_id() WHERE item = $1", r.facts.item); err != nil {
			return err
		}
	}
	_, err := s.exec("UPDATE links SET item_seq = CASE WHEN $2 THEN 0 END WHERE n = $1", r.n, f.item == "")
	return err
}

// countAgain counts a loan that was taken out of the counts.
func (s *saving) countAgain(n int64, f facts, person int64, ofPerson, ofItem bool) error {
	x := newLink{n: n, person: person, started: f.started, item: f.item}
	if err := s.count([]*newLink{&x}, ofPerson, ofItem); err != nil {
		return err
	}
	if ofPerson && person != 0 {
		if _, err := s.exec("UPDATE links SET seq = $2 WHERE n = $1", n, x.seq); err != nil {
			return err
		}
	}
	if ofItem && f.item != "" {
		_, err := s.exec("UPDATE links SET item_seq = $2 WHERE n = $1", n, x.itemSeq)
		return err
	}
	return nil
}

package sqlite

import (
	"strings"

	"github.com/carrel-project/carrel/anonymize"
)

// How newer loans are counted.
//
// A linked loan carries seq: how many of its borrower's loans, ever, started no later than it did; the
// borrower's row carries how many there were in all. The difference is the number of newer loans. When a
// loan is unlinked neither changes, so the count does not depend on what was unlinked before.
//
// A loan that arrives late, with an earlier start than some that are there, raises the seq of all that
// are newer. Where among the unlinked ones it belongs cannot be known: those between its neighbours count
// as older. In terms of u = seq minus the rank among the linked loans, which is the number of unlinked ones
// that started no later: a new loan takes the u of the next newer linked loan, or that of the end if there
// is none, and then every seq is u plus the new rank.
//
// All of this is done once, at the end of a Save, for the borrowers whose loans it added or moved, and
// for items in the same way. Loans that wait for it have a seq of NULL.

// recount holds the loans that were there before and must be counted as if they were new.
type recount struct{ persons, items []int64 }

// uncount takes a loan out of the counts of its borrower, its item or both, before its facts change to values.
func (s *saving) uncount(r found, values []any, ofPerson, ofItem bool) error {
	start := any(int64(unknownStart))
	if r.values[columnStarted] != nil {
		start = r.values[columnStarted]
	}
	if ofPerson && r.person != nil {
		counted, err := s.exec("UPDATE links SET seq = NULL WHERE n = ? AND seq IS NOT NULL", r.n)
		if err != nil {
			return err
		}
		s.recount.persons = append(s.recount.persons, r.n)
		if counted > 0 { // else it came with this Save, too, and is in no count yet
			if _, err := s.exec(olderByPerson, r.person, start, unknownStart); err != nil {
				return err
			}
			// The borrower's other loans may have fewer newer ones now: what was read of them is out of date.
			if _, err := s.exec("UPDATE persons SET loans = loans - 1, version = ? WHERE p = ?", s.change, r.person); err != nil {
				return err
			}
		}
	}
	item := text(r.values[columnItem])
	if !ofItem {
		return nil
	}
	if item != "" {
		counted, err := s.exec("UPDATE links SET item_seq = NULL WHERE n = ? AND item_seq IS NOT NULL", r.n)
		if err != nil {
			return err
		}
		if counted > 0 {
			if _, err := s.exec(olderOfItem, item, start, unknownStart); err != nil {
				return err
			}
			if _, err := s.exec("UPDATE items SET loans = loans - 1"+s.stir(anonymize.NeedNewerOfItem)+" WHERE item = ?", item); err != nil {
				return err
			}
		}
	}
	if text(values[columnItem]) == "" {
		_, err := s.exec("UPDATE links SET item_seq = 0 WHERE n = ?", r.n)
		return err
	}
	s.recount.items = append(s.recount.items, r.n)
	_, err := s.exec("UPDATE links SET item_seq = NULL WHERE n = ?", r.n)
	return err
}

// stir says, in an UPDATE, that loans sleep no longer than until the next sweep, if the plan in force asks how many newer ones there are. A later plan
// that does is another one, and under that everything is read in any case.
func (s *saving) stir(need anonymize.Needs) string {
	if s.needs&need == 0 {
		return ""
	}
	return ", stirred = 1"
}

// blocks are the blocks of the index links_person that hold loans.
const blocks = `
	WITH RECURSIVE blocks (block) AS (
		SELECT 0 UNION ALL SELECT block + 1 FROM blocks WHERE block < (SELECT last >> 16 FROM serials WHERE kind = 1))`

const olderByPerson = `
	UPDATE links SET seq = seq - 1 WHERE n IN (` + blocks + `
		SELECT l.n FROM blocks b CROSS JOIN links l INDEXED BY links_person ON l.n >> 16 = b.block AND l.person = ?1
		CROSS JOIN records r ON r.n = l.n
		WHERE l.seq IS NOT NULL AND l.n < 1 << 40 AND COALESCE(r.started, ?3) >= ?2)`

const olderOfItem = `
	UPDATE links SET item_seq = item_seq - 1 WHERE n IN (
		SELECT r.n FROM records r INDEXED BY records_item CROSS JOIN links l ON l.n = r.n
		WHERE r.item = ?1 AND r.item <> '' AND r.n < 1 << 40
		AND l.item_seq IS NOT NULL AND COALESCE(r.started, ?3) >= ?2)`

// count gives every loan that waits for it its seq, and brings the totals up to date.
func (s *saving) count() error {
	changed := s.newLoans <= firstOf(1)+s.serials[1]
	if changed || len(s.recount.persons) > 0 {
		if err := s.countPersons(); err != nil {
			return err
		}
	}
	if changed || len(s.recount.items) > 0 {
		return s.countItems()
	}
	return nil
}

func (s *saving) countPersons() error {
	waiting := []any{s.newLoans, list(s.recount.persons), unknownStart}
	var touched, numbers int64
	if err := s.get("SELECT count(DISTINCT person) FROM "+waitingPersons, waiting[:2], &touched); err != nil {
		return err
	}
	if err := s.get("SELECT last FROM serials WHERE kind = 1", nil, &numbers); err != nil {
		return err
	}
	// A few borrowers are looked up in each block of the index; for many, reading all links once is faster.
	source := `links l WHERE l.n < 1 << 40 AND l.person IN (SELECT person FROM ` + waitingPersons + `)`
	if touched*(numbers>>16+1)*4 < numbers {
		source = `(SELECT DISTINCT person FROM ` + waitingPersons + `) w CROSS JOIN blocks b
			CROSS JOIN links l INDEXED BY links_person ON l.n >> 16 = b.block AND l.person = w.person WHERE l.n < 1 << 40`
	}
	numbered := blocks + `, mine AS (
		SELECT l.n, l.person AS owner, l.seq FROM ` + source + `)` + renumbered
	numbered = strings.ReplaceAll(numbered, "$total", "(SELECT p.loans FROM persons p WHERE p.p = owner)")
	if _, err := s.exec("UPDATE links SET seq = x.seq FROM ("+numbered+") x WHERE links.n = x.n AND links.seq IS NOT x.seq", waiting...); err != nil {
		return err
	}
	_, err := s.exec(`UPDATE persons SET loans = loans + x.more`+s.stir(anonymize.NeedNewerByBorrower)+`
		FROM (SELECT person, count(*) AS more FROM `+waitingPersons+` GROUP BY person) x WHERE p = x.person`, waiting[:2]...)
	return err
}

// waitingPersons has a row for every loan that waits: from number ?1 on, or among ?2.
const waitingPersons = `(
	SELECT n, person FROM links WHERE n >= ?1 AND n < 1 << 40 AND person IS NOT NULL
	UNION ALL SELECT n, person FROM links WHERE n IN (SELECT value FROM json_each(?2)) AND n < ?1 AND person IS NOT NULL)`

const waitingItems = `(
	SELECT r.n, r.item FROM links l CROSS JOIN records r ON r.n = l.n WHERE l.n >= ?1 AND l.n < 1 << 40 AND r.item <> ''
	UNION ALL SELECT r.n, r.item FROM links l CROSS JOIN records r ON r.n = l.n
		WHERE l.n IN (SELECT value FROM json_each(?2)) AND l.n < ?1 AND r.item <> '')`

// renumbered computes the new seq of all loans in mine (n, owner, seq) from the old ones, as told above.
const renumbered = `,
	ranked AS (
		SELECT m.n, owner, COALESCE(r.started, ?3) AS started,
			seq - count(seq) OVER (PARTITION BY owner ORDER BY COALESCE(r.started, ?3)) AS u,
			count(*) OVER (PARTITION BY owner ORDER BY COALESCE(r.started, ?3)) AS rank,
			count(seq) OVER (PARTITION BY owner) AS linked
		FROM mine m CROSS JOIN records r ON r.n = m.n)
	SELECT n, rank + COALESCE(
		min(u) OVER (PARTITION BY owner ORDER BY started DESC),
		$total - linked) AS seq
	FROM ranked`

func (s *saving) countItems() error {
	waiting := []any{s.newLoans, list(s.recount.items), unknownStart}
	if _, err := s.exec("INSERT OR IGNORE INTO items (item) SELECT DISTINCT item FROM "+waitingItems, waiting[:2]...); err != nil {
		return err
	}
	numbered := `
		WITH mine AS (
			SELECT l.n, r.item AS owner, l.item_seq AS seq FROM (SELECT DISTINCT item FROM ` + waitingItems + `) w
			CROSS JOIN records r INDEXED BY records_item ON r.item = w.item AND r.item <> '' AND r.n < 1 << 40
			CROSS JOIN links l ON l.n = r.n)` + renumbered
	numbered = strings.ReplaceAll(numbered, "$total", "(SELECT i.loans FROM items i WHERE i.item = owner)")
	if _, err := s.exec("UPDATE links SET item_seq = x.seq FROM ("+numbered+") x WHERE links.n = x.n AND links.item_seq IS NOT x.seq", waiting...); err != nil {
		return err
	}
	_, err := s.exec(`UPDATE items SET loans = loans + x.more`+s.stir(anonymize.NeedNewerOfItem)+`
		FROM (SELECT item AS waiting, count(*) AS more FROM `+waitingItems+` GROUP BY item) x WHERE item = x.waiting`, waiting[:2]...)
	return err
}

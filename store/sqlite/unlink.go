package sqlite

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/internal/receipt"
)

// errSome says that not all targets could be unlinked, so that it has to be found out which.
var errSome = errors.New("sqlite: some records were changed since they were read")

// Unlink implements anonymize.Store.
//
// It first deletes the links of all targets that are not protected, and compares the number of rows that
// went with theirs. Only if some stayed, it starts again, and asks which are unchanged before it deletes:
// conflicts are rare, and looking for them first would mean reading every link twice.
func (c *Circulation) Unlink(ctx context.Context, b anonymize.Batch) ([]string, error) {
	targets, unreadable := understand(&b)
	var conflicts []string
	try := func(look bool) error {
		return c.write(ctx, "unlink", func(t *tx) error {
			conflicts = slices.Clone(unreadable)
			rest, err := t.without(targets, &conflicts, func() (map[int64]bool, error) { return t.protected(targets) })
			if err == nil && look {
				rest, err = t.without(rest, &conflicts, func() (map[int64]bool, error) { return t.changed(b, rest) })
			}
			if err != nil {
				return err
			}
			if err := t.unlink(b, rest, conflicts); err != nil || c.trail == nil {
				return err
			}
			entry, err := c.trail.Prepare(ctx, receipt.Event(c.by, b.Receipt(conflicts)))
			if err != nil {
				return err
			}
			return t.appendEntries([]audit.Entry{entry})
		})
	}
	err := try(false)
	if errors.Is(err, errSome) {
		err = try(true)
	}
	if err != nil {
		return nil, err
	}
	return conflicts, nil
}

// A target is a record to unlink and what its version says.
type target struct {
	token
	ID string
}

// understand reads the versions of a batch into targets ascending by number. Unreadable are the IDs whose
// version is none of that record's. A target that the batch names twice is dropped from it, or the
// receipt would count it twice.
func understand(b *anonymize.Batch) (targets []target, unreadable []string) {
	targets = make([]target, 0, len(b.Targets))
	for _, t := range b.Targets {
		v, ok := parseToken(t.Version)
		if !ok || v.id != checksum(t.ID) || v.n < firstOf(b.Kind) || v.n > lastOf(b.Kind) {
			unreadable = append(unreadable, t.ID)
			continue
		}
		targets = append(targets, target{v, t.ID})
	}
	byNumber := func(a, b target) int { return cmp.Compare(a.n, b.n) }
	if !slices.IsSortedFunc(targets, byNumber) {
		slices.SortStableFunc(targets, byNumber)
	}
	targets = slices.CompactFunc(targets, func(a, b target) bool { return a.n == b.n })
	if len(targets) == len(b.Targets) {
		return targets, nil // the usual case: nothing unreadable and nothing twice
	}
	seen := make(map[string]bool, len(b.Targets))
	once := func(id string) bool {
		defer func() { seen[id] = true }()
		return !seen[id]
	}
	var named []anonymize.Target
	for _, t := range b.Targets {
		if once(t.ID) {
			named = append(named, t)
		}
	}
	b.Targets = named
	clear(seen)
	for _, t := range targets {
		seen[t.ID] = true
	}
	return targets, slices.DeleteFunc(unreadable, func(id string) bool { return !once(id) })
}

// without splits targets: the IDs of those whose numbers find returns become conflicts.
func (t *tx) without(targets []target, conflicts *[]string, find func() (map[int64]bool, error)) ([]target, error) {
	if len(targets) == 0 {
		return nil, nil
	}
	found, err := find()
	if err != nil || len(found) == 0 {
		return targets, err
	}
	rest := make([]target, 0, len(targets))
	for _, x := range targets {
		if found[x.n] {
			*conflicts = append(*conflicts, x.ID)
		} else {
			rest = append(rest, x)
		}
	}
	return rest, nil
}

func (t *tx) unlink(b anonymize.Batch, targets []target, conflicts []string) error {
	gone := int64(0)
	for _, same := range byChange(targets) {
		n, err := t.exec("DELETE FROM links WHERE "+same.condition()+isUnchanged, same.args(b)...)
		if err != nil {
			return err
		}
		gone += n
	}
	if gone != int64(len(targets)) {
		return errSome
	}
	if err := t.strip(b.Kind, numbersOf(targets)); err != nil {
		return err
	}
	if b.Keep != nil && b.Kind != circulation.KindNotice {
		if err := t.coarsen(b.Kind, b.Keep, targets); err != nil {
			return err
		}
	}
	body, err := json.Marshal(b.Receipt(conflicts))
	if err != nil {
		return err
	}
	_, err = t.exec("INSERT INTO receipts (body) VALUES (?)", string(body))
	return err
}

// protected returns numbers of records that an exception protects now, among them those of the targets.
// It looks in the tables themselves, so that a row that somebody wrote with SQL of their own, without a
// version, protects too. Few rows protect, so they are read here and not asked about for every target.
func (t *tx) protected(targets []target) (map[int64]bool, error) {
	return t.numbers(`
		SELECT r.n FROM json_each(?1) span CROSS JOIN records r INDEXED BY records_guarded
		ON r.n BETWEEN span.value->>0 AND span.value->>1
		WHERE r.status <> 1 OR r.lost <> 0 OR r.claimed_returned <> 0 OR r.fee_status <> 2 OR r.n >> 40 = 3 AND r.fee_status IS NULL
		UNION ALL
		SELECT t.target FROM json_each(?1) span CROSS JOIN ties t INDEXED BY ties_target
		ON t.target BETWEEN span.value->>0 AND span.value->>1
		CROSS JOIN records f ON f.n = t.n WHERE f.fee_status <> 2 OR f.n >> 40 = 3 AND f.fee_status IS NULL`, spans(numbersOf(targets)))
}

// isUnchanged holds for links that neither themselves nor in their borrower changed after ?2, and whose
// borrower is under no legal hold at ?3.
const isUnchanged = `
	AND version <= ?2 AND person IS NOT NULL
	AND person NOT IN (
		SELECT person FROM holds WHERE until IS NULL OR until > ?3
		UNION ALL SELECT p FROM persons WHERE version > ?2)`

// changed returns the numbers of the targets that are not unchanged.
func (t *tx) changed(b anonymize.Batch, targets []target) (map[int64]bool, error) {
	changed := map[int64]bool{}
	for _, x := range targets {
		changed[x.n] = true
	}
	for _, same := range byChange(targets) {
		unchanged, err := t.numbers("SELECT n FROM links WHERE "+same.condition()+isUnchanged, same.args(b)...)
		if err != nil {
			return nil, err
		}
		for n := range unchanged {
			delete(changed, n)
		}
	}
	return changed, nil
}

// numbers reads a set of numbers.
func (t *tx) numbers(query string, args ...any) (map[int64]bool, error) {
	set := map[int64]bool{}
	var n int64
	err := each(t.ctx, t.op, t.db, query, args, []any{&n}, func() error {
		set[n] = true
		return nil
	})
	return set, err
}

// A sameChange is targets that were read after the same change.
type sameChange struct {
	change  int64
	numbers []int64
}

// dense says that the numbers lie so close together that a map of all between the first and the last, a
// byte each, is worth it: it saves SQLite from parsing a list and sorting it into a tree (about a
// tenth of the CPU time of a sweep's writes).
func (s sameChange) dense() bool {
	return s.numbers[len(s.numbers)-1]-s.numbers[0] < 16*int64(len(s.numbers))
}

// condition picks the links of the numbers, with the arguments that args returns.
func (s sameChange) condition() string {
	if s.dense() {
		return "n BETWEEN ?4 AND ?5 AND substr(?1, n - ?4 + 1, 1) = x'01'"
	}
	return "n IN (SELECT value FROM json_each(?1))"
}

func (s sameChange) args(b anonymize.Batch) []any {
	at := b.At.UnixMicro()
	if !s.dense() {
		return []any{list(s.numbers), s.change, at}
	}
	first, last := s.numbers[0], s.numbers[len(s.numbers)-1]
	marks := make([]byte, last-first+1)
	for _, n := range s.numbers {
		marks[n-first] = 1
	}
	return []any{marks, s.change, at, first, last}
}

// byChange groups targets by the change they were read after: normally one group, for they are of one page.
func byChange(targets []target) []sameChange {
	var groups []sameChange
	for _, x := range targets {
		i := slices.IndexFunc(groups, func(s sameChange) bool { return s.change == x.change })
		if i < 0 {
			i, groups = len(groups), append(groups, sameChange{change: x.change})
		}
		groups[i].numbers = append(groups[i].numbers, x.n)
	}
	return groups
}

// strip removes whatever else identifies from the records with these numbers, whose links are gone. It
// relies on what always holds: only a record with a link has companions, personal texts, ties and summaries.
func (t *tx) strip(kind circulation.Kind, numbers []int64) error {
	if len(numbers) == 0 {
		return nil
	}
	where := spans(numbers)
	if kind == circulation.KindFee {
		if _, err := t.exec(summarize, where, lastOf(circulation.KindLoan)); err != nil {
			return err
		}
	}
	// A fee without a link that is not closed was written with SQL of somebody's own. Its tie must go on protecting.
	const notOpen = " AND NOT EXISTS (SELECT 1 FROM records f WHERE f.n = x.n AND f.n >> 40 = 3 AND f.fee_status IS NOT 2)"
	for _, s := range []struct{ table, column, and string }{
		{"companions", "n", ""}, {"personal", "n", ""}, {"ties", "n", notOpen}, {"ties", "target", ""}, {"fee_summaries", "loan", ""},
	} {
		_, err := t.exec(`DELETE FROM `+s.table+` WHERE `+s.column+` IN (
			SELECT x.`+s.column+` FROM json_each(?1) span CROSS JOIN `+s.table+` x
			ON x.`+s.column+` BETWEEN span.value->>0 AND span.value->>1
			WHERE NOT EXISTS (SELECT 1 FROM links l WHERE l.n = x.`+s.column+`)`+s.and+`)`, where)
		if err != nil {
			return err
		}
	}
	if kind == circulation.KindNotice {
		_, err := t.exec(blank, list(numbers))
		return err
	}
	return nil
}

// blank takes everything from a notice but its ID: nothing of a message is anonymous, but a late export must
// not bring it back.
const blank = `
	UPDATE records SET status = 1, ended = NULL, lost = 0, claimed_returned = 0, grp = '', library = '', location = '',
	type = '', item = '', categories = '', started = NULL, due = NULL, renewals = 0, fee_status = NULL, method = '', amount = 0, outcome = ''
	WHERE n IN (SELECT value FROM json_each(?1))`

// summarize leaves what a rule may ask of a fee with the loan that the fee is parted from. The loan's
// version stays: what rules see of it does not change.
const summarize = `
	INSERT INTO fee_summaries (loan, status, closed, method)
	SELECT t.target, f.fee_status, f.ended, f.method
	FROM json_each(?1) span CROSS JOIN ties t ON t.n BETWEEN span.value->>0 AND span.value->>1
	CROSS JOIN records f ON f.n = t.n
	WHERE t.target <= ?2 AND f.fee_status = 2
	AND NOT EXISTS (SELECT 1 FROM links l WHERE l.n = t.n)
	AND EXISTS (SELECT 1 FROM links l WHERE l.n = t.target)`

// coarsen rewrites the facts of which not everything stays.
func (t *tx) coarsen(kind circulation.Kind, keep *anonymize.Keep, targets []target) error {
	type row struct {
		n      int64
		item   string // that does not stay
		values []any
	}
	var changed []row
	var n int64
	columns := make([]any, len(factColumns))
	dest := []any{&n}
	for i := range columns {
		dest = append(dest, &columns[i])
	}
	query := "SELECT n, " + factList + " FROM records WHERE n IN (SELECT value FROM json_each(?1))"
	err := each(t.ctx, t.op, t.db, query, []any{list(numbersOf(targets))}, dest, func() error {
		f := factsOf(kind, columns)
		keep.Apply(&f)
		if values := valuesOf(f); !slices.Equal(values, columns) {
			r := row{n: n, values: values}
			if kind == circulation.KindLoan && values[columnItem] != columns[columnItem] {
				r.item = text(columns[columnItem])
			}
			changed = append(changed, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range changed {
		if err := t.update(r.n, r.values); err != nil {
			return err
		}
		if r.item == "" {
			continue
		}
		if _, err := t.exec(forgetItem, r.item); err != nil {
			return err
		}
	}
	return nil
}

// forgetItem deletes the count of an item that no loan mentions any more.
const forgetItem = `
	DELETE FROM items WHERE item = ?1
	AND NOT EXISTS (SELECT 1 FROM records r INDEXED BY records_item WHERE r.item = ?1 AND r.item <> '' AND r.n < 1 << 40)`

func numbersOf(targets []target) []int64 {
	numbers := make([]int64, len(targets))
	for i, x := range targets {
		numbers[i] = x.n
	}
	return numbers
}

// list writes numbers as a JSON array, the one way to hand a set of any size to a single statement.
func list(numbers []int64) string {
	b := []byte{'['}
	for i, n := range numbers {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, n, 10)
	}
	return string(append(b, ']'))
}

// spans covers ascending numbers with few stretches [first, last], as JSON. The small tables beside
// records are read by stretch: a page of a sweep is one, a patron's records are as many as there are.
func spans(numbers []int64) string {
	const gap = 256 // a guess at where reading over rows of small tables begins to cost more than one more look-up
	b := []byte{'['}
	for i := 0; i < len(numbers); {
		j := i
		for j+1 < len(numbers) && numbers[j+1]-numbers[j] <= gap {
			j++
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '[')
		b = strconv.AppendInt(b, numbers[i], 10)
		b = append(b, ',')
		b = strconv.AppendInt(b, numbers[j], 10)
		b = append(b, ']')
		i = j + 1
	}
	return string(append(b, ']'))
}

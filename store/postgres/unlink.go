package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/internal/receipt"
)

// errSome says that not all targets could be unlinked, so that it has to be found out which.
var errSome = errors.New("postgres: some records were changed since they were read")

// Unlink implements anonymize.Store.
//
// Whoever changes a record, or a fee of it, changes its row in links, and so does this: of two, the second waits and then sees that there is nothing to do. Legal holds and what an account
// says change no link; while records are unlinked nobody can add a hold, and who changed accounts does not return.
//
// It first deletes the links of all targets that are not protected, and compares the number of rows that went with theirs. Only if some stayed, it starts again, and asks which are unchanged
// before it deletes: conflicts are rare, and looking for them first would mean reading every link twice.
func (c *Circulation) Unlink(ctx context.Context, b anonymize.Batch) ([]string, error) {
	targets, unreadable := understand(&b)
	var conflicts []string
	try := func(look bool) error {
		// Not to be repeated when nobody knows whether it was committed: all would be conflicts, and the receipt, which is there, would be missing from the sweep's report.
		return c.write(ctx, "unlink", false, func(t *tx) error {
			conflicts = slices.Clone(unreadable)
			if _, err := t.exec("LOCK TABLE holds IN SHARE MODE" + byIndex); err != nil {
				return err
			}
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
			return NewLog(t.db).Append(ctx, []audit.Entry{entry})
		})
	}
	err := try(false)
	for range tries { // between looking and deleting others go on changing
		if !errors.Is(err, errSome) {
			break
		}
		err = try(true)
	}
	if errors.Is(err, errSome) {
		err = &Error{Op: "unlink", State: codeSerialize}
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

// understand reads the versions of a batch into targets ascending by number. Unreadable are the IDs whose version is none of that record's. A target that the batch names twice is dropped from
// it, or the receipt would count it twice.
func understand(b *anonymize.Batch) (targets []target, unreadable []string) {
	if targets, ok := inOrder(*b); ok {
		return targets, nil
	}
	targets = make([]target, 0, len(b.Targets))
	seen := make(map[string]bool, len(b.Targets))
	b.Targets = slices.DeleteFunc(slices.Clone(b.Targets), func(t anonymize.Target) bool {
		if seen[t.ID] {
			return true
		}
		seen[t.ID] = true
		if v, ok := tokenFor(b.Kind, t, ""); ok {
			targets = append(targets, target{v, t.ID})
		} else {
			unreadable = append(unreadable, t.ID)
		}
		return false
	})
	slices.SortFunc(targets, func(a, b target) int { return cmp.Compare(a.n, b.n) })
	// Two IDs with one number: one of them is not the record's.
	for i := 1; i < len(targets); i++ {
		if targets[i].n == targets[i-1].n {
			unreadable = append(unreadable, targets[i].ID)
			targets = slices.Delete(targets, i, i+1)
			i--
		}
	}
	return targets, unreadable
}

// inOrder is understand for what a sweep hands in that reads everything: nothing is amiss, and nothing twice.
func inOrder(b anonymize.Batch) (targets []target, ok bool) {
	targets = make([]target, len(b.Targets))
	known, last := "", int64(-1)
	for i, t := range b.Targets {
		v, ok := tokenFor(b.Kind, t, known)
		if !ok || v.n <= last {
			return nil, false
		}
		targets[i], known, last = target{v, t.ID}, v.snapshot, v.n
	}
	return targets, true
}

// tokenFor reads the version of a target, if it is one of that record's.
func tokenFor(k circulation.Kind, t anonymize.Target, known string) (v token, ok bool) {
	v, ok = parseToken(t.Version, known)
	return v, ok && v.id == checksum(t.ID) && v.n >= firstOf(k) && v.n <= lastOf(k)
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

// manyLeavers is from how many records on their persons are not noted one by one.
const manyLeavers = 5000

func (t *tx) unlink(b anonymize.Batch, targets []target, conflicts []string) error {
	var gone int64
	for _, same := range together(targets) {
		n, err := t.part(b, same)
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
	query := "INSERT INTO receipts (body) VALUES ($1)"
	if len(targets) > manyLeavers {
		query = "WITH many AS (INSERT INTO leavers SELECT NULL WHERE NOT EXISTS (SELECT FROM leavers WHERE person IS NULL)) " + query
	}
	_, err = t.exec(query, string(body))
	return err
}

// part deletes links that are unchanged.
func (t *tx) part(b anonymize.Batch, same group) (int64, error) {
	query, args := same.delete(b)
	if len(same.targets) > manyLeavers {
		return t.exec(query, args...)
	}
	var n int64
	_, err := t.get("WITH gone AS ("+query+" RETURNING l.person), noted AS (INSERT INTO leavers SELECT DISTINCT person FROM gone) SELECT count(*) FROM gone", args, &n)
	return n, err
}

// A group is targets that were read at the same moment.
type group struct {
	snapshot string
	targets  []target
	versions []int64 // all that they have
}

// together groups targets: normally there is one group, for they are of one page.
func together(targets []target) []group {
	var groups []group
	for len(targets) > 0 {
		one := group{snapshot: targets[0].snapshot}
		i := slices.IndexFunc(targets, func(x target) bool { return x.snapshot != one.snapshot })
		if i < 0 {
			i = len(targets)
		}
		one.targets, targets = targets[:i:i], targets[i:]
		if j := slices.IndexFunc(groups, func(g group) bool { return g.snapshot == one.snapshot }); j >= 0 {
			groups[j].targets = append(groups[j].targets, one.targets...)
		} else {
			groups = append(groups, one)
		}
	}
	for i := range groups {
		g := &groups[i]
		for _, x := range g.targets {
			if len(g.versions) < 255 && !slices.Contains(g.versions, x.version) {
				g.versions = append(g.versions, x.version)
			}
		}
	}
	return groups
}

// dense says that the numbers lie so close together that a map of all between the first and the last, a byte each, is worth it: reading a stretch of the table takes half the time of looking up
// one row after the other. A byte has room for the place of the version among all that there are.
func (g group) dense() bool {
	first, last := g.targets[0].n, g.targets[len(g.targets)-1].n
	return last-first < 16*int64(len(g.targets)) && len(g.versions) < 255
}

// isUnchanged holds for links whose borrower did not change since the snapshot $1, and is under no legal hold at $2. A transaction that is yet to come is one of the server that this database
// was dumped from.
const isUnchanged = `l.person IS NOT NULL AND l.person NOT IN (
		SELECT person FROM holds WHERE until IS NULL OR until > $2
		UNION ALL SELECT p FROM persons WHERE ` + hasChanged + `)`

const (
	hasChanged = `changed` + later + `changed, CAST($1 AS pg_snapshot)) AND changed < pg_snapshot_xmax(pg_current_snapshot())`
	hasCounted = `counted` + later + `counted, CAST($1 AS pg_snapshot)) AND counted < pg_snapshot_xmax(pg_current_snapshot())`
	later      = ` >= pg_snapshot_xmin(CAST($1 AS pg_snapshot)) AND NOT pg_visible_in_snapshot(`
)

// where picks the links of the group that are unchanged, as l. More are tables that it needs.
func (g group) where(b anonymize.Batch) (more, condition string, args []any) {
	args = []any{g.snapshot, b.At.UnixMicro()}
	if !g.dense() {
		versions := make([]int64, len(g.targets))
		for i, x := range g.targets {
			versions[i] = x.version
		}
		return "unnest(CAST($3 AS bigint[]), CAST($4 AS bigint[])) AS want (n, version)", "l.n = ANY (CAST($3 AS bigint[])) AND l.n = want.n AND l.version = want.version AND " + isUnchanged,
			append(args, int64Array(numbersOf(g.targets)), int64Array(versions))
	}
	first, last := g.targets[0].n, g.targets[len(g.targets)-1].n
	marks := make([]byte, last-first+1)
	for _, x := range g.targets {
		marks[x.n-first] = byte(1 + slices.Index(g.versions, x.version))
	}
	// An element of an array that is not there is NULL, which is equal to nothing.
	return "", "l.n BETWEEN $3 AND $4 AND l.version = (CAST($5 AS integer[]))[get_byte(CAST($6 AS bytea), CAST(l.n - $3 AS integer))] AND " + isUnchanged,
		append(args, first, last, int64Array(g.versions), marks)
}

func (g group) delete(b anonymize.Batch) (string, []any) {
	more, condition, args := g.where(b)
	if more != "" {
		more = " USING " + more
	}
	return "DELETE FROM links l" + more + " WHERE " + condition, args
}

// protected returns numbers of records that an exception protects now, among them those of the targets. It looks in the tables themselves, so that a row that somebody wrote with SQL of their
// own, without a version, protects too. Few rows protect, so they are read here and not asked about for every target.
func (t *tx) protected(targets []target) (map[int64]bool, error) {
	where, args := within(numbersOf(targets))
	return t.numbers(`
		SELECT r.n FROM records r WHERE `+strings.ReplaceAll(where, "$n", "r.n")+`
		AND (status <> 1 OR lost OR claimed_returned OR fee_status <> 2 OR n >> 40 = 3 AND fee_status IS NULL)
		UNION ALL
		SELECT t.target FROM ties t JOIN records f ON f.n = t.n WHERE `+strings.ReplaceAll(where, "$n", "t.target")+`
		AND (f.fee_status <> 2 OR f.n >> 40 = 3 AND f.fee_status IS NULL)`, args...)
}

// changed returns the numbers of the targets that are not unchanged. It keeps the others from changing, by taking their rows.
func (t *tx) changed(b anonymize.Batch, targets []target) (map[int64]bool, error) {
	changed := map[int64]bool{}
	for _, x := range targets {
		changed[x.n] = true
	}
	for _, same := range together(targets) {
		more, condition, args := same.where(b)
		if more != "" {
			more = ", " + more
		}
		unchanged, err := t.numbers("SELECT l.n FROM links l"+more+" WHERE "+condition+" ORDER BY l.n FOR UPDATE OF l", args...)
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

// strip removes whatever else identifies from the records with these numbers, whose links are gone. It relies on what always holds: only a record with a link has companions, personal texts,
// ties and summaries.
func (t *tx) strip(kind circulation.Kind, numbers []int64) error {
	if len(numbers) == 0 {
		return nil
	}
	where, args := within(numbers)
	if kind == circulation.KindFee {
		// Who unlinks a fee keeps the loan's row meanwhile, or a loan that is unlinked at the same time would be left with a summary.
		_, err := t.numbers(`SELECT l.n FROM links l WHERE l.n IN (SELECT t.target FROM ties t WHERE `+strings.ReplaceAll(where, "$n", "t.n")+`) ORDER BY l.n FOR UPDATE`, args...)
		if err != nil {
			return err
		}
		if _, err := t.exec(strings.ReplaceAll(summarize, "$where", strings.ReplaceAll(where, "$n", "t.n")), args...); err != nil {
			return err
		}
	}
	// A fee without a link that is not closed was written with SQL of somebody's own. Its tie must go on protecting.
	const notOpen = " AND NOT EXISTS (SELECT FROM records f WHERE f.n = x.n AND f.n >> 40 = 3 AND f.fee_status IS DISTINCT FROM 2)"
	bare := func(table, column, and string) string {
		return "DELETE FROM " + table + " x WHERE " + strings.ReplaceAll(where, "$n", "x."+column) + " AND NOT EXISTS (SELECT FROM links l WHERE l.n = x." + column + ")" + and
	}
	_, err := t.exec(`WITH texts AS (`+bare("personal", "n", "")+`), ties_of AS (`+bare("ties", "n", notOpen)+`), ties_to AS (`+bare("ties", "target", "")+`),
		summaries AS (`+bare("fee_summaries", "loan", "")+`), gone AS (`+bare("companions", "n", "")+` RETURNING person)
		INSERT INTO leavers SELECT DISTINCT person FROM gone`, args...)
	if err != nil {
		return err
	}
	if kind == circulation.KindNotice {
		_, err := t.exec(blank, int64Array(numbers))
		return err
	}
	return nil
}

// blank takes everything from a notice but its ID: nothing of a message is anonymous, but a late export must not bring it back.
const blank = `
	UPDATE records SET status = 1, ended = NULL, lost = false, claimed_returned = false, grp = '', library = '', location = '',
	type = '', item = '', categories = '', started = NULL, due = NULL, renewals = 0, fee_status = NULL, method = '', amount = 0, outcome = ''
	WHERE n = ANY (CAST($1 AS bigint[]))`

// summarize leaves what a rule may ask of a fee with the loan that the fee is parted from. The loan's version stays: what rules see of it does not change.
const summarize = `
	INSERT INTO fee_summaries (loan, status, closed, method)
	SELECT t.target, f.fee_status, f.ended, f.method FROM ties t JOIN records f ON f.n = t.n
	WHERE $where AND t.target < 1::bigint << 40 AND f.fee_status = 2
	AND NOT EXISTS (SELECT FROM links l WHERE l.n = t.n)
	AND EXISTS (SELECT FROM links l WHERE l.n = t.target)`

// coarsen rewrites the facts of which not everything stays.
func (t *tx) coarsen(kind circulation.Kind, keep *anonymize.Keep, targets []target) error {
	var changed rows
	var items []string // that do not stay
	err := t.eachFacts(numbersOf(targets), func(n int64, f facts) error {
		whole := f.circulation(kind)
		keep.Apply(&whole)
		if g := factsOf(whole); g != f {
			changed.add(n, "", g)
			if kind == circulation.KindLoan && g.item != f.item {
				items = append(items, f.item)
			}
		}
		return nil
	})
	if err != nil || len(changed.numbers) == 0 {
		return err
	}
	if err := t.updateRecords(&changed); err != nil || len(items) == 0 {
		return err
	}
	slices.Sort(items)
	gone := textArray(slices.Compact(items))
	// Whoever saves a loan of an item has the item's row until that is committed. What is seen after that is what there is.
	if _, err := t.exec("SELECT FROM items WHERE item = ANY (CAST($1 AS text[])) ORDER BY item FOR UPDATE", gone); err != nil {
		return err
	}
	_, err = t.exec(forgetItems, gone)
	return err
}

// forgetItems deletes the counts of items that no loan mentions any more.
const forgetItems = `
	DELETE FROM items i WHERE i.item = ANY (CAST($1 AS text[]))
	AND NOT EXISTS (SELECT FROM records r WHERE r.item = i.item AND r.item <> '' AND r.n < 1099511627776)`

func numbersOf(targets []target) []int64 {
	numbers := make([]int64, len(targets))
	for i, x := range targets {
		numbers[i] = x.n
	}
	return numbers
}

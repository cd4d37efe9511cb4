package postgres

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/carrel-project/carrel/circulation"
)

// facts are circulation.Facts as the database keeps them, comparable with what it returns. ID and Version are not among them. None is NULL.
type facts struct {
	started, ended, due, amount                                      int64
	renewals, status, feeStatus                                      int64
	lost, claimedReturned                                            bool
	group, library, location, typ, item, categories, method, outcome string
}

func factsOf(f circulation.Facts) facts {
	g := facts{
		started: stamp(f.Started), ended: stamp(f.Ended), due: stamp(f.Due), amount: int64(f.Amount),
		renewals: int64(f.Renewals), status: int64(f.Status), feeStatus: none, lost: f.Lost, claimedReturned: f.ClaimedReturned,
		group: f.Group, library: f.Library, location: f.Location, typ: f.Type, item: f.Item, method: f.Method, outcome: f.Outcome,
	}
	if f.Kind == circulation.KindFee {
		g.feeStatus = int64(f.FeeStatus)
	}
	if len(f.Categories) > 0 {
		b, _ := json.Marshal(f.Categories) // strings always marshal
		g.categories = string(b)
	}
	return g
}

// circulation is the reverse of factsOf.
func (f *facts) circulation(k circulation.Kind) circulation.Facts {
	g := circulation.Facts{
		Kind: k, Started: moment(f.started), Ended: moment(f.ended), Due: moment(f.due), Amount: circulation.Amount(f.amount),
		Renewals: int(f.renewals), Status: circulation.Status(f.status), FeeStatus: circulation.FeeStatus(max(f.feeStatus, 0)), Lost: f.lost, ClaimedReturned: f.claimedReturned,
		Group: f.group, Library: f.library, Location: f.location, Type: f.typ, Item: f.item, Method: f.method, Outcome: f.outcome,
	}
	if f.categories != "" {
		_ = json.Unmarshal([]byte(f.categories), &g.Categories) // not our JSON: as good as unknown
	}
	return g
}

// storable reports that PostgreSQL can keep the facts.
func (f *facts) storable() bool {
	return storable(f.group, f.library, f.location, f.typ, f.item, f.categories, f.method, f.outcome)
}

// settle takes over what changes when a fee is settled or opened again.
func (f *facts) settle(with facts) {
	f.ended, f.status, f.feeStatus, f.method, f.outcome = with.ended, with.status, with.feeStatus, with.method, with.outcome
}

// factColumns are the columns of records that hold facts, in the order of dest.
var factColumns = []struct{ name, kind string }{
	{"started", "bigint"}, {"ended", "bigint"}, {"due", "bigint"}, {"amount", "bigint"}, {"renewals", "integer"}, {"status", "smallint"}, {"fee_status", "smallint"},
	{"lost", "boolean"}, {"claimed_returned", "boolean"},
	{"grp", "text"}, {"library", "text"}, {"location", "text"}, {"type", "text"}, {"item", "text"}, {"categories", "text"}, {"method", "text"}, {"outcome", "text"},
}

// factList names them, with NULL as none.
func factList(table string) string {
	words := make([]string, len(factColumns))
	for i, c := range factColumns {
		words[i] = table + c.name
		switch c.name {
		case "started", "ended", "due":
			words[i] = "coalesce(" + words[i] + ", -9223372036854775808)"
		case "fee_status":
			words[i] = "coalesce(" + words[i] + "::bigint, -9223372036854775808)"
		}
	}
	return strings.Join(words, ", ")
}

func (f *facts) dest() []any {
	return []any{&f.started, &f.ended, &f.due, &f.amount, &f.renewals, &f.status, &f.feeStatus, &f.lost, &f.claimedReturned,
		&f.group, &f.library, &f.location, &f.typ, &f.item, &f.categories, &f.method, &f.outcome}
}

// eachFacts reads the facts of records.
func (t *tx) eachFacts(numbers []int64, do func(n int64, f facts) error) error {
	var n int64
	var f facts
	return each(t.ctx, t.op, t.db, "SELECT n, "+factList("")+" FROM records WHERE n = ANY (CAST($1 AS bigint[]))", []any{int64Array(numbers)},
		append([]any{&n}, f.dest()...), func() error { return do(n, f) })
}

// rows are records to be written, a column at a time.
type rows struct {
	numbers []int64
	ids     []string
	facts   []facts
}

func (r *rows) add(n int64, id string, f facts) {
	r.numbers, r.ids, r.facts = append(r.numbers, n), append(r.ids, id), append(r.facts, f)
}

// columns writes the facts as arguments from number first on, and the expressions that stand for them in a query: elements of arrays that are unnested as u, or one value where all are the same, which
// they often are.
func (r *rows) columns(first int) (expressions, arrays, names []string, args []any) {
	dests := make([][]any, len(r.facts))
	for i := range r.facts {
		dests[i] = r.facts[i].dest()
	}
	for c, column := range factColumns {
		parameter := "CAST($" + strconv.Itoa(first+len(args)) + " AS " + column.kind
		arg, same := columnOf(dests, c)
		args = append(args, arg)
		if same {
			expressions = append(expressions, parameter+")")
		} else {
			expressions = append(expressions, "u."+column.name)
			arrays = append(arrays, parameter+"[])")
			names = append(names, column.name)
		}
	}
	return expressions, arrays, names, args
}

// columnOf returns a column's values as one argument, and whether that is the one value they all have.
func columnOf(dests [][]any, c int) (arg any, same bool) {
	switch dests[0][c].(type) {
	case *int64:
		list, same := gather[int64](dests, c)
		switch {
		case !same:
			return int64Array(list), false
		case list[0] == none:
			return nil, true
		}
		return list[0], true
	case *bool:
		list, same := gather[bool](dests, c)
		if same {
			return list[0], true
		}
		return boolArray(list), false
	}
	list, same := gather[string](dests, c)
	if same {
		return list[0], true
	}
	return textArray(list), false
}

func gather[T comparable](dests [][]any, c int) (list []T, same bool) {
	list, same = make([]T, len(dests)), true
	for i := range dests {
		list[i] = *dests[i][c].(*T)
		same = same && list[i] == list[0]
	}
	return list, same
}

// insertRecords inserts records, and returns the numbers of those that were inserted, or nil for all: others have the ID of a record that came in between.
func (s *saving) insertRecords(r *rows) (map[int64]bool, error) {
	expressions, arrays, names, args := r.columns(3)
	columns := make([]string, len(factColumns))
	for i, c := range factColumns {
		columns[i] = c.name
	}
	query := "INSERT INTO records (n, id, " + strings.Join(columns, ", ") + ") SELECT u.n, u.id, " + strings.Join(expressions, ", ") +
		" FROM unnest(" + strings.Join(append([]string{"CAST($1 AS bigint[])", "CAST($2 AS text[])"}, arrays...), ", ") +
		") AS u (" + strings.Join(append([]string{"n", "id"}, names...), ", ") + ")"
	args = append([]any{int64Array(r.numbers), textArray(r.ids)}, args...)
	if len(r.numbers) >= manyRecords && s.savepoints < mostSavepoints {
		s.savepoints++
		err := nested(s.ctx, s.db, s.op, func(DB) error {
			_, err := s.exec(query, args...)
			return err
		})
		var e *Error
		if !errors.As(err, &e) || e.State != codeUnique {
			return nil, err
		}
	}
	n, err := s.exec(query+" ON CONFLICT ((n >> 40), id) DO NOTHING", args...) // but never a number that is somebody else's
	if err != nil || n == int64(len(r.numbers)) {
		return nil, err
	}
	return s.numbers("SELECT n FROM records WHERE n = ANY (CAST($1 AS bigint[]))", int64Array(r.numbers))
}

// Looking out for others' rows with every one of its own, ON CONFLICT takes the server two thirds more time. Where many records are new at once they are inserted without it, under a savepoint, in case that
// there is one all the same. More than 64 savepoints in a transaction would make the server slower for everybody.
const (
	manyRecords    = 1000
	mostSavepoints = 60
)

// updateRecords gives records new facts.
func (t *tx) updateRecords(r *rows) error {
	expressions, arrays, names, args := r.columns(2)
	sets := make([]string, len(factColumns))
	for i, c := range factColumns {
		sets[i] = c.name + " = " + expressions[i]
	}
	query := "UPDATE records SET " + strings.Join(sets, ", ") + " FROM unnest(" + strings.Join(append([]string{"CAST($1 AS bigint[])"}, arrays...), ", ") +
		") AS u (" + strings.Join(append([]string{"n"}, names...), ", ") + ") WHERE records.n = u.n"
	_, err := t.exec(query, append([]any{int64Array(r.numbers)}, args...)...)
	return err
}

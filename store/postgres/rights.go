package postgres

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/rights"
)

var _ rights.Circulation = (*Circulation)(nil)

const opNamed = "read a person's records"

// Named implements rights.Circulation, in the order of the records' numbers.
func (c *Circulation) Named(ctx context.Context, q rights.Query) (page rights.Page, err error) {
	after := int64(-1)
	if q.Cursor != "" {
		if after, err = strconv.ParseInt(q.Cursor, 10, 64); err != nil {
			return page, errors.New("postgres: the cursor is not one that Named returned")
		}
	}
	limit := max(q.Limit, 1)
	err = c.read(ctx, opNamed, func() error {
		page = rights.Page{}
		persons, err := known(ctx, c.db, opNamed, q.Persons)
		if err != nil || len(persons) == 0 {
			return err
		}
		err = each(ctx, opNamed, c.db, "SELECT EXISTS (SELECT FROM holds WHERE person = ANY (CAST($1 AS bigint[])) AND (until IS NULL OR until > $2))",
			[]any{int64Array(persons), time.Now().UnixMicro()}, []any{&page.Hold}, func() error { return nil })
		if err != nil {
			return err
		}
		numbers, err := numbersIn(ctx, c.db, opNamed, `SELECT n FROM links WHERE person = ANY (CAST($1 AS bigint[])) AND n > $2
			UNION SELECT n FROM companions WHERE person = ANY (CAST($1 AS bigint[])) AND n > $2 ORDER BY 1 LIMIT $3`, int64Array(persons), after, int64(limit))
		if err != nil || len(numbers) == 0 {
			return err
		}
		if len(numbers) == limit {
			page.Cursor = strconv.FormatInt(numbers[limit-1], 10)
		}
		page.Records, err = named(ctx, c.db, numbers, persons)
		return err
	})
	if err != nil {
		return rights.Page{}, err
	}
	return page, nil
}

// known returns the numbers of those borrowers who have one.
func known(ctx context.Context, db DB, op string, borrowers []circulation.Borrower) ([]int64, error) {
	texts := make([]string, 0, len(borrowers))
	for _, b := range borrowers {
		if storable(string(b)) { // what cannot be kept is not there
			texts = append(texts, string(b))
		}
	}
	return numbersIn(ctx, db, op, "SELECT p FROM persons WHERE borrower = ANY (CAST($1 AS text[])) ORDER BY p", textArray(texts))
}

// numbersIn reads one column.
func numbersIn(ctx context.Context, db DB, op, query string, args ...any) (list []int64, err error) {
	var n int64
	err = each(ctx, op, db, query, args, []any{&n}, func() error {
		list = append(list, n)
		return nil
	})
	return list, err
}

// named reads records by their numbers, which are ascending. One that was unlinked meanwhile, or lost the person, is left out.
func named(ctx context.Context, db DB, numbers, persons []int64) (all []rights.Named, err error) {
	found := make(map[int64]*rights.Named, len(numbers))
	of, who := int64Array(numbers), int64Array(persons)
	if err := records(ctx, db, numbers, found); err != nil {
		return nil, err
	}
	var n, role int64
	err = each(ctx, opNamed, db, `SELECT n, 1 FROM links WHERE n = ANY (CAST($1 AS bigint[])) AND person = ANY (CAST($2 AS bigint[]))
		UNION SELECT n, role FROM companions WHERE n = ANY (CAST($1 AS bigint[])) AND person = ANY (CAST($2 AS bigint[])) ORDER BY 1, 2`,
		[]any{of, who}, []any{&n, &role}, func() error {
			if x := found[n]; x != nil {
				x.Roles = append(x.Roles, circulation.Role(role))
			}
			return nil
		})
	if err != nil {
		return nil, err
	}
	if err := besides(ctx, db, of, found); err != nil {
		return nil, err
	}
	for _, n := range numbers {
		x := found[n]
		if x == nil || len(x.Roles) == 0 || x.Facts.ID == "" {
			continue
		}
		if x.Roles[0] != circulation.RoleBorrower {
			x.Version, x.Texts, x.Points = "", nil, nil
		}
		all = append(all, *x)
	}
	return all, nil
}

// records fills in what rules see, kind by kind.
func records(ctx context.Context, db DB, numbers []int64, found map[int64]*rights.Named) error {
	now := time.Now()
	for len(numbers) > 0 {
		kind := circulation.Kind(numbers[0]>>kindShift + 1)
		end, _ := slices.BinarySearch(numbers, lastOf(kind)+1)
		p := reading{query: anonymize.Query{Kind: kind, Limit: end, At: now, Needs: anonymize.NeedEverything}}
		columns := append([]column{list("l.n", &p.numbers), list("l.version", &p.versions)}, p.columns()...)
		err := p.run(ctx, db, columns, `SELECT $columns FROM links l JOIN records r ON r.n = l.n LEFT JOIN persons p ON p.p = l.person
			WHERE l.n = ANY (CAST($2 AS bigint[])) AND l.person IS NOT NULL ORDER BY l.n`, []any{now.UnixMicro(), int64Array(numbers[:end])})
		if err != nil {
			return err
		}
		if kind == circulation.KindLoan && len(p.records) > 0 {
			if err := p.fees(ctx, db); err != nil {
				return err
			}
		}
		p.setVersions()
		for i, n := range p.numbers {
			found[n] = &rights.Named{Record: p.records[i]}
		}
		numbers = numbers[end:]
	}
	return nil
}

// besides fills in the facts, the texts and the pointers.
func besides(ctx context.Context, db DB, numbers string, found map[int64]*rights.Named) error {
	var n, field, target int64
	var id, value string
	var f facts
	const of = " = ANY (CAST($1 AS bigint[]))"
	err := each(ctx, opNamed, db, "SELECT n, id, "+factList("")+" FROM records WHERE n"+of, []any{numbers}, append([]any{&n, &id}, f.dest()...), func() error {
		if x := found[n]; x != nil {
			x.Facts = f.circulation(circulation.Kind(n>>kindShift + 1))
			x.Facts.ID = id
			x.Categories, x.Started = x.Facts.Categories, x.Facts.Started
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = each(ctx, opNamed, db, "SELECT n, field, value FROM personal WHERE n"+of+" ORDER BY n, field", []any{numbers}, []any{&n, &field, &value}, func() error {
		if x := found[n]; x != nil {
			x.Texts = append(x.Texts, circulation.Text{Field: circulation.TextField(field), Value: value})
		}
		return nil
	})
	if err != nil {
		return err
	}
	return each(ctx, opNamed, db, "SELECT t.n, t.target, r.id FROM ties t JOIN records r ON r.n = t.target WHERE t.n"+of+" ORDER BY 1, 2", []any{numbers}, []any{&n, &target, &id}, func() error {
		if x := found[n]; x != nil {
			x.Points = append(x.Points, circulation.Pointer{Kind: circulation.Kind(target>>kindShift + 1), ID: id})
		}
		return nil
	})
}

// Part implements rights.Circulation. It first takes the persons' rows, which whoever saves a record of theirs has until that is committed.
func (c *Circulation) Part(ctx context.Context, borrowers []circulation.Borrower) (left int, err error) {
	const op = "part somebody from records"
	err = c.write(ctx, op, true, func(t *tx) error {
		left = 0
		persons, err := known(ctx, t.db, op, borrowers)
		if err != nil || len(persons) == 0 {
			return err
		}
		who := int64Array(persons)
		if _, err := t.exec("SELECT FROM persons WHERE p = ANY (CAST($1 AS bigint[])) ORDER BY p FOR UPDATE", who); err != nil {
			return err
		}
		const theirCompanions = "SELECT n FROM companions WHERE person = ANY (CAST($1 AS bigint[]))"
		// What was read of the records they are taken out of is out of date.
		_, err = t.exec("UPDATE links SET version = version + 1, plan = 0 WHERE n IN (SELECT n FROM links WHERE n IN ("+theirCompanions+") ORDER BY n FOR UPDATE)", who)
		if err != nil {
			return err
		}
		if _, err := t.exec("DELETE FROM companions WHERE person = ANY (CAST($1 AS bigint[]))", who); err != nil {
			return err
		}
		if _, err := t.exec("UPDATE persons SET listed = false WHERE listed AND p = ANY (CAST($1 AS bigint[]))", who); err != nil {
			return err
		}
		if _, err := t.get("SELECT count(*) FROM links WHERE person = ANY (CAST($1 AS bigint[]))", []any{who}, &left); err != nil {
			return err
		}
		_, err = t.exec(`DELETE FROM persons WHERE p = ANY (CAST($1 AS bigint[])) AND NOT EXISTS (SELECT FROM links WHERE person = p)
			AND NOT EXISTS (SELECT FROM companions WHERE person = p) AND NOT EXISTS (SELECT FROM holds WHERE person = p)`, who)
		return err
	})
	if err != nil {
		return 0, err
	}
	return left, nil
}

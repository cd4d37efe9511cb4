package sqlite

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
func (c *Circulation) Named(ctx context.Context, q rights.Query) (rights.Page, error) {
	after := int64(-1)
	if q.Cursor != "" {
		var err error
		if after, err = strconv.ParseInt(q.Cursor, 10, 64); err != nil {
			return rights.Page{}, errors.New("sqlite: the cursor is not one that Named returned")
		}
	}
	h, err := c.horizon(ctx, circulation.KindLoan) // before anything else is read: see horizon
	if err != nil {
		return rights.Page{}, err
	}
	t := &tx{ctx: ctx, op: opNamed, db: c.db}
	persons, err := t.known(q.Persons)
	if err != nil || len(persons) == 0 {
		return rights.Page{}, err
	}
	page := rights.Page{}
	err = each(ctx, opNamed, c.db, "SELECT EXISTS (SELECT 1 FROM holds WHERE person IN (SELECT value FROM json_each(?1)) AND (until IS NULL OR until > ?2))",
		[]any{list(persons), time.Now().UnixMicro()}, []any{&page.Hold}, func() error { return nil })
	if err != nil {
		return rights.Page{}, err
	}
	blocks, err := t.linkBlocks()
	if err != nil {
		return rights.Page{}, err
	}
	var numbers []int64
	var n int64
	limit := max(q.Limit, 1)
	err = each(ctx, opNamed, c.db, "SELECT n FROM ("+theirs+" UNION SELECT n FROM companions INDEXED BY companions_person WHERE person IN (SELECT value FROM json_each(?2)) AND n > ?3) ORDER BY 1 LIMIT ?4",
		[]any{blocks, list(persons), after, limit}, []any{&n}, func() error {
			numbers = append(numbers, n)
			return nil
		})
	if err != nil {
		return rights.Page{}, err
	}
	if len(numbers) == 0 {
		return page, nil
	}
	if page.Records, err = c.named(ctx, h, numbers, persons); err != nil {
		return rights.Page{}, err
	}
	if len(numbers) == limit {
		page.Cursor = strconv.FormatInt(numbers[limit-1], 10)
	}
	return page, nil
}

// theirs are the records that have persons as their borrower, by the blocks of links_person.
const theirs = `SELECT l.n FROM json_each(?1) b CROSS JOIN links l INDEXED BY links_person
	ON l.n >> 16 = b.value AND l.person IN (SELECT value FROM json_each(?2)) WHERE l.n > ?3`

// known returns the numbers of those borrowers who have one.
func (t *tx) known(borrowers []circulation.Borrower) (persons []int64, err error) {
	for _, b := range borrowers {
		var p int64
		switch err := t.lookUp("SELECT p FROM persons WHERE borrower = ?", string(b), &p); {
		case errors.Is(err, errNone):
		case err != nil:
			return nil, err
		default:
			persons = append(persons, p)
		}
	}
	slices.Sort(persons)
	return slices.Compact(persons), nil
}

// lookUp is get outside a transaction, where nothing is prepared.
func (t *tx) lookUp(query string, arg any, dest any) error {
	found := errNone
	err := each(t.ctx, t.op, t.db, query, []any{arg}, []any{dest}, func() error {
		found = nil
		return nil
	})
	if err != nil {
		return err
	}
	return found
}

// linkBlocks returns the numbers of all blocks of the index links_person in which there may be something, as JSON.
func (t *tx) linkBlocks() (string, error) {
	var blocks []int64
	var kind, last int64
	err := each(t.ctx, t.op, t.db, "SELECT kind, last FROM serials ORDER BY kind", nil, []any{&kind, &last}, func() error {
		first := firstOf(circulation.Kind(kind))
		for b := first >> 16; last > 0 && b <= (first+last)>>16; b++ {
			blocks = append(blocks, b)
		}
		return nil
	})
	return list(blocks), err
}

// named reads records by their numbers, which are ascending. One that was unlinked meanwhile, or lost the person, is left out.
func (c *Circulation) named(ctx context.Context, h horizon, numbers, persons []int64) (all []rights.Named, err error) {
	found := make(map[int64]*rights.Named, len(numbers))
	of, who := list(numbers), list(persons)
	var n, role int64
	err = each(ctx, opNamed, c.db, `SELECT n, 1 FROM links WHERE n IN (SELECT value FROM json_each(?1)) AND person IN (SELECT value FROM json_each(?2))
		UNION ALL SELECT n, role FROM companions WHERE n IN (SELECT value FROM json_each(?1)) AND person IN (SELECT value FROM json_each(?2)) ORDER BY 1, 2`,
		[]any{of, who}, []any{&n, &role}, func() error {
			if found[n] == nil {
				found[n] = new(rights.Named)
			}
			if r := circulation.Role(role); !slices.Contains(found[n].Roles, r) {
				found[n].Roles = append(found[n].Roles, r)
			}
			return nil
		})
	if err != nil {
		return nil, err
	}
	if err := c.records(ctx, h, numbers, found); err != nil {
		return nil, err
	}
	if err := c.besides(ctx, of, found); err != nil {
		return nil, err
	}
	for _, n := range numbers {
		if x := found[n]; x != nil && x.Facts.ID != "" && x.Kind != 0 {
			if x.Roles[0] != circulation.RoleBorrower {
				x.Version, x.Texts, x.Points = "", nil, nil
			}
			all = append(all, *x)
		}
	}
	return all, nil
}

// records fills in what rules see, kind by kind.
func (c *Circulation) records(ctx context.Context, h horizon, numbers []int64, found map[int64]*rights.Named) error {
	now := time.Now()
	for len(numbers) > 0 {
		kind := circulation.Kind(numbers[0]>>kindShift + 1)
		end, _ := slices.BinarySearch(numbers, lastOf(kind)+1)
		r := newReading(anonymize.Query{Kind: kind, Limit: end, At: now, Needs: anonymize.NeedEverything})
		if err := c.page(ctx, r, "", "l.n IN (SELECT value FROM json_each(?5))", "l.n", list(numbers[:end])); err != nil {
			return err
		}
		setVersions(r.records, r.numbers, h.change)
		if kind == circulation.KindLoan && len(r.records) > 0 {
			if err := c.fees(ctx, r.records, r.numbers); err != nil {
				return err
			}
		}
		for i, n := range r.numbers {
			if x := found[n]; x != nil {
				x.Record = r.records[i]
			}
		}
		numbers = numbers[end:]
	}
	return nil
}

// besides fills in the facts, the texts and the pointers.
func (c *Circulation) besides(ctx context.Context, numbers string, found map[int64]*rights.Named) error {
	var n, field, target int64
	var id, value string
	columns := make([]any, len(factColumns))
	dest := []any{&n, &id}
	for i := range columns {
		dest = append(dest, &columns[i])
	}
	const of = " IN (SELECT value FROM json_each(?1))"
	err := each(ctx, opNamed, c.db, "SELECT n, id, "+factList+" FROM records WHERE n"+of, []any{numbers}, dest, func() error {
		if x := found[n]; x != nil {
			x.Facts = factsOf(circulation.Kind(n>>kindShift+1), columns)
			x.Facts.ID = id
			x.Categories = x.Facts.Categories
			x.Started = x.Facts.Started
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = each(ctx, opNamed, c.db, "SELECT n, field, value FROM personal WHERE n"+of+" ORDER BY n, field", []any{numbers}, []any{&n, &field, &value}, func() error {
		if x := found[n]; x != nil {
			x.Texts = append(x.Texts, circulation.Text{Field: circulation.TextField(field), Value: value})
		}
		return nil
	})
	if err != nil {
		return err
	}
	return each(ctx, opNamed, c.db, "SELECT t.n, t.target, r.id FROM ties t JOIN records r ON r.n = t.target WHERE t.n"+of+" ORDER BY 1, 2", []any{numbers}, []any{&n, &target, &id}, func() error {
		if x := found[n]; x != nil {
			x.Points = append(x.Points, circulation.Pointer{Kind: circulation.Kind(target>>kindShift + 1), ID: id})
		}
		return nil
	})
}

// Part implements rights.Circulation.
func (c *Circulation) Part(ctx context.Context, borrowers []circulation.Borrower) (left int, err error) {
	err = c.write(ctx, "part somebody from records", func(t *tx) error {
		left = 0
		persons, err := t.known(borrowers)
		if err != nil || len(persons) == 0 {
			return err
		}
		who := list(persons)
		const theirCompanions = " IN (SELECT n FROM companions INDEXED BY companions_person WHERE person IN (SELECT value FROM json_each(?1)))"
		// What was read of the records they are taken out of is out of date.
		if _, err := t.exec("UPDATE links SET version = ?2, plan = 0 WHERE n"+theirCompanions, who, t.change); err != nil {
			return err
		}
		if _, err := t.exec("DELETE FROM companions WHERE n"+theirCompanions+" AND person IN (SELECT value FROM json_each(?1))", who); err != nil {
			return err
		}
		if _, err := t.exec("UPDATE persons SET listed = 0 WHERE listed <> 0 AND p IN (SELECT value FROM json_each(?1))", who); err != nil {
			return err
		}
		blocks, err := t.linkBlocks()
		if err != nil {
			return err
		}
		naming := map[int64]bool{}
		var n, p int64
		err = each(t.ctx, t.op, t.db, "SELECT l.n, l.person "+theirs[len("SELECT l.n "):], []any{blocks, who, int64(-1)}, []any{&n, &p}, func() error {
			naming[p] = true
			left++
			return nil
		})
		if err != nil {
			return err
		}
		gone := slices.DeleteFunc(persons, func(p int64) bool { return naming[p] })
		_, err = t.exec("DELETE FROM persons WHERE p IN (SELECT value FROM json_each(?1)) AND p NOT IN (SELECT person FROM holds)", list(gone))
		return err
	})
	if err != nil {
		return 0, err
	}
	return left, nil
}

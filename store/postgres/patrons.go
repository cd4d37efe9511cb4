package postgres

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"math"
	"slices"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/internal/packed"
	"github.com/carrel-project/carrel/patron"
)

// Patrons keeps patrons, sealed, and the tokens by which they are found. It is safe for concurrent use if its DB is.
//
// A row that is removed or replaced stays in the table's file until VACUUM, and in the write-ahead log and what is made of that: backups and standbys. All of them are as sealed as
// the row: what erases is that the key is destroyed. Rows lie in the order of their arrival, which tells whoever has the files who came at about the same time.
//
// Calls that write do not wait for each other in a circle. Several in one transaction of the caller's may, and then fail.
type Patrons struct{ db DB }

var _ patron.Store = (*Patrons)(nil)

// NewPatrons returns the patrons in db. It neither creates nor migrates tables.
func NewPatrons(db DB) *Patrons { return &Patrons{db: db} }

const patronColumns = "p.id, p.version, p.grp, p.categories, p.library, p.expires, p.wish, p.wish_since, p.restricted, p.erasing, p.indexed, p.tokens, p.lookups, p.segments"

// A patronRow is what a row of the table is read into.
type patronRow struct {
	row                           patron.Row
	id, tokens, lookups, segments []byte
	categories                    string
	version, indexed              int64
	expires, since                *int64
	restricted, erasing           *int64
}

func (r *patronRow) dest() []any {
	f := &r.row.Facts
	return []any{&r.id, &r.version, &f.Group, &r.categories, &f.Library, &r.expires, &f.Wish, &r.since, &r.restricted, &r.erasing, &r.indexed, &r.tokens, &r.lookups, &r.segments}
}

func (r *patronRow) read() (row patron.Row, err error) {
	row = r.row
	if len(r.id) != len(row.ID) || r.version < 1 || r.indexed < 0 {
		return patron.Row{}, packed.ErrDamaged
	}
	copy(row.ID[:], r.id)
	row.Version, row.Indexed = uint64(r.version), uint64(r.indexed)
	row.Facts.Expires, row.Facts.WishSince = instant(r.expires), instant(r.since)
	row.Restricted, row.Erasing = instant(r.restricted), instant(r.erasing)
	if row.Facts.Categories, err = packed.ParseCategories(r.categories); err != nil {
		return patron.Row{}, err
	}
	if row.Tokens, err = packed.ParseTokens(r.tokens); err != nil {
		return patron.Row{}, err
	}
	if row.Lookups, err = packed.ParseTokens(r.lookups); err != nil {
		return patron.Row{}, err
	}
	if row.Segments, err = packed.ParseSegments(r.segments); err != nil {
		return patron.Row{}, err
	}
	return row, nil
}

// Get implements patron.Store.
func (p *Patrons) Get(ctx context.Context, id patron.ID) (patron.Row, error) {
	var r patronRow
	err := p.db.QueryRowContext(ctx, "SELECT "+patronColumns+" FROM patrons p WHERE p.id = $1", id[:]).Scan(r.dest()...)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return patron.Row{}, patron.ErrNotFound
	case err != nil:
		return patron.Row{}, failed("read a patron", err)
	}
	return r.read()
}

// Find implements patron.Store.
func (p *Patrons) Find(ctx context.Context, tokens []crypto.Token) (patron.Found, error) {
	found := patron.Found{Owners: make(map[crypto.Token][]patron.ID)}
	tokens = slices.Clone(tokens)
	slices.SortFunc(tokens, compareTokens)
	tokens = slices.Compact(tokens)
	var id []byte
	var newest, at int64
	rows := 0
	err := each(ctx, "find patrons", p.db, findPatrons, []any{packed.Tokens(tokens), int64(mostOwners)}, []any{&newest, &at, &id}, func() error {
		rows++
		if len(id) == len(patron.ID{}) { // otherwise nobody was found
			token := tokens[at/int64(len(crypto.Token{}))]
			if owners := found.Owners[token]; !slices.Contains(owners, patron.ID(id)) { // who has it as both comes twice
				found.Owners[token] = append(owners, patron.ID(id))
			}
		}
		return nil
	})
	if err == nil && (rows == 0 || newest < 0) {
		err = errNoNewest
	}
	if err != nil {
		return patron.Found{}, err
	}
	found.Indexed = uint64(newest)
	return found, nil
}

func compareTokens(a, b crypto.Token) int { return bytes.Compare(a[:], b[:]) }

var errNoNewest = errors.New("postgres: the table of index changes is damaged")

// mostOwners is how many patrons of those who share a lookup are returned: whoever asks for more than so many
// has to ask more precisely anyway.
const mostOwners = 1000

// The tokens come as one value, cut here: drivers do not agree on how to pass a list. One statement reads as of one moment. LATERAL has each token looked up in the indexes, however
// many there are and whatever the server believes of the tables' sizes.
const findPatrons = `
	SELECT x.newest, coalesce(f.at, 0), f.id FROM patron_indexes x
	LEFT JOIN (
		SELECT t.at, o.id FROM (
			SELECT at, substring($1::bytea FROM at + 1 FOR 16) AS token FROM generate_series(0, length($1::bytea) - 1, 16) AS at
		) t CROSS JOIN LATERAL (
			SELECT a.id FROM patron_tokens a WHERE a.token = t.token
			UNION ALL
			(SELECT l.id FROM patron_lookups l WHERE l.token = t.token ORDER BY l.id LIMIT $2::bigint)
		) o
	) f ON true`

// Rows implements patron.Store, in the order of the IDs. Rows of earlier changes of the index keys are looked for from
// q.After on, so that a series of pages reads the table once, however few of them there are. An index over the changes
// would spare that to those who rotate an index, once in some years, at the cost of everyone who writes a patron.
func (p *Patrons) Rows(ctx context.Context, q patron.Query) (list []patron.Row, err error) {
	const op = "read patrons"
	if q.Limit < 1 {
		return nil, failed(op, ctx.Err())
	}
	before := int64(math.MaxInt64)
	if q.IndexedBefore > 0 && q.IndexedBefore < math.MaxInt64 {
		before = int64(q.IndexedBefore) - 1
	}
	r := new(patronRow)
	only := ""
	if q.Erasing {
		only = "AND p.erasing IS NOT NULL "
	}
	err = each(ctx, op, p.db, "SELECT "+patronColumns+" FROM patrons p WHERE p.id > $1 AND p.indexed <= $2 "+only+"ORDER BY p.id LIMIT $3",
		[]any{q.After[:], before, int64(q.Limit)}, r.dest(), func() error {
			row, err := r.read()
			list = append(list, row)
			return err
		})
	if err != nil {
		return nil, err
	}
	return list, nil
}

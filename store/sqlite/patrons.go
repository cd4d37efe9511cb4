package sqlite

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/internal/packed"
	"github.com/carrel-project/carrel/patron"
)

// Patrons keeps patrons, sealed, and the tokens by which they are found. It is safe for concurrent use if its DB is.
//
// With the pragmas of [Pragmas] a row that is removed or replaced is overwritten in the file, and
// [Circulation.Finish] empties the write-ahead log; but SQLite leaves copies of rows in unused parts of pages when it
// splits and merges them, until VACUUM. They are as sealed as the rows: what erases is that the key is destroyed.
type Patrons struct{ db DB }

var _ patron.Store = (*Patrons)(nil)

// NewPatrons returns the patrons in db. It neither creates nor migrates tables. What [New] says of transactions holds here, too.
func NewPatrons(db DB) *Patrons { return &Patrons{db: db} }

const patronColumns = "p.id, p.version, p.grp, p.categories, p.library, p.expires, p.wish, p.wish_since, p.restricted, p.erasing, p.indexed, p.tokens, p.lookups, p.segments"

// A patronRow is what a row of the table is read into.
type patronRow struct {
	row                           patron.Row
	id, tokens, lookups, segments []byte
	categories                    string
	version, indexed              int64
	expires, since                any
	restricted, erasing           any
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
	err := p.db.QueryRowContext(ctx, "SELECT "+patronColumns+" FROM patrons p WHERE p.n BETWEEN ?1 AND ?1 + 15 AND p.id = ?2", place(id), id[:]).Scan(r.dest()...)
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
	err := each(ctx, "find patrons", p.db, findPatrons, []any{packed.Tokens(tokens), mostOwners}, []any{&newest, &at, &id}, func() error {
		rows++
		if len(id) == len(patron.ID{}) { // otherwise nobody was found
			token := tokens[at/int64(len(crypto.Token{}))]
			found.Owners[token] = append(found.Owners[token], patron.ID(id))
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

var errNoNewest = errors.New("sqlite: the table of index changes is damaged")

// mostOwners is how many patrons of those who share a lookup are returned: whoever asks for more than so many
// has to ask more precisely anyway.
const mostOwners = 1000

// The tokens come as one value, cut here: a parameter for each would be another statement for each number of them, and
// there is a bound to their number. One statement reads as of one moment.
const findPatrons = `
	WITH RECURSIVE at (k) AS (
		SELECT 0 WHERE length(?1) > 0
		UNION ALL
		SELECT k + 16 FROM at WHERE k + 16 < length(?1)
	)
	SELECT x.newest, ifnull(f.k, 0), p.id FROM patron_indexes x
	LEFT JOIN (
		SELECT at.k AS k, t.n AS n FROM at CROSS JOIN patron_tokens t ON t.token = substr(?1, at.k + 1, 16)
		UNION
		SELECT at.k, l.n FROM at CROSS JOIN patron_lookups l ON l.token = substr(?1, at.k + 1, 16)
			AND l.n IN (SELECT y.n FROM patron_lookups y WHERE y.token = substr(?1, at.k + 1, 16) ORDER BY y.n LIMIT ?2)
	) f
	LEFT JOIN patrons p ON p.n = f.n`

// Rows implements patron.Store, in the order of the places. Rows of earlier changes of the index keys are looked for from
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
	from := place(q.After)
	if q.After.IsZero() {
		from = math.MinInt64
	}
	r := new(patronRow)
	query := patronPage
	if q.Erasing {
		query = strings.Replace(query, "ORDER BY", "AND p.erasing IS NOT NULL ORDER BY", 1)
	}
	err = each(ctx, op, p.db, query, []any{q.After[:], from, before, q.Limit}, r.dest(), func() error {
		row, err := r.read()
		list = append(list, row)
		return err
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// If the last row of the page before is gone, others of its place, should there ever be any, may come twice.
const patronPage = "SELECT " + patronColumns + ` FROM patrons p
	WHERE p.n >= ifnull((SELECT n + 1 FROM patrons WHERE n BETWEEN ?2 AND ?2 + 15 AND id = ?1), ?2) AND p.indexed <= ?3
	ORDER BY p.n LIMIT ?4`

// places is how many rows may have the same place.
const places = 16

// place returns the first of the numbers that the row of an ID may have. It takes no index to find a row by, and rows
// lie in an order that says nothing. IDs are random, so that no two ever have the same place; and they need not be
// for two of them to have different ones.
func place(id patron.ID) int64 {
	a, b := binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:])
	return int64((a ^ b*0x9e3779b97f4a7c15) &^ (places - 1))
}

// Write implements patron.Store. The batch is applied as a set, whatever the order of its writes: one of the Tokens
// that one write gives up can be taken by another. Rows get the batch's Indexed and the version after the one that they replace. When two
// rows of the batch have the same token, the DuplicateError names the later one.
func (p *Patrons) Write(ctx context.Context, b patron.Batch) error {
	w, err := newPatronWriting(b)
	if err != nil {
		return err
	}
	return transact(ctx, p.db, "write patrons", func(t *tx) error {
		w.tx = t
		return w.run()
	})
}

// patronWriting is the state of one Write.
type patronWriting struct {
	*tx
	indexed         int64
	writes          []patronWrite // in the order in which the rows lie
	tokens, lookups tokenChanges
}

type patronWrite struct {
	*patron.Write
	n                         int64
	oldTokens, oldLookups     []crypto.Token
	categories                string
	tokens, lookups, segments []byte
}

// tokenChanges are what happens to one of the indexes.
type tokenChanges struct{ gone, added []tokenOf }

type tokenOf struct {
	token crypto.Token
	write *patronWrite
}

var errBatch = errors.New("sqlite: a batch of patrons has an ID twice, or a row without one")

func newPatronWriting(b patron.Batch) (*patronWriting, error) {
	if b.Indexed > math.MaxInt64 {
		return nil, errors.New("sqlite: the change of the index keys is out of range")
	}
	w := &patronWriting{indexed: int64(b.Indexed), writes: make([]patronWrite, len(b.Writes))}
	tokens := make(map[crypto.Token]*patron.Write, 4*len(b.Writes))
	for i := range b.Writes {
		in := &b.Writes[i]
		if in.Old >= math.MaxInt64 {
			return nil, errors.New("sqlite: a version is out of range")
		}
		out := &w.writes[i]
		out.Write = in
		if in.Remove {
			continue
		}
		for _, token := range in.Row.Tokens {
			switch tokens[token] {
			case nil:
				tokens[token] = in
			case in:
				return nil, packed.ErrTokens
			default:
				return nil, &patron.DuplicateError{ID: in.Row.ID}
			}
		}
		for j, token := range in.Row.Lookups {
			if slices.Contains(in.Row.Lookups[:j], token) {
				return nil, packed.ErrTokens
			}
		}
		var err error
		if out.categories, err = packed.Categories(in.Row.Facts.Categories); err != nil {
			return nil, errors.New("sqlite: the categories cannot be written")
		}
		if out.segments, err = packed.Segments(in.Row.Segments); err != nil {
			return nil, err
		}
		out.tokens, out.lookups = packed.Tokens(in.Row.Tokens), packed.Tokens(in.Row.Lookups)
	}
	slices.SortFunc(w.writes, func(a, b patronWrite) int {
		return cmp.Or(cmp.Compare(place(a.Row.ID), place(b.Row.ID)), bytes.Compare(a.Row.ID[:], b.Row.ID[:]))
	})
	for i := range w.writes {
		if id := w.writes[i].Row.ID; id.IsZero() || i > 0 && id == w.writes[i-1].Row.ID {
			return nil, errBatch
		}
	}
	return w, nil
}

func (w *patronWriting) run() error {
	if err := w.newest(); err != nil {
		return err
	}
	for i := range w.writes {
		if err := w.find(&w.writes[i]); err != nil {
			return err
		}
	}
	for i := range w.writes {
		if err := w.write(&w.writes[i]); err != nil {
			return err
		}
	}
	if err := w.moveTokens(); err != nil {
		return err
	}
	return w.moveLookups()
}

// newest is the statement that takes the write lock, and mostly finds nothing to write.
func (w *patronWriting) newest() error {
	if _, err := w.exec("UPDATE patron_indexes SET newest = ?1 WHERE newest < ?1", w.indexed); err != nil {
		return err
	}
	var newest, rows int64
	if err := w.get("SELECT ifnull(max(newest), 0), count(*) FROM patron_indexes", nil, &newest, &rows); err != nil {
		return err
	}
	switch {
	case rows != 1:
		return errNoNewest
	case newest > w.indexed:
		return patron.ErrStaleIndexes
	}
	return nil
}

// find looks for the row that a write is about. Of one that is to be inserted, the insert itself will say.
func (w *patronWriting) find(x *patronWrite) error {
	x.n = place(x.Row.ID)
	if x.Old == 0 && !x.Remove {
		return nil
	}
	var version int64
	var tokens, lookups []byte
	err := w.get("SELECT n, version, tokens, lookups FROM patrons WHERE n BETWEEN ?1 AND ?1 + 15 AND id = ?2", []any{x.n, x.Row.ID[:]},
		&x.n, &version, &tokens, &lookups)
	if err != nil && !errors.Is(err, errNone) {
		return err
	}
	if uint64(version) != x.Old {
		return &patron.ConflictError{ID: x.Row.ID}
	}
	if x.oldTokens, err = packed.ParseTokens(tokens); err != nil {
		return err
	}
	x.oldLookups, err = packed.ParseTokens(lookups)
	return err
}

func (w *patronWriting) write(x *patronWrite) error {
	if x.Remove {
		w.tokens.change(x, x.oldTokens, nil)
		w.lookups.change(x, x.oldLookups, nil)
		_, err := w.exec("DELETE FROM patrons WHERE n = ? AND id = ?", x.n, x.Row.ID[:])
		return err
	}
	w.tokens.change(x, x.oldTokens, x.Row.Tokens)
	w.lookups.change(x, x.oldLookups, x.Row.Lookups)
	f := &x.Row.Facts
	args := []any{int64(x.Old) + 1, f.Group, x.categories, f.Library, micros(f.Expires), string(f.Wish), micros(f.WishSince),
		micros(x.Row.Restricted), micros(x.Row.Erasing), w.indexed, x.tokens, x.lookups, x.segments}
	if x.Old == 0 {
		return w.insert(x, args)
	}
	_, err := w.exec(`UPDATE patrons SET version = ?, grp = ?, categories = ?, library = ?, expires = ?, wish = ?, wish_since = ?,
		restricted = ?, erasing = ?, indexed = ?, tokens = ?, lookups = ?, segments = ? WHERE n = ?`, append(args, x.n)...)
	return err
}

func (w *patronWriting) insert(x *patronWrite, args []any) error {
	for range places {
		n, err := w.exec(`INSERT INTO patrons (version, grp, categories, library, expires, wish, wish_since, restricted, erasing, indexed, tokens, lookups, segments, n, id)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`, append(args, x.n, x.Row.ID[:])...)
		if err != nil || n == 1 {
			return err
		}
		var there bool
		if err := w.get("SELECT EXISTS (SELECT 1 FROM patrons WHERE n BETWEEN ?1 AND ?1 + 15 AND id = ?2)", []any{place(x.Row.ID), x.Row.ID[:]}, &there); err != nil {
			return err
		}
		if there {
			return &patron.ConflictError{ID: x.Row.ID}
		}
		x.n++ // somebody else's
	}
	return fmt.Errorf("sqlite: %s: too many IDs have the same place", w.op)
}

// change notes what a write changes, by a patron's tokens as they are and as they will be.
func (c *tokenChanges) change(x *patronWrite, from, to []crypto.Token) {
	for _, token := range from {
		if !slices.Contains(to, token) {
			c.gone = append(c.gone, tokenOf{token, x})
		}
	}
	for _, token := range to {
		if !slices.Contains(from, token) {
			c.added = append(c.added, tokenOf{token, x})
		}
	}
}

// sort puts the changes into the order of the index, in which neighbours share a page.
func (c *tokenChanges) sort() {
	compare := func(a, b tokenOf) int { return compareTokens(a.token, b.token) }
	slices.SortFunc(c.gone, compare)
	slices.SortFunc(c.added, compare)
}

// moveTokens deletes all that were given up before it writes the first that was taken.
func (w *patronWriting) moveTokens() error {
	w.tokens.sort()
	for i := range w.tokens.gone {
		if _, err := w.exec("DELETE FROM patron_tokens WHERE token = ?", w.tokens.gone[i].token[:]); err != nil {
			return err
		}
	}
	return w.addTokens("INSERT INTO patron_tokens (token, n) VALUES (?, ?)", w.tokens.added, func(x *tokenOf) error {
		var n int64
		if err := w.get("SELECT n FROM patron_tokens WHERE token = ?", []any{x.token[:]}, &n); err != nil {
			return err
		}
		if n != x.write.n {
			return &patron.DuplicateError{ID: x.write.Row.ID}
		}
		return nil
	})
}

func (w *patronWriting) moveLookups() error {
	w.lookups.sort()
	for i := range w.lookups.gone {
		x := &w.lookups.gone[i]
		if _, err := w.exec("DELETE FROM patron_lookups WHERE token = ? AND n = ?", x.token[:], x.write.n); err != nil {
			return err
		}
	}
	return w.addTokens("INSERT INTO patron_lookups (token, n) VALUES (?, ?)", w.lookups.added, func(*tokenOf) error { return nil })
}

// addTokens inserts many rows in one statement, which costs a third of as many statements. When one of them is there
// already, refused is asked about each.
func (w *patronWriting) addTokens(insert string, added []tokenOf, refused func(*tokenOf) error) error {
	const most = 50
	args := make([]any, 0, 2*most)
	for len(added) > 0 {
		some := added[:1]
		if len(added) >= most {
			some = added[:most]
		}
		added = added[len(some):]
		args = args[:0]
		for i := range some {
			args = append(args, some[i].token[:], some[i].write.n)
		}
		n, err := w.exec(insert+strings.Repeat(", (?, ?)", len(some)-1)+" ON CONFLICT DO NOTHING", args...)
		if err != nil {
			return err
		}
		if n == int64(len(some)) {
			continue
		}
		for i := range some {
			if err := refused(&some[i]); err != nil {
				return err
			}
		}
		return fmt.Errorf("%w: %s", packed.ErrDamaged, "a token is in the index and not in its row")
	}
	return nil
}

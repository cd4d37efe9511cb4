package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/internal/packed"
	"github.com/carrel-project/carrel/patron"
)

// A batch is written with a handful of statements, however many patrons are in it. All batches take what others may want, too, in the same order: the newest change of the index
// keys, rows that are there, new rows, new tokens; each of these in the order of its bytes. So there is always one that waits for nobody. It matters that rows are locked before
// others are inserted, and changed only then: an insert waits for who changes or deletes a row of the same key, but not for who has only locked it. For the same reason tokens are inserted
// before any are deleted.

// Write implements patron.Store. The batch is applied as a set, whatever the order of its writes: one of the Tokens
// that one write gives up can be taken by another. Rows get the batch's Indexed and the version after the one that they replace. When two
// rows of the batch have the same token, the DuplicateError names the later one.
func (p *Patrons) Write(ctx context.Context, b patron.Batch) error {
	const op = "write patrons"
	batch, err := newPatronBatch(b)
	if err != nil {
		return err
	}
	// It is not repeatable: the second time, the rows are of the next version.
	return transact(ctx, p.db, op, false, func(db DB) error {
		w := patronWriting{ctx: ctx, op: op, db: db, patronBatch: batch, old: make(map[patron.ID]oldPatron)}
		return w.run()
	})
}

// patronBatch is a batch that was looked through.
type patronBatch struct {
	indexed                    int64
	inserts, replaces, removes []*patron.Write // in the order of the IDs
}

var errBatch = errors.New("postgres: a batch of patrons has an ID twice, or a row without one")

func newPatronBatch(b patron.Batch) (*patronBatch, error) {
	if b.Indexed > math.MaxInt64 {
		return nil, errors.New("postgres: the change of the index keys is out of range")
	}
	out := &patronBatch{indexed: int64(b.Indexed)}
	tokens := make(map[crypto.Token]*patron.Write, 4*len(b.Writes))
	ids := make(map[patron.ID]bool, len(b.Writes))
	for i := range b.Writes {
		w := &b.Writes[i]
		switch {
		case w.Row.ID.IsZero(), ids[w.Row.ID]:
			return nil, errBatch
		case w.Old >= math.MaxInt64:
			return nil, errors.New("postgres: a version is out of range")
		}
		ids[w.Row.ID] = true
		switch {
		case w.Remove:
			out.removes = append(out.removes, w)
			continue
		case w.Old == 0:
			out.inserts = append(out.inserts, w)
		default:
			out.replaces = append(out.replaces, w)
		}
		for _, token := range w.Row.Tokens {
			switch tokens[token] {
			case nil:
				tokens[token] = w
			case w:
				return nil, packed.ErrTokens
			default:
				return nil, &patron.DuplicateError{ID: w.Row.ID}
			}
		}
		for j, token := range w.Row.Lookups {
			if slices.Contains(w.Row.Lookups[:j], token) {
				return nil, packed.ErrTokens
			}
		}
		f := &w.Row.Facts
		if !storable(f.Group, f.Library, string(f.Wish)) {
			return nil, fmt.Errorf("postgres: write patrons: %w", errText)
		}
	}
	for _, list := range [][]*patron.Write{out.inserts, out.replaces, out.removes} {
		slices.SortFunc(list, func(a, b *patron.Write) int { return bytes.Compare(a.Row.ID[:], b.Row.ID[:]) })
	}
	return out, nil
}

// patronWriting is one attempt at a Write.
type patronWriting struct {
	ctx context.Context
	op  string
	db  DB
	*patronBatch
	old             map[patron.ID]oldPatron
	tokens, lookups tokenChanges
}

// oldPatron is what there is to know of the row that a write is about.
type oldPatron struct {
	version         int64
	tokens, lookups []crypto.Token
}

func (w *patronWriting) run() error {
	if err := w.newest(); err != nil {
		return err
	}
	if err := w.hold(); err != nil {
		return err
	}
	if err := w.insert(); err != nil {
		return err
	}
	if err := w.replace(); err != nil {
		return err
	}
	if err := w.remove(); err != nil {
		return err
	}
	if err := w.moveTokens(); err != nil {
		return err
	}
	return w.moveLookups()
}

// newest compares the batch's index keys with the newest, and holds the row, together with all others who write, so that nobody
// makes it newer before this batch is committed.
func (w *patronWriting) newest() error {
	for range 2 { // the first time it finds nothing if somebody else made it the same meanwhile
		var newest int64
		rows := 0
		err := each(w.ctx, w.op, w.db, `
			WITH raised AS (UPDATE patron_indexes SET newest = $1::bigint WHERE newest < $1::bigint RETURNING newest),
				held AS (SELECT newest FROM patron_indexes WHERE newest >= $1::bigint FOR SHARE)
			SELECT newest FROM raised UNION ALL SELECT newest FROM held`, []any{w.indexed}, []any{&newest}, func() error { rows++; return nil })
		switch {
		case err != nil:
			return err
		case rows > 1:
			return errNoNewest
		case rows == 1 && newest > w.indexed:
			return patron.ErrStaleIndexes
		case rows == 1:
			return nil
		}
	}
	return errNoNewest
}

// hold locks the rows that are replaced or removed, and compares their versions. A comparison in the statements that write
// would do for one row; they take many in any order.
func (w *patronWriting) hold() error {
	writes := slices.Concat(w.replaces, w.removes)
	if len(writes) == 0 {
		return nil
	}
	var id, tokens, lookups []byte
	var version int64
	err := each(w.ctx, w.op, w.db, `SELECT p.id, p.version, p.tokens, p.lookups FROM (`+idInput+`) i JOIN patrons p ON p.id = i.id ORDER BY p.id FOR UPDATE OF p`,
		[]any{packIDs(writes)}, []any{&id, &version, &tokens, &lookups}, func() (err error) {
			old := oldPatron{version: version}
			if old.tokens, err = packed.ParseTokens(tokens); err != nil {
				return err
			}
			if old.lookups, err = packed.ParseTokens(lookups); err != nil {
				return err
			}
			w.old[patron.ID(id)] = old
			return nil
		})
	if err != nil {
		return err
	}
	for _, x := range writes {
		old, there := w.old[x.Row.ID]
		if !there && x.Old > 0 || old.version != int64(x.Old) {
			return &patron.ConflictError{ID: x.Row.ID}
		}
	}
	return nil
}

const idInput = "SELECT substring($1::bytea FROM at FOR 16) AS id FROM generate_series(1, length($1::bytea), 16) AS at"

func packIDs(writes []*patron.Write) []byte {
	b := make([]byte, 0, len(writes)*len(patron.ID{}))
	for _, x := range writes {
		b = append(b, x.Row.ID[:]...)
	}
	return b
}

func (w *patronWriting) insert() error {
	if len(w.inserts) == 0 {
		return nil
	}
	rows, data, err := packPatrons(w.inserts)
	if err != nil {
		return err
	}
	done := make(map[patron.ID]bool, len(w.inserts))
	var id []byte
	err = each(w.ctx, w.op, w.db, `
		INSERT INTO patrons (id, version, indexed, grp, categories, library, expires, wish, wish_since, restricted, erasing, tokens, lookups, segments)
		SELECT i.id, i.version, $3::bigint, i.grp, i.categories, i.library, i.expires, i.wish, i.since, i.restricted, i.erasing, i.tokens, i.lookups, i.segments
		FROM (`+patronInput+`) i ORDER BY i.id ON CONFLICT DO NOTHING RETURNING id`, []any{rows, data, w.indexed}, []any{&id}, func() error {
		done[patron.ID(id)] = true
		return nil
	})
	if err != nil {
		return err
	}
	for _, x := range w.inserts {
		if !done[x.Row.ID] {
			return &patron.ConflictError{ID: x.Row.ID}
		}
		w.change(x, nil, nil, x.Row.Tokens, x.Row.Lookups)
	}
	return nil
}

func (w *patronWriting) replace() error {
	if len(w.replaces) == 0 {
		return nil
	}
	rows, data, err := packPatrons(w.replaces)
	if err != nil {
		return err
	}
	n, err := change(w.ctx, w.db, w.op, `
		UPDATE patrons p SET version = i.version, indexed = $3::bigint, grp = i.grp, categories = i.categories, library = i.library, expires = i.expires,
			wish = i.wish, wish_since = i.since, restricted = i.restricted, erasing = i.erasing, tokens = i.tokens, lookups = i.lookups, segments = i.segments
		FROM (`+patronInput+`) i WHERE p.id = i.id`, rows, data, w.indexed)
	if err != nil {
		return err
	}
	if n != int64(len(w.replaces)) {
		return packed.ErrDamaged
	}
	for _, x := range w.replaces {
		old := w.old[x.Row.ID]
		w.change(x, old.tokens, old.lookups, x.Row.Tokens, x.Row.Lookups)
	}
	return nil
}

func (w *patronWriting) remove() error {
	if len(w.removes) == 0 {
		return nil
	}
	for _, x := range w.removes {
		old := w.old[x.Row.ID]
		w.change(x, old.tokens, old.lookups, nil, nil)
	}
	_, err := change(w.ctx, w.db, w.op, "DELETE FROM patrons p USING ("+idInput+") i WHERE p.id = i.id", packIDs(w.removes))
	return err
}

// A patronParam is a row as a statement takes it: what is small as JSON, the rest in the bytes that it points into.
type patronParam struct {
	At         int    `json:"at"` // where the ID begins, from 1 on
	Tokens     int    `json:"t"`  // and how long what comes after it is
	Lookups    int    `json:"l"`
	Segments   int    `json:"s"`
	Version    int64  `json:"version"`
	Group      string `json:"grp"`
	Categories string `json:"categories"`
	Library    string `json:"library"`
	Expires    *int64 `json:"expires"`
	Wish       string `json:"wish"`
	Since      *int64 `json:"since"`
	Restricted *int64 `json:"restricted"`
	Erasing    *int64 `json:"erasing"`
}

const patronInput = `
	SELECT substring($2::bytea FROM r.at FOR 16) AS id, r.version, r.grp, r.categories, r.library, r.expires, r.wish, r.since, r.restricted, r.erasing,
		substring($2::bytea FROM r.at + 16 FOR r.t) AS tokens, substring($2::bytea FROM r.at + 16 + r.t FOR r.l) AS lookups,
		substring($2::bytea FROM r.at + 16 + r.t + r.l FOR r.s) AS segments
	FROM json_to_recordset($1::text::json) AS r (at integer, t integer, l integer, s integer, version bigint,
		grp text, categories text, library text, expires bigint, wish text, since bigint, restricted bigint, erasing bigint)`

func packPatrons(writes []*patron.Write) (rows string, data []byte, err error) {
	params := make([]patronParam, len(writes))
	for i, x := range writes {
		row, f := &x.Row, &x.Row.Facts
		p := &params[i]
		*p = patronParam{At: len(data) + 1, Version: int64(x.Old) + 1, Group: f.Group, Library: f.Library,
			Expires: micros(f.Expires), Wish: string(f.Wish), Since: micros(f.WishSince),
			Restricted: micros(row.Restricted), Erasing: micros(row.Erasing)}
		for _, c := range f.Categories {
			if !utf8.ValidString(c) { // JSON would write something else in its place; a NUL byte it escapes
				return "", nil, fmt.Errorf("postgres: write patrons: %w", errText)
			}
		}
		if p.Categories, err = packed.Categories(f.Categories); err != nil {
			return "", nil, err
		}
		segments, err := packed.Segments(row.Segments)
		if err != nil {
			return "", nil, err
		}
		tokens, lookups := packed.Tokens(row.Tokens), packed.Tokens(row.Lookups)
		p.Tokens, p.Lookups, p.Segments = len(tokens), len(lookups), len(segments)
		data = append(data, row.ID[:]...)
		data = append(append(append(data, tokens...), lookups...), segments...)
	}
	list, err := json.Marshal(params)
	return string(list), data, err
}

package postgres

import (
	"slices"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/internal/packed"
	"github.com/carrel-project/carrel/patron"
)

// tokenChanges are what a batch does to one of the blind indexes.
type tokenChanges struct{ gone, added []tokenOf }

type tokenOf struct {
	token crypto.Token
	id    patron.ID
}

// change notes what a write changes, by a patron's tokens and lookups as they are and as they will be.
func (w *patronWriting) change(x *patron.Write, fromTokens, fromLookups, toTokens, toLookups []crypto.Token) {
	w.tokens.change(x.Row.ID, fromTokens, toTokens)
	w.lookups.change(x.Row.ID, fromLookups, toLookups)
}

func (c *tokenChanges) change(id patron.ID, from, to []crypto.Token) {
	for _, token := range from {
		if !slices.Contains(to, token) {
			c.gone = append(c.gone, tokenOf{token, id})
		}
	}
	for _, token := range to {
		if !slices.Contains(from, token) {
			c.added = append(c.added, tokenOf{token, id})
		}
	}
}

// moveTokens writes the index in which a token is one patron's. A token that one row of the batch gives up and another takes is
// neither deleted nor inserted but changed, so that nothing is deleted before all is inserted.
func (w *patronWriting) moveTokens() error {
	c := &w.tokens
	owners, err := w.owners()
	if err != nil {
		return err
	}
	gone := make(map[tokenOf]bool, len(c.gone))
	for _, x := range c.gone {
		gone[x] = true
	}
	var inserted, moved []tokenOf
	for _, x := range c.added {
		owner, there := owners[x.token]
		switch {
		case !there:
			inserted = append(inserted, x)
		case gone[tokenOf{x.token, owner}]:
			moved = append(moved, x)
		default:
			return refused(x, owner)
		}
	}
	if err := w.insertTokens(inserted); err != nil {
		return err
	}
	if _, err := w.index("UPDATE patron_tokens t SET id = i.id FROM ("+tokenInput+") i WHERE t.token = i.token", moved); err != nil {
		return err
	}
	_, err = w.index("DELETE FROM patron_tokens t USING ("+tokenInput+") i WHERE t.token = i.token AND t.id = i.id", c.gone) // of those that moved, the ID is another one
	return err
}

// owners returns whose the tokens are that the batch is about. Those of its own rows stay so, for nobody else has these rows. When it gives up none, the inserts will tell.
func (w *patronWriting) owners() (map[crypto.Token]patron.ID, error) {
	if len(w.tokens.gone) == 0 {
		return nil, nil
	}
	all := make(map[crypto.Token]bool)
	var list []tokenOf
	for _, x := range slices.Concat(w.tokens.gone, w.tokens.added) {
		if !all[x.token] {
			all[x.token] = true
			list = append(list, x)
		}
	}
	owners := make(map[crypto.Token]patron.ID, len(list))
	var token, id []byte
	err := each(w.ctx, w.op, w.db, "SELECT t.token, t.id FROM ("+tokenInput+") i JOIN patron_tokens t ON t.token = i.token",
		[]any{packTokensOf(list)}, []any{&token, &id}, func() error {
			if len(token) != len(crypto.Token{}) || len(id) != len(patron.ID{}) {
				return packed.ErrDamaged
			}
			owners[crypto.Token(token)] = patron.ID(id)
			return nil
		})
	return owners, err
}

// insertTokens inserts tokens that nobody had when this was looked at.
func (w *patronWriting) insertTokens(list []tokenOf) error {
	if len(list) == 0 {
		return nil
	}
	done := make(map[crypto.Token]bool, len(list))
	var token, owner []byte
	err := each(w.ctx, w.op, w.db, "INSERT INTO patron_tokens (token, id) SELECT i.token, i.id FROM ("+tokenInput+") i ORDER BY i.token ON CONFLICT DO NOTHING RETURNING token",
		[]any{packTokensOf(list)}, []any{&token}, func() error {
			done[crypto.Token(token)] = true
			return nil
		})
	if err != nil || len(done) == len(list) {
		return err
	}
	for _, x := range list {
		if done[x.token] {
			continue
		}
		var id patron.ID // of nobody, if it was deleted since
		if err := each(w.ctx, w.op, w.db, "SELECT id FROM patron_tokens WHERE token = $1", []any{x.token[:]}, []any{&owner}, func() error {
			copy(id[:], owner)
			return nil
		}); err != nil {
			return err
		}
		return refused(x, id)
	}
	return nil
}

func refused(x tokenOf, owner patron.ID) error {
	if owner == x.id {
		return packed.ErrDamaged // the token is in the index and not in its row
	}
	return &patron.DuplicateError{ID: x.id}
}

// moveLookups writes the index in which a token is any number of patrons'. Each is next to its patron's ID, so that nobody
// else has a hand in it who has not had the row.
func (w *patronWriting) moveLookups() error {
	if _, err := w.index("DELETE FROM patron_lookups l USING ("+tokenInput+") i WHERE l.token = i.token AND l.id = i.id", w.lookups.gone); err != nil {
		return err
	}
	n, err := w.index("INSERT INTO patron_lookups (token, id) SELECT i.token, i.id FROM ("+tokenInput+") i ORDER BY i.token, i.id ON CONFLICT DO NOTHING", w.lookups.added)
	if err == nil && n != int64(len(w.lookups.added)) {
		err = packed.ErrDamaged // one is in the index and not in its row
	}
	return err
}

// index runs a statement about some tokens, and returns how many rows it changed.
func (w *patronWriting) index(query string, list []tokenOf) (int64, error) {
	if len(list) == 0 {
		return 0, nil
	}
	return change(w.ctx, w.db, w.op, query, packTokensOf(list))
}

const tokenInput = `SELECT substring($1::bytea FROM at FOR 16) AS token, substring($1::bytea FROM at + 16 FOR 16) AS id
	FROM generate_series(1, length($1::bytea), 32) AS at`

func packTokensOf(list []tokenOf) []byte {
	b := make([]byte, 0, len(list)*(len(crypto.Token{})+len(patron.ID{})))
	for i := range list {
		b = append(append(b, list[i].token[:]...), list[i].id[:]...)
	}
	return b
}

package sqlite

import (
	"context"
	"errors"
	"math"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

var _ crypto.TokenStore = (*Circulation)(nil)

// ErrStaleToken means that a borrower or a text is a token of another epoch than those in the store: nobody would be found by it. Make it
// anew, of the epoch that [Circulation.TokenEpoch] says ([crypto.Pseudonyms.Of]).
var ErrStaleToken = errors.New("sqlite: a token is of another epoch than the store's: the keys were rotated meanwhile; make it anew")

// TokenEpoch implements crypto.TokenStore.
func (c *Circulation) TokenEpoch(ctx context.Context) (epoch uint32, err error) {
	return (&tx{ctx: ctx, op: "read the epoch of tokens", db: c.db}).tokenEpoch()
}

// RenewTokens implements crypto.TokenStore: borrowers' tokens are of the pseudonyms [patron.Borrowers], those of texts of [patron.Texts].
// Writers wait meanwhile, for three quarters of a minute with a million borrowers. It needs a transaction of its own. Old tokens are overwritten in the file, and are in the write-ahead log until [Circulation.Finish].
func (c *Circulation) RenewTokens(ctx context.Context, epoch uint32, renew func(name, token string) (string, error)) (renewed int, err error) {
	if _, own := c.db.(beginner); !own { // it could be undone after keys were destroyed
		return 0, errors.New("sqlite: renew tokens: not in a transaction of the caller's")
	}
	err = c.write(ctx, "renew tokens", func(t *tx) error {
		renewed = 0
		now, err := t.tokenEpoch()
		if err != nil {
			return err
		}
		if now >= epoch {
			var some bool
			if err := t.get("SELECT EXISTS (SELECT 1 FROM persons) OR EXISTS (SELECT 1 FROM personal)", nil, &some); err != nil || some {
				return err
			}
		}
		err = t.renewEach(&renewed, patron.Borrowers, renew, "SELECT p, 0, borrower FROM persons WHERE p > ?1 AND ?2 = 0 ORDER BY p LIMIT ?3",
			"UPDATE persons SET borrower = ?3 WHERE p = ?1 AND ?2 = 0")
		if err == nil {
			err = t.renewEach(&renewed, patron.Texts, renew, "SELECT n, field, value FROM personal WHERE (n, field) > (?1, ?2) ORDER BY n, field LIMIT ?3",
				"UPDATE personal SET value = ?3 WHERE n = ?1 AND field = ?2")
		}
		if err == nil {
			_, err = t.exec("UPDATE token_epoch SET epoch = ?", int64(epoch))
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return renewed, nil
}

// renewEach replaces the tokens of one table, whose rows are known by two numbers.
func (t *tx) renewEach(renewed *int, name string, renew func(name, token string) (string, error), page, replace string) error {
	type row struct {
		n, field int64
		token    string
	}
	const limit = 1000
	rows := make([]row, 0, limit)
	for last := (row{n: -1}); ; last = rows[len(rows)-1] {
		rows = rows[:0]
		var r row
		err := each(t.ctx, t.op, t.db, page, []any{last.n, last.field, limit}, []any{&r.n, &r.field, &r.token}, func() error {
			rows = append(rows, r)
			return nil
		})
		if err != nil || len(rows) == 0 {
			return err
		}
		for _, r := range rows {
			switch fresh, err := renew(name, r.token); {
			case errors.Is(err, crypto.ErrNotPseudonym): // another system's own
			case err != nil:
				return err
			default:
				if _, err := t.exec(replace, r.n, r.field, fresh); err != nil {
					return err
				}
				*renewed++
			}
		}
	}
}

func (t *tx) tokenEpoch() (uint32, error) {
	if t.tokens != 0 {
		return t.tokens, nil
	}
	var epoch int64
	rows := 0
	err := each(t.ctx, t.op, t.db, "SELECT epoch FROM token_epoch", nil, []any{&epoch}, func() error {
		rows++
		return nil
	})
	if err == nil && (rows != 1 || epoch < 1 || epoch > math.MaxUint32) {
		err = errors.New("sqlite: the table token_epoch is damaged: it wants one row, with the number of an epoch")
	}
	if err != nil {
		return 0, err
	}
	t.tokens = uint32(epoch)
	return t.tokens, nil
}

// fresh refuses tokens that would join nobody to what the store knows of them.
func (t *tx) fresh(text string) error {
	of, isToken := crypto.TokenEpoch(text)
	if !isToken {
		return nil
	}
	if now, err := t.tokenEpoch(); err != nil {
		return err
	} else if of != now {
		return ErrStaleToken
	}
	return nil
}

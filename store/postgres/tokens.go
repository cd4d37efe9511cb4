package postgres

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

var _ crypto.TokenStore = (*Circulation)(nil)

// ErrStaleToken means that a borrower or a text is a token of another epoch than those in the store: nobody would be found by it. Make it
// anew, of the epoch that [Circulation.TokenEpoch] says ([crypto.Pseudonyms.Of]).
var ErrStaleToken = errors.New("postgres: a token is of another epoch than the store's: the keys were rotated meanwhile; make it anew")

// TokenEpoch implements crypto.TokenStore.
func (c *Circulation) TokenEpoch(ctx context.Context) (epoch uint32, err error) {
	const op = "read the epoch of tokens"
	err = c.read(ctx, op, func() error {
		epoch, err = (&tx{ctx, op, c.db}).tokenEpoch("")
		return err
	})
	return epoch, err
}

var errTokenEpoch = errors.New("postgres: the table token_epoch is damaged: it wants one row, with the number of an epoch")

func (t *tx) tokenEpoch(lock string) (uint32, error) {
	var rows int
	var epoch int64
	err := each(t.ctx, t.op, t.db, "SELECT epoch FROM token_epoch"+lock, nil, []any{&epoch}, func() error {
		rows++
		return nil
	})
	if err == nil && (rows != 1 || epoch < 1 || epoch > math.MaxUint32) {
		err = errTokenEpoch
	}
	return uint32(epoch), err
}

// RenewTokens implements crypto.TokenStore: borrowers' tokens are of the pseudonyms [patron.Borrowers], those of texts of [patron.Texts].
// Whoever saves somebody who is new, or a text, waits meanwhile, half a minute or so with a million borrowers. It does not wait for others longer than two seconds, and keeps nobody waiting for them: it tries again, for some minutes.
// It needs a transaction of its own. The rows as they were lie in the files until they are vacuumed.
func (c *Circulation) RenewTokens(ctx context.Context, epoch uint32, renew func(name, token string) (string, error)) (renewed int, err error) {
	const op = "renew tokens"
	if _, own := c.db.(beginner); !own { // it could not see what was written since the caller's began, and be undone after keys were destroyed
		return 0, errors.New("postgres: renew tokens: not in a transaction of the caller's")
	}
	for try := time.Duration(1); ; try++ {
		renewed, err = c.renewTokens(ctx, op, epoch, renew)
		var known *Error
		if !errors.As(err, &known) || known.State != codeLockTimeout || try == 60 {
			break
		}
		select {
		case <-time.After(min(try, 10) * time.Second / 2):
		case <-ctx.Done():
			return 0, failed(op, ctx.Err())
		}
	}
	if err != nil {
		return 0, err
	}
	return renewed, nil
}

func (c *Circulation) renewTokens(ctx context.Context, op string, epoch uint32, renew func(name, token string) (string, error)) (renewed int, err error) {
	err = c.write(ctx, op, true, func(t *tx) error {
		renewed = 0
		if _, err := t.exec("SET LOCAL lock_timeout = '2s'"); err != nil {
			return err
		}
		// Waits for those who have made somebody or are about to, and keeps out those who would: see fresh.
		now, err := t.tokenEpoch(" FOR UPDATE")
		if err != nil {
			return err
		}
		var some bool
		if now >= epoch {
			if _, err := t.get("SELECT EXISTS (SELECT FROM persons) OR EXISTS (SELECT FROM personal)", nil, &some); err != nil || some {
				return err
			}
		}
		err = t.renewEach(&renewed, patron.Borrowers, renew, "SELECT p, 0, borrower FROM persons WHERE p > $1 AND $2 = 0 ORDER BY p LIMIT $3",
			"UPDATE persons SET borrower = u.token FROM "+renewedRows+" WHERE persons.p = u.n AND u.field = 0")
		if err == nil {
			err = t.renewEach(&renewed, patron.Texts, renew, "SELECT n, field, value FROM personal WHERE (n, field) > ($1, $2) ORDER BY n, field LIMIT $3",
				"UPDATE personal SET value = u.token FROM "+renewedRows+" WHERE personal.n = u.n AND personal.field = u.field")
		}
		if err == nil {
			_, err = t.exec("UPDATE token_epoch SET epoch = $1", int64(epoch))
		}
		return err
	})
	return renewed, err
}

const renewedRows = "unnest(CAST($1 AS bigint[]), CAST($2 AS bigint[]), CAST($3 AS text[])) AS u (n, field, token)"

// renewEach replaces the tokens of one table, whose rows are known by two numbers.
func (t *tx) renewEach(renewed *int, name string, renew func(name, token string) (string, error), page, replace string) error {
	var n, field int64
	var token string
	for last := int64(-1); ; {
		var numbers, fields []int64
		var tokens []string
		rows := 0
		err := each(t.ctx, t.op, t.db, page, []any{last, field, blockSize}, []any{&n, &field, &token}, func() error {
			rows++
			fresh, err := renew(name, token)
			if errors.Is(err, crypto.ErrNotPseudonym) { // another system's own
				return nil
			} else if err != nil {
				return err
			}
			numbers, fields, tokens = append(numbers, n), append(fields, field), append(tokens, fresh)
			return nil
		})
		if err != nil || rows == 0 {
			return err
		}
		last = n
		if _, err := t.exec(replace, int64Array(numbers), int64Array(fields), textArray(tokens)); err != nil {
			return err
		}
		*renewed += len(tokens)
	}
}

// fresh refuses tokens that would join nobody to what the store knows of them. From then on no others are renewed before this transaction is over.
func (t *tx) fresh(texts ...string) error {
	var now uint32
	for _, text := range texts {
		of, isToken := crypto.TokenEpoch(text)
		if !isToken {
			continue
		}
		if now == 0 {
			// The row and not the table: in a transaction whose snapshot is older than a renewal this fails, instead of reading what was.
			var err error
			if now, err = t.tokenEpoch(" FOR SHARE"); err != nil {
				return err
			}
		}
		if of != now {
			return ErrStaleToken
		}
	}
	return nil
}

func (t *tx) freshBorrowers(borrowers []circulation.Borrower) error {
	texts := make([]string, len(borrowers))
	for i, b := range borrowers {
		texts[i] = string(b)
	}
	return t.fresh(texts...)
}

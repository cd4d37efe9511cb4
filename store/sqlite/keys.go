package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"math"

	"github.com/carrel-project/carrel/crypto"
)

// Keys keeps wrapped subject keys. It is safe for concurrent use if its DB is.
type Keys struct{ db DB }

var _ crypto.KeyStore = (*Keys)(nil)

// NewKeys returns the keys in db. It neither creates nor migrates tables. What [New] says of transactions holds here, too.
func NewKeys(db DB) *Keys { return &Keys{db: db} }

// Key implements crypto.KeyStore.
func (k *Keys) Key(ctx context.Context, subject crypto.Subject) (crypto.WrappedKey, error) {
	w := crypto.WrappedKey{Subject: subject}
	var epoch int64
	err := k.db.QueryRowContext(ctx, "SELECT epoch, wrapped FROM subject_keys WHERE subject = ?", string(subject)).Scan(&epoch, &w.Wrapped)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return crypto.WrappedKey{}, crypto.ErrNoKey
	case err != nil:
		return crypto.WrappedKey{}, failed("read a key", err)
	}
	w.Epoch = epochOf(epoch)
	return w, nil
}

// epochOf returns 0, which is no epoch, for what is none: a damaged row is one that does not open, and stops nobody else's.
func epochOf(n int64) uint32 {
	if n < 0 || n > math.MaxUint32 {
		return 0
	}
	return uint32(n)
}

// PutKeys implements crypto.KeyStore.
func (k *Keys) PutKeys(ctx context.Context, changes []crypto.KeyChange) (lost []crypto.Subject, err error) {
	const op = "write keys"
	if len(changes) == 0 {
		return nil, failed(op, ctx.Err())
	}
	err = transact(ctx, k.db, op, func(t *tx) error {
		for _, c := range changes {
			n, err := t.putKey(c)
			if err != nil {
				return err
			}
			if n == 0 {
				lost = append(lost, c.Key.Subject)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return lost, nil
}

func (t *tx) putKey(c crypto.KeyChange) (int64, error) {
	subject, epoch := string(c.Key.Subject), int64(c.Key.Epoch)
	if c.Old == nil {
		return t.exec("INSERT INTO subject_keys (subject, epoch, wrapped) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", subject, epoch, c.Key.Wrapped)
	}
	return t.exec("UPDATE subject_keys SET epoch = ?, wrapped = ? WHERE subject = ? AND wrapped = ?", epoch, c.Key.Wrapped, subject, c.Old)
}

// OlderKeys implements crypto.KeyStore, in the order of the subjects. That order does not depend on the epoch, so
// that a key cannot come to lie before the place that a series has reached by being wrapped anew, and the place is known
// when the key that stood there is gone. To find a page among many keys that are wrapped anew already, it is read once for
// each earlier epoch, of which there are few, from the index; all in one statement, hence as of one moment.
func (k *Keys) OlderKeys(ctx context.Context, before uint32, after crypto.Subject, limit int) (list []crypto.WrappedKey, err error) {
	if limit < 1 {
		return nil, failed("read keys", ctx.Err())
	}
	var w crypto.WrappedKey
	var epoch int64
	err = each(ctx, "read keys", k.db, olderKeys, []any{int64(before), string(after), limit}, []any{&w.Subject, &epoch, &w.Wrapped}, func() error {
		w.Epoch = epochOf(epoch)
		list = append(list, w)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// CROSS JOIN is SQLite's way to say that what stands left is read first.
const olderKeys = `
	WITH RECURSIVE old (epoch) AS (
		SELECT max(epoch) FROM subject_keys WHERE epoch < ?1
		UNION ALL
		SELECT (SELECT max(k.epoch) FROM subject_keys k WHERE k.epoch < old.epoch) FROM old WHERE old.epoch IS NOT NULL
	)
	SELECT k.subject, k.epoch, k.wrapped FROM old CROSS JOIN subject_keys k
	WHERE k.subject IN (SELECT x.subject FROM subject_keys x WHERE x.epoch = old.epoch AND x.subject > ?2 ORDER BY x.subject LIMIT ?3)
	ORDER BY k.subject LIMIT ?3`

// DeleteKey implements crypto.KeyStore. With the pragmas of [Pragmas] the key is overwritten in the file; the
// write-ahead log is emptied by [Circulation.Finish].
func (k *Keys) DeleteKey(ctx context.Context, subject crypto.Subject) error {
	_, err := change(ctx, k.db, "delete a key", "DELETE FROM subject_keys WHERE subject = ?", string(subject))
	return err
}

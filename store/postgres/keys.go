package postgres

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/carrel-project/carrel/crypto"
)

// Keys keeps wrapped subject keys. It is safe for concurrent use if its DB is.
type Keys struct{ db DB }

var _ crypto.KeyStore = (*Keys)(nil)

// NewKeys returns the keys in db. It neither creates nor migrates tables.
func NewKeys(db DB) *Keys { return &Keys{db: db} }

// Key implements crypto.KeyStore.
func (k *Keys) Key(ctx context.Context, subject crypto.Subject) (crypto.WrappedKey, error) {
	const op = "read a key"
	w := crypto.WrappedKey{Subject: subject}
	if !storable(string(subject)) { // then it is not there
		return crypto.WrappedKey{}, cmp.Or(failed(op, ctx.Err()), crypto.ErrNoKey)
	}
	var epoch int64
	err := k.db.QueryRowContext(ctx, "SELECT epoch, wrapped FROM subject_keys WHERE subject = $1", string(subject)).Scan(&epoch, &w.Wrapped)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return crypto.WrappedKey{}, crypto.ErrNoKey
	case err != nil:
		return crypto.WrappedKey{}, failed(op, err)
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
	var inserts, replacements keyChanges
	for _, c := range changes {
		if !storable(string(c.Key.Subject)) {
			return nil, fmt.Errorf("postgres: %s: %w", op, errText)
		}
		if c.Old == nil {
			inserts.add(c)
		} else {
			replacements.add(c)
		}
	}
	var done map[crypto.Subject]bool
	// It is not repeatable: whoever inserts a key twice has lost the second time.
	err = transact(ctx, k.db, op, false, func(db DB) error {
		done = make(map[crypto.Subject]bool, len(changes))
		// Inserts come first. One of a key that is there waits for whoever replaces that key at the moment, and must not itself keep waiting whoever that one waits for.
		if err := inserts.make(ctx, db, op, insertKeys, done); err != nil {
			return err
		}
		return replacements.make(ctx, db, op, replaceKeys, done)
	})
	if err != nil {
		return nil, err
	}
	for _, c := range changes {
		if !done[c.Key.Subject] {
			lost = append(lost, c.Key.Subject)
		}
	}
	return lost, nil
}

// keyChanges are changes as one statement takes them: as JSON, and the bytes that it points into.
type keyChanges struct {
	rows  []keyRow
	bytes []byte
}

type keyRow struct {
	Subject string `json:"subject"`
	Epoch   uint32 `json:"epoch"`
	At      int    `json:"at"` // where the wrapped key begins, from 1 on
	Size    int    `json:"size"`
	Old     int    `json:"old"` // and how long what comes after it is
}

func (k *keyChanges) add(c crypto.KeyChange) {
	k.rows = append(k.rows, keyRow{Subject: string(c.Key.Subject), Epoch: c.Key.Epoch, At: len(k.bytes) + 1, Size: len(c.Key.Wrapped), Old: len(c.Old)})
	k.bytes = append(append(k.bytes, c.Key.Wrapped...), c.Old...)
}

// make makes the changes that apply, and notes whose they are.
func (k *keyChanges) make(ctx context.Context, db DB, op, query string, done map[crypto.Subject]bool) error {
	if len(k.rows) == 0 {
		return nil
	}
	rows, err := json.Marshal(k.rows)
	if err != nil {
		return fmt.Errorf("postgres: %s: %w", op, errText)
	}
	var subject crypto.Subject
	return each(ctx, op, db, query, []any{string(rows), k.bytes}, []any{&subject}, func() error {
		done[subject] = true
		return nil
	})
}

const keyInput = `
	WITH c AS (
		SELECT r.subject, r.epoch, substring($2::bytea FROM r.at FOR r.size) AS wrapped, substring($2::bytea FROM r.at + r.size FOR r.old) AS old
		FROM json_to_recordset($1::text::json) AS r (subject text, epoch bigint, at integer, size integer, old integer)
	)`

// All calls take rows in the order of the subjects, so that no two wait for each other.
const insertKeys = keyInput + `
	INSERT INTO subject_keys (subject, epoch, wrapped) SELECT subject, epoch, wrapped FROM c ORDER BY subject COLLATE "C"
	ON CONFLICT DO NOTHING RETURNING subject`

// An UPDATE has no order. When a row that was waited for is another one by then, held is without it.
const replaceKeys = keyInput + `, held AS (
		SELECT k.subject, c.epoch, c.wrapped, c.old FROM c JOIN subject_keys k ON k.subject = c.subject AND k.wrapped = c.old
		ORDER BY k.subject FOR UPDATE OF k
	)
	UPDATE subject_keys k SET epoch = held.epoch, wrapped = held.wrapped FROM held
	WHERE k.subject = held.subject AND k.wrapped = held.old RETURNING k.subject`

// OlderKeys implements crypto.KeyStore, in the order of the subjects. That order does not depend on the epoch, so
// that a key cannot come to lie before the place that a series has reached by being wrapped anew, and the place is known
// when the key that stood there is gone. To find a page among many keys that are wrapped anew already, it is read once for
// each earlier epoch, of which there are few, from the index; all in one statement, hence as of one moment.
func (k *Keys) OlderKeys(ctx context.Context, before uint32, after crypto.Subject, limit int) (list []crypto.WrappedKey, err error) {
	const op = "read keys"
	switch {
	case limit < 1:
		return nil, failed(op, ctx.Err())
	case !storable(string(after)):
		return nil, fmt.Errorf("postgres: %s: %w", op, errText)
	}
	var w crypto.WrappedKey
	var epoch int64
	err = each(ctx, op, k.db, olderKeys, []any{int64(before), string(after), int64(limit)}, []any{&w.Subject, &epoch, &w.Wrapped}, func() error {
		w.Epoch = epochOf(epoch)
		list = append(list, w)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

const olderKeys = `
	WITH RECURSIVE old (epoch) AS (
		SELECT max(epoch) FROM subject_keys WHERE epoch < $1::bigint
		UNION ALL
		SELECT (SELECT max(k.epoch) FROM subject_keys k WHERE k.epoch < old.epoch) FROM old WHERE old.epoch IS NOT NULL
	)
	SELECT k.subject, k.epoch, k.wrapped FROM old CROSS JOIN LATERAL (
		SELECT x.subject, x.epoch, x.wrapped FROM subject_keys x WHERE x.epoch = old.epoch AND x.subject > $2::text ORDER BY x.subject LIMIT $3::bigint
	) k
	ORDER BY k.subject LIMIT $3::bigint`

// DeleteKey implements crypto.KeyStore. The server keeps the key in the table's file until VACUUM, and in its write-ahead log and what is made of that: backups and
// standbys. What is kept is wrapped under the key of an epoch, which is not in the database.
func (k *Keys) DeleteKey(ctx context.Context, subject crypto.Subject) error {
	const op = "delete a key"
	if !storable(string(subject)) { // then there is none
		return failed(op, ctx.Err())
	}
	return transact(ctx, k.db, op, true, func(db DB) error {
		_, err := change(ctx, db, op, "DELETE FROM subject_keys WHERE subject = $1", string(subject))
		return err
	})
}

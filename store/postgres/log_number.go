package postgres

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"time"
)

// numberTrail gives numbers to entries that are committed. It is one statement, so that nobody holds the lock who waits for the network or is gone. Inside, at
// READ COMMITTED, what follows the lock sees all that those did who had the lock before. So the numbers of one are complete, and visible, before the
// next begins: whoever sees an entry sees all before it. What is not committed gets later, and so higher, numbers. Transactions that see one moment only, if that is the
// server's default, fail when somebody had the lock meanwhile, and are done again.
//
// Batches are taken whole, some thousand entries at a time. To compile the statement would take longer than it does.
const numberTrail = `DO $$
BEGIN
	PERFORM set_config('jit', 'off', true);
	LOOP
		PERFORM FROM trail_numbers FOR UPDATE;
		EXIT WHEN FOUND;
		INSERT INTO trail_numbers (next) VALUES (0) ON CONFLICT DO NOTHING;
	END LOOP;
	WITH first AS MATERIALIZED (
		SELECT ` + trailNext + ` AS number
	), moved AS (
		DELETE FROM trail_incoming
		WHERE batch <= coalesce((SELECT batch FROM trail_incoming ORDER BY batch, place OFFSET 4096 LIMIT 1), 9223372036854775807)
		RETURNING batch, place, action, time, tags, key, body
	), numbered AS (
		INSERT INTO trail_entries (number, action, time, tags, key, body)
		SELECT first.number + row_number() OVER (ORDER BY batch, place) - 1, action, time, tags, key, body FROM moved, first
		RETURNING number, tags
	), tagged AS (
		INSERT INTO trail_tags (tag, number)
		SELECT substring(tags FROM 16*i + 1 FOR 16), number FROM numbered, generate_series(0, length(tags)/16 - 1) AS i
		ON CONFLICT DO NOTHING
	)
	UPDATE trail_numbers SET next = (SELECT number FROM first) + (SELECT count(*) FROM numbered) WHERE EXISTS (SELECT FROM numbered);
END $$`

// trailNext is the number that the next entry will have. The size of the tree and the last number matter only if somebody damaged trail_numbers. Numbers from
// 2^48 on are none of ours: somebody put them there, and after the last there would be none.
const trailNext = `greatest(0, (SELECT next FROM trail_numbers), (SELECT max(size) FROM trail_tree),
	(SELECT max(number) + 1 FROM trail_entries WHERE number < 281474976710656))`

// number gives numbers to all entries that were committed before it was called. In a transaction of the caller's it does nothing.
func (l *Log) number(ctx context.Context, op string) error {
	if _, ok := l.db.(beginner); !ok {
		return nil
	}
	var last sql.NullInt64
	if err := l.db.QueryRowContext(ctx, "SELECT max(batch) FROM trail_incoming").Scan(&last); err != nil {
		return failed(op, err)
	}
	for waiting := last.Valid; waiting; {
		if err := l.numberSome(ctx, op); mayNot(err) {
			return nil
		} else if err != nil {
			return err
		}
		// Batches before the last may have been committed meanwhile, and taken in place of it.
		err := l.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT FROM trail_incoming WHERE batch <= $1)", last.Int64).Scan(&waiting)
		if err != nil {
			return failed(op, err)
		}
	}
	return nil
}

// numberSome may be repeated, whatever became of it before.
func (l *Log) numberSome(ctx context.Context, op string) error {
	for n := 0; ; n++ {
		_, err := change(ctx, l.db, op, numberTrail)
		if err == nil || n+1 == tries || !again(err) {
			return err
		}
		select {
		case <-time.After(pause<<n/2 + rand.N(pause<<n)):
		case <-ctx.Done():
			return failed(op, ctx.Err())
		}
	}
}

// mayNot reports that a role or a server is one that only reads.
func mayNot(err error) bool {
	var known *Error
	return errors.As(err, &known) && (known.State == classReadOnly || known.State == codeNoRight)
}

package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/postgres"
)

// Who takes an identifier that somebody else takes at the same time waits, and then it depends on what became of the other.
func TestIdentifierTakenTwiceAtOnce(t *testing.T) {
	for _, commits := range []bool{true, false} {
		db, _ := open(t)
		first, second := somebody(), somebody()
		second.Tokens[1] = first.Tokens[0]
		tx := begin(t, db)
		require.NoError(t, postgres.NewPatrons(tx).Write(t.Context(), batchOf(0, first)))
		result := waits(t, db, func() error { return postgres.NewPatrons(db).Write(t.Context(), batchOf(0, second)) })
		if commits {
			require.NoError(t, tx.Commit())
			err := result()
			var duplicate *patron.DuplicateError
			require.ErrorAs(t, err, &duplicate)
			require.Equal(t, second.ID, duplicate.ID)
			continue
		}
		require.NoError(t, tx.Rollback())
		require.NoError(t, result())
	}
}

// Whoever writes with older index keys is through before there are newer ones, or is refused.
func TestIndexKeysChangeMeanwhile(t *testing.T) {
	db, _ := open(t)
	s := postgres.NewPatrons(db)
	require.NoError(t, s.Write(t.Context(), batchOf(1)))

	tx := begin(t, db)
	require.NoError(t, postgres.NewPatrons(tx).Write(t.Context(), batchOf(1, somebody())))
	require.NoError(t, s.Write(t.Context(), batchOf(1, somebody())), "others of the same do not wait")
	result := waits(t, db, func() error { return s.Write(t.Context(), batchOf(2, somebody())) })
	require.NoError(t, tx.Commit())
	require.NoError(t, result())

	tx = begin(t, db)
	require.NoError(t, postgres.NewPatrons(tx).Write(t.Context(), batchOf(3, somebody())))
	older := waits(t, db, func() error { return s.Write(t.Context(), batchOf(2, somebody())) })
	require.NoError(t, tx.Commit())
	require.ErrorIs(t, older(), patron.ErrStaleIndexes)

	tx = begin(t, db)
	require.NoError(t, postgres.NewPatrons(tx).Write(t.Context(), batchOf(4, somebody())))
	same := waits(t, db, func() error { return s.Write(t.Context(), batchOf(4, somebody())) })
	require.NoError(t, tx.Commit())
	require.NoError(t, same())
}

// A change of the index keys gets its turn while others write without a pause.
func TestIndexKeysChangeAmongWriters(t *testing.T) {
	db, _ := open(t)
	s := postgres.NewPatrons(db)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := s.Write(ctx, batchOf(1, somebody())); err != nil {
					if ctx.Err() == nil && !errors.Is(err, patron.ErrStaleIndexes) {
						t.Errorf("Write: %v", err)
					}
					return
				}
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, s.Write(soon, batchOf(2, somebody())))
	stop()
	wg.Wait()
}

// Batches about the same patrons or the same identifiers, in any order, wait for each other but never in a circle. Each is in a
// caller's transaction, where nothing is done again that the server undid.
func TestPatronBatchesDoNotDeadlock(t *testing.T) {
	t.Run("the same patrons", func(t *testing.T) { writeAtOnce(t, 10, true) })
	t.Run("the same identifiers", func(t *testing.T) { writeAtOnce(t, 10, false) })
}

func writeAtOnce(t *testing.T, patrons int, shared bool) {
	db, _ := open(t)
	const identifiers, writers, rounds = 30, 8, 40
	var tokens [identifiers]crypto.Token
	for i := range tokens {
		tokens[i] = randomToken()
	}
	someIDs := func() (ids []patron.ID) {
		for range patrons {
			ids = append(ids, somebody().ID)
		}
		return ids
	}
	all := someIDs()
	write := func(ids []patron.ID) error {
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		s := postgres.NewPatrons(tx)
		b := patron.Batch{Indexed: 1}
		free := rand.Perm(identifiers)
		for _, i := range rand.Perm(patrons)[:1+rand.IntN(patrons)] {
			row, err := s.Get(t.Context(), ids[i])
			if err != nil && !errors.Is(err, patron.ErrNotFound) {
				return err
			}
			w := patron.Write{Row: patron.Row{ID: ids[i]}, Old: row.Version}
			switch {
			case row.Version == 0:
			case rand.IntN(2) == 0:
				w.Remove = true
			case shared && rand.IntN(20) == 0:
				w.Old = 0 // and it will be refused
			}
			for range rand.IntN(4) {
				w.Row.Tokens, free = append(w.Row.Tokens, tokens[free[0]]), free[1:]
			}
			w.Row.Lookups = tokens[:rand.IntN(4)]
			b.Writes = append(b.Writes, w)
			if len(free) < 4 {
				break
			}
		}
		if err := s.Write(t.Context(), b); err != nil {
			return err
		}
		return tx.Commit()
	}
	var mu sync.Mutex
	written := 0
	var wg sync.WaitGroup
	for range writers {
		ids := all
		if !shared {
			ids = someIDs()
		}
		wg.Go(func() {
			for range rounds {
				switch err := write(ids); {
				case err == nil:
					mu.Lock()
					written++
					mu.Unlock()
				case !errors.Is(err, patron.ErrConflict) && !errors.Is(err, patron.ErrDuplicate):
					t.Errorf("Write: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	require.Greater(t, written, rounds/2)
	indexIsWhatRowsSay(t, db)
}

// Who has to wait for a new patron of somebody else's has inserted those with lesser IDs, and none with greater ones, in whatever order they came.
func TestPatronsAreInsertedInOrder(t *testing.T) {
	db, _ := open(t)
	s := postgres.NewPatrons(db)
	rows := make([]patron.Row, 21)
	for i := range rows {
		rows[len(rows)-1-i] = patron.Row{ID: patron.ID{byte(1 + i)}, Version: 1}
	}
	tx := begin(t, db)
	require.NoError(t, postgres.NewPatrons(tx).Write(t.Context(), batchOf(1, rows[10])))
	require.NoError(t, tx.Commit())
	tx = begin(t, db)
	require.NoError(t, postgres.NewPatrons(tx).Write(t.Context(), patron.Batch{Indexed: 1, Writes: []patron.Write{{Row: rows[10], Old: 1, Remove: true}}}))
	result := waits(t, db, func() error { return s.Write(t.Context(), batchOf(1, rows...)) })
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, s.Write(soon, batchOf(1, rows[:10]...)), "the greater ones")
	require.NoError(t, tx.Commit())
	var conflict *patron.ConflictError
	require.ErrorAs(t, result(), &conflict)
	require.Equal(t, rows[9].ID, conflict.ID, "the first of those")
}

// Who inserts some patrons that are there, and replaces others, is refused, also while others do the same the other way round.
func TestPatronInsertsDoNotDeadlock(t *testing.T) {
	db, _ := open(t)
	rows := []patron.Row{somebody(), somebody(), somebody(), somebody(), somebody(), somebody()}
	require.NoError(t, postgres.NewPatrons(db).Write(t.Context(), batchOf(1, rows...)))
	atOnce := func(rounds int, batch func() patron.Batch) (written int) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range rounds {
					tx, err := db.BeginTx(t.Context(), nil)
					if err == nil {
						err = postgres.NewPatrons(tx).Write(t.Context(), batch())
					}
					if err == nil {
						err = tx.Commit()
						mu.Lock()
						written++
						mu.Unlock()
					} else if tx != nil {
						tx.Rollback()
					}
					if err != nil && !errors.Is(err, patron.ErrConflict) {
						t.Errorf("Write: %v", err)
						return
					}
				}
			})
		}
		wg.Wait()
		return written
	}
	require.Zero(t, atOnce(30, func() patron.Batch {
		mine := slices.Clone(rows)
		for _, i := range rand.Perm(len(mine))[:3] {
			mine[i].Version = 2
		}
		return batchOf(1, mine...)
	}))
}

// indexIsWhatRowsSay compares the blind indexes with the rows.
func indexIsWhatRowsSay(t *testing.T, db *sql.DB) {
	t.Helper()
	var tokens, lookups []string
	page, err := postgres.NewPatrons(db).Rows(t.Context(), patron.Query{Limit: 1000})
	require.NoError(t, err)
	for _, r := range page {
		for _, token := range r.Tokens {
			tokens = append(tokens, fmt.Sprintf("%x %x", token[:], r.ID[:]))
		}
		for _, token := range r.Lookups {
			lookups = append(lookups, fmt.Sprintf("%x %x", token[:], r.ID[:]))
		}
	}
	for table, want := range map[string][]string{"patron_tokens": tokens, "patron_lookups": lookups} {
		var got []string
		rows, err := db.Query("SELECT encode(token, 'hex') || ' ' || encode(id, 'hex') FROM " + table)
		require.NoError(t, err)
		for rows.Next() {
			var s string
			require.NoError(t, rows.Scan(&s))
			got = append(got, s)
		}
		require.NoError(t, rows.Err())
		slices.Sort(want)
		slices.Sort(got)
		require.Equal(t, want, got, table)
	}
}

// The same for keys: some are inserted, some replaced, some deleted, in any order.
func TestKeyChangesDoNotDeadlock(t *testing.T) {
	db, _ := open(t)
	const subjects, writers, rounds = 8, 8, 40
	wrapped := func() []byte { token := randomToken(); return token[:] }
	write := func() error {
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		k := postgres.NewKeys(tx)
		var changes []crypto.KeyChange
		for _, i := range rand.Perm(subjects)[:1+rand.IntN(subjects)] {
			c := crypto.KeyChange{Key: crypto.WrappedKey{Subject: crypto.Subject(fmt.Sprint(i)), Epoch: 1, Wrapped: wrapped()}}
			if w, err := k.Key(t.Context(), c.Key.Subject); err == nil && rand.IntN(3) > 0 {
				c.Old = w.Wrapped
			}
			changes = append(changes, c)
		}
		lost, err := k.PutKeys(t.Context(), changes)
		if err != nil {
			return err
		}
		for _, c := range changes { // what is not lost is there
			w, err := k.Key(t.Context(), c.Key.Subject)
			if err != nil && !errors.Is(err, crypto.ErrNoKey) {
				return err
			}
			if string(w.Wrapped) == string(c.Key.Wrapped) == slices.Contains(lost, c.Key.Subject) {
				return errors.New("a change is neither made nor lost, or both")
			}
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		if rand.IntN(2) == 0 { // so that there is something to insert
			return postgres.NewKeys(db).DeleteKey(t.Context(), changes[0].Key.Subject)
		}
		return nil
	}
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range rounds {
				if err := write(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// Of two grants at the same time, the second waits for what becomes of the first.
func TestGrantWhileAnotherIsAdded(t *testing.T) {
	for _, commits := range []bool{true, false} {
		db, _ := open(t)
		tx := begin(t, db)
		require.NoError(t, postgres.NewGrants(tx).AddGrant(t.Context(), patron.Grant{Grant: access.Grant{ID: "1", Actor: "ann"}}))
		result := waits(t, db, func() error {
			return postgres.NewGrants(db).AddGrant(t.Context(), patron.Grant{Grant: access.Grant{ID: "2", Actor: "ann"}})
		})
		if commits {
			require.NoError(t, tx.Commit())
			require.ErrorIs(t, result(), access.ErrUnreviewed)
			continue
		}
		require.NoError(t, tx.Rollback())
		require.NoError(t, result())
	}
}

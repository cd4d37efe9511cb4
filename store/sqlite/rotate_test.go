//go:build unix

package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/sqlite"
)

// TestPeopleChild is no test: it is the process that the tests below start and kill.
func TestPeopleChild(t *testing.T) {
	path := os.Getenv("CARREL_PEOPLE_CHILD")
	if path == "" {
		t.Skip("only as a child process of the tests of rotation")
	}
	i := people(t, path)
	switch what := os.Getenv("CARREL_PEOPLE_DO"); what {
	case "rotate":
		_, err := i.keys.Rotate(t.Context(), nil)
		require.NoError(t, err)
	case "reindex":
		require.NoError(t, i.keys.RotateIndex(t.Context(), crypto.IndexIdentifier))
		require.NoError(t, i.dir.Reindex(t.Context(), anybody, nil))
	default:
		t.Fatal("do what?")
	}
}

func peopleChild(t *testing.T, path, do string) *exec.Cmd {
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "-test.run=^TestPeopleChild$")
	cmd.Env = append(os.Environ(), "CARREL_PEOPLE_CHILD="+path, "CARREL_PEOPLE_DO="+do)
	return cmd
}

// killed runs a child and kills it after a random time, again and again, and then lets it finish. It returns how often it was in time.
func killed(t *testing.T, path, do string, kills int, within time.Duration, between func()) (in int) {
	for range kills {
		cmd := peopleChild(t, path, do)
		require.NoError(t, cmd.Start())
		time.Sleep(time.Duration(rand.Int64N(int64(within))))
		require.NoError(t, cmd.Process.Kill())
		if err := cmd.Wait(); err != nil {
			in++
		}
		if between != nil {
			between()
		}
	}
	out, err := peopleChild(t, path, do).CombinedOutput()
	require.NoError(t, err, string(out))
	return in
}

// A rotation that is killed again and again loses nobody, rewrites no data and hardly asks the KEK; and all that time the tokens of the records are of one epoch. CARREL_TEST_LONG has
// 100,000 keys, each of a patron, and 40 kills.
func TestRotationKilled(t *testing.T) {
	patrons, kills := 3_000, 6
	if raceEnabled { // which makes SQLite fifty times slower
		patrons, kills = 500, 3
	}
	if os.Getenv("CARREL_TEST_LONG") != "" {
		patrons, kills = 100_000, 40
	}
	i, path := newPeople(t)
	fillPeople(t, i, patrons)
	before := allSealed(t, i.db)
	require.Len(t, before, patrons)
	borrow(t, i, patrons)
	require.NoError(t, i.keys.SetSchedule(t.Context(), crypto.Schedule{Horizon: 24 * time.Hour}))
	require.NoError(t, os.Remove(path+".calls"))
	require.NoError(t, i.db.Close())

	calls := func() int {
		data, err := os.ReadFile(path + ".calls")
		require.NoError(t, err)
		return len(data)
	}
	in := killed(t, path, "rotate", kills, time.Duration(patrons)*25*time.Microsecond+60*time.Millisecond, func() { borrowersAreKnown(t, path, patrons) })
	n := calls()
	t.Logf("%d of %d kills in time; %d calls of the KEK in %d processes for %d keys", in, kills, n, kills+1, patrons)
	if patrons >= 100_000 {
		require.LessOrEqual(t, n, patrons/1000)
	}
	require.LessOrEqual(t, n, 4*(kills+1), "at most four a process: the keyring is opened, and written twice")

	i = people(t, path)
	s, err := i.keys.Status()
	require.NoError(t, err)
	require.False(t, s.Rotating)
	r, err := afterwards(t, i, path, 48*time.Hour).Tend(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, r.Ended, len(s.Epochs)-1, "all others have ended")
	borrowersAreKnown(t, path, patrons)
	var older int
	require.NoError(t, i.db.QueryRowContext(t.Context(), "SELECT count(*) FROM subject_keys WHERE epoch < ?", s.Epochs[len(s.Epochs)-1].Number).Scan(&older))
	require.Zero(t, older)
	require.Equal(t, before, allSealed(t, i.db), "no data was rewritten")
	for n := range patrons {
		if patrons > 10_000 && n%10 > 0 {
			continue
		}
		id, err := i.dir.Find(t.Context(), anybody, crypto.NewSecret(fmt.Sprintf("user%d", n)))
		require.NoError(t, err)
		v, err := i.dir.View(t.Context(), anybody, id, 0)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("Lastname%d", n), v.Profile.Names[0].Last.Reveal())
	}
}

// While the key of the index is rotated by processes that are killed, others create patrons and look them up: whoever was
// created is found, and no identifier is given twice.
func TestIndexRotationUnderTraffic(t *testing.T) {
	patrons, kills := 2_000, 5
	if raceEnabled {
		patrons, kills = 300, 3
	}
	if os.Getenv("CARREL_TEST_LONG") != "" {
		patrons, kills = 20_000, 40
	}
	i, path := newPeople(t)
	fillPeople(t, i, patrons)
	other := people(t, path) // as another process has it, with index keys of its own

	ctx, stop := context.WithCancel(t.Context())
	var created, lookups, refused atomic.Int64
	var group sync.WaitGroup
	for w := range 3 {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 9))
			mine, yours := i.dir, other.dir
			if w%2 == 1 {
				mine, yours = yours, mine
			}
			for ctx.Err() == nil {
				n := 1_000_000*(w+1) + int(created.Add(1))
				id, err := mine.Create(t.Context(), anybody, somebody(n))
				if err != nil {
					t.Errorf("create: %v", err)
					return
				}
				found, err := yours.Find(t.Context(), anybody, crypto.NewSecret(fmt.Sprintf("USER%d", n)))
				if err != nil || found != id {
					t.Errorf("one who was just created is not found: %v", err)
				}
				old := rng.IntN(patrons)
				if _, err := yours.Find(t.Context(), anybody, crypto.NewSecret(fmt.Sprintf("ext-%d", old))); err != nil {
					t.Errorf("one who was there is not found: %v", err)
				}
				lookups.Add(2)
				twin := somebody(2_000_000_000 + n)
				twin.Identifiers[2].Value = crypto.NewSecret(fmt.Sprintf("User%d", old))
				if _, err := mine.Create(t.Context(), anybody, twin); !errors.Is(err, patron.ErrDuplicate) {
					t.Errorf("a duplicate was admitted: %v", err)
				}
				refused.Add(1)
			}
		})
	}
	in := killed(t, path, "reindex", kills, 400*time.Millisecond, nil)
	out, err := peopleChild(t, path, "reindex").CombinedOutput()
	require.NoError(t, err, string(out))
	stop()
	group.Wait()
	t.Logf("%d of %d kills in time; %d created, %d look-ups, %d duplicates refused", in, kills, created.Load(), lookups.Load(), refused.Load())

	s, err := i.keys.Status()
	require.NoError(t, err)
	require.Len(t, s.Indexes, 1)
	require.Equal(t, "active", s.Indexes[0].State)
	var rows, tokens int
	require.NoError(t, i.db.QueryRowContext(t.Context(), "SELECT count(*), sum(length(tokens)) / 16 FROM patrons").Scan(&rows, &tokens))
	require.Equal(t, 3*rows, tokens, "the tokens of earlier keys are gone")
	require.NoError(t, i.db.QueryRowContext(t.Context(), "SELECT count(*) FROM patron_tokens").Scan(&tokens))
	require.Equal(t, 3*rows, tokens)
}

// Sealed rows that are moved in the database open nowhere else.
func TestMovedRowsDoNotOpen(t *testing.T) {
	i, _ := newPeople(t)
	fillPeople(t, i, 40)
	var ids []patron.ID
	for n := range 40 {
		id, err := i.dir.Find(t.Context(), anybody, crypto.NewSecret(fmt.Sprintf("user%d", n)))
		require.NoError(t, err)
		ids = append(ids, id)
	}
	store := sqlite.NewPatrons(i.db)
	rng := rand.New(rand.NewPCG(5, 5))
	for range 300 {
		a, b := rng.IntN(len(ids)), rng.IntN(len(ids))
		if a == b {
			continue
		}
		from, err := store.Get(t.Context(), ids[a])
		require.NoError(t, err)
		to, err := store.Get(t.Context(), ids[b])
		require.NoError(t, err)
		good := to
		to.Segments = append([]patron.SealedSegment{}, to.Segments...)
		to.Segments[rng.IntN(len(to.Segments))].Data = from.Segments[rng.IntN(len(from.Segments))].Data
		put := func(row patron.Row) {
			now, err := store.Get(t.Context(), row.ID)
			require.NoError(t, err)
			row.Version = now.Version + 1
			require.NoError(t, store.Write(t.Context(), patron.Batch{Indexed: row.Indexed, Writes: []patron.Write{{Row: row, Old: now.Version}}}))
		}
		put(to)
		v, err := i.dir.View(t.Context(), anybody, ids[b], 0)
		require.ErrorIs(t, err, crypto.ErrNotAuthentic)
		require.Empty(t, v.Profile)
		put(good)
		_, err = i.dir.View(t.Context(), anybody, ids[b], 0)
		require.NoError(t, err)
	}
}

//go:build unix

package postgres_test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/postgres"
)

// A guessCrew is processes that count guesses in one database, with one key.
type guessCrew struct {
	url string
	key crypto.Secret
}

func newGuessCrew(t testing.TB) (guessCrew, *postgres.Lockouts) {
	db, url := open(t)
	return guessCrew{url, guessKey()}, postgres.NewLockouts(db)
}

// A guesser is one process of a crew. What it says comes a line at a time.
type guesser struct {
	*testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser
	said  *bufio.Scanner
}

const (
	guesserVariable = "CARREL_POSTGRES_GUESSER"
	guesserTask     = "CARREL_POSTGRES_GUESSER_TASK"
)

// start starts a process, whose output is the third of its files so that the tests' own does not get in between.
func (c guessCrew) start(t *testing.T, task ...string) *guesser {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "-test.run=^TestLockoutsChild$")
	cmd.Env = append(os.Environ(), guesserVariable+"="+c.url, guesserTask+"="+strings.Join(task, " "),
		"GORACE=atexit_sleep_ms=0") // with the race detector each would take a second to end
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	require.NoError(t, cmd.Start())
	w.Close()
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		r.Close()
	})
	_, err = fmt.Fprintln(stdin, hex.EncodeToString([]byte(c.key.Reveal())))
	require.NoError(t, err)
	return &guesser{t, cmd, stdin, bufio.NewScanner(r)}
}

func (p *guesser) hears() string {
	p.Helper()
	require.True(p, p.said.Scan(), "the process has ended")
	return p.said.Text()
}

// TestLockoutsChild is no test: it is the process that the tests below start.
func TestLockoutsChild(t *testing.T) {
	url := os.Getenv(guesserVariable)
	if url == "" {
		t.Skip("only as a child process of the tests of several processes")
	}
	db, err := sql.Open("pgx", url)
	require.NoError(t, err)
	defer db.Close()
	db.SetMaxOpenConns(10)
	stdin := bufio.NewReader(os.Stdin)
	line, err := stdin.ReadString('\n')
	require.NoError(t, err)
	raw, err := hex.DecodeString(strings.TrimSpace(line))
	require.NoError(t, err)
	task := strings.Fields(os.Getenv(guesserTask))
	var store lockout.Store = postgres.NewLockouts(db)
	if task[0] == "broken" {
		store = guessReadFirst{postgres.NewLockouts(db), db}
	}
	guard, err := lockout.New(store, lockout.Config{Key: crypto.NewSecret(string(raw))})
	require.NoError(t, err)
	out := os.NewFile(3, "pipe")
	if task[0] == "reserve" { // and never conclude
		_, err := guard.Reserve(t.Context(), lockout.Attempt{Account: lockout.Account{ID: task[1]}})
		require.NoError(t, err)
		fmt.Fprintln(out, "reserved")
		time.Sleep(20 * time.Second) // should nobody kill it
		return
	}
	n, err := strconv.Atoi(task[1])
	require.NoError(t, err)
	fmt.Fprintln(out, "ready")
	stdin.ReadByte()
	fmt.Fprintln(out, guessStampede(t.Context(), guard, n, task[0] == "right"))
}

// A guessTally is what became of many guesses.
type guessTally struct{ verified, locked, busy, other int }

func (t guessTally) String() string {
	return fmt.Sprintf("%d verified, %d locked, %d busy, %d other", t.verified, t.locked, t.busy, t.other)
}

func (t *guessTally) add(text string) error {
	var more guessTally
	_, err := fmt.Sscanf(text, "%d verified, %d locked, %d busy, %d other", &more.verified, &more.locked, &more.busy, &more.other)
	*t = guessTally{t.verified + more.verified, t.locked + more.locked, t.busy + more.busy, t.other + more.other}
	return err
}

// guessStampede guesses n times at once at one account, each time from somewhere else. A check takes 1 to 5 ms if the guess is wrong, and 5 ms if it is right; what is right is
// verified if it was let in.
func guessStampede(ctx context.Context, guard *lockout.Guard, n int, right bool) (sum guessTally) {
	var mu sync.Mutex
	var done sync.WaitGroup
	gate := make(chan struct{})
	for i := range n {
		done.Go(func() {
			<-gate
			r, err := guard.Reserve(ctx, lockout.Attempt{Account: lockout.Account{Login: "jdoe", ID: "p-1"}, Source: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})})
			verified := err == nil
			switch {
			case verified && right:
				time.Sleep(5 * time.Millisecond)
				err = r.Success(ctx)
				verified = err == nil
			case verified:
				time.Sleep(time.Millisecond + rand.N(4*time.Millisecond))
				err = r.Failure(ctx)
			}
			mu.Lock()
			defer mu.Unlock()
			if verified {
				sum.verified++
			}
			switch {
			case err == nil:
			case errors.Is(err, lockout.ErrLocked):
				sum.locked++
			case errors.Is(err, lockout.ErrBusy):
				sum.busy++
			default:
				if sum.other++; sum.other == 1 {
					fmt.Fprintln(os.Stderr, err)
				}
			}
		})
	}
	close(gate)
	done.Wait()
	return sum
}

// guessReadFirst is a store that reads, compares and writes, as many do: what must not be.
type guessReadFirst struct {
	*postgres.Lockouts
	db *sql.DB
}

func (s guessReadFirst) Reserve(ctx context.Context, now time.Time, slots []lockout.Slot) (lockout.Verdict, error) {
	slot := slots[0]
	var failed int
	err := s.db.QueryRowContext(ctx, "SELECT failed FROM lockouts WHERE key = $1", slot.Key[:]).Scan(&failed)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return lockout.Verdict{}, err
	}
	if failed >= slot.Attempts {
		return lockout.Verdict{Answer: lockout.Locked, Wait: slot.Duration}, nil
	}
	_, err = s.db.ExecContext(ctx, "INSERT INTO lockouts VALUES ($1, $2::bigint, $3, 0, 0, 0, 0, 0, $2 + 1000000000) ON CONFLICT (key) DO UPDATE SET failed = excluded.failed",
		slot.Key[:], now.UnixMicro(), failed+1)
	return lockout.Verdict{}, err
}

func (guessReadFirst) Conclude(context.Context, time.Time, []lockout.Slot, lockout.Conclusion) (lockout.Verdict, error) {
	return lockout.Verdict{}, nil
}

// together has three processes make n guesses at the same time.
func (c guessCrew) together(t *testing.T, task string, n int) (sum guessTally) {
	t.Helper()
	var list []*guesser
	for i := range 3 {
		list = append(list, c.start(t, task, strconv.Itoa((n+i)/3)))
	}
	for _, p := range list {
		require.Equal(t, "ready", p.hears())
	}
	for _, p := range list {
		p.stdin.Close()
	}
	for _, p := range list {
		require.NoError(t, sum.add(p.hears()))
		require.NoError(t, p.cmd.Wait())
	}
	return sum
}

// Of 10,000 wrong guesses at once in three processes, exactly as many are verified as the account has.
func TestLockoutsOfThreeProcesses(t *testing.T) {
	c, store := newGuessCrew(t)
	began := time.Now()
	sum := c.together(t, "wrong", 10_000)
	t.Logf("%v in %v", sum, time.Since(began).Round(time.Millisecond))
	require.Equal(t, 5, sum.verified)
	require.Zero(t, sum.other)
	require.Equal(t, 10_000, sum.verified+sum.locked+sum.busy)
	require.Positive(t, sum.locked)
	guard, err := lockout.New(store, lockout.Config{Key: c.key})
	require.NoError(t, err)
	s, err := guard.Status(t.Context(), lockout.Account{ID: "p-1"})
	require.NoError(t, err)
	require.Equal(t, 5, s.Failed)
	require.Zero(t, s.Left)
}

// The test above sees what it is there for: a store that reads, compares and then writes lets more of them through.
func TestLockoutsOfThreeProcessesAreSeen(t *testing.T) {
	c, _ := newGuessCrew(t)
	sum := c.together(t, "broken", 300)
	t.Log(sum)
	require.Greater(t, sum.verified, 5)
}

// Right logins wait for each other, five at a time and 5 ms each, which is a second for a thousand.
func TestLockoutsOfRightLogins(t *testing.T) {
	const logins = 1000
	c, store := newGuessCrew(t)
	guard, err := lockout.New(store, lockout.Config{Key: c.key})
	require.NoError(t, err)
	began := time.Now()
	one := guessStampede(t.Context(), guard, logins, true)
	t.Logf("in one process: %v in %v", one, time.Since(began).Round(time.Millisecond))
	c, _ = newGuessCrew(t)
	began = time.Now()
	three := c.together(t, "right", logins)
	t.Logf("in three: %v in %v", three, time.Since(began).Round(time.Millisecond))
	for _, sum := range []guessTally{one, three} {
		require.Equal(t, logins, sum.verified+sum.busy, "nobody is locked out, and nobody who was let in turned away")
		require.GreaterOrEqual(t, sum.verified, logins/20, "all of them, with a quick disk on a machine that has nothing else to do")
	}
}

// More logins come at once, at as many accounts, than the server takes in the time that they may wait. Some may be told that there are too many; nobody is told that the store is
// down, and whoever was let through gets in. A server that answers nobody for a second, on a machine that has other things to do, is down as far as anybody can tell: hence three tries.
func TestLockoutsOfACrowd(t *testing.T) {
	var sum guessTally
	for range 3 {
		if sum = crowd(t); sum.other == 0 {
			break
		}
	}
	require.Positive(t, sum.verified)
	require.Zero(t, sum.other)
}

func crowd(t *testing.T) (sum guessTally) {
	db, _ := open(t)
	guard, err := lockout.New(postgres.NewLockouts(db), lockout.Config{Key: guessKey()})
	require.NoError(t, err)
	var mu sync.Mutex
	var done sync.WaitGroup
	for i := range 3000 {
		done.Go(func() {
			r, err := guard.Reserve(t.Context(), lockout.Attempt{Account: lockout.Account{ID: fmt.Sprint("p-", i)}})
			if err == nil {
				time.Sleep(5 * time.Millisecond)
				err = r.Success(t.Context())
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				sum.verified++
			case errors.Is(err, lockout.ErrBusy):
				sum.busy++
			default:
				if sum.other++; sum.other == 1 {
					t.Log(err)
				}
			}
		})
	}
	done.Wait()
	t.Log(sum)
	return sum
}

// A guess of a process that was killed before it concluded it was a wrong one.
func TestLockoutsKilledBetween(t *testing.T) {
	c, store := newGuessCrew(t)
	var clock guessClock
	guard, err := lockout.New(store, lockout.Config{Key: c.key, Now: clock.now})
	require.NoError(t, err)
	who := lockout.Attempt{Account: lockout.Account{ID: "p-1"}}
	for range 5 {
		p := c.start(t, "reserve", who.Account.ID)
		require.Equal(t, "reserved", p.hears())
		require.NoError(t, p.cmd.Process.Kill())
		require.Error(t, p.cmd.Wait())
	}
	_, err = guard.Reserve(t.Context(), who)
	require.ErrorIs(t, err, lockout.ErrBusy, "one of them may still turn out right")
	clock.pass(2*lockout.MaxCheck + time.Second)
	_, err = guard.Reserve(t.Context(), who)
	require.ErrorIs(t, err, lockout.ErrLocked)
	clock.pass(15 * time.Minute)
	require.Equal(t, 5, guessOneByOne(t, guard, who.Account.ID, 10), "and ends")
}

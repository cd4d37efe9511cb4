//go:build unix

package sqlite_test

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

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/sqlite"
)

// A crew is processes that count guesses in one file, with one key.
type crew struct {
	path string
	key  crypto.Secret
}

func newCrew(t testing.TB) (crew, *sqlite.Lockouts, *sql.DB) {
	db, _, path := open(t)
	return crew{path, randomKey()}, sqlite.NewLockouts(db), db
}

// A process is one of a crew. What it says comes a line at a time.
type process struct {
	*testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser
	said  *bufio.Scanner
}

func (c crew) start(t *testing.T, task ...string) *process {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "-test.run=^TestLockoutsChild$")
	cmd.Env = append(os.Environ(), "CARREL_LOCKOUTS_CHILD="+c.path, "CARREL_LOCKOUTS_TASK="+strings.Join(task, " "))
	if raceEnabled {
		cmd.Env = append(cmd.Env, "GORACE=atexit_sleep_ms=0") // otherwise each takes a second to end
	}
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
	return &process{t, cmd, stdin, bufio.NewScanner(r)}
}

// hears returns the next line.
func (p *process) hears() string {
	p.Helper()
	require.True(p, p.said.Scan(), "the process has ended")
	return p.said.Text()
}

// begins lets a process do what it is there for.
func (p *process) begins() { p.stdin.Close() }

// killed ends a process as the machine does that has no memory left.
func (p *process) killed() {
	p.Helper()
	p.cmd.Process.Kill() // which may have been done
	var exit *exec.ExitError
	require.ErrorAs(p, p.cmd.Wait(), &exit)
	require.Equal(p, -1, exit.ExitCode(), "it was not killed")
}

// TestLockoutsChild is no test: it is the process that the tests below start.
func TestLockoutsChild(t *testing.T) {
	path := os.Getenv("CARREL_LOCKOUTS_CHILD")
	if path == "" {
		t.Skip("only as a child process of the tests of several processes")
	}
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	require.NoError(t, err)
	defer db.Close()
	stdin := bufio.NewReader(os.Stdin)
	line, err := stdin.ReadString('\n')
	require.NoError(t, err)
	raw, err := hex.DecodeString(strings.TrimSpace(line))
	require.NoError(t, err)
	out := os.NewFile(3, "pipe")
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) } // one write, which a kill does not tear

	task := strings.Fields(os.Getenv("CARREL_LOCKOUTS_TASK"))
	var store lockout.Store = sqlite.NewLockouts(db)
	if strings.HasSuffix(task[0], "broken") {
		store = readFirst{sqlite.NewLockouts(db), db}
	}
	guard, err := lockout.New(store, lockout.Config{Key: crypto.NewSecret(string(raw))})
	require.NoError(t, err)
	number := func(i int) int {
		n, err := strconv.Atoi(task[i])
		require.NoError(t, err)
		return n
	}
	begin := func() {
		say("ready")
		stdin.ReadByte()
	}
	ctx := context.Background()
	switch task[0] {
	case "wrong", "wrong-broken", "right":
		begin()
		say("%v", stampede(ctx, guard, number(1), task[0] == "right"))
	case "reserve": // and never conclude
		_, err := guard.Reserve(ctx, lockout.Attempt{Account: lockout.Account{ID: task[1]}})
		require.NoError(t, err)
		say("reserved")
		time.Sleep(20 * time.Second) // should nobody kill it
	case "names":
		var stop sync.WaitGroup
		until := time.Now().Add(20 * time.Second)
		say("ready")
		for g := range 4 {
			stop.Go(func() {
				for n := 0; time.Now().Before(until); n++ {
					id := fmt.Sprintf("%s-%d-%d", task[1], g, n)
					r, err := guard.Reserve(ctx, lockout.Attempt{Account: lockout.Account{ID: id}})
					if err == nil {
						err = r.Failure(ctx)
					}
					if err != nil {
						say("error %v", err)
						return
					}
					say("counted %s", id)
				}
			})
		}
		stop.Wait()
	case "one-by-one":
		say("%d", oneByOne(t, guard, task[1], number(2)))
	}
}

// A tally is what became of many guesses.
type tally struct{ verified, locked, busy, other int }

func (t tally) String() string {
	return fmt.Sprintf("%d verified, %d locked, %d busy, %d other", t.verified, t.locked, t.busy, t.other)
}

func (t *tally) add(text string) error {
	var more tally
	_, err := fmt.Sscanf(text, "%d verified, %d locked, %d busy, %d other", &more.verified, &more.locked, &more.busy, &more.other)
	*t = tally{t.verified + more.verified, t.locked + more.locked, t.busy + more.busy, t.other + more.other}
	return err
}

// stampede guesses n times at once at one account, each time from somewhere else. A check takes 1 to 5 ms if the guess is wrong, and 5 ms if it is right; what is right is verified
// if it was let in.
func stampede(ctx context.Context, guard *lockout.Guard, n int, right bool) (sum tally) {
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

// readFirst is a store that reads, compares and writes, as many do: what must not be.
type readFirst struct {
	*sqlite.Lockouts
	db *sql.DB
}

func (s readFirst) Reserve(ctx context.Context, now time.Time, slots []lockout.Slot) (lockout.Verdict, error) {
	slot := slots[0]
	name := slot.Key.Name()
	page, err := s.States(ctx, now, lockout.Query{Name: &name, Limit: 10})
	if err != nil {
		return lockout.Verdict{}, err
	}
	failed := 0
	for _, e := range page.Entries {
		failed = e.State.Failed
	}
	if failed >= slot.Attempts {
		return lockout.Verdict{Answer: lockout.Locked, Wait: slot.Duration}, nil
	}
	time.Sleep(time.Millisecond) // so that it does not depend on luck
	_, err = s.db.ExecContext(ctx, `INSERT INTO lockouts VALUES (?1, ?2, ?3, 0, 0, 0, 0, 0, ?2 + 1000000000) ON CONFLICT (key) DO UPDATE SET failed = excluded.failed`,
		slot.Key[:], now.UnixMicro(), failed+1)
	return lockout.Verdict{}, err
}

func (readFirst) Conclude(context.Context, time.Time, []lockout.Slot, lockout.Conclusion) (lockout.Verdict, error) {
	return lockout.Verdict{}, nil
}

// together has three processes make n guesses at the same time.
func (c crew) together(t *testing.T, task string, n int) (sum tally) {
	t.Helper()
	var list []*process
	for i := range 3 {
		list = append(list, c.start(t, task, strconv.Itoa((n+i)/3)))
	}
	for _, p := range list {
		require.Equal(t, "ready", p.hears())
	}
	for _, p := range list {
		p.begins()
	}
	for _, p := range list {
		require.NoError(t, sum.add(p.hears()))
		require.NoError(t, p.cmd.Wait())
	}
	return sum
}

// Of 10,000 wrong guesses at once in three processes, exactly as many are verified as the account has.
func TestLockoutsOfThreeProcesses(t *testing.T) {
	c, store, _ := newCrew(t)
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
	c, _, _ := newCrew(t)
	sum := c.together(t, "wrong-broken", 300)
	t.Log(sum)
	require.Greater(t, sum.verified, 5)
}

// Right logins wait for each other, five at a time and 5 ms each, which is a second for a thousand.
func TestLockoutsOfRightLogins(t *testing.T) {
	logins := 1000
	if raceEnabled { // which makes SQLite fifty times slower
		logins = 200
	}
	c, store, _ := newCrew(t)
	guard, err := lockout.New(store, lockout.Config{Key: c.key})
	require.NoError(t, err)
	began := time.Now()
	one := stampede(t.Context(), guard, logins, true)
	t.Logf("in one process: %v in %v", one, time.Since(began).Round(time.Millisecond))
	c, _, _ = newCrew(t)
	began = time.Now()
	three := c.together(t, "right", logins)
	t.Logf("in three: %v in %v", three, time.Since(began).Round(time.Millisecond))
	for _, sum := range []tally{one, three} {
		require.Equal(t, logins, sum.verified+sum.busy, "nobody is locked out, and nobody who was let in turned away")
		require.GreaterOrEqual(t, sum.verified, logins/4, "all of them, on a machine that has nothing else to do")
	}
}

// events is a trail that a test reads.
type events struct {
	mu   sync.Mutex
	list []audit.Event
}

func (e *events) Record(_ context.Context, event audit.Event) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, event)
	return nil
}

// A guess of a process that was killed before it concluded it was a wrong one.
func TestLockoutsKilledBetween(t *testing.T) {
	t.Parallel() // it waits most of the time
	c, store, _ := newCrew(t)
	var clock later
	var trail events
	guard, err := lockout.New(store, lockout.Config{Key: c.key, Now: clock.now, Audit: &trail})
	require.NoError(t, err)
	ctx, who := t.Context(), lockout.Account{ID: "p-1"}
	for n := range 5 {
		s, err := guard.Status(ctx, who)
		require.NoError(t, err)
		require.Equal(t, n, s.Failed)
		p := c.start(t, "reserve", who.ID)
		require.Equal(t, "reserved", p.hears())
		p.killed()
	}
	_, err = guard.Reserve(ctx, lockout.Attempt{Account: who})
	require.ErrorIs(t, err, lockout.ErrBusy, "one of them may still turn out right")
	require.Empty(t, trail.list)
	clock.pass(2*lockout.MaxCheck + time.Second)
	for range 3 {
		_, err = guard.Reserve(ctx, lockout.Attempt{Account: who})
		require.ErrorIs(t, err, lockout.ErrLocked)
	}
	require.Len(t, trail.list, 1, "the lock is told once")
	require.Equal(t, audit.Lock, trail.list[0].Action)
	require.Equal(t, 0, oneByOne(t, guard, who.ID, 1))
	clock.pass(15 * time.Minute)
	require.Equal(t, 5, oneByOne(t, guard, who.ID, 10), "and ends")
}

// What a process has said that it counted is there when it was killed, once. CARREL_TEST_LONG has 300 kills.
func TestLockoutsKilledAtAnyTime(t *testing.T) {
	kills, within := 30, 60*time.Millisecond
	if raceEnabled { // which makes SQLite fifty times slower
		within = 150 * time.Millisecond
	}
	if os.Getenv("CARREL_TEST_LONG") != "" {
		kills = 300
	}
	c, store, _ := newCrew(t)
	var counted []string
	for n := 0; n < kills; n += 3 { // three at a time
		var list []*process
		for i := range 3 {
			list = append(list, c.start(t, "names", fmt.Sprint(n+i)))
		}
		for _, p := range list {
			require.Equal(t, "ready", p.hears())
			time.AfterFunc(rand.N(within), func() { p.cmd.Process.Kill() })
		}
		for _, p := range list {
			for p.said.Scan() {
				id, ok := strings.CutPrefix(p.said.Text(), "counted ")
				require.True(t, ok, p.said.Text())
				counted = append(counted, id)
			}
			p.killed()
		}
		if len(counted) <= n { // a busy machine
			within = min(2*within, 2*time.Second)
		}
	}
	guard, err := lockout.New(store, lockout.Config{Key: c.key})
	require.NoError(t, err)
	for _, id := range counted {
		s, err := guard.Status(t.Context(), lockout.Account{ID: id})
		require.NoError(t, err)
		require.Equal(t, 1, s.Failed, id)
	}
	inside := 0
	for _, e := range statesOf(t, store) {
		require.Equal(t, 1, e.State.Failed, "also of what nobody was told")
		inside += e.State.Open
	}
	o, err := guard.Overview(t.Context())
	require.NoError(t, err)
	require.LessOrEqual(t, o.Names, len(counted)+4*kills)
	t.Logf("%d kills, %d counted, %d more of which nobody was told, %d reserved and not concluded", kills, len(counted), o.Names-len(counted), inside)
	require.Greater(t, len(counted), kills) // they got somewhere, on a busy machine too
	require.Positive(t, o.Names-len(counted), "no process was killed at its work")
}

// A new process goes on where the one before ended.
func TestLockoutsAfterRestart(t *testing.T) {
	c, store, _ := newCrew(t)
	guesses := func(id string, n int) int {
		p := c.start(t, "one-by-one", id, strconv.Itoa(n))
		verified, err := strconv.Atoi(p.hears())
		require.NoError(t, err)
		require.NoError(t, p.cmd.Wait())
		return verified
	}
	require.Equal(t, 5, guesses("locked", 10))
	require.Equal(t, 0, guesses("locked", 10))
	require.Equal(t, 4, guesses("four", 4))
	require.Equal(t, 1, guesses("four", 10))
	guard, err := lockout.New(store, lockout.Config{Key: c.key})
	require.NoError(t, err)
	for _, id := range []string{"locked", "four"} {
		_, err = guard.Reserve(t.Context(), lockout.Attempt{Account: lockout.Account{ID: id}})
		var locked *lockout.LockedError
		require.ErrorAs(t, err, &locked)
		require.InDelta(t, (15 * time.Minute).Seconds(), locked.Wait.Seconds(), 30)
	}
	require.Equal(t, 5, oneByOne(t, guard, "another", 10), "others may go on")
}

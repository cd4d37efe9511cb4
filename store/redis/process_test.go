package redis_test

import (
	"bufio"
	"context"
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
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/redis"
)

// childVariable has, in a process that TestProcesses starts, the prefix and how many guesses it makes.
const childVariable = "CARREL_REDIS_CHILD"

// guessAtOnce makes so many wrong guesses at one account at the same time, from many sources. It returns how many passwords were looked at, and what the others were told.
func guessAtOnce(ctx context.Context, g *lockout.Guard, n int) (verified int64, refused map[string]int) {
	refused = map[string]int{}
	var mu sync.Mutex
	var looked atomic.Int64
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			r, err := g.Reserve(ctx, lockout.Attempt{
				Account: lockout.Account{Login: "jdoe", ID: "patron-1"},
				Source:  netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}),
			})
			if err == nil {
				looked.Add(1)
				time.Sleep(time.Millisecond + rand.N(4*time.Millisecond))
				err = r.Failure(ctx)
			}
			if err != nil {
				mu.Lock()
				refused[err.Error()]++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return looked.Load(), refused
}

// TestChild is no test: it is the processes that TestProcesses starts.
func TestChild(t *testing.T) {
	prefix, count, ok := strings.Cut(os.Getenv(childVariable), " ")
	if !ok {
		t.Skip("only as a child process of TestProcesses")
	}
	n, err := strconv.Atoi(count)
	require.NoError(t, err)
	store, err := redis.NewLockouts(connect(t), prefix)
	require.NoError(t, err)
	g := guard(t, store)
	_, err = g.Overview(t.Context()) // connected
	require.NoError(t, err)
	fmt.Println("ready")
	_, err = bufio.NewReader(os.Stdin).ReadString('\n')
	require.NoError(t, err)
	verified, refused := guessAtOnce(t.Context(), g, n)
	fmt.Println("verified", verified)
	fmt.Fprintln(os.Stderr, refused)
}

// TestProcesses has three processes guess at one account, ten thousand times at once: five passwords are looked at, no more and no less.
func TestProcesses(t *testing.T) {
	store, _, prefix := open(t)
	self, err := os.Executable()
	require.NoError(t, err)
	type child struct {
		*exec.Cmd
		in  io.Writer
		out *bufio.Scanner
	}
	var children []child
	for i := range 3 {
		cmd := exec.Command(self, "-test.run=^TestChild$", "-test.v=false")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", childVariable, prefix, (10_000+i)/3))
		if testing.Verbose() {
			cmd.Stderr = os.Stderr
		}
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		children = append(children, child{cmd, in, bufio.NewScanner(out)})
	}
	line := func(c child, prefix string) string {
		for c.out.Scan() {
			if rest, ok := strings.CutPrefix(c.out.Text(), prefix); ok {
				return strings.TrimSpace(rest)
			}
		}
		t.Fatalf("a process did not say %q", prefix)
		return ""
	}
	for _, c := range children {
		line(c, "ready")
	}
	for _, c := range children {
		_, err := c.in.Write([]byte("\n"))
		require.NoError(t, err)
	}
	total := 0
	for _, c := range children {
		n, err := strconv.Atoi(line(c, "verified"))
		require.NoError(t, err)
		t.Logf("a process verified %d", n)
		total += n
	}
	for _, c := range children {
		for c.out.Scan() { // to the end
		}
		require.NoError(t, c.Wait())
	}
	require.Equal(t, 5, total)
	status, err := guard(t, store).Status(t.Context(), lockout.Account{ID: "patron-1"})
	require.NoError(t, err)
	require.Equal(t, 5, status.Failed)
	require.False(t, status.Until.IsZero())
}

// TestCorrectLogins has a thousand right passwords at one account at the same time, as when a class begins: they wait for each other, and all are let in.
func TestCorrectLogins(t *testing.T) {
	store, _, _ := open(t)
	g := guard(t, store)
	const logins = 1000
	var in, busy, other atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for range logins {
		all.Go(func() {
			r, err := g.Reserve(t.Context(), lockout.Attempt{Account: lockout.Account{Login: "class", ID: "class"}, Source: netip.MustParseAddr("192.0.2.7")})
			if err == nil {
				time.Sleep(5 * time.Millisecond)
				err = r.Success(t.Context())
			}
			switch {
			case err == nil:
				in.Add(1)
			case errors.Is(err, lockout.ErrBusy):
				busy.Add(1)
			default:
				other.Add(1)
				t.Log(err)
			}
		})
	}
	all.Wait()
	t.Logf("%d in, %d busy, %d otherwise, after %v", in.Load(), busy.Load(), other.Load(), time.Since(began))
	require.Zero(t, other.Load())
	require.EqualValues(t, logins, in.Load())
	status, err := g.Status(t.Context(), lockout.Account{ID: "class"})
	require.NoError(t, err)
	require.Zero(t, status.Failed)
}

package redis_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/redis"
)

// A refusal is an error of the server.
type refusal string

func (r refusal) Error() string { return string(r) }
func (r refusal) RedisError()   {}

// A broken client answers with an error.
type broken struct{ err error }

func (b broken) Process(context.Context, goredis.Cmder) error { return b.err }

// TestErrorsSayNothing translates what a server and a client may say. None of it is repeated.
func TestErrorsSayNothing(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{refusal("LOADING Redis is loading the dataset in memory, jdoe"), "the server is still loading its data (code LOADING)"},
		{refusal("READONLY You can't write against a read only replica. jdoe"), "the server is read-only: it is a replica (code READONLY)"},
		{refusal("OOM command not allowed, jdoe"), "the server is out of memory (code OOM)"},
		{refusal("ERR Error running script, jdoe"), "the server refused (code ERR)"},
		{refusal("jdoe"), "the server refused (code ERR)"},
		{refusal(""), "the server refused (code ERR)"},
		{&net.OpError{Op: "dial", Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}, Err: errors.New("jdoe")}, "the connection failed"},
		{fmt.Errorf("jdoe: %w", io.EOF), "the connection failed"},
		{goredis.ErrClosed, "the connection failed"},
		{goredis.Nil, "the connection failed"},
		{fmt.Errorf("jdoe: %w", os.ErrDeadlineExceeded), "the connection failed"},
		{fmt.Errorf("jdoe: %w", context.Canceled), "context canceled"},
		{fmt.Errorf("jdoe: %w", context.DeadlineExceeded), "context deadline exceeded"},
	} {
		store, err := redis.NewLockouts(broken{c.err}, "")
		require.NoError(t, err)
		err = store.Hold(t.Context(), time.Now(), lockout.Name{}, time.Time{})
		require.EqualError(t, err, "redis: Hold: "+c.want)
		_, _, err = store.Sync(t.Context(), time.Time{}, 0)
		require.EqualError(t, err, "redis: Sync: "+c.want)
		_, err = store.States(t.Context(), time.Now(), lockout.Query{Limit: 1})
		require.EqualError(t, err, "redis: States: "+c.want)
		_, err = store.Reserve(t.Context(), time.Now(), make([]lockout.Slot, 1))
		require.EqualError(t, err, "redis: Reserve: "+c.want)
		_, err = store.Conclude(t.Context(), time.Now(), make([]lockout.Slot, 1), lockout.Conclusion{Reserved: time.Now()})
		require.EqualError(t, err, "redis: Conclude: "+c.want)
	}
}

// TestForeignAnswers has a server that says what no script says.
func TestForeignAnswers(t *testing.T) {
	store, err := redis.NewLockouts(broken{nil}, "")
	require.NoError(t, err)
	const want = "the answer is none of this store's: something else writes under its prefix"
	_, _, err = store.Sync(t.Context(), time.Time{}, 0)
	require.EqualError(t, err, "redis: Sync: "+want)
	_, err = store.Reserve(t.Context(), time.Now(), make([]lockout.Slot, 1))
	require.EqualError(t, err, "redis: Reserve: "+want)
	_, err = store.States(t.Context(), time.Now(), lockout.Query{})
	require.EqualError(t, err, "redis: States: "+want)
}

func TestNewLockoutsRefuses(t *testing.T) {
	_, err := redis.NewLockouts(nil, "")
	require.EqualError(t, err, "redis: there is no client")
	for _, prefix := range []string{"a b", "a*", "{a}", "a\n", "ä", "a?", "[a]", `a\`, string(bytes.Repeat([]byte("a"), 65))} {
		_, err = redis.NewLockouts(broken{}, prefix)
		require.ErrorContains(t, err, "redis: the prefix ", "%q", prefix)
	}
	store, err := redis.NewLockouts(broken{}, "library-1.example/a_b:c")
	require.NoError(t, err)
	for _, slots := range [][]lockout.Slot{nil, make([]lockout.Slot, 9)} {
		_, err = store.Reserve(t.Context(), time.Now(), slots)
		require.EqualError(t, err, "redis: want one to eight limits for one guess")
	}
}

// A deaf connection loses answers, while it is told to.
type deaf struct {
	net.Conn
	lose *atomic.Bool
}

func (d deaf) Read(b []byte) (int, error) {
	n, err := d.Conn.Read(b)
	if d.lose.CompareAndSwap(true, false) {
		return 0, io.EOF
	}
	return n, err
}

// TestConcludeIsSentOnce loses the answer to a conclusion. Were it sent again, it would give two guesses back.
func TestConcludeIsSentOnce(t *testing.T) {
	direct, ok := connect(t).(*goredis.Client)
	if !ok {
		t.Skip("a cluster")
	}
	options := *direct.Options()
	var lose atomic.Bool
	options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return deaf{conn, &lose}, err
	}
	options.MaxRetries = 3
	options.ReadTimeout = 500 * time.Millisecond
	client := goredis.NewClient(&options)
	defer client.Close()
	store, err := redis.NewLockouts(client, draw(t, direct))
	require.NoError(t, err)
	name, now := lockout.Name{1}, time.Now()
	recent, _ := name.Common()
	slots := []lockout.Slot{{Key: recent, Attempts: 5, Duration: time.Hour}}
	failed := func() int {
		page, err := store.States(t.Context(), now, lockout.Query{Name: &name, Limit: 1})
		require.NoError(t, err)
		require.Len(t, page.Entries, 1)
		return page.Entries[0].State.Failed
	}
	for range 4 {
		_, err := store.Reserve(t.Context(), now, slots)
		require.NoError(t, err)
	}
	_, err = store.Conclude(t.Context(), now, slots, lockout.Conclusion{Reserved: now, Result: lockout.Abandoned})
	require.NoError(t, err)
	require.Equal(t, 3, failed())
	lose.Store(true)
	_, err = store.Conclude(t.Context(), now, slots, lockout.Conclusion{Reserved: now, Result: lockout.Abandoned})
	require.EqualError(t, err, "redis: Conclude: the connection failed")
	require.Equal(t, 2, failed())
}

// TestScriptsAreLoadedAgain begins with a server that has forgotten all scripts, as after a restart.
func TestScriptsAreLoadedAgain(t *testing.T) {
	store, client, _ := open(t)
	require.NoError(t, client.ScriptFlush(t.Context()).Err())
	slots := []lockout.Slot{{Attempts: 5, Duration: time.Hour}}
	v, err := store.Reserve(t.Context(), time.Now(), slots)
	require.NoError(t, err)
	require.Equal(t, 4, v.Left)
	_, err = store.Conclude(t.Context(), time.Now(), slots, lockout.Conclusion{Reserved: time.Now()})
	require.NoError(t, err)
}

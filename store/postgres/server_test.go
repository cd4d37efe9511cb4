//go:build unix

package postgres_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/internal/pgtest"
	"github.com/carrel-project/carrel/store/postgres"
)

// appendThrough has writers append to a log while its server crashes, and returns what was acknowledged and what is there afterwards.
func appendThrough(t *testing.T, s *pgtest.Server, crashes int) (acknowledged, there map[string]int) {
	db, _ := openAt(t, s.DSN(""))
	log := postgres.NewLog(db)
	acknowledged = map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer wg.Wait()
	defer cancel()
	for w := range 4 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				e := logEntry(n)
				e.Body = fmt.Appendf(nil, "%d %d", w, n)
				e.Key = [16]byte{byte(w), byte(n >> 16), byte(n >> 8), byte(n), 1}
				for ctx.Err() == nil {
					c, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
					err := log.Append(c, []audit.Entry{e})
					cancel()
					if err == nil {
						mu.Lock()
						acknowledged[string(e.Body)]++
						mu.Unlock()
						break
					}
					time.Sleep(5 * time.Millisecond)
				}
				if n%8 == w {
					log.Tree(ctx) // gives numbers, or fails
				}
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acknowledged)
	}
	for range crashes {
		before := count()
		require.Eventually(t, func() bool { return count() > before+50 }, time.Minute, time.Millisecond, "nothing is acknowledged")
		s.RestartImmediate()
	}
	before := count()
	require.Eventually(t, func() bool { return count() > before+50 }, time.Minute, time.Millisecond, "nothing is acknowledged after the last crash")
	cancel()
	wg.Wait()
	there = map[string]int{}
	for _, body := range wholeLog(t, log) {
		there[body]++
	}
	return acknowledged, there
}

func missing(acknowledged, there map[string]int) (n int) {
	for body := range acknowledged {
		if there[body] == 0 {
			n++
		}
	}
	return n
}

// The server crashes in the middle of appends, recovers, and crashes again. What was acknowledged is there, and what was repeated because nobody knew is not there twice.
func TestLogOutlivesServerCrash(t *testing.T) {
	s := pgtest.Start(t)
	acknowledged, there := appendThrough(t, s, 3)
	t.Logf("%d acknowledged, %d there", len(acknowledged), len(there))
	require.Zero(t, missing(acknowledged, there))
	for body, times := range there {
		require.Equal(t, 1, times, body)
	}
}

// The test above sees what it is there for: a server that acknowledges before it has written. A crash may find nothing to lose (what was acknowledged may end just where a page of the write-ahead log
// was written), so there are a few tries.
func TestLogOutlivesServerCrashIsSeen(t *testing.T) {
	s := pgtest.Start(t, "synchronous_commit = off", "wal_writer_delay = 10s", "wal_writer_flush_after = 1GB")
	for range 10 {
		acknowledged, there := appendThrough(t, s, 2)
		lost := missing(acknowledged, there)
		t.Logf("%d of %d acknowledged lost", lost, len(acknowledged))
		if lost > 0 {
			return
		}
	}
	t.Fatal("ten times nothing was lost")
}

// A server leaves nothing behind: no process and no folder.
func TestServerStops(t *testing.T) {
	var s *pgtest.Server
	t.Run("test", func(t *testing.T) {
		s = pgtest.Start(t)
		openAt(t, s.DSN(""))
	})
	if s == nil {
		t.Skip("SKIPPED, NOTHING WAS TESTED: there was no server to start; see the skipped subtest")
	}
	_, err := os.Stat(s.Dir())
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port())), time.Second)
	require.Error(t, err)
}

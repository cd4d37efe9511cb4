package postgres_test

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/store/postgres"
)

// appendAtOnce has writers append on the logs while others read, and expects everything once, without gaps, in each writer's order.
func appendAtOnce(t *testing.T, logs []audit.Store, writers, batches int) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make(chan error, writers)
	for w := range writers {
		wg.Go(func() {
			for b := range batches {
				var list []audit.Entry
				for i := range b%4 + 1 {
					e := logEntry(b)
					e.Body = fmt.Appendf(nil, "%d %d %d", w, b, i)
					list = append(list, e)
				}
				if err := logs[w%len(logs)].Append(context.Background(), list); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	finished := make(chan struct{})
	go func() { wg.Wait(); close(finished) }()
	var seen []string
	for running := true; running; {
		select {
		case <-finished:
			running = false
		default:
		}
		for _, log := range logs[:min(2, len(logs))] {
			now := wholeLog(t, log)
			require.GreaterOrEqual(t, len(now), len(seen))
			require.True(t, slices.Equal(seen, now[:len(seen)]), "what was seen stays where it is")
			seen = now
		}
	}
	close(errs)
	require.NoError(t, <-errs)
	lists := make([][]string, writers)
	for _, body := range seen {
		var w int
		_, err := fmt.Sscan(body, &w)
		require.NoError(t, err)
		lists[w] = append(lists[w], body)
	}
	for w, got := range lists {
		var want []string
		for b := range batches {
			for i := range b%4 + 1 {
				want = append(want, fmt.Sprintf("%d %d %d", w, b, i))
			}
		}
		require.Equal(t, want, got)
	}
	require.Equal(t, len(seen), logNext(t, logs[0]))
}

func TestLogOfManyWriters(t *testing.T) {
	db, at := open(t)
	var logs []audit.Store
	for _, h := range logOnHandles(t, db, at, 8) {
		logs = append(logs, h)
	}
	appendAtOnce(t, logs, 16, 40)
}

// A transaction of the caller's that takes its time holds nobody up: others append and are read. What it appended comes when it is committed.
func TestLogWaitsForNoTransaction(t *testing.T) {
	db, _ := open(t)
	log := postgres.NewLog(db)
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer tx.Rollback()
	slow := logEntry(1000)
	slow.Key = [16]byte{1}
	require.NoError(t, postgres.NewLog(tx).Append(t.Context(), []audit.Entry{slow, logEntry(1001)}))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	began := time.Now()
	n := 0
	for ; time.Since(began) < time.Second; n++ {
		require.NoError(t, log.Append(ctx, logEntries(n, n+1)))
		require.Len(t, wholeLog(t, log), n+1)
		require.Len(t, wholeLog(t, postgres.NewLog(tx)), n+1, "read in it, too")
		require.NoError(t, log.Advance(ctx, audit.Advance{From: uint64(n), Size: uint64(n + 1), Checkpoint: []byte("c")}))
	}
	require.Greater(t, n, 5)
	// Only who appends the same key waits, and then finds it there.
	repeated := make(chan error)
	go func() { repeated <- log.Append(ctx, []audit.Entry{slow}) }()
	select {
	case err := <-repeated:
		t.Fatalf("it was acknowledged before it was there: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	require.NoError(t, tx.Commit())
	require.NoError(t, <-repeated)
	bodies := wholeLog(t, log)
	require.Equal(t, []string{"canary 1000", "canary 1001"}, bodies[n:])
}

// Somebody ends the server's processes under those who append and read. What was acknowledged is there once, in each writer's order, and what was repeated with its
// key is not there twice. Of what failed without a key nobody knows.
func TestLogOutlivesConnections(t *testing.T) {
	admin, at := open(t)
	name := fmt.Sprint("carrel_ended_", time.Now().UnixNano())
	at += "&application_name=" + name
	var logs []*postgres.Log
	for range 4 {
		db, err := sql.Open("pgx", at)
		require.NoError(t, err)
		defer db.Close()
		logs = append(logs, postgres.NewLog(db))
	}
	const each = 40
	var wg sync.WaitGroup
	acknowledged := make([][]string, len(logs))
	var progress atomic.Int64
	for w, log := range logs {
		wg.Go(func() {
			for n := range each {
				list := []audit.Entry{logEntry(n), logEntry(n)}[:n%2+1]
				keyed := n%3 > 0
				for i := range list {
					list[i].Body = fmt.Appendf(nil, "%d %d %d %t", w, n, i, keyed)
					if keyed {
						list[i].Key = [16]byte{1, byte(w), byte(n), byte(i)}
					}
				}
				err := log.Append(context.Background(), list)
				for tries := 0; err != nil && keyed && tries < 100; tries++ {
					err = log.Append(context.Background(), list)
				}
				progress.Add(1)
				if err == nil {
					for _, e := range list {
						acknowledged[w] = append(acknowledged[w], string(e.Body))
					}
				}
				log.Tree(context.Background()) // gives numbers, or fails
			}
		})
	}
	finished := make(chan struct{})
	go func() { wg.Wait(); close(finished) }()
	ended := 0
	before := int64(-1)
	for running := true; running; {
		select {
		case <-finished:
			running = false
		case <-time.After(10 * time.Millisecond):
			// On a busy machine connecting takes longer than that, and nobody would ever get through.
			now := progress.Load()
			if now == before {
				continue
			}
			before = now
			var n int
			require.NoError(t, admin.QueryRow(`SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM
				(SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND query LIKE '%trail_%' ORDER BY random() LIMIT 1) AS x`, name).Scan(&n))
			ended += n
		}
	}
	require.Greater(t, ended, 10)
	places, last := map[string]int{}, map[string]int{}
	for i, body := range wholeLog(t, postgres.NewLog(admin)) {
		_, twice := places[body]
		require.False(t, twice, body)
		places[body] = i
	}
	sum := 0
	for w, bodies := range acknowledged {
		for _, body := range bodies {
			place, there := places[body]
			require.True(t, there, body)
			writer := fmt.Sprint(w)
			require.GreaterOrEqual(t, place, last[writer])
			last[writer] = place
			sum++
		}
	}
	t.Logf("%d ended, %d acknowledged, %d there", ended, sum, len(places))
}

package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/store/sqlite"
)

// trailKeys returns a keyring with keys for subjects p0, p1 …
func trailKeys(t testing.TB, subjects int) *crypto.Keyring {
	dir := t.TempDir()
	createRing(t, dir)
	keys := ringIn(t, dir)
	for i := range subjects {
		require.NoError(t, keys.CreateKeys(t.Context(), patronNo(i)))
	}
	return keys
}

func patronNo(i int) crypto.Subject { return crypto.Subject(fmt.Sprint("p", i)) }

// refusal is an event that no other stands for.
func refusal(i int) audit.Event {
	return audit.Event{Time: day0.Add(time.Duration(i) * time.Millisecond), Action: audit.View, Outcome: audit.Denied, Why: "no-right",
		Actor: "staff-17", Role: "desk", Purpose: "circulation", Channel: audit.UI, Segments: []string{"addresses", "names"}, Count: 1,
		Subjects: []audit.Subject{{ID: patronNo(i % 1000)}}}
}

// BenchmarkTrailAppend appends one entry durably, and in turn inserts a bare row of the same size into the same file.
func BenchmarkTrailAppend(b *testing.B) {
	db, _, _ := open(b)
	_, err := db.Exec("CREATE TABLE bare (body BLOB NOT NULL)")
	require.NoError(b, err)
	bare, err := db.Prepare("INSERT INTO bare (body) VALUES (?)")
	require.NoError(b, err)
	trail, err := audit.New(b.Context(), audit.Config{Store: sqlite.NewLog(db), Keys: trailKeys(b, 1000), Anchors: []audit.Anchor{audit.NewFileAnchor(filepath.Join(b.TempDir(), "anchor"))}})
	require.NoError(b, err)
	var entries []audit.Entry
	for i := range 5000 {
		e, err := trail.Prepare(b.Context(), refusal(i))
		require.NoError(b, err)
		entries = append(entries, e)
	}
	log := sqlite.NewLog(db)
	var ours, bares []time.Duration
	i := 0
	b.ResetTimer()
	for b.Loop() {
		e := entries[i%len(entries)]
		i++
		start := time.Now()
		_, err := bare.ExecContext(b.Context(), e.Body)
		between := time.Now()
		if err == nil {
			err = log.Append(b.Context(), []audit.Entry{e})
		}
		end := time.Now()
		if err != nil {
			b.Fatal(err)
		}
		bares, ours = append(bares, between.Sub(start)), append(ours, end.Sub(between))
	}
	b.ReportMetric(float64(total(ours))/float64(total(bares)), "times-bare")
	b.ReportMetric(float64(quantile(ours, 0.5))/float64(quantile(bares, 0.5)), "times-bare-p50")
	b.ReportMetric(float64(total(ours).Microseconds())/float64(len(ours)), "µs/append")
	b.ReportMetric(float64(quantile(ours, 0.99).Microseconds())/1000, "p99-ms")
}

func total(list []time.Duration) (sum time.Duration) {
	for _, d := range list {
		sum += d
	}
	return sum
}

func quantile(list []time.Duration, q float64) time.Duration {
	list = slices.Sorted(slices.Values(list))
	return list[int(q*float64(len(list)-1))]
}

// BenchmarkTrailGroup has 64 goroutines record events, while checkpoints are made: as fast as they can, and each so often that they are 20,000 a second.
func BenchmarkTrailGroup(b *testing.B) {
	for name, every := range map[string]time.Duration{"saturated": 0, "20000/s": 64 * time.Second / 20_000} {
		b.Run(name, func(b *testing.B) { recordTogether(b, every) })
	}
}

func recordTogether(b *testing.B, every time.Duration) {
	db, _, _ := open(b)
	trail, err := audit.New(b.Context(), audit.Config{Store: sqlite.NewLog(db), Keys: trailKeys(b, 1000), Interval: time.Second,
		Anchors: []audit.Anchor{audit.NewFileAnchor(filepath.Join(b.TempDir(), "anchor"))}})
	require.NoError(b, err)
	for i := range 1000 { // the keys come into the cache
		_, err := trail.Prepare(b.Context(), refusal(i))
		require.NoError(b, err)
	}
	const writers = 64
	var n atomic.Int64
	times := make([][]time.Duration, writers)
	b.ResetTimer()
	began := time.Now()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			due := began.Add(every * time.Duration(w) / writers)
			for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
				e := refusal(int(i))
				if due = due.Add(every); every > 0 {
					time.Sleep(time.Until(due))
				}
				start := time.Now()
				if err := trail.Record(context.Background(), e); err != nil {
					b.Error(err)
					return
				}
				times[w] = append(times[w], time.Since(start))
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	b.StopTimer()
	require.NoError(b, trail.Close(context.Background()))
	all := slices.Concat(times...)
	b.ReportMetric(float64(len(all))/took.Seconds(), "events/s")
	b.ReportMetric(float64(quantile(all, 0.99).Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(trailBytes(b, db))/float64(len(all)), "B/event")
}

// trailBytes is what the tables of the trail take in the file, with their indexes.
func trailBytes(t testing.TB, db *sql.DB) (size int64) {
	require.NoError(t, db.QueryRow("SELECT sum(pgsize) FROM dbstat WHERE name LIKE '%trail%'").Scan(&size))
	return size
}

// BenchmarkTrailRead reads pages of entries by their numbers.
func BenchmarkTrailRead(b *testing.B) {
	db, _, _ := open(b)
	log := sqlite.NewLog(db)
	entries := make([]audit.Entry, 1000)
	for i := range entries {
		entries[i] = audit.Entry{Action: audit.View, Time: day0, Tags: []audit.Tag{{byte(i), byte(i >> 8)}}, Body: make([]byte, 180)}
	}
	const all = 100_000
	for range all / len(entries) {
		require.NoError(b, log.Append(b.Context(), entries))
	}
	for _, readers := range []int{1, 2} {
		b.Run(fmt.Sprint(readers), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var wg sync.WaitGroup
				for i := range readers {
					wg.Go(func() {
						q := audit.Query{From: uint64(i * all / readers), To: uint64((i + 1) * all / readers), Limit: 4096}
						read := 0
						for {
							page, err := log.Entries(b.Context(), q)
							if err != nil {
								b.Error(err)
								return
							}
							read += len(page.Entries)
							if q.Cursor = page.Cursor; q.Cursor == "" {
								break
							}
						}
						if read != all/readers {
							b.Error(read)
						}
					})
				}
				wg.Wait()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/all, "ns/row")
		})
	}
}

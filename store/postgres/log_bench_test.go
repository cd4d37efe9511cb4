package postgres_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/store/postgres"
)

// BenchmarkLogAppend appends one entry at a time, or as many as a group of those who record at once, in one goroutine and in several.
func BenchmarkLogAppend(b *testing.B) {
	for name, entries := range map[string]int{"one": 1, "64": 64, "1024": 1024} {
		b.Run(name, func(b *testing.B) {
			db, _ := open(b)
			log := postgres.NewLog(db)
			list := logEntries(0, entries)
			for i := range list {
				list[i].Body = make([]byte, 180)
			}
			b.SetParallelism(4)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					require.NoError(b, log.Append(b.Context(), list))
				}
			})
			b.ReportMetric(float64(entries*b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkLogAppendFloor appends one entry, or a group, and in turn inserts bare rows of the same size in one statement into a table with nothing but a primary key. Both are durable.
func BenchmarkLogAppendFloor(b *testing.B) {
	for name, entries := range map[string]int{"one": 1, "64": 64} {
		b.Run(name, func(b *testing.B) {
			db, _ := open(b)
			_, err := db.Exec("CREATE TABLE floor (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body bytea NOT NULL)")
			require.NoError(b, err)
			log := postgres.NewLog(db)
			body := make([]byte, 180)
			bare := "INSERT INTO floor (body) VALUES ($1)" + strings.Repeat(", ($1)", entries-1)
			var floor, ours time.Duration
			for n := 0; b.Loop(); n++ {
				list := logEntries(n*entries, (n+1)*entries)
				for i := range list {
					list[i].Body = body
				}
				begin := time.Now()
				_, err := db.Exec(bare, body)
				require.NoError(b, err)
				middle := time.Now()
				require.NoError(b, log.Append(b.Context(), list))
				floor, ours = floor+middle.Sub(begin), ours+time.Since(middle)
			}
			b.ReportMetric(float64(ours)/float64(floor), "×floor")
			b.ReportMetric(float64(ours.Microseconds())/float64(b.N), "µs/append")
		})
	}
}

// BenchmarkLogNumber gives numbers to a thousand entries.
func BenchmarkLogNumber(b *testing.B) {
	db, _ := open(b)
	log := postgres.NewLog(db)
	list := logEntries(0, 1000)
	for i := range list {
		list[i].Body = make([]byte, 180)
	}
	for b.Loop() {
		b.StopTimer()
		require.NoError(b, log.Append(b.Context(), list))
		b.StartTimer()
		_, err := log.Tree(b.Context())
		require.NoError(b, err)
	}
}

// BenchmarkLogRead reads pages of entries by their numbers.
func BenchmarkLogRead(b *testing.B) {
	db, _ := open(b)
	log := postgres.NewLog(db)
	for at := 0; at < 10_000; at += 1000 {
		require.NoError(b, log.Append(b.Context(), logEntries(at, at+1000)))
	}
	for b.Loop() {
		page, err := log.Entries(b.Context(), audit.Query{From: 4000, Limit: 1000})
		require.NoError(b, err)
		require.Len(b, page.Entries, 1000)
	}
}

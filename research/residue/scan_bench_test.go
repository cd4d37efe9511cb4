package residue_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/research/residue"
)

// library makes a database like that of a library system, of about so many bytes: people, items, letters to them, and a log of
// what was done. It returns a sample of loans that it no longer knows of.
func library(b *testing.B, bytes int64, loans int) (path string, sample *residue.Sample) {
	b.Helper()
	rng := rand.New(rand.NewPCG(5, 6))
	path, db := newFile(b, `PRAGMA journal_mode = OFF`,
		`CREATE TABLE borrowers (borrowernumber INTEGER PRIMARY KEY, cardnumber TEXT UNIQUE, surname TEXT, address TEXT)`,
		`CREATE TABLE items (itemnumber INTEGER PRIMARY KEY, barcode TEXT UNIQUE, biblionumber INTEGER, branch TEXT, callnumber TEXT)`,
		`CREATE TABLE message_queue (message_id INTEGER PRIMARY KEY, borrowernumber INTEGER, subject TEXT, content TEXT, time_queued TEXT)`,
		`CREATE TABLE action_logs (action_id INTEGER PRIMARY KEY, timestamp TEXT, user INTEGER, module TEXT, action TEXT, object INTEGER, info TEXT)`)
	tx, err := db.Begin()
	require.NoError(b, err)
	card, barcode := func(i int) string { return fmt.Sprintf("290000%08d", i*7919%100_000_000) }, func(i int) string { return fmt.Sprintf("390000%08d", i*104729%100_000_000) }
	var words []string
	for range 2000 {
		w := make([]byte, 2+rng.IntN(9))
		for i := range w {
			w[i] = "eeeaaiionnrrttsslldhcumpgbvfkwy"[rng.IntN(31)]
		}
		words = append(words, string(w))
	}
	text := func(n int) string {
		var t strings.Builder
		for t.Len() < n {
			t.WriteString(words[rng.IntN(len(words))])
			t.WriteByte(' ')
		}
		return t.String()
	}
	insert := func(query string, args ...any) {
		_, err := tx.Exec(query, args...)
		require.NoError(b, err)
	}
	people, things := int(bytes/5000)+10, int(bytes/2000)+10
	for i := range people {
		insert(`INSERT INTO borrowers VALUES (?, ?, ?, ?)`, i+1, card(i), text(12), text(30))
	}
	for i := range things {
		insert(`INSERT INTO items VALUES (?, ?, ?, ?, ?)`, i+1, barcode(i), rng.IntN(things), "branch"+fmt.Sprint(rng.IntN(9)), text(15))
	}
	letter, err := tx.Prepare(`INSERT INTO message_queue (borrowernumber, subject, content, time_queued) VALUES (?, ?, ?, ?)`)
	require.NoError(b, err)
	log, err := tx.Prepare(`INSERT INTO action_logs (timestamp, user, module, action, object, info) VALUES (?, ?, ?, ?, ?, ?)`)
	require.NoError(b, err)
	for size := int64(0); size < bytes*9/10; size += 700 {
		at := time.Unix(1_700_000_000+size, 0).UTC().Format(time.DateTime)
		_, err = letter.Exec(1+rng.IntN(people), text(25), text(300), at)
		require.NoError(b, err)
		for range 3 {
			_, err = log.Exec(at, rng.IntN(50), "CATALOGUING", "MODIFY", rng.IntN(things), text(50))
			require.NoError(b, err)
		}
	}
	require.NoError(b, tx.Commit())
	require.NoError(b, db.Close())
	sample = residue.NewSample(0)
	for range loans {
		who, what := rng.IntN(people), rng.IntN(things)
		sample.Add(residue.Pair{Person: []string{card(who), fmt.Sprint(who + 1)}, Thing: []string{barcode(what), fmt.Sprint(what + 1)}})
	}
	return path, sample
}

// BenchmarkScan searches a SQLite file of 300 MB, beside a plain read of the same bytes. MB/s are bytes of the database, which is
// read twice.
func BenchmarkScan(b *testing.B) {
	size := int64(300e6)
	if testing.Short() {
		size = 4e6
	}
	for _, loans := range []int{1, 1000, 10_000} {
		b.Run(fmt.Sprintf("loans=%d", loans), func(b *testing.B) {
			path, sample := library(b, size, loans)
			info, err := os.Stat(path)
			require.NoError(b, err)
			b.SetBytes(info.Size())
			var plain, searched time.Duration
			for b.Loop() {
				b.StopTimer()
				began := time.Now()
				f, err := os.Open(path)
				require.NoError(b, err)
				_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 1<<20))
				require.NoError(b, err)
				f.Close()
				plain += time.Since(began)
				b.StartTimer()
				began = time.Now()
				r := search(b, path, sample)
				searched += time.Since(began)
				if len(r.Findings) > 0 {
					b.Fatal("found something: ", r.Findings[0].Where())
				}
			}
			b.ReportMetric(float64(searched)/float64(plain), "x-plain-read")
		})
	}
}

package sqlite_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/store/sqlite"
)

// BenchmarkVerify verifies a trail of CARREL_EVENTS events, 20,000 unless told. It reports seconds for a million, without and with the key by which
// forged entries are found, and how many times as long it takes as SHA-256 alone over the same bytes, which are in memory: every leaf, once more for its MAC
// where that is checked, and the 65 bytes of every inner node. The second ratio is to the leaves alone.
func BenchmarkVerify(b *testing.B) {
	events := 20_000
	if s := os.Getenv("CARREL_EVENTS"); s != "" {
		var err error
		events, err = strconv.Atoi(s)
		require.NoError(b, err)
	}
	db, _, _ := open(b)
	log, keys := sqlite.NewLog(db), trailKeys(b, 1000)
	anchor := audit.NewFileAnchor(filepath.Join(b.TempDir(), "anchor"))
	trail, err := audit.New(b.Context(), audit.Config{Store: log, Keys: keys, Anchors: []audit.Anchor{anchor}, Interval: time.Hour})
	require.NoError(b, err)
	b.Cleanup(func() { trail.Close(context.Background()) })
	var bodies []byte
	var ends []int
	for from := 0; from < events; from += 10_000 {
		var list []audit.Entry
		for i := from; i < min(from+10_000, events); i++ {
			e, err := trail.Prepare(b.Context(), refusal(i))
			require.NoError(b, err)
			list = append(list, e)
			bodies = append(bodies, e.Body...)
			ends = append(ends, len(bodies))
		}
		require.NoError(b, log.Append(b.Context(), list))
		_, err := trail.Sequence(b.Context())
		require.NoError(b, err)
	}
	key, err := keys.TrailKey(b.Context())
	require.NoError(b, err)
	text, err := audit.VerifierKey(b.Context(), keys)
	require.NoError(b, err)
	verifier, err := note.NewVerifier(text)
	require.NoError(b, err)
	anchored, err := anchor.Checkpoints()
	require.NoError(b, err)
	for _, key := range []*crypto.TrailKey{nil, key} {
		b.Run(fmt.Sprintf("key=%t", key != nil), func(b *testing.B) {
			var took, bare, leaves time.Duration
			var node [65]byte
			for b.Loop() {
				start := time.Now()
				v, err := audit.Verify(b.Context(), audit.VerifyConfig{Store: log, Verifier: verifier, Key: key, Anchored: [][][]byte{anchored}})
				took += time.Since(start)
				require.NoError(b, err)
				require.True(b, v.OK())
				require.Equal(b, uint64(events), v.Entries)
				start = time.Now()
				at := 0
				for _, end := range ends {
					sha256.Sum256(bodies[at:end])
					at = end
				}
				leaves += time.Since(start)
				for range events - 1 {
					sha256.Sum256(node[:])
				}
				if at = 0; key != nil { // a MAC reads the leaf again
					for _, end := range ends {
						sha256.Sum256(bodies[at:end])
						at = end
					}
				}
				bare += time.Since(start)
			}
			b.ReportMetric(took.Seconds()/float64(b.N)/float64(events)*1e6, "s/1M")
			b.ReportMetric(float64(took)/float64(bare), "times-SHA-256")
			b.ReportMetric(float64(took)/float64(leaves), "times-SHA-256-of-leaves")
			b.ReportMetric(float64(len(bodies))/float64(events), "B/event")
		})
	}
}

//go:build unix

package rights_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/rights"
	"github.com/carrel-project/carrel/store/sqlite"
)

const crashPath = "CARREL_TEST_ERASE"

// TestEraseChild is the process that is killed: it erases one patron after the other, and says so before each.
func TestEraseChild(t *testing.T) {
	path := os.Getenv(crashPath)
	if path == "" {
		t.Skip("runs in the child processes of TestEraseKilled")
	}
	l := openLibrary(t, path, rights.Config{})
	fmt.Println("ready")
	for n := range crashPatrons {
		id, err := l.dir.Find(t.Context(), officer, secret("2900%06d", n))
		if errors.Is(err, patron.ErrNotFound) {
			continue
		}
		require.NoError(t, err)
		_, err = l.Erase(t.Context(), officer, id, demand)
		require.NoError(t, err)
	}
}

const crashPatrons = 40

// A process that erases is killed at any time: whoever is half erased is marked, so that the next purge does the rest, and everybody else is whole.
func TestEraseKilled(t *testing.T) {
	kills := 8
	if os.Getenv("CARREL_TEST_LONG") != "" {
		kills = 200
	}
	self, err := os.Executable()
	require.NoError(t, err)
	marked, dead := 0, 0
	for kill := 0; kill < kills; {
		l := newLibrary(t)
		ids := make([]patron.ID, crashPatrons)
		records := make([]int, crashPatrons)
		for n := range ids {
			ids[n] = l.join(n)
		}
		for n := range ids[:crashPatrons-1] {
			l.history(n)
		}
		for n, id := range ids {
			records[n] = l.named(id, n)
		}
		require.NoError(t, l.trail.Close(t.Context()))
		require.NoError(t, l.db.Close())
		for left := crashPatrons; left > 10 && kill < kills; kill++ {
			cmd := exec.Command(self, "-test.run=^TestEraseChild$")
			cmd.Env = append(os.Environ(), crashPath+"="+l.path)
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			_, err = out.Read(make([]byte, 6))
			require.NoError(t, err)
			time.Sleep(time.Duration(rand.IntN(60_000)) * time.Microsecond)
			require.NoError(t, cmd.Process.Kill())
			cmd.Wait()

			l = openLibrary(t, l.path, rights.Config{})
			left = 0
			patrons := sqlite.NewPatrons(l.db)
			for n, id := range ids {
				row, err := patrons.Get(t.Context(), id)
				there := err == nil
				if !there {
					require.ErrorIs(t, err, patron.ErrNotFound)
				}
				forgotten, err := l.keys.Forgotten(t.Context(), id.Subject())
				require.NoError(t, err)
				gone := len(forgotten) > 0
				named := l.named(id, n)
				switch {
				case gone && !there:
					require.Zero(t, named)
				case gone:
					dead++
					require.Zero(t, named, "the links go before the key")
					require.False(t, row.Erasing.IsZero(), "a row whose key is destroyed is marked")
				case row.Erasing.IsZero():
					require.True(t, there)
					require.GreaterOrEqual(t, named, records[n]-1, "nothing of an unmarked one is erased but the mention of a neighbour")
					_, err := l.keys.Open(t.Context(), id.Subject())
					require.NoError(t, err)
					left++
				default:
					marked++
				}
			}
			p, err := l.Purge(t.Context(), officer, rights.Purge{Request: demand})
			require.NoError(t, err)
			require.Equal(t, p.Looked, p.Erased)
			require.LessOrEqual(t, p.Looked, 1)
			require.NoError(t, l.trail.Close(context.Background()))
			verifyTrail(t, l)
			require.NoError(t, l.db.Close())
		}
		os.RemoveAll(filepath.Dir(l.path))
	}
	t.Logf("of %d kills, %d found somebody marked with the key alive, and %d with the key destroyed and the row there", kills, marked, dead)
}

func verifyTrail(t *testing.T, l *library) {
	key, err := audit.VerifierKey(t.Context(), l.keys)
	require.NoError(t, err)
	verifier, err := note.NewVerifier(key)
	require.NoError(t, err)
	trail, err := l.keys.TrailKey(t.Context())
	require.NoError(t, err)
	anchored, err := audit.NewFileAnchor(l.path + ".anchor").Checkpoints()
	require.NoError(t, err)
	v, err := audit.Verify(t.Context(), audit.VerifyConfig{Store: l.log, Verifier: verifier, Key: trail, Anchored: [][][]byte{anchored}})
	require.NoError(t, err)
	require.Empty(t, v.Findings)
}

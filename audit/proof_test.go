package audit_test

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// Others can open our checkpoints: the note package with the text of the verifier's key, and whoever reads https://c2sp.org/tlog-checkpoint.
func TestCheckpointsOpen(t *testing.T) {
	y := newYard(t)
	y.fill(t, 0, 300, 7)
	text, err := audit.VerifierKey(t.Context(), y.keys)
	require.NoError(t, err)
	verifier, err := note.NewVerifier(text)
	require.NoError(t, err)
	for _, checkpoint := range y.anchored {
		n, err := note.Open(checkpoint, note.VerifierList(verifier))
		require.NoError(t, err)
		require.Len(t, n.Sigs, 1)
		require.Empty(t, n.UnverifiedSigs)
		lines := strings.Split(n.Text, "\n")
		require.Len(t, lines, 4)
		require.Equal(t, audit.Origin(y.keys), lines[0])
		require.Regexp(t, regexp.MustCompile(`^[^\s+]+$`), lines[0])
		size, err := strconv.ParseUint(lines[1], 10, 63)
		require.NoError(t, err)
		require.Equal(t, strconv.FormatUint(size, 10), lines[1])
		require.Regexp(t, regexp.MustCompile(`^[A-Za-z0-9+/]{43}=$`), lines[2])
		require.Empty(t, lines[3])
		tree, err := audit.OpenCheckpoint(checkpoint, verifier)
		require.NoError(t, err)
		require.Equal(t, int64(size), tree.N)
	}
	other := newYard(t)
	_, err = audit.OpenCheckpoint(y.anchored[0], other.verifier)
	require.Error(t, err)
}

// hashed fills a store with a tree over leaves, none of which is an entry: proofs need hashes only.
func hashed(t testing.TB, size int) (*rows, tlog.Tree, []tlog.Hash) {
	t.Helper()
	y := newYard(t)
	list := make([]audit.Entry, 0, size)
	leaves := make([]tlog.Hash, 0, size)
	for i := range size {
		body := fmt.Appendf(nil, "entry %d", i)
		list = append(list, audit.Entry{Body: body})
		leaves = append(leaves, audit.LeafHash(body))
	}
	require.NoError(t, y.rows.Append(t.Context(), list))
	checkpoint, err := y.Sequence(t.Context())
	require.NoError(t, err)
	tree, err := audit.OpenCheckpoint(checkpoint, y.verifier)
	require.NoError(t, err)
	return y.rows, tree, leaves
}

// treesOf returns the trees of all sizes over leaves, by another implementation.
func treesOf(leaves []tlog.Hash) []tlog.Tree {
	trees := []tlog.Tree{{Hash: tlog.Hash(rfc6962.DefaultHasher.EmptyRoot())}}
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		list := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			list[i] = stored[x]
		}
		return list, nil
	})
	for i, h := range leaves {
		more, err := tlog.StoredHashesForRecordHash(int64(i), h, reader)
		if err != nil {
			panic(err)
		}
		stored = append(stored, more...)
		root, err := tlog.TreeHash(int64(i)+1, reader)
		if err != nil {
			panic(err)
		}
		trees = append(trees, tlog.Tree{N: int64(i) + 1, Hash: root})
	}
	return trees
}

func slicesOf[T ~[]tlog.Hash](hashes T) (list [][]byte) {
	for _, h := range hashes {
		list = append(list, h[:])
	}
	return list
}

func proveEntry(t testing.TB, r *rows, tree tlog.Tree, n uint64, leaf tlog.Hash) int {
	t.Helper()
	p, h, err := audit.ProveEntry(t.Context(), r, tree, n)
	require.NoError(t, err)
	require.Equal(t, leaf, h)
	require.NoError(t, proof.VerifyInclusion(rfc6962.DefaultHasher, n, uint64(tree.N), h[:], slicesOf(p), tree.Hash[:]))
	h[3] ^= 1
	require.Error(t, proof.VerifyInclusion(rfc6962.DefaultHasher, n, uint64(tree.N), h[:], slicesOf(p), tree.Hash[:]))
	return len(p) * tlog.HashSize
}

func proveTree(t testing.TB, r *rows, tree, older tlog.Tree) {
	t.Helper()
	p, err := audit.ProveTree(t.Context(), r, tree, uint64(older.N))
	require.NoError(t, err)
	require.NoError(t, proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(older.N), uint64(tree.N), slicesOf(p), older.Hash[:], tree.Hash[:]))
	older.Hash[3] ^= 1
	require.Error(t, proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(older.N), uint64(tree.N), slicesOf(p), older.Hash[:], tree.Hash[:]))
}

// transparency-dev/merkle takes our proofs: all of small trees, some of large ones.
func TestProofs(t *testing.T) {
	r, last, leaves := hashed(t, 40)
	trees := treesOf(leaves)
	require.Equal(t, trees[40], last)
	for size := 1; size <= 40; size++ {
		for n := range size {
			proveEntry(t, r, trees[size], uint64(n), leaves[n])
		}
		for older := 1; older <= size; older++ {
			proveTree(t, r, trees[size], trees[older])
		}
	}
	_, _, err := audit.ProveEntry(t.Context(), r, last, 40)
	require.Error(t, err)
	_, err = audit.ProveTree(t.Context(), r, last, 41)
	require.Error(t, err)
	_, err = audit.ProveTree(t.Context(), r, last, 0)
	require.Error(t, err)

	r, last, leaves = hashed(t, 70_000)
	trees = treesOf(leaves)
	require.Equal(t, trees[70_000], last)
	rng := rand.New(rand.NewPCG(4, 4))
	for range 200 {
		size := 1 + rng.IntN(70_000)
		n := rng.IntN(size)
		proveEntry(t, r, trees[size], uint64(n), leaves[n])
		proveTree(t, r, trees[size], trees[1+rng.IntN(size)])
	}
	// A proof out of a tree that was tampered with is none.
	r.putHash(audit.TileID{N: 100}, 7, tlog.Hash{})
	_, _, err = audit.ProveEntry(t.Context(), r, last, 25_607)
	require.Error(t, err)
}

func TestProofSize(t *testing.T) {
	if os.Getenv("CARREL_TEST_LONG") == "" {
		t.Skip("set CARREL_TEST_LONG=1 for a tree of a million leaves")
	}
	r, last, leaves := hashed(t, 1_000_000)
	rng := rand.New(rand.NewPCG(4, 4))
	longest := 0
	for i := range 1000 {
		n := rng.IntN(1_000_000)
		if i < 2 {
			n = i * 999_999
		}
		longest = max(longest, proveEntry(t, r, last, uint64(n), leaves[n]))
	}
	require.LessOrEqual(t, longest, 640)
}

// A dictionary attack: whoever has the whole database and guesses who it is about, in all the ways in which a commitment could have been made
// of it without a key.
type attack struct {
	known map[[16]byte]bool // the first 128 bits of all that a hash could be found in
	short map[[14]byte]bool // and of what tags keep
}

// take notes every hash that is in the rows: leaf hashes, tiles, tags, MACs, and whatever stands anywhere in a body.
func take(r *rows) *attack {
	a := &attack{map[[16]byte]bool{}, map[[14]byte]bool{}}
	note := func(b []byte) {
		for i := range max(0, len(b)-13) {
			a.short[[14]byte(b[i:])] = true
			if i+16 <= len(b) {
				a.known[[16]byte(b[i:])] = true
			}
		}
	}
	for _, e := range r.entries {
		note(e.Body)
		for _, tag := range e.Tags {
			note(tag[:])
		}
		if e.Body != nil {
			h := audit.LeafHash(e.Body)
			note(h[:])
		}
	}
	for _, data := range r.tiles {
		for i := 0; i < len(data); i += 32 {
			note(data[i : i+32])
		}
	}
	return a
}

func (a *attack) hits(digest []byte) bool {
	return len(digest) >= 16 && a.known[[16]byte(digest)] || a.short[[14]byte(digest)]
}

// try guesses one ID, with what is public of one event.
func (a *attack) try(id, month string, public []byte) bool {
	for _, guess := range [][]byte{
		[]byte(id), []byte(id + "\n"), []byte("\x00" + id), []byte(month + id), []byte(id + month), []byte("trail" + id), append(slices.Clone(public), id...),
		append([]byte(id), public...), append([]byte{1, 1}, append([]byte{byte(len(id))}, id...)...),
	} {
		sum := sha256.Sum256(guess)
		leaf := tlog.RecordHash(guess)
		if a.hits(sum[:]) || a.hits(leaf[:]) {
			return true
		}
	}
	one, long := sha1.Sum([]byte(id)), sha512.Sum512([]byte(id))
	return a.hits(one[:]) || a.hits(long[:])
}

func TestDictionaryAttack(t *testing.T) {
	candidates := 20_000
	if os.Getenv("CARREL_TEST_LONG") != "" {
		candidates = 1_000_000
	}
	ids := make([]crypto.Subject, 50)
	rng := rand.New(rand.NewPCG(4, 4))
	for i := range ids {
		ids[i] = crypto.Subject(fmt.Sprintf("%06d", rng.IntN(candidates)))
	}
	y := newYard(t)
	require.NoError(t, y.keys.CreateKeys(t.Context(), ids...))
	control := newRows() // a log after the tombstone recipe: it keeps the SHA-256 of what was erased
	const public = "view staff-17 desk"
	for i := range 500 {
		e := something(i)
		if len(e.Subjects) > 0 {
			e.Subjects[0].ID = ids[i%len(ids)]
			e.Subjects[0].Note = crypto.NewSecret(string(ids[i%len(ids)]))
		}
		require.NoError(t, y.rows.Append(t.Context(), []audit.Entry{y.prepare(t, e)}))
		sum := sha256.Sum256([]byte(public + string(ids[i%len(ids)])))
		control.entries = append(control.entries, audit.Entry{Body: append([]byte(public), sum[:]...)})
	}
	_, err := y.Sequence(t.Context())
	require.NoError(t, err)

	hits := func(r *rows) (found int) {
		a := take(r)
		month := "trail month 682" // of November 2026
		for i := range candidates {
			id := fmt.Sprintf("%06d", i)
			if a.try(id, month, []byte(public)) {
				found++
			}
		}
		return found
	}
	require.Zero(t, hits(y.rows))
	distinct := map[crypto.Subject]bool{}
	for _, id := range ids {
		distinct[id] = true
	}
	require.Equal(t, len(distinct), hits(control))
	// Nor does any ID stand there as it is.
	for _, e := range y.rows.entries {
		for _, id := range ids {
			require.NotContains(t, string(e.Body), string(id))
			require.NotContains(t, hex.EncodeToString(e.Body), hex.EncodeToString([]byte(id)))
		}
	}
}

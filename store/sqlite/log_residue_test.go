//go:build unix

package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/sqlite"
)

// disguises returns the forms in which a text may stand in a file, by name. A UUID has some more.
func disguises(text string) map[string][]byte {
	reversed := []byte(text)
	slices.Reverse(reversed)
	forms := map[string][]byte{
		"plain": []byte(text), "hex": []byte(hex.EncodeToString([]byte(text))), "HEX": []byte(strings.ToUpper(hex.EncodeToString([]byte(text)))),
		"upper case": []byte(strings.ToUpper(text)), "reversed": reversed,
	}
	for shift := range 3 { // what is the same whatever stands around it
		b := base64.StdEncoding.EncodeToString([]byte("___"[:shift] + text))
		from, to := (shift*8+5)/6, (shift+len(text))*8/6
		forms[fmt.Sprint("base64, ", shift)] = []byte(b[from:to])
	}
	var wide []byte
	for _, c := range []byte(text) {
		wide = append(wide, c, 0)
	}
	forms["utf-16"] = wide
	if bare := strings.ReplaceAll(text, "-", ""); len(bare) == 32 {
		if raw, err := hex.DecodeString(bare); err == nil {
			forms["binary"], forms["without dashes"], forms["WITHOUT DASHES"] = raw, []byte(bare), []byte(strings.ToUpper(bare))
		}
	}
	return forms
}

// sightings counts where a text stands in the files, in whatever form, and says in which.
func sightings(t testing.TB, files []string, text string) (seen []string) {
	for _, file := range files {
		content, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // drained meanwhile
		}
		require.NoError(t, err)
		for form, b := range disguises(text) {
			if bytes.Contains(content, b) {
				seen = append(seen, filepath.Base(file)+": "+form)
			}
		}
	}
	return seen
}

// traces are the files of a trail: the database's, the spool's and the anchor.
func traces(t testing.TB, path string) []string {
	files, err := filepath.Glob(filepath.Dir(path) + "/" + filepath.Base(path) + "*")
	require.NoError(t, err)
	var list []string
	for _, f := range files {
		switch strings.TrimPrefix(f, path) {
		case "", "-wal", "-shm", "-journal", ".anchor":
			list = append(list, f)
		}
	}
	files, err = filepath.Glob(path + ".spool/*")
	require.NoError(t, err)
	return append(list, files...)
}

// A patron with 10,000 events (CARREL_TEST_LONG; fewer otherwise) is forgotten. The log verifies as before, and no file of it has a byte of their ID
// or their data, in whatever form, before and after.
func TestShreddedIsNotInTheTrail(t *testing.T) {
	events := 500
	if os.Getenv("CARREL_TEST_LONG") != "" {
		events = 10_000
	}
	path := filepath.Join(t.TempDir(), "log.db") // a database without the patrons: only the trail is looked at
	db, err := sql.Open("sqlite", sqlite.DSN(path))
	require.NoError(t, err)
	migrate(t, db)
	require.NoError(t, db.Close())
	install(t, path)
	kek, err := crypto.OpenKEK(path + ".kek")
	require.NoError(t, err)
	people, _ := newPeople(t) // whose database has the keys
	keys, err := crypto.OpenKeyring(t.Context(), crypto.Config{Path: path + ".keys", KEK: kek, Store: sqlite.NewKeys(people.db)})
	require.NoError(t, err)
	id, other := patron.NewID(), patron.NewID()
	require.NoError(t, keys.CreateKeys(t.Context(), id.Subject(), other.Subject()))
	db, err = sql.Open("sqlite", sqlite.DSN(path))
	require.NoError(t, err)
	defer db.Close()
	w := &witness{installation: &installation{db: db, keys: keys}, store: &unsteady{Store: sqlite.NewLog(db)}}
	w.trail, err = audit.New(t.Context(), audit.Config{Store: w.store, Keys: keys, Anchors: []audit.Anchor{audit.NewFileAnchor(path + ".anchor")},
		Spool: path + ".spool", Interval: time.Hour})
	require.NoError(t, err)
	const name, street, reason = "Wilhelmina Featherstonehaugh", "Rue Morgue 51423", "the mother of the defendant asked"
	secrets := []string{id.String(), name, "Featherstonehaugh", street, reason}

	rng := rand.New(rand.NewPCG(6, 6))
	record := func(n int) {
		who := id
		if n%5 == 0 {
			who = other
		}
		e := audit.Event{Time: day(n % 300), Action: audit.Update, Outcome: audit.Done, Actor: fmt.Sprint("staff-", n), Role: "desk", Channel: audit.UI, Count: 1}
		s := audit.Subject{ID: who.Subject(), Version: uint64(n)}
		switch rng.IntN(4) {
		case 0:
			e.Action, e.Outcome, e.Why = audit.View, audit.Denied, "no-right"
			s.Version = 0
		case 1:
			e.Action = audit.BreakGlass
			s.Note = crypto.NewSecret(reason)
		default:
			s.Changes = []audit.Change{{Segment: "names", Before: crypto.NewSecret(name), After: crypto.NewSecret(name + " II")},
				{Segment: "addresses", Before: crypto.NewSecret(street)}}
		}
		e.Subjects = []audit.Subject{s}
		require.NoError(t, w.trail.Record(t.Context(), e))
	}
	theirs := 0
	for n := 0; theirs < events; n++ {
		if n%5 > 0 {
			theirs++
		}
		w.store.down.Store(n%97 < 5) // these go to the spool
		record(n)
		if n%1000 == 500 {
			w.store.down.Store(false)
			_, err := w.trail.Sequence(t.Context())
			require.NoError(t, err)
		}
	}
	w.store.down.Store(true)
	record(1)
	record(2)
	nothing := func(when string) {
		t.Helper()
		files := traces(t, path)
		require.GreaterOrEqual(t, len(files), 2)
		for _, s := range secrets {
			require.Empty(t, sightings(t, files, s), when)
		}
	}
	size, _, err := audit.Spooled(path + ".spool")
	require.NoError(t, err)
	require.Positive(t, size)
	nothing("before, with a spool")

	w.store.down.Store(false)
	require.NoError(t, w.trail.Shred(t.Context(), audit.Event{Actor: "staff-1", Channel: audit.CLI, Approval: "erasure 17"}, id.Subject()))
	_, err = w.trail.Sequence(t.Context())
	require.NoError(t, err)
	nothing("after shredding")
	require.NoError(t, w.trail.Close(t.Context()))
	require.Eventually(t, func() bool {
		size, _, err := audit.Spooled(path + ".spool")
		return err == nil && size == 0
	}, 10*time.Second, 5*time.Millisecond)
	last, err := audit.New(t.Context(), audit.Config{Store: w.store, Keys: keys, Anchors: []audit.Anchor{audit.NewFileAnchor(path + ".anchor")}})
	require.NoError(t, err)
	require.NoError(t, last.Close(t.Context()))
	list := allLogged(t, w.store)
	checkTree(t, w, path, list)
	require.NoError(t, sqlite.New(db).Finish(t.Context()))
	nothing("after a checkpoint")
	require.NotEmpty(t, sightings(t, traces(t, path), "erasure 17"), "the search finds what is there")
	require.NotEmpty(t, sightings(t, traces(t, path), "staff-17"))

	// Nobody finds or opens them, in this process or another.
	for _, k := range []*crypto.Keyring{keys, reopened(t, path, people.db)} {
		_, err = k.Tag(t.Context(), id.Subject(), "trail month 672")
		require.ErrorIs(t, err, crypto.ErrShredded)
	}
	require.NoError(t, db.Close())
	nothing("closed")

	// A trail that keeps the ID as a tag, a text or in base64 is seen.
	db, err = sql.Open("sqlite", sqlite.DSN(path))
	require.NoError(t, err)
	defer db.Close()
	for _, plain := range []string{id.String(), strings.ReplaceAll(id.String(), "-", ""), string(id[:]), base64.StdEncoding.EncodeToString([]byte("no: " + id.String())), hex.EncodeToString([]byte(id.String()))} {
		require.NoError(t, sqlite.NewLog(db).Append(t.Context(), []audit.Entry{{Action: audit.View, Time: noonOf(9), Body: []byte("who: " + plain)}}))
		require.NotEmpty(t, sightings(t, traces(t, path), id.String()), "%x", plain)
		_, err = db.Exec("DELETE FROM trail_entries WHERE number = (SELECT max(number) FROM trail_entries)")
		require.NoError(t, err)
		require.NoError(t, sqlite.New(db).Finish(t.Context()))
		require.Empty(t, sightings(t, traces(t, path), id.String()))
	}
}

func noonOf(n int) time.Time { return day(n).Truncate(24 * time.Hour).Add(12 * time.Hour) }

func reopened(t testing.TB, path string, db *sql.DB) *crypto.Keyring {
	kek, err := crypto.OpenKEK(path + ".kek")
	require.NoError(t, err)
	keys, err := crypto.OpenKeyring(context.Background(), crypto.Config{Path: path + ".keys", KEK: kek, Store: sqlite.NewKeys(db)})
	require.NoError(t, err)
	return keys
}

// What was pruned is gone from the files, key and tags included, but for what SQLite leaves in unused parts of pages, until VACUUM; what stays is there.
func TestPrunedIsNotInTheFiles(t *testing.T) {
	_, path := newPeople(t)
	w, err := openWitness(t.Context(), path, 20*time.Millisecond)
	require.NoError(t, err)
	defer w.db.Close()
	id := patron.NewID()
	require.NoError(t, w.keys.CreateKeys(t.Context(), id.Subject()))
	rng := rand.New(rand.NewPCG(7, 7))
	const n = 700
	for i := range n {
		e := audit.Event{Time: day(-4000 + i), Action: []audit.Action{audit.LogIn, audit.View}[rng.IntN(2)], Outcome: audit.Denied, Why: "x", Actor: fmt.Sprintf("<<staff %04d>>", i),
			Channel: audit.UI, Subjects: []audit.Subject{{ID: id.Subject(), Note: crypto.NewSecret(strings.Repeat("n", rng.IntN(300)))}}}
		w.store.down.Store(i%50 < 5) // entries that were spooled have keys
		require.NoError(t, w.trail.Record(t.Context(), e))
		if i%300 == 0 {
			w.store.down.Store(false)
			_, err := w.trail.Sequence(t.Context())
			require.NoError(t, err)
		}
	}
	w.store.down.Store(false)
	require.NoError(t, w.trail.Close(t.Context()))
	require.Eventually(t, func() bool {
		size, _, err := audit.Spooled(path + ".spool")
		return err == nil && size == 0
	}, 10*time.Second, 5*time.Millisecond)
	trail, err := audit.New(t.Context(), audit.Config{Store: w.store, Keys: w.keys, Anchors: []audit.Anchor{audit.NewFileAnchor(path + ".anchor")}})
	require.NoError(t, err)
	_, err = trail.Sequence(t.Context())
	require.NoError(t, err)

	type bits struct{ body, key, tags []byte }
	rows := func() map[int64]bits {
		all := map[int64]bits{}
		r, err := w.db.QueryContext(t.Context(), "SELECT number, body, key, tags FROM trail_entries")
		require.NoError(t, err)
		defer r.Close()
		for r.Next() {
			var n int64
			var b bits
			require.NoError(t, r.Scan(&n, &b.body, &b.key, &b.tags))
			all[n] = b
		}
		require.NoError(t, r.Err())
		return all
	}
	before := rows()
	require.Len(t, before, n)
	p, err := trail.Prune(t.Context(), audit.Retention{Before: map[audit.Class]time.Time{audit.Logins: noonOf(-3500)}}, audit.Event{Actor: "carrel", Channel: audit.Job})
	require.NoError(t, err)
	require.Greater(t, p.Removed[audit.Logins], 150)
	require.NoError(t, trail.Close(t.Context()))
	require.NoError(t, sqlite.New(w.db).Finish(t.Context()))
	after := rows()
	stay := map[string]bool{}
	for _, b := range after {
		stay[string(b.tags)] = true
	}
	left := func() (gone, keyed, bodies, keys, tags int) {
		content := map[string][]byte{}
		for _, f := range traces(t, path) {
			content[f], err = os.ReadFile(f)
			require.NoError(t, err)
		}
		found := func(b []byte) (n int) {
			for _, data := range content {
				n += bytes.Count(data, b)
			}
			return n
		}
		for number, b := range before {
			at := bytes.Index(b.body, []byte("<<staff"))
			parts := [][]byte{b.body, b.body[at : at+len("<<staff 0000>>")], b.body[len(b.body)-40:]} // the last of the ciphertext and the MAC
			if _, ok := after[number]; ok {
				for _, part := range parts {
					require.Positive(t, found(part), "what stays is there")
				}
				continue
			}
			gone++
			for _, part := range parts {
				bodies += found(part)
			}
			if b.key != nil {
				keyed++
				keys += found(b.key)
			}
			if !stay[string(b.tags)] {
				tags += found(b.tags)
			}
		}
		return gone, keyed, bodies, keys, tags
	}
	gone, keyed, bodies, keys, tags := left()
	t.Logf("%d removed, %d of them with a key: left in unused parts of pages are %d bodies or parts of one, %d keys, %d tags", gone, keyed, bodies, keys, tags)
	require.Equal(t, p.Removed[audit.Logins], gone)
	require.Positive(t, keyed)
	require.LessOrEqual(t, bodies+keys+tags, gone/20, "as Advance says, some copies")
	_, err = w.db.Exec("VACUUM")
	require.NoError(t, err)
	require.NoError(t, sqlite.New(w.db).Finish(t.Context()))
	_, _, bodies, keys, tags = left()
	require.Zero(t, bodies+keys+tags)
	checkTree(t, &witness{installation: w.installation, store: w.store}, path, allLogged(t, w.store))
}

//go:build unix

package sqlite_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/sqlite"
)

// unsteady is a store that now and then takes nothing for some milliseconds.
type unsteady struct {
	audit.Store
	down  atomic.Bool
	drain func() // if set, called before what comes from the spool is appended
}

var errDown = errors.New("the store is down")

func (u *unsteady) Append(ctx context.Context, entries []audit.Entry) error {
	if u.down.Load() {
		return errDown
	}
	if u.drain != nil && entries[0].Key != ([16]byte{}) {
		u.drain()
	}
	return u.Store.Append(ctx, entries)
}

func (u *unsteady) Advance(ctx context.Context, a audit.Advance) error {
	if u.down.Load() {
		return errDown
	}
	return u.Store.Advance(ctx, a)
}

// A witness is a process' trail over a database, with its files beside that.
type witness struct {
	*installation
	store *unsteady
	trail *audit.Trail
}

func openWitness(ctx context.Context, path string, interval time.Duration) (*witness, error) {
	i, err := openPeople(path)
	if err != nil {
		return nil, err
	}
	w := &witness{installation: i, store: &unsteady{Store: sqlite.NewLog(i.db)}}
	w.trail, err = audit.New(ctx, audit.Config{Store: w.store, Keys: i.keys, Anchors: []audit.Anchor{audit.NewFileAnchor(path + ".anchor")},
		Spool: path + ".spool", Interval: interval})
	return w, err
}

func (w *witness) directory(r audit.Recorder) (*patron.Directory, error) {
	matrix, err := access.ParseMatrix([]byte(everything))
	if err != nil {
		return nil, err
	}
	return patron.New(patron.Config{Store: sqlite.NewPatrons(w.db), Keys: w.keys, Access: matrix, Recorder: r, Grants: sqlite.NewGrants(w.db)})
}

// hasty acknowledges before the event is durable: what must not be.
type hasty struct{ audit.Recorder }

func (h hasty) Record(_ context.Context, e audit.Event) error {
	go h.Recorder.Record(context.Background(), e)
	return nil
}

// lossy drops one event in a hundred: what must not be either.
type lossy struct {
	audit.Recorder
	n atomic.Int64
}

func (l *lossy) Record(ctx context.Context, e audit.Event) error {
	if l.n.Add(1)%100 == 37 {
		return nil
	}
	return l.Recorder.Record(ctx, e)
}

// pruned is what these tests prune.
var pruned = audit.Retention{Before: map[audit.Class]time.Time{audit.Logins: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)}}

// TestTrailChild is no test: it is the process that the tests below start and kill. It views patrons, records, and says on its fourth
// file what it was shown and what was acknowledged.
func TestTrailChild(t *testing.T) {
	path := os.Getenv("CARREL_TRAIL_CHILD")
	if path == "" {
		t.Skip("only as a child process of the crash tests")
	}
	ctx := context.Background()
	w, err := openWitness(ctx, path, 15*time.Millisecond)
	require.NoError(t, err)
	recorder := audit.Recorder(w.trail)
	switch os.Getenv("CARREL_TRAIL_BROKEN") {
	case "hasty":
		recorder = hasty{recorder}
	case "lossy":
		recorder = &lossy{Recorder: recorder}
	case "drain":
		w.store.drain = func() { // as if the file went before its entries are in the store
			files, _ := filepath.Glob(path + ".spool/*.spool")
			for _, f := range files {
				os.Remove(f)
			}
			time.Sleep(4 * time.Millisecond)
		}
	}
	dir, err := w.directory(recorder)
	require.NoError(t, err)
	people := patronsOf(t, w.db)
	out := os.NewFile(3, "pipe")
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) } // one write, which a kill does not tear
	say("begun")
	name := os.Getenv("CARREL_TRAIL_NAME")
	var stop sync.WaitGroup
	until := time.Now().Add(20 * time.Second) // should nobody kill it
	work := func(seed uint64, f func(r *rand.Rand, n int)) {
		stop.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(time.Now().UnixNano())))
			for n := 0; time.Now().Before(until); n++ {
				f(r, n)
			}
		})
	}
	work(1, func(r *rand.Rand, _ int) {
		w.store.down.Store(r.IntN(3) == 0)
		time.Sleep(time.Duration(r.IntN(8)) * time.Millisecond)
	})
	for g := range 4 {
		work(uint64(10+g), func(r *rand.Rand, n int) {
			segments := access.SetOf(access.Names)
			if r.IntN(2) == 0 {
				segments = segments.With(access.Addresses)
			}
			if r.IntN(2) == 0 {
				segments = segments.With(access.Phones)
			}
			call := anybody
			if call.Actor = fmt.Sprintf("staff-%s-%d-%d", name, g, n); r.IntN(4) == 0 {
				call.Actor = fmt.Sprint("desk-", r.IntN(3)) // whose views are coalesced
			}
			p := r.IntN(len(people))
			before := time.Now().UnixMicro()
			v, err := dir.View(ctx, call, people[p], segments)
			if err != nil || len(v.Profile.Names) == 0 {
				say("error %v", err)
				return
			}
			say("revealed %s %d %d %s", call.Actor, p, before, strings.Join(v.Present.Names(), ","))
		})
	}
	for g := range 3 {
		work(uint64(20+g), func(r *rand.Rand, n int) {
			id := fmt.Sprintf("%s-%d-%d", name, g, n)
			e := audit.Event{Time: time.Now(), Action: audit.Report, Outcome: audit.Done, Actor: "auditor", Channel: audit.CLI, Object: id}
			if r.IntN(2) == 0 {
				e.Subjects = []audit.Subject{{ID: people[r.IntN(len(people))].Subject(), Note: crypto.NewSecret("why " + id)}}
			}
			if err := recorder.Record(ctx, e); err != nil {
				say("error %v", err)
				return
			}
			say("acknowledged %s", id)
		})
	}
	if os.Getenv("CARREL_TRAIL_PRUNE") != "" {
		work(30, func(r *rand.Rand, n int) {
			for range 5 {
				w.trail.Record(ctx, audit.Login{Time: day(-3650), Staff: "staff-0", Result: audit.Success, Channel: audit.UI}.Event())
			}
			w.trail.Prune(ctx, pruned, audit.Event{Actor: "carrel", Channel: audit.Job})
			time.Sleep(20 * time.Millisecond)
		})
	}
	stop.Wait()
}

func patronsOf(t testing.TB, db *sql.DB) (ids []patron.ID) {
	rows, err := db.QueryContext(context.Background(), "SELECT id FROM patrons ORDER BY id")
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var id patron.ID
		var raw []byte
		require.NoError(t, rows.Scan(&raw))
		require.Equal(t, len(id), copy(id[:], raw))
		ids = append(ids, id)
	}
	require.NoError(t, rows.Err())
	return ids
}

// A toll is what the processes that were killed have said, and what came of it.
type toll struct {
	kills                  int
	acknowledged, revealed []string
	errors                 map[string]int

	lost, twice, uncovered int
}

// killTrails starts processes on a trail and kills them at random moments, sometimes two at a time.
func killTrails(t *testing.T, path string, kills int, within time.Duration, broken string) *toll {
	self, err := os.Executable()
	require.NoError(t, err)
	sum := &toll{errors: map[string]int{}}
	var mu sync.Mutex
	run := func(name string, prune bool, life time.Duration) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close()
		cmd := exec.Command(self, "-test.run=^TestTrailChild$")
		cmd.Env = append(os.Environ(), "CARREL_TRAIL_CHILD="+path, "CARREL_TRAIL_NAME="+name, "CARREL_TRAIL_BROKEN="+broken)
		if prune {
			cmd.Env = append(cmd.Env, "CARREL_TRAIL_PRUNE=1")
		}
		cmd.ExtraFiles = []*os.File{w}
		var output strings.Builder
		cmd.Stdout, cmd.Stderr = &output, &output
		err = cmd.Start()
		w.Close()
		if err != nil {
			t.Error(err)
			return
		}
		var timer *time.Timer
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			kind, what, _ := strings.Cut(lines.Text(), " ")
			mu.Lock()
			switch kind {
			case "begun":
				timer = time.AfterFunc(life, func() { cmd.Process.Kill() })
			case "acknowledged":
				sum.acknowledged = append(sum.acknowledged, what)
			case "revealed":
				sum.revealed = append(sum.revealed, what)
			case "error":
				sum.errors[what]++
			}
			mu.Unlock()
		}
		err = cmd.Wait()
		mu.Lock()
		defer mu.Unlock()
		var exit *exec.ExitError
		if timer == nil || !errors.As(err, &exit) || exit.ExitCode() != -1 {
			t.Errorf("a process was not killed: %v\n%s", err, output.String())
			return
		}
		sum.kills++
	}
	for n := 0; sum.kills < kills && !t.Failed(); n++ {
		var both sync.WaitGroup
		for twin := range 1 + rand.IntN(5)/4 {
			prune, life := rand.IntN(4) == 0, time.Duration(rand.Int64N(int64(within)))
			both.Go(func() { run(fmt.Sprintf("%d-%d", n, twin), prune, life) })
		}
		both.Wait()
	}
	return sum
}

// A logged entry is one as this test reads it, from what the package comment of audit says alone.
type logged struct {
	number                        uint64
	at                            int64
	action, outcome, actor, about string
	segments                      []string
	covers                        int64
	tags                          []string
	leaf                          []byte
}

func parseLogged(t testing.TB, e audit.Entry) (l logged) {
	l.number = e.Number
	b := e.Body
	uvarint := func(b *[]byte) uint64 {
		n, size := binary.Uvarint(*b)
		require.Positive(t, size)
		*b = (*b)[size:]
		return n
	}
	take := func(b *[]byte, n uint64) []byte {
		require.LessOrEqual(t, n, uint64(len(*b)))
		part := (*b)[:n]
		*b = (*b)[n:]
		return part
	}
	require.Equal(t, byte(1), b[0])
	b = b[1+8:] // the version and the nonce
	public := take(&b, uvarint(&b))
	count := uvarint(&b)
	l.leaf = slices.Clone(e.Body[:len(e.Body)-len(b)])
	for range count {
		tag := take(&b, 16)
		sealed := take(&b, uvarint(&b))
		l.tags, l.leaf = append(l.tags, string(tag)), append(l.leaf, tag...)
		if len(sealed) == 0 {
			l.leaf = append(l.leaf, 0)
		} else {
			sum := sha256.Sum256(sealed)
			l.leaf = append(append(l.leaf, 32), sum[:]...)
		}
	}
	require.Len(t, b, 16)
	l.leaf = append(l.leaf, b...)
	for len(public) > 0 {
		tag := take(&public, 1)[0]
		value := take(&public, uvarint(&public))
		switch tag {
		case 1:
			l.at = int64(uvarint(&value))
		case 2:
			l.action = string(value)
		case 3:
			l.outcome = string(value)
		case 5:
			l.actor = string(value)
		case 10:
			l.segments = append(l.segments, string(value))
		case 15:
			l.about = string(value)
		case 18:
			l.covers = int64(uvarint(&value))
		}
	}
	return l
}

func allLogged(t testing.TB, s audit.Store) (list []logged) {
	for q := (audit.Query{Limit: 1000}); ; {
		page, err := s.Entries(context.Background(), q)
		require.NoError(t, err)
		for _, e := range page.Entries {
			list = append(list, parseLogged(t, e))
		}
		if q.Cursor = page.Cursor; q.Cursor == "" {
			return list
		}
	}
}

// settle counts what of the toll is in the log.
func (sum *toll) settle(t testing.TB, list []logged, keys *crypto.Keyring, people []patron.ID) {
	times := map[string]int{}
	views := map[string][]logged{}
	for _, l := range list {
		if l.action == "report" {
			times[l.about]++
		}
		if l.action == "view" && l.outcome == "done" {
			views[l.actor] = append(views[l.actor], l)
		}
	}
	for _, n := range times {
		if n > 1 {
			sum.twice++
		}
	}
	for _, id := range sum.acknowledged {
		if times[id] == 0 {
			sum.lost++
		}
	}
	type of struct{ month, patron int }
	tags := map[of]string{}
	for _, line := range sum.revealed {
		f := strings.Fields(line)
		p, err := strconv.Atoi(f[1])
		require.NoError(t, err)
		at, err := strconv.ParseInt(f[2], 10, 64)
		require.NoError(t, err)
		ok := true
		for _, s := range strings.Split(f[3], ",") {
			ok = ok && slices.ContainsFunc(views[f[0]], func(l logged) bool {
				when := time.UnixMicro(l.at).UTC()
				month := (when.Year()-1970)*12 + int(when.Month()) - 1
				tag := tags[of{month, p}]
				if tag == "" {
					secret, err := keys.Tag(context.Background(), people[p].Subject(), fmt.Sprint("trail month ", month))
					require.NoError(t, err)
					tag = string(binary.BigEndian.AppendUint16(nil, uint16(month))) + string(secret[:14])
					tags[of{month, p}] = tag
				}
				// The view's own record is of a moment after at; one that covers it is younger than it says.
				return slices.Contains(l.segments, s) && slices.Contains(l.tags, tag) && at < l.at+l.covers*1e6
			})
		}
		if !ok {
			sum.uncovered++
		}
	}
}

// checkTree computes the roots of all anchored checkpoints from the entries, and of those that were pruned from their hashes.
func checkTree(t testing.TB, w *witness, path string, list []logged) (checkpoints int) {
	ctx := context.Background()
	tree, err := w.store.Tree(ctx)
	require.NoError(t, err)
	require.Equal(t, tree.Next, tree.Size, "all entries have a leaf")
	hashes := make([]tlog.Hash, tree.Size)
	there := make([]bool, tree.Size)
	for i, l := range list {
		require.True(t, i == 0 || list[i-1].number < l.number)
		require.Less(t, l.number, tree.Size)
		hashes[l.number], there[l.number] = tlog.RecordHash(l.leaf), true
	}
	gone := 0
	for n := range tree.Size {
		if there[n] {
			continue
		}
		gone++
		tiles, err := w.store.Tree(ctx, audit.TileID{Level: 0, N: n / 256})
		require.NoError(t, err)
		require.Greater(t, len(tiles.Tiles[0]), int(n%256)*32)
		copy(hashes[n][:], tiles.Tiles[0][n%256*32:])
	}
	text, err := audit.VerifierKey(ctx, w.keys)
	require.NoError(t, err)
	verifier, err := note.NewVerifier(text)
	require.NoError(t, err)
	roots := map[int64]tlog.Hash{}
	anchored, err := audit.NewFileAnchor(path + ".anchor").Checkpoints()
	require.NoError(t, err)
	require.NotEmpty(t, anchored)
	for _, c := range append(anchored, tree.Checkpoint) {
		signed, err := audit.OpenCheckpoint(c, verifier)
		require.NoError(t, err)
		require.LessOrEqual(t, signed.N, int64(tree.Size))
		if before, ok := roots[signed.N]; ok {
			require.Equal(t, before, signed.Hash, "two checkpoints of one size")
		}
		roots[signed.N] = signed.Hash
	}
	require.Contains(t, roots, int64(tree.Size))
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = stored[x]
		}
		return out, nil
	})
	for n := range tree.Size {
		more, err := tlog.StoredHashesForRecordHash(int64(n), hashes[n], reader)
		require.NoError(t, err)
		stored = append(stored, more...)
		if want, ok := roots[int64(n)+1]; ok {
			got, err := tlog.TreeHash(int64(n)+1, reader)
			require.NoError(t, err)
			require.Equal(t, want, got, "the checkpoint of %d entries", n+1)
		}
	}
	key, err := w.keys.TrailKey(ctx)
	require.NoError(t, err)
	v, err := audit.Verify(ctx, audit.VerifyConfig{Store: w.store, Verifier: verifier, Key: key, Anchored: [][][]byte{anchored}})
	require.NoError(t, err)
	require.Empty(t, v.Findings)
	require.EqualValues(t, gone, v.Pruned, "nothing is gone but what a prune says")
	return len(roots)
}

// newTrailed makes a database with patrons and a trail, the first event of which is kept for ever.
func newTrailed(t *testing.T) string {
	i, path := newPeople(t)
	fillPeople(t, i, 20)
	require.NoError(t, i.db.Close())
	w, err := openWitness(t.Context(), path, time.Hour)
	require.NoError(t, err)
	require.NoError(t, w.trail.Record(t.Context(), audit.Event{Time: time.Now(), Action: audit.Rotate, Outcome: audit.Done, Actor: "test", Channel: audit.CLI}))
	require.NoError(t, w.trail.Close(t.Context()))
	require.NoError(t, w.db.Close())
	return path
}

// Whenever a process is killed, the store failing now and then and the trail being pruned now and then: what was acknowledged is in the trail
// exactly once, and nothing was revealed without a record that covers it. CARREL_TEST_LONG has 1,000 kills.
func TestTrailKilled(t *testing.T) {
	kills, within := 8, 250*time.Millisecond
	if raceEnabled { // which makes SQLite fifty times slower
		kills, within = 4, 1500*time.Millisecond
	}
	if os.Getenv("CARREL_TEST_LONG") != "" {
		kills = 1000
	}
	path := newTrailed(t)
	sum := killTrails(t, path, kills, within, "")
	require.False(t, t.Failed())
	waiting, aside, err := audit.Spooled(path + ".spool")
	require.NoError(t, err)
	require.Zero(t, aside)

	// Whoever comes next carries on, and has the spool emptied.
	w, err := openWitness(t.Context(), path, time.Hour)
	require.NoError(t, err)
	defer w.db.Close()
	require.NoError(t, w.trail.Record(t.Context(), audit.Event{Time: time.Now(), Action: audit.Report, Outcome: audit.Done, Channel: audit.CLI, Object: "last"}))
	sum.acknowledged = append(sum.acknowledged, "last")
	require.NoError(t, w.trail.Close(t.Context()))
	require.Eventually(t, func() bool {
		left, err := filepath.Glob(path + ".spool/*.spool")
		return err == nil && len(left) == 0
	}, 30*time.Second, 10*time.Millisecond)
	last, err := openWitness(t.Context(), path, time.Hour)
	require.NoError(t, err)
	require.NoError(t, last.trail.Close(t.Context()))
	require.NoError(t, last.db.Close())
	list := allLogged(t, w.store)
	sum.settle(t, list, w.keys, patronsOf(t, w.db))
	checkpoints := checkTree(t, w, path, list)
	half, err := filepath.Glob(path + ".spool/*")
	require.NoError(t, err)
	t.Logf("%d kills; %d acknowledged, %d lost, %d twice; %d reveals, %d without a record; %d entries, %d checkpoints; at the end %d bytes in the spool, %d half-written files; errors %v",
		sum.kills, len(sum.acknowledged), sum.lost, sum.twice, len(sum.revealed), sum.uncovered, len(list), checkpoints, waiting, len(half), sum.errors)
	require.Zero(t, sum.lost)
	require.Zero(t, sum.twice)
	require.Zero(t, sum.uncovered)
	require.Empty(t, sum.errors)
	require.Greater(t, len(sum.acknowledged), 10*kills)
	require.Greater(t, len(sum.revealed), 10*kills)
}

// The test above sees what it is there for: a recorder that acknowledges too early, one that drops events, and a spool whose files go
// before the store has what is in them.
func TestTrailKilledIsSeen(t *testing.T) {
	kills, within := 3, 120*time.Millisecond
	if raceEnabled {
		kills, within = 3, 1200*time.Millisecond
	}
	for _, broken := range []string{"hasty", "lossy", "drain"} {
		t.Run(broken, func(t *testing.T) {
			path := newTrailed(t)
			lost, uncovered := 0, 0
			for try := 0; try < 6 && lost+uncovered == 0; try++ { // the luck of the moment
				sum := killTrails(t, path, kills, within, broken)
				w, err := openWitness(t.Context(), path, time.Hour)
				require.NoError(t, err)
				require.NoError(t, w.trail.Close(t.Context()))
				sum.settle(t, allLogged(t, w.store), w.keys, patronsOf(t, w.db))
				require.NoError(t, w.db.Close())
				lost, uncovered = sum.lost, sum.uncovered
				t.Logf("%s: %d of %d acknowledged lost, %d of %d reveals without a record", broken, lost, len(sum.acknowledged), uncovered, len(sum.revealed))
			}
			require.Positive(t, lost+uncovered)
		})
	}
}

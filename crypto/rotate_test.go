package crypto

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/tink"
)

type kekAEAD = tink.AEAD

// A countingKEK appends a byte to a file for every call, so that the count outlives the process.
type countingKEK struct {
	kekAEAD
	path string
}

func (c countingKEK) count() {
	f, err := os.OpenFile(c.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	childMust(err)
	_, err = f.Write([]byte{'.'})
	childMust(err)
	childMust(f.Close())
}

func (c countingKEK) Encrypt(p, a []byte) ([]byte, error) { c.count(); return c.kekAEAD.Encrypt(p, a) }
func (c countingKEK) Decrypt(p, a []byte) ([]byte, error) { c.count(); return c.kekAEAD.Decrypt(p, a) }

// A logStore is a memory whose changes are lines of a file, one for a transaction; half a line is none. One process has it at a time.
type logStore struct {
	memory
	write sync.Mutex
	file  *os.File
}

func openLogStore(path string) *logStore {
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		panic(err)
	}
	s := &logStore{memory: memory{keys: map[Subject]WrappedKey{}}}
	whole := bytes.LastIndexByte(data, '\n') + 1
	for line := range bytes.Lines(data[:whole]) {
		var keys []WrappedKey
		childMust(json.Unmarshal(line, &keys))
		for _, k := range keys {
			s.set(k)
		}
	}
	s.file, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	childMust(err)
	childMust(s.file.Truncate(int64(whole)))
	_, err = s.file.Seek(0, 2)
	childMust(err)
	return s
}

func (s *logStore) PutKeys(ctx context.Context, changes []KeyChange) ([]Subject, error) {
	s.write.Lock()
	defer s.write.Unlock()
	lost, err := s.memory.PutKeys(ctx, changes)
	refused := map[Subject]bool{}
	for _, l := range lost {
		refused[l] = true
	}
	var keys []WrappedKey
	for _, c := range changes {
		if !refused[c.Key.Subject] {
			keys = append(keys, c.Key)
		}
	}
	line, jerr := json.Marshal(keys)
	childMust(jerr)
	_, werr := s.file.Write(append(line, '\n'))
	childMust(werr)
	return lost, err
}

// rotateChild rotates once, while it makes new keys and reads old ones.
func rotateChild(args []string) {
	ctx := context.Background()
	dir := args[0]
	store := openLogStore(dir + "/store")
	k := childKeyring(dir+"/keys", store, func(a kekAEAD) kekAEAD { return countingKEK{a, dir + "/calls"} })
	subjects := make([]Subject, 0, len(store.keys))
	for s := range store.keys {
		subjects = append(subjects, s)
	}
	fmt.Println("ready")
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; !stop.Load(); i++ {
			s := Subject(fmt.Sprint("new-", os.Getpid(), "-", i))
			childMust(k.CreateKeys(ctx, s))
			fmt.Println("created " + s)
			_, err := k.Open(ctx, subjects[rand.IntN(len(subjects))])
			childMust(err)
			time.Sleep(5 * time.Millisecond)
		}
	})
	_, err := k.Rotate(ctx, nil)
	childMust(err)
	stop.Store(true)
	wg.Wait()
	fmt.Println("done")
}

func TestRotateKilled(t *testing.T) {
	ctx := context.Background()
	n, kills := 5_000, 5
	if long() {
		n, kills = 100_000, 30
	}
	h := newHouse(t)
	dir := strings.TrimSuffix(h.path, "/keys")
	store := openLogStore(dir + "/store")
	k := h.open(store)
	sealed := map[Subject][]byte{}
	var batch []Subject
	for i := range n {
		batch = append(batch, Subject("old-"+strconv.Itoa(i)))
		if len(batch) == 1000 {
			require.NoError(t, k.CreateKeys(ctx, batch...))
			batch = batch[:0]
		}
		if i%1000 == 999 {
			s := Subject("old-" + strconv.Itoa(i))
			data, err := k.Seal(ctx, s, Plain{"x", 1, NewSecret(canary)})
			require.NoError(t, err)
			sealed[s] = data[0]
		}
	}
	require.NoError(t, store.file.Close())

	killed, runs := 0, 0
	var created []Subject
	for done := false; !done; {
		runs++
		cmd, out := startChild(t, "rotate", dir)
		require.True(t, out.Scan())
		require.Equal(t, "ready", out.Text())
		if killed < kills {
			at := time.Duration(rand.Int64N(int64(n))) * 6 * time.Microsecond
			timer := time.AfterFunc(at, func() { cmd.Process.Kill() })
			defer timer.Stop()
		}
		done = false
		for out.Scan() {
			done = out.Text() == "done"
			if s, ok := strings.CutPrefix(out.Text(), "created "); ok {
				created = append(created, Subject(s))
			}
		}
		if err := cmd.Wait(); err != nil {
			require.ErrorContains(t, err, "killed")
			killed++
		}
		done = done && killed == kills
	}
	store = openLogStore(dir + "/store")
	k = h.open(store)
	st, err := k.Status()
	require.NoError(t, err)
	require.False(t, st.Rotating)
	newest := st.Epochs[len(st.Epochs)-1]
	require.True(t, newest.Current)
	for _, s := range created {
		require.Contains(t, store.keys, s)
	}
	require.GreaterOrEqual(t, len(store.keys), n+len(created))
	for s, w := range store.keys {
		require.Equal(t, newest.Number, w.Epoch)
		if isReserved(s) {
			continue
		}
		var parts []Sealed
		if d := sealed[s]; d != nil {
			parts = append(parts, Sealed{"x", 1, d})
		}
		opened, err := k.Open(ctx, s, parts...)
		require.NoError(t, err)
		for _, o := range opened {
			require.Equal(t, canary, o.Reveal())
		}
	}
	calls, err := os.ReadFile(dir + "/calls")
	require.NoError(t, err)
	t.Logf("%d keys, %d kills, %d runs, %d rotations, %d calls of the KEK", len(store.keys), killed, runs, newest.Number-1, len(calls))
	require.LessOrEqual(t, len(calls), runs+2*int(newest.Number-1)+killed, "one for each opening, two for each rotation, one that came to nothing for each kill")
	if long() {
		require.LessOrEqual(t, len(calls), n/1000)
	}
}

// TestRotateTraffic rotates while others read, make keys and rotate, in this process and another.
func TestRotateTraffic(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	store := newMemory()
	all := []*Keyring{h.open(store), h.open(store, func(c *Config) { c.CacheTTL = time.Millisecond })}
	data := map[Subject][]byte{}
	var subjects []Subject
	for i := range 2_500 {
		subjects = append(subjects, Subject(fmt.Sprint(i)))
	}
	require.NoError(t, all[0].CreateKeys(ctx, subjects...))
	for _, s := range subjects {
		d, err := all[0].Seal(ctx, s, Plain{"x", 1, NewSecret(canary)})
		require.NoError(t, err)
		data[s] = d[0]
	}
	var stop atomic.Bool
	var readers, rotators sync.WaitGroup
	for i := range 4 {
		readers.Go(func() {
			k := all[i%2]
			for n := 0; !stop.Load(); n++ {
				s := subjects[rand.IntN(len(subjects))]
				if _, err := k.Open(ctx, s, Sealed{"x", 1, data[s]}); err != nil {
					t.Error(err)
					return
				}
				if n%20 == 0 {
					if err := k.CreateKeys(ctx, Subject(fmt.Sprint("new-", i, "-", n))); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for i := range 2 {
		rotators.Go(func() {
			for range 3 {
				if _, err := all[i].Rotate(ctx, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	rotators.Wait()
	stop.Store(true)
	readers.Wait()
	st, err := all[0].Status()
	require.NoError(t, err)
	require.False(t, st.Rotating)
	newest := st.Epochs[len(st.Epochs)-1].Number
	require.Greater(t, newest, uint32(3))
	for s, w := range store.dump() {
		require.Equal(t, newest, w.Epoch, "%s", s)
	}
}

func TestRotateReports(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	calls := t.TempDir() + "/calls"
	store := newMemory()
	k := h.open(store, func(c *Config) { c.KEK = countingKEK{h.kek, calls} })
	var subjects []Subject
	for i := range 2_345 {
		subjects = append(subjects, Subject(fmt.Sprint(i)))
	}
	require.NoError(t, k.CreateKeys(ctx, subjects...))
	broken := store.dump()["17"]
	broken.Wrapped = bytes.Clone(broken.Wrapped)
	broken.Wrapped[20] ^= 1
	store.restore(broken)
	lost := WrappedKey{"18", 0, broken.Wrapped}
	store.restore(lost)
	shredded := store.dump()["19"]
	require.NoError(t, k.Shred(ctx, "19"))
	store.restore(shredded)

	before, err := os.ReadFile(calls)
	require.NoError(t, err)
	var progress []Rotation
	r, err := k.Rotate(ctx, func(r Rotation) { progress = append(progress, r) })
	require.EqualError(t, err, ErrNotAuthentic.Error()+": 2 subject keys")
	require.ErrorIs(t, err, ErrNotAuthentic)
	require.Equal(t, Rotation{Epoch: 2, Rewrapped: 2342, Shredded: 1, Unopened: 2}, r)
	require.Greater(t, len(progress), 2)
	require.Equal(t, 1000, progress[0].Rewrapped+progress[0].Shredded+progress[0].Unopened)
	after, err := os.ReadFile(calls)
	require.NoError(t, err)
	require.Equal(t, 2, len(after)-len(before))
	require.Equal(t, broken, store.dump()["17"], "left as it is")
	require.Equal(t, lost, store.dump()["18"])
	require.NotContains(t, store.dump(), Subject("19"))

	// What cannot be opened does not hold up the next one.
	r, err = k.Rotate(ctx, nil)
	require.ErrorIs(t, err, ErrNotAuthentic)
	require.Equal(t, Rotation{Epoch: 3, Rewrapped: 2342, Unopened: 2}, r)

	// One that was given up is finished.
	canceled, cancel := context.WithCancel(ctx)
	_, err = k.Rotate(canceled, func(Rotation) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
	st, err := k.Status()
	require.NoError(t, err)
	require.True(t, st.Rotating)
	r, err = h.open(store).Rotate(ctx, nil)
	require.ErrorIs(t, err, ErrNotAuthentic)
	require.Equal(t, Rotation{Epoch: 4, Rewrapped: 2342 - 998, Unopened: 2}, r)

	// An older copy of the keyring does not know the epoch.
	_, err = h.open(store).Open(ctx, "1")
	require.NoError(t, err)
}

// A deafStore never takes a replacement.
type deafStore struct{ *memory }

func (d deafStore) PutKeys(ctx context.Context, changes []KeyChange) (lost []Subject, err error) {
	for _, c := range changes {
		if c.Old == nil {
			return d.memory.PutKeys(ctx, changes)
		}
		lost = append(lost, c.Key.Subject)
	}
	return lost, nil
}

func TestRotateWithBrokenStore(t *testing.T) {
	k := newHouse(t).open(deafStore{newMemory()})
	require.NoError(t, k.CreateKeys(t.Context(), "a"))
	_, err := k.Rotate(t.Context(), nil)
	require.EqualError(t, err, "crypto: the key store neither replaces keys nor deletes them: see KeyStore")

	store := newMemory()
	store.keep = true
	k = newHouse(t).open(store)
	require.NoError(t, k.CreateKeys(t.Context(), "a", "b"))
	require.NoError(t, k.Shred(t.Context(), "a"))
	_, err = k.Rotate(t.Context(), nil)
	require.EqualError(t, err, "crypto: the key store neither replaces keys nor deletes them: see KeyStore")
}

// TestOlderKeyring: a keyring file that is exchanged for an older copy under a running process is refused.
func TestOlderKeyring(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	k := h.open(newMemory())
	old := h.file("")
	_, err := k.Rotate(ctx, nil)
	require.NoError(t, err)
	h.write("", old)
	_, err = k.Rotate(ctx, nil)
	require.EqualError(t, err, "crypto: "+h.path+": was replaced by another keyring or an older copy")
	h.write("", newHouse(t).file(""))
	_, err = k.Status()
	require.ErrorIs(t, err, ErrWrongKEK)
}

// TestCreateMeetsRotation: a rotation that is over before a new key is stored does not leave it behind in the old epoch.
func TestCreateMeetsRotation(t *testing.T) {
	ctx := context.Background()
	for _, other := range []bool{false, true} {
		h := newHouse(t)
		store := newMemory()
		k := h.open(store)
		rotator := k
		if other {
			rotator = h.open(store)
		}
		store.onPut = func() {
			store.onPut = nil
			_, err := rotator.Rotate(ctx, nil)
			require.NoError(t, err)
		}
		require.NoError(t, k.CreateKeys(ctx, "a", "b"))
		require.EqualValues(t, 2, store.dump()["a"].Epoch)
		require.EqualValues(t, 2, store.dump()["b"].Epoch)
		for _, k := range []*Keyring{k, rotator, h.open(store)} {
			_, err := k.Open(ctx, "a")
			require.NoError(t, err)
		}
	}
}

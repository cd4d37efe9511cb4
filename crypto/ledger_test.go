package crypto

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// openLedgerOf opens the keyring again and returns how many tombstones it has.
func (h *house) tombstones() (uint64, error) {
	k, err := OpenKeyring(context.Background(), Config{Path: h.path, KEK: h.kek, Store: newMemory()})
	if err != nil {
		return 0, err
	}
	return k.ledger.count(), nil
}

func shredded(k *Keyring, s Subject) bool {
	_, err := k.Open(context.Background(), s)
	return err != nil && err.Error() == ErrShredded.Error()
}

func TestLedgerTornTail(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	k := h.open(newMemory())
	require.NoError(t, k.Shred(ctx, "0", "1"))
	keyring := h.file("")
	require.NoError(t, k.ledger.bury("2")) // and is killed before the keyring knows
	whole := h.file(".ledger")
	last := bytes.LastIndexByte(whole[:len(whole)-1], '\n') + 1
	for cut := last; cut < len(whole); cut++ {
		h.write("", keyring)
		h.write(".ledger", whole[:cut])
		k := h.open(newMemory())
		require.True(t, shredded(k, "0") && shredded(k, "1"))
		require.False(t, shredded(k, "2"), "half a line was never acknowledged")
		n, err := h.tombstones()
		require.NoError(t, err)
		require.EqualValues(t, 2, n)
		require.NoError(t, k.Shred(ctx, "other"))
		require.NoError(t, k.Shred(ctx, "2"))
		n, err = h.tombstones()
		require.NoError(t, err)
		require.EqualValues(t, 4, n)
		require.Equal(t, 5, bytes.Count(h.file(".ledger"), []byte("\n")))
	}
	for _, tail := range []string{"4 2026-11-21T08:00:00Z ", "x", strings.Repeat("\x00", 4096)} { // zeros are what some file systems leave
		h.write("", keyring)
		h.write(".ledger", append(bytes.Clone(whole), tail...))
		n, err := h.tombstones()
		require.NoError(t, err)
		require.EqualValues(t, 3, n)
		require.NoError(t, h.open(newMemory()).Shred(ctx, "next"))
		require.True(t, bytes.HasSuffix(h.file(".ledger"), []byte("\n")), "nothing of it is left")
		require.NoError(t, h.open(newMemory()).Shred(ctx, "and next"))
		n, err = h.tombstones()
		require.NoError(t, err)
		require.EqualValues(t, 5, n)
	}
}

func TestLedgerTampered(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	k := h.open(newMemory())
	for i := range 6 {
		require.NoError(t, k.Shred(ctx, Subject(fmt.Sprint(i))))
	}
	whole := h.file(".ledger")
	require.Equal(t, "carrel-erasures 1 "+k.ID(), strings.SplitN(string(whole), "\n", 2)[0])
	refused := func(why string, content []byte) {
		t.Helper()
		h.write(".ledger", content)
		_, err := h.tombstones()
		require.ErrorIs(t, err, ErrLedger, why)
		require.NotContains(t, err.Error(), "\n")
	}
	for i := range whole[:len(whole)-1] {
		changed := bytes.Clone(whole)
		changed[i] ^= 1 << rand.IntN(7)
		if changed[i] == '\n' || whole[i] == '\n' {
			continue
		}
		refused("edited", changed)
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	header, l := lines[0], lines[1:7]
	refused("first line removed", join(header, l[1], l[2], l[3], l[4], l[5]))
	refused("middle line removed", join(header, l[0], l[1], l[3], l[4], l[5]))
	refused("two lines exchanged", join(header, l[0], l[2], l[1], l[3], l[4], l[5]))
	refused("a line repeated", join(header, l[0], l[1], l[1], l[2], l[3], l[4], l[5]))
	refused("an empty line", join(header, l[0], []byte("\n"), l[1]))
	refused("a line feed of Windows", bytes.ReplaceAll(whole, []byte("\n"), []byte("\r\n")))
	refused("the header removed", join(l...))
	refused("half a header", header[:10])
	refused("empty", nil)
	other := newHouse(t)
	require.NoError(t, other.open(newMemory()).Shred(ctx, "0"))
	refused("another keyring's", other.file(".ledger"))
	refused("another keyring's lines", join(header, bytes.SplitAfter(other.file(".ledger"), []byte("\n"))[1]))
	require.NoError(t, os.Remove(h.path+".ledger"))
	_, err := h.tombstones()
	require.ErrorIs(t, err, ErrLedger)
	require.ErrorContains(t, err, "no such file or directory; restore it")
	h.write(".ledger", whole)
	n, err := h.tombstones()
	require.NoError(t, err)
	require.EqualValues(t, 6, n)
	require.Equal(t, 1, strings.Count(string(whole), string(l[2])))
	for _, s := range []string{"0", "1"} {
		require.NotContains(t, string(bytes.Join(l, nil)), k.ID()+s)
	}
}

// TestLedgerShorter: the keyring remembers at every change how long the ledger was.
func TestLedgerShorter(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	k := h.open(newMemory())
	for i := range 5 {
		require.NoError(t, k.Shred(ctx, Subject(fmt.Sprint(i))))
	}
	keyring := h.file("")
	require.NoError(t, k.Shred(ctx, "5"))
	h.write("", keyring) // as if it had been killed before the keyring knew of the last one
	k = h.open(newMemory())
	whole := h.file(".ledger")
	lines := bytes.SplitAfter(whole, []byte("\n"))
	for n := range 5 {
		h.write(".ledger", bytes.Join(lines[:1+n], nil))
		_, err := h.tombstones()
		require.ErrorIs(t, err, ErrLedger, n)
		require.ErrorContains(t, err, fmt.Sprintf("it has %d tombstones, but the keyring or its store knows of 5", n))

		// Nor does a keyring that is open go on with it.
		require.ErrorIs(t, k.CreateKeys(ctx, "new"), ErrLedger)
		require.ErrorIs(t, k.Shred(ctx, "new"), ErrLedger)
		_, err = k.Rotate(ctx, nil)
		require.ErrorIs(t, err, ErrLedger)
		_, err = k.Status()
		require.ErrorIs(t, err, ErrLedger)
	}
	h.write(".ledger", bytes.Join(lines[:6], nil))
	n, err := h.tombstones()
	require.NoError(t, err, "the keyring has not seen the last one")
	require.EqualValues(t, 5, n)

	// One that forks off before the keyring's mark: same key, same length, another history.
	h2 := newHouse(t)
	k2 := h2.open(newMemory())
	start, first := h2.file(".ledger"), h2.file("")
	require.NoError(t, k2.Shred(ctx, "a"))
	fork := h2.file(".ledger")
	h2.write(".ledger", start)
	h2.write("", first)
	k3 := h2.open(newMemory())
	require.NoError(t, k3.Shred(ctx, "b"))
	_, err = k3.Rotate(ctx, nil)
	require.NoError(t, err)
	h2.write(".ledger", fork)
	_, err = h2.tombstones()
	require.ErrorIs(t, err, ErrLedger)
	_, err = k2.Rotate(ctx, nil)
	require.Error(t, err, "a process that followed the fork does not make the keyring forget")
}

// TestLedgerGone: while the ledger is away, nothing that is not in memory is opened.
func TestLedgerGone(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	k := h.open(newMemory(), func(c *Config) { c.CacheTTL = time.Microsecond })
	require.NoError(t, k.CreateKeys(ctx, "a"))
	require.NoError(t, os.Rename(h.path+".ledger", h.path+".away"))
	_, err := k.Open(ctx, "a")
	require.ErrorIs(t, err, ErrLedger)
	require.ErrorIs(t, k.Shred(ctx, "a"), ErrLedger)
	require.ErrorIs(t, k.CreateKeys(ctx, "b"), ErrLedger)
	require.NoError(t, os.Rename(h.path+".away", h.path+".ledger"))
	_, err = k.Open(ctx, "a")
	require.NoError(t, err)
}

// TestShredTwice: of one who has a tombstone no other is written, by nobody.
func TestShredTwice(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	k1, k2 := h.open(newMemory()), h.open(newMemory())
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			k := []*Keyring{k1, k2}[i%2]
			require.NoError(t, k.Shred(ctx, Subject(fmt.Sprint(i/4))))
		})
	}
	wg.Wait()
	n, err := h.tombstones()
	require.NoError(t, err)
	require.EqualValues(t, 10, n)
	st, err := k1.Status()
	require.NoError(t, err)
	require.EqualValues(t, 10, st.Shredded)
}

// shredChild shreds subjects of its own and says so after each.
func shredChild(args []string) {
	k := childKeyring(args[0], newMemory(), nil)
	for i := 0; ; i++ {
		s := fmt.Sprint(args[1], "-", i)
		childMust(k.Shred(context.Background(), Subject(s)))
		fmt.Println(s)
	}
}

func TestShredInTwoProcesses(t *testing.T) {
	h := newHouse(t)
	var wg sync.WaitGroup
	var all [2][]string
	for p := range 2 {
		cmd, out := startChild(t, "shred", h.path, fmt.Sprint("p", p))
		wg.Go(func() {
			for len(all[p]) < 200 && out.Scan() {
				all[p] = append(all[p], out.Text())
			}
			cmd.Process.Kill()
			for out.Scan() {
				all[p] = append(all[p], out.Text())
			}
			cmd.Wait()
		})
	}
	wg.Wait()
	k := h.open(newMemory())
	for _, subjects := range all {
		require.GreaterOrEqual(t, len(subjects), 200)
		for _, s := range subjects {
			require.True(t, shredded(k, Subject(s)), s)
		}
	}
	require.LessOrEqual(t, k.ledger.count(), uint64(len(all[0])+len(all[1])+2))
}

func TestShredKilled(t *testing.T) {
	h := newHouse(t)
	rounds := 50
	var acknowledged []string
	for round := range rounds {
		cmd, out := startChild(t, "shred", h.path, fmt.Sprint("r", round))
		armed := round%5 == 0 // and killed perhaps before it has begun
		if armed {
			time.AfterFunc(time.Duration(5+rand.IntN(25))*time.Millisecond, func() { cmd.Process.Kill() })
		}
		for out.Scan() {
			if !armed {
				armed = true
				time.AfterFunc(time.Duration(rand.IntN(25_000))*time.Microsecond, func() { cmd.Process.Kill() })
			}
			acknowledged = append(acknowledged, out.Text())
		}
		cmd.Wait()
		if round%2 == 0 { // a machine that stops may leave half a line, too
			whole := h.file(".ledger")
			h.write(".ledger", append(whole, fmt.Sprint(round, " 2026-11")...))
		}
		_, err := h.tombstones()
		require.NoError(t, err)
	}
	k := h.open(newMemory())
	for _, s := range acknowledged {
		require.True(t, shredded(k, Subject(s)), s)
	}
	t.Logf("%d acknowledged, %d in the ledger", len(acknowledged), k.ledger.count())
	require.NotEmpty(t, acknowledged)
	require.LessOrEqual(t, k.ledger.count(), uint64(len(acknowledged)+rounds))
}

// A ledger that is accepted says what was written, in the words in which it was written.
func FuzzLedger(f *testing.F) {
	h := newHouse(f)
	k := h.open(newMemory())
	for i := range 3 {
		require.NoError(f, k.Shred(context.Background(), Subject(fmt.Sprint(i))))
	}
	whole := h.file(".ledger")
	c := k.state.Load()
	f.Add(whole)
	f.Add(whole[:len(whole)-5])
	f.Add([]byte(ledgerHeader(c.id)))
	f.Add([]byte(ledgerHeader(c.id) + "1 2026-11-21T08:00:00Z AAAAAAAAAAAAAAAAAAAAAA AAAAAAAAAAAAAAAAAAAAAA\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := &ledger{id: c.id, key: hide(c.content.Ledger.Key), header: ledgerHeader(c.id), dead: map[[16]byte]int64{}}
		if err := l.read(bytes.NewReader(data)); err != nil {
			require.ErrorIs(t, err, ErrLedger)
			return
		}
		require.True(t, bytes.HasPrefix(whole, data[:l.at]))
		require.NotContains(t, string(data[l.at:]), "\n")
		require.EqualValues(t, len(l.dead), l.count())
	})
}

package crypto

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A server that has not looked since does not make an older ledger the right one by adding to it.
func TestOldLedgerIsNotAddedTo(t *testing.T) {
	ctx := context.Background()
	for _, what := range []string{"the ledger alone", "keyring and ledger"} {
		h := newHouse(t)
		store := newMemory()
		k := h.open(store)
		require.NoError(t, k.CreateKeys(ctx, "a", "b", "c"))
		keyring, ledger := h.file(""), h.file(".ledger")
		running := h.open(store)
		require.NoError(t, k.Shred(ctx, "a"))
		h.write(".ledger", ledger)
		if what == "keyring and ledger" {
			h.write("", keyring)
		}
		require.Error(t, running.Shred(ctx, "b", "c"), what)
		require.Error(t, running.Shred(ctx, "b"), what)
		_, err := OpenKeyring(ctx, Config{Path: h.path, KEK: h.kek, Store: store})
		require.ErrorIs(t, err, ErrLedger, what)
	}
}

// Two files of one generation are not the same file.
func TestGenerationsCollide(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	store := newMemory()
	k := h.open(store)
	require.NoError(t, k.CreateKeys(ctx, "a", "x", "y", "z"))
	backup := h.file("")
	require.NoError(t, k.Shred(ctx, "x"))
	require.NoError(t, k.Shred(ctx, "y"))
	h.write("", backup)
	other := h.open(nil) // which does not ask the store, that knows better
	require.NoError(t, other.SetSchedule(ctx, Schedule{Every: 100 * day}))
	require.NoError(t, other.SetSchedule(ctx, Schedule{Every: 200 * day}))
	require.Equal(t, other.state.Load().content.Generation, k.state.Load().content.Generation)
	require.ErrorContains(t, k.Shred(ctx, "z"), "was replaced by another keyring or an older copy")
	_, err := k.Status()
	require.ErrorContains(t, err, "was replaced by another keyring or an older copy")
	require.EqualValues(t, 200*day, h.open(nil).state.Load().content.Schedule.Every, "what the other did is not lost")
}

// A keyring that serves two databases would destroy keys that the second one needs.
func TestTwoDatabases(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	one, two := newMemory(), newMemory()
	a, b := h.open(one), h.open(two)
	require.NoError(t, a.CreateKeys(ctx, "a"))
	require.NoError(t, b.CreateKeys(ctx, "b"))
	_, err := a.Rotate(ctx, nil)
	require.NoError(t, err)
	_, err = b.Rotate(ctx, nil)
	require.ErrorIs(t, err, ErrForeignStore)
	_, err = b.Tend(ctx, nil)
	require.ErrorIs(t, err, ErrForeignStore)
	copied := newMemory() // a copy of the first is the first
	for _, w := range one.dump() {
		copied.restore(w)
	}
	_, err = h.open(copied).Rotate(ctx, nil)
	require.NoError(t, err)
}

// What the keyring keeps in the store for itself is never left in an epoch that has ended.
func TestMarksOfStaleProcesses(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	store := newMemory()
	slow, k := h.open(store), h.open(store)
	require.NoError(t, k.CreateKeys(ctx, "a"))
	_, err := k.Rotate(ctx, nil)
	require.NoError(t, err)
	require.NoError(t, slow.CreateKeys(ctx, "new"), "it looks again whose the store is")

	require.NoError(t, k.SetSchedule(ctx, Schedule{Every: 100 * day, Horizon: day}))
	once := true
	store.onPut = func() { // slow stands still for days between wrapping the note and storing it
		if once {
			once = false
			_, err := k.Rotate(ctx, nil)
			require.NoError(t, err)
			age(t, k, 2*day)
			_, err = k.Tend(ctx, nil)
			require.NoError(t, err)
		}
	}
	require.NoError(t, slow.Shred(ctx, "x"))
	h.open(store)
	require.EqualValues(t, k.state.Load().current, store.dump()[noted].Epoch)

	// A rotation between reading the keyring and looking whose the store is.
	once = true
	store.onPut = nil
	store.onKey = func(_ context.Context, s Subject) error {
		if s == mark && once {
			once = false
			_, err := k.Rotate(ctx, nil)
			require.NoError(t, err)
		}
		return nil
	}
	h.open(store)
}

// Keys are not destroyed when the token store did not do its part.
func TestTokensThatStay(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	store, tokens := newMemory(), &tokenMemory{tokens: map[string][]string{}}
	k := h.open(store, func(c *Config) { c.Tokens = tokens })
	p, err := k.Pseudonyms("borrower")
	require.NoError(t, err)
	token, err := p.Token("p1")
	require.NoError(t, err)
	require.NoError(t, k.SetSchedule(ctx, Schedule{Horizon: day}))

	tokens.tokens["borrower"], tokens.epoch = []string{token}, 1<<31 // somebody's UPDATE
	for range 3 {
		_, err = k.Rotate(ctx, nil)
		require.ErrorIs(t, err, ErrOldKeyring)
		age(t, k, 40*day)
	}
	_, err = p.Open(token)
	require.NoError(t, err)

	tokens.epoch = 1
	_, err = k.Rotate(ctx, nil)
	require.NoError(t, err)
	age(t, k, 2*day)
	_, err = k.Tend(ctx, nil)
	require.NoError(t, err)

	// A backup of before the horizon that has no subject keys, by which it would be seen.
	tokens.tokens["borrower"], tokens.epoch = []string{token}, 1
	_, err = k.Rotate(ctx, nil)
	require.ErrorIs(t, err, ErrEnded)
	require.EqualValues(t, 1, tokens.epoch)
	_, err = k.RenewTokens(ctx)
	require.ErrorIs(t, err, ErrEnded)

	// A new store that another keyring, thrown away since, has left its epoch in.
	tokens.tokens, tokens.epoch = map[string][]string{}, 77
	_, err = k.RenewTokens(ctx)
	require.NoError(t, err)
	_, err = p.Of(tokens.epoch)
	require.NoError(t, err)
}

// A database that was restored is carried over by the next night, and the end counts from then: its backups are of the old epoch, too.
func TestRestoredIsCarried(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	store, tokens := newMemory(), &tokenMemory{tokens: map[string][]string{}, epoch: 1}
	k := h.open(store, func(c *Config) { c.Tokens = tokens })
	require.NoError(t, k.SetSchedule(ctx, Schedule{Every: 365 * day, Horizon: 90 * day}))
	require.NoError(t, k.CreateKeys(ctx, "a"))
	backup := store.dump()
	_, err := k.Rotate(ctx, nil)
	require.NoError(t, err)
	age(t, k, 60*day)
	for _, w := range backup {
		store.restore(w)
	}
	tokens.epoch = 1
	due, err := k.Due(ctx)
	require.NoError(t, err)
	require.True(t, due)
	r, err := k.Tend(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, 1, r.Rewrapped)
	age(t, k, 60*day)
	due, err = k.Due(ctx)
	require.NoError(t, err)
	require.False(t, due)
	r, err = k.Tend(ctx, nil)
	require.NoError(t, err)
	require.Empty(t, r.Ended, "sixty days ago there were backups of it")
	age(t, k, 31*day)
	r, err = k.Tend(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, []uint32{1}, r.Ended)
}

// Pseudonyms that one key had for many epochs are in backups until now, whatever epochs have ended meanwhile.
func TestTokensAfterEpochsWithout(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	store := newMemory()
	k := h.open(store)
	require.NoError(t, k.SetSchedule(ctx, Schedule{Every: 365 * day, Horizon: 30 * day}))
	p, err := k.Pseudonyms("borrower")
	require.NoError(t, err)
	token, err := p.Token("p1")
	require.NoError(t, err)
	for range 3 {
		_, err = k.Rotate(ctx, nil)
		require.NoError(t, err)
		age(t, k, 31*day)
	}
	k = h.open(store, func(c *Config) { c.Tokens = &tokenMemory{tokens: map[string][]string{"borrower": {token}}} })
	opens := func(want error) {
		p, err := k.Pseudonyms("borrower")
		require.NoError(t, err)
		_, err = p.Open(token)
		require.ErrorIs(t, err, want)
	}
	_, err = k.Rotate(ctx, nil)
	require.NoError(t, err)
	opens(nil)
	age(t, k, 29*day)
	_, err = k.Tend(ctx, nil)
	require.NoError(t, err)
	opens(nil)
	age(t, k, 2*day)
	_, err = k.Tend(ctx, nil)
	require.NoError(t, err)
	opens(ErrNotPseudonym)
}

// Who has no token store does not finish what somebody with one has begun.
func TestTokensAreNotForgotten(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	store, tokens := newMemory(), &tokenMemory{tokens: map[string][]string{"borrower": {"plain"}}, epoch: 1}
	k := h.open(store, func(c *Config) { c.Tokens = tokens })
	tokens.fail = errors.New("away")
	_, err := k.Rotate(ctx, nil)
	require.ErrorIs(t, err, tokens.fail)
	_, err = h.open(store).Rotate(ctx, nil)
	require.ErrorContains(t, err, "Config.Tokens")
	tokens.fail = nil
	_, err = k.Tend(ctx, nil)
	require.NoError(t, err)
}

// A process that runs for long looks for people under the tokens that they have now, and makes none of an epoch that has ended.
func TestTokensOfARunningProcess(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	store, tokens := newMemory(), &tokenMemory{tokens: map[string][]string{}}
	k, long := h.open(store, func(c *Config) { c.Tokens = tokens }), h.open(store, func(c *Config) { c.CacheTTL = 1 })
	require.NoError(t, k.SetSchedule(ctx, Schedule{Horizon: day}))
	p, err := long.Pseudonyms("borrower")
	require.NoError(t, err)
	old, err := p.Of(1)
	require.NoError(t, err)
	token, err := old.Token("p1")
	require.NoError(t, err)
	tokens.tokens["borrower"] = []string{token}
	_, err = k.Rotate(ctx, nil)
	require.NoError(t, err)
	all, err := p.Tokens("p1")
	require.NoError(t, err)
	require.Contains(t, all, tokens.tokens["borrower"][0])
	age(t, k, 2*day)
	_, err = k.Tend(ctx, nil)
	require.NoError(t, err)
	_, err = old.Token("p1")
	require.ErrorIs(t, err, ErrNoEpoch)
	_, err = p.Of(1)
	require.ErrorIs(t, err, ErrNoEpoch)
}

// A rotation while the clock was years ahead does not put off the next one for as long.
func TestClockWasAhead(t *testing.T) {
	ctx := context.Background()
	k := newHouse(t).open(newMemory())
	_, err := k.Rotate(ctx, nil)
	require.NoError(t, err)
	age(t, k, -3650*day)
	due, err := k.Due(ctx)
	require.NoError(t, err)
	require.True(t, due)
}

func TestKeyringBehindALink(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	k := h.open(newMemory())
	behind := filepath.Join(t.TempDir(), "keys")
	require.NoError(t, os.Rename(h.path, behind))
	require.NoError(t, os.Symlink(behind, h.path))
	require.NoError(t, k.Shred(ctx, "a"))
	info, err := os.Lstat(h.path)
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&os.ModeSymlink)
	h.open(newMemory())
}

// A keyring of the version before is read, and becomes one of this version with its next change.
func TestKeyringOfVersion1(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	store := newMemory()
	k := h.open(store)
	require.NoError(t, k.CreateKeys(ctx, "a"))
	s := k.state.Load()
	c := s.content
	c.Pairwise, c.Store, c.Schedule = nil, nil, Schedule{}
	plain, err := json.Marshal(c)
	require.NoError(t, err)
	f := keyringFile{Version: 1, ID: k.ID(), Generation: c.Generation, Key: s.sealed}
	a, err := newAEAD(s.key())
	require.NoError(t, err)
	f.Sealed, err = a.Encrypt(plain, f.bound())
	require.NoError(t, err)
	data, err := json.Marshal(f)
	require.NoError(t, err)
	h.write("", data)

	k = h.open(store, func(c *Config) { c.Tokens = &tokenMemory{tokens: map[string][]string{}} })
	_, err = k.Open(ctx, "a")
	require.NoError(t, err)
	_, err = k.Rotate(ctx, nil)
	require.NoError(t, err)
	require.Contains(t, string(h.file("")), `"carrel-keyring":2`)
	_, err = h.open(store).Open(ctx, "a")
	require.NoError(t, err)
}

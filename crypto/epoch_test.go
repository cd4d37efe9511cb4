package crypto

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tokenMemory is a TokenStore that cannot fail by itself.
type tokenMemory struct {
	mu     sync.Mutex
	epoch  uint32
	tokens map[string][]string // by the name of the pseudonyms
	fail   error
}

func (m *tokenMemory) TokenEpoch(context.Context) (uint32, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.epoch, nil
}

func (m *tokenMemory) RenewTokens(ctx context.Context, epoch uint32, renew func(name, token string) (string, error)) (n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil || m.epoch >= epoch && len(m.tokens["borrower"]) > 0 {
		return 0, m.fail
	}
	next := map[string][]string{}
	for name, tokens := range m.tokens {
		for _, t := range tokens {
			fresh, err := renew(name, t)
			if errors.Is(err, ErrNotPseudonym) {
				fresh = t
			} else if err != nil {
				return 0, err
			}
			next[name] = append(next[name], fresh)
			n++
		}
	}
	m.tokens, m.epoch = next, epoch
	return n, nil
}

// age makes everything that the keyring says happened so much older.
func age(t *testing.T, k *Keyring, d time.Duration) {
	t.Helper()
	require.NoError(t, k.change(context.Background(), func(c *content) (bool, error) {
		for i := range c.Epochs {
			e := &c.Epochs[i]
			e.Created = e.Created.Add(-d)
			if !e.Ended.IsZero() {
				e.Ended = e.Ended.Add(-d)
			}
		}
		return true, nil
	}))
}

const day = 24 * time.Hour

// TestHorizon is what the whole is for: after the horizon nobody reads a backup of those who were forgotten, nor of anybody, though the ledger is lost and the
// keyring and the key-encryption key are in the wrong hands; and the living are read as ever.
func TestHorizon(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	store, tokens := newMemory(), &tokenMemory{tokens: map[string][]string{}}
	with := func(c *Config) { c.Tokens, c.CacheTTL = tokens, 1 }
	k := h.open(store, with)
	require.NoError(t, k.SetSchedule(ctx, Schedule{Horizon: 90 * day}))
	borrowers, err := k.Pseudonyms("borrower")
	require.NoError(t, err)

	const patrons, erased = 1000, 100
	var subjects []Subject
	sealed := map[Subject][]byte{}
	for i := range patrons {
		subjects = append(subjects, Subject(fmt.Sprint("patron-", i)))
	}
	require.NoError(t, k.CreateKeys(ctx, subjects...))
	for _, s := range subjects {
		data, err := k.Seal(ctx, s, Plain{"names", 1, NewSecret(canary)})
		require.NoError(t, err)
		sealed[s] = data[0]
		token, err := borrowers.Token(string(s))
		require.NoError(t, err)
		tokens.tokens["borrower"] = append(tokens.tokens["borrower"], token)
	}
	pairwise, err := k.Pairwise("bookshop")
	require.NoError(t, err)
	third := pairwise("patron-7")

	backup, backupTokens, backupLedger := store.dump(), tokens.tokens["borrower"], h.file(".ledger")
	restored := func() *memory {
		m := newMemory()
		for _, w := range backup {
			m.restore(w)
		}
		return m
	}
	require.NoError(t, k.Shred(ctx, subjects[:erased]...))

	// Within the horizon the ledger is what refuses, before anything is opened.
	old := h.open(restored(), with)
	for i, s := range subjects {
		_, err := old.Open(ctx, s, Sealed{"names", 1, sealed[s]})
		if i < erased {
			require.ErrorIs(t, err, ErrShredded)
		} else {
			require.NoError(t, err)
		}
	}

	_, err = k.Tend(ctx, nil)
	require.NoError(t, err)
	st, err := k.Status()
	require.NoError(t, err)
	require.Len(t, st.Epochs, 1, "nothing is due")

	age(t, k, 31*day)
	r, err := k.Tend(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, Rotation{Epoch: 2, Rewrapped: patrons - erased, Renewed: patrons}, r)
	age(t, k, 89*day)
	r, err = k.Tend(ctx, nil)
	require.NoError(t, err)
	require.Empty(t, r.Ended, "not yet")
	require.EqualValues(t, 3, r.Epoch)
	_, err = h.open(restored(), with).Open(ctx, subjects[erased], Sealed{"names", 1, sealed[subjects[erased]]})
	require.NoError(t, err, "the control: a backup within the horizon can be used")
	reference, err := borrowers.Open(backupTokens[0])
	require.NoError(t, err)
	require.Equal(t, "patron-0", reference.Reveal())

	age(t, k, 2*day)
	r, err = k.Tend(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, []uint32{1}, r.Ended)

	// The living are as they were, under their new tokens, and third parties know them by the same name.
	for i, s := range subjects {
		_, err := k.Open(ctx, s, Sealed{"names", 1, sealed[s]})
		require.Equal(t, i < erased, errors.Is(err, ErrShredded), "%v", err)
		reference, err := borrowers.Open(tokens.tokens["borrower"][i])
		require.NoError(t, err)
		require.Equal(t, string(s), reference.Reveal())
	}
	require.Equal(t, third, pairwise("patron-7"))
	again, err := k.Pairwise("bookshop")
	require.NoError(t, err)
	require.Equal(t, third, again("patron-7"))

	// The thief has the backup, the keyring and the KEK of today, and a ledger of before, if they like.
	_, err = OpenKeyring(ctx, Config{Path: h.path, KEK: h.kek, Store: restored(), Tokens: tokens})
	require.ErrorIs(t, err, ErrEnded)
	h.write(".ledger", backupLedger)
	_, err = OpenKeyring(ctx, Config{Path: h.path, KEK: h.kek, Store: newMemory()})
	require.ErrorIs(t, err, ErrLedger)
	// They leave out all checks, and try what is in the keyring.
	s := k.state.Load()
	for _, w := range backup {
		_, err := s.unwrap(w)
		require.ErrorIs(t, err, ErrNoEpoch)
		for epoch := range s.epochs {
			_, err := s.unwrap(WrappedKey{w.Subject, epoch, w.Wrapped})
			require.ErrorIs(t, err, ErrNotAuthentic)
			_, err = s.epochs[epoch].Decrypt(w.Wrapped, s.boundToKey(w.Subject, w.Epoch))
			require.Error(t, err)
		}
	}
	guess := map[string]bool{}
	for _, subject := range subjects {
		all, err := borrowers.Tokens(string(subject))
		require.NoError(t, err)
		for _, t := range all {
			guess[t] = true
		}
	}
	for _, token := range backupTokens {
		_, err := borrowers.Open(token)
		require.ErrorIs(t, err, ErrNotPseudonym)
		require.False(t, guess[token], "nor can they make the tokens of everybody and compare")
	}
}

// Without a TokenStore somebody may have tokens that nobody renews: their key stays.
func TestHorizonKeepsTokens(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	k := h.open(newMemory())
	p, err := k.Pseudonyms("borrower")
	require.NoError(t, err)
	token, err := p.Token("p1")
	require.NoError(t, err)
	require.NoError(t, k.SetSchedule(ctx, Schedule{Horizon: day}))
	for range 3 {
		_, err := k.Rotate(ctx, nil)
		require.NoError(t, err)
		age(t, k, 2*day)
	}
	r, err := k.Tend(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, []uint32{3}, r.Ended, "the others went with the rotations")
	same, err := p.Token("p1")
	require.NoError(t, err)
	require.Equal(t, token, same)
}

// A backup within the horizon whose keys are of an epoch that is about to end is carried over first.
func TestEndCarriesOver(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	store := newMemory()
	k := h.open(store)
	require.NoError(t, k.CreateKeys(ctx, "a", "b"))
	backup := store.dump()
	_, err := k.Rotate(ctx, nil)
	require.NoError(t, err)
	require.NoError(t, k.Shred(ctx, "b"))
	for _, w := range backup { // the whole database, restored
		store.restore(w)
	}
	require.NoError(t, k.SetSchedule(ctx, Schedule{Every: 100 * day, Horizon: day}))
	age(t, k, 2*day)
	k = h.open(store)
	r, err := k.Tend(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, Rotation{Epoch: 2, Rewrapped: 1, Shredded: 1}, r, "until now it was of epoch 1, and backups are of that")
	age(t, k, 2*day)
	r, err = k.Tend(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, []uint32{1}, r.Ended)
	require.NoError(t, k.CreateKeys(ctx, "c"))
	_, err = h.open(store).Open(ctx, "a")
	require.NoError(t, err)
}

// A process that was away for longer than the horizon does not wrap a new key in an epoch whose key is gone.
func TestCreateAfterTheEnd(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	store := newMemory()
	k := h.open(store)
	slow := h.open(store) // the store is not even marked
	require.NoError(t, k.SetSchedule(ctx, Schedule{Every: 100 * day, Horizon: day}))
	_, err := k.Rotate(ctx, nil)
	require.NoError(t, err)
	age(t, k, 2*day)
	r, err := k.Tend(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, []uint32{1}, r.Ended)
	require.NoError(t, slow.CreateKeys(ctx, "new"))
	_, err = h.open(store).Open(ctx, "new")
	require.NoError(t, err)
}

// A rotation whose tokens could not be renewed is not over, nor does any epoch end.
func TestTokensNotRenewed(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	tokens := &tokenMemory{tokens: map[string][]string{}}
	k := h.open(newMemory(), func(c *Config) { c.Tokens = tokens })
	p, err := k.Pseudonyms("borrower")
	require.NoError(t, err)
	first, err := p.Of(0)
	require.NoError(t, err)
	token, err := first.Token("p1")
	require.NoError(t, err)
	tokens.tokens["borrower"] = []string{token, "of another system", "cpAAAA"}
	require.NoError(t, k.SetSchedule(ctx, Schedule{Horizon: day}))
	tokens.fail = errors.New("the database is away")
	_, err = k.Rotate(ctx, nil)
	require.ErrorIs(t, err, tokens.fail)
	age(t, k, 300*day)
	_, err = k.Tend(ctx, nil)
	require.ErrorIs(t, err, tokens.fail)
	st, err := k.Status()
	require.NoError(t, err)
	require.True(t, st.Rotating)
	require.Len(t, st.Epochs, 2)

	// Meanwhile whoever writes makes the tokens that the store has.
	epoch, err := tokens.TokenEpoch(ctx)
	require.NoError(t, err)
	of, err := p.Of(epoch)
	require.NoError(t, err)
	same, err := of.Token("p1")
	require.NoError(t, err)
	require.Equal(t, token, same)

	tokens.fail = nil
	r, err := k.Tend(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, Rotation{Epoch: 2, Renewed: 3}, r)
	require.Equal(t, []string{"of another system", "cpAAAA"}, tokens.tokens["borrower"][1:])
	newest, err := p.Token("p1")
	require.NoError(t, err)
	require.Equal(t, newest, tokens.tokens["borrower"][0])
	e, ok := TokenEpoch(newest)
	require.True(t, ok)
	require.EqualValues(t, 2, e)

	// Another process, which has not heard of the epoch, learns of it by the token.
	other := h.open(newMemory())
	q, err := other.Pseudonyms("borrower")
	require.NoError(t, err)
	_, err = k.Rotate(ctx, nil)
	require.NoError(t, err)
	reference, err := q.Open(tokens.tokens["borrower"][0])
	require.NoError(t, err)
	require.Equal(t, "p1", reference.Reveal())
	_, err = q.Of(9)
	require.ErrorIs(t, err, ErrNoEpoch)
}

func TestSchedule(t *testing.T) {
	ctx := context.Background()
	k := newHouse(t).open(newMemory())
	for _, bad := range []Schedule{{Every: time.Minute}, {Every: -day}, {Horizon: -day}, {Horizon: time.Hour}, {Horizon: 1e5 * day}} {
		require.Error(t, k.SetSchedule(ctx, bad), bad)
	}
	st, err := k.Status()
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(DefaultEpoch), st.Due, time.Minute)
	require.NoError(t, k.SetSchedule(ctx, Schedule{Every: 7 * day, Horizon: 60 * day}))
	_, err = k.Rotate(ctx, nil)
	require.NoError(t, err)
	st, err = k.Status()
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(7*day), st.Due, time.Minute)
	require.WithinDuration(t, time.Now().Add(60*day), st.Epochs[0].Ends, time.Minute)
	require.True(t, st.Epochs[1].Ends.IsZero() && st.Epochs[1].Current)
}

// An old ledger beside its old keyring: the store knows better.
func TestStoreKnowsTheLedger(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	store := newMemory()
	k := h.open(store)
	require.NoError(t, k.CreateKeys(ctx, "a", "b", "c"))
	require.NoError(t, k.Shred(ctx, "a"))
	keyring, ledger := h.file(""), h.file(".ledger")
	require.NoError(t, k.Shred(ctx, "b"))
	newKeyring, newLedger := h.file(""), h.file(".ledger")

	h.write("", keyring)
	h.write(".ledger", ledger)
	_, err := OpenKeyring(ctx, Config{Path: h.path, KEK: h.kek, Store: store})
	require.ErrorIs(t, err, ErrLedger)
	require.ErrorContains(t, err, "it has 1 tombstones, but the keyring or its store knows of 2")

	// With somebody else forgotten meanwhile, so that it is as long: a fork.
	other := h.open(newMemory())
	require.NoError(t, other.Shred(ctx, "x"))
	_, err = OpenKeyring(ctx, Config{Path: h.path, KEK: h.kek, Store: store})
	require.ErrorIs(t, err, ErrLedger)

	h.write("", newKeyring)
	h.write(".ledger", newLedger)
	h.open(store)

	// What the store says is sealed: whoever owns it can take it away, but not make it say something else.
	w := store.dump()[noted]
	w.Wrapped = append([]byte(nil), w.Wrapped...)
	w.Wrapped[20] ^= 1
	store.restore(w)
	_, err = OpenKeyring(ctx, Config{Path: h.path, KEK: h.kek, Store: store})
	require.ErrorIs(t, err, ErrLedger)
}

// Forgetting somebody does not ask the key-encryption key.
func TestShredAsksNoKEK(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	asked := 0
	k := h.open(newMemory(), func(c *Config) { c.KEK = askedKEK{h.kek, &asked} })
	other := h.open(newMemory(), func(c *Config) { c.KEK = askedKEK{h.kek, &asked} })
	asked = 0
	for i := range 10 {
		require.NoError(t, k.Shred(ctx, Subject(fmt.Sprint(i)), Subject(fmt.Sprint("more", i))))
		_, err := other.Status()
		require.NoError(t, err)
	}
	require.Zero(t, asked)
	st, err := other.Status()
	require.NoError(t, err)
	require.EqualValues(t, 20, st.Shredded)
}

type askedKEK struct {
	kekAEAD
	asked *int
}

func (a askedKEK) Encrypt(p, d []byte) ([]byte, error) { *a.asked++; return a.kekAEAD.Encrypt(p, d) }
func (a askedKEK) Decrypt(p, d []byte) ([]byte, error) { *a.asked++; return a.kekAEAD.Decrypt(p, d) }

// The keyring's own subjects are nobody's.
func TestReservedSubjects(t *testing.T) {
	ctx := context.Background()
	k := newHouse(t).open(newMemory())
	for _, s := range []Subject{mark, noted} {
		require.Error(t, k.CreateKeys(ctx, s))
		require.Error(t, k.Shred(ctx, s))
		_, err := k.Open(ctx, s)
		require.Error(t, err)
	}
}

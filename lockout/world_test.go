package lockout_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
)

var t0 = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

// A world is a guard with a clock that the test moves, and what it told the trail.
type world struct {
	*testing.T
	*lockout.Guard
	mu     sync.Mutex
	now    time.Time
	events []audit.Event
}

func newWorld(t *testing.T, cfg lockout.Config) *world {
	return newWorldOn(t, memory.NewLockouts(), cfg)
}

func newWorldOn(t *testing.T, store lockout.Store, cfg lockout.Config) *world {
	t.Helper()
	w := &world{T: t, now: t0}
	cfg.Now = w.clock
	if cfg.Audit == nil {
		cfg.Audit = w
	}
	g, err := lockout.New(store, cfg)
	require.NoError(t, err)
	w.Guard = g
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// Record is the trail.
func (w *world) Record(_ context.Context, e audit.Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
	return nil
}

func (w *world) reserve(a lockout.Attempt) *lockout.Reservation {
	w.Helper()
	r, err := w.Reserve(w.Context(), a)
	require.NoError(w, err)
	return r
}

// wrong makes one wrong guess, and reports whether it was checked at all.
func (w *world) wrong(a lockout.Attempt) bool {
	w.Helper()
	r, err := w.Reserve(w.Context(), a)
	if errors.Is(err, lockout.ErrLocked) {
		return false
	}
	require.NoError(w, err)
	require.NoError(w, r.Failure(w.Context()))
	return true
}

// guesses makes wrong guesses until it is locked, at most max, and returns how many were checked.
func (w *world) guesses(a lockout.Attempt, max int) (n int) {
	w.Helper()
	for n < max && w.wrong(a) {
		n++
	}
	return n
}

func (w *world) right(a lockout.Attempt) {
	w.Helper()
	require.NoError(w, w.reserve(a).Success(w.Context()))
}

func (w *world) locked(a lockout.Attempt) {
	w.Helper()
	_, err := w.Reserve(w.Context(), a)
	require.ErrorIs(w, err, lockout.ErrLocked)
}

func login(name string) lockout.Attempt {
	return lockout.Attempt{Account: lockout.Account{Login: name}}
}

func patron(id, name string) lockout.Attempt {
	return lockout.Attempt{Account: lockout.Account{ID: id, Login: name}}
}

func from(a lockout.Attempt, source string) lockout.Attempt {
	a.Source = netip.MustParseAddr(source)
	return a
}

func key() crypto.Secret {
	raw := make([]byte, 32)
	rand.Read(raw)
	return crypto.NewSecret(string(raw))
}

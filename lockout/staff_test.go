package lockout_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
)

var desk = audit.Event{Actor: "staff-17", Role: "circulation", Purpose: "account", Channel: audit.UI}

func TestStaffUnlocks(t *testing.T) {
	w := newWorld(t, lockout.Config{Profile: lockout.PIN, Known: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	a := from(patron("p-1", "jdoe"), "192.0.2.1")
	device, known := a, from(a, "10.0.0.1")
	device.Device = w.Remember(a.Account)
	for _, lane := range []lockout.Attempt{a, device, known} {
		require.Equal(t, 5, w.guesses(lane, 100))
	}
	for range 4 { // the limit of the day
		w.pass(15 * time.Minute)
		w.guesses(a, 100)
	}
	w.locked(a)
	require.ErrorIs(t, w.Unlock(t.Context(), desk, a.Account, ""), lockout.ErrReason)
	require.ErrorIs(t, w.Unlock(t.Context(), audit.Event{}, a.Account, "because"), lockout.ErrActor)
	require.ErrorIs(t, w.Unlock(t.Context(), desk, lockout.Account{}, "because"), lockout.ErrWhose)
	require.ErrorIs(t, w.Unlock(t.Context(), desk, lockout.Account{Login: "x", Staff: true}, "because"), lockout.ErrWhose)
	w.locked(a)
	w.events = nil
	require.NoError(t, w.Unlock(t.Context(), desk, a.Account, "showed her card"))
	for _, lane := range []lockout.Attempt{a, device, known} {
		require.Equal(t, 5, w.guesses(lane, 100))
	}
	e := w.events[0]
	require.Equal(t, audit.Unlock, e.Action)
	require.Equal(t, "staff-17", e.Actor)
	require.Equal(t, "account", e.Object)
	require.Equal(t, crypto.Subject("p-1"), e.Subjects[0].ID)
	require.Equal(t, "showed her card", e.Subjects[0].Note.Reveal())
	require.Empty(t, e.Approval, "what staff writes about a patron is sealed")
}

func TestStaffLocks(t *testing.T) {
	w := newWorld(t, lockout.Config{})
	a := from(patron("p-1", "jdoe"), "192.0.2.1")
	device := a
	device.Device = w.Remember(a.Account)
	for _, wrong := range []time.Duration{0, time.Minute, 25 * time.Hour, -time.Hour} {
		require.ErrorContains(t, w.Lock(t.Context(), desk, a.Account, "card stolen", wrong), "want 3m to 24h")
	}
	require.NoError(t, w.Lock(t.Context(), desk, a.Account, "card stolen", time.Hour))
	w.locked(a)
	w.locked(device)
	w.locked(patron("p-1", "another login"))
	w.right(patron("p-2", "jdoe"))
	s, err := w.Status(t.Context(), a.Account)
	require.NoError(t, err)
	require.True(t, s.Hold)
	require.Equal(t, w.clock().Add(time.Hour), s.Until)
	w.pass(time.Hour)
	w.right(a)
	require.NoError(t, w.Lock(t.Context(), desk, a.Account, "card stolen", 24*time.Hour))
	require.NoError(t, w.Unlock(t.Context(), desk, a.Account, "card found"))
	w.right(device)
	require.Len(t, w.events, 3)
}

func TestStaffUnlocksASource(t *testing.T) {
	w := newWorld(t, lockout.Config{Sources: 10})
	for n := range 10 {
		w.wrong(from(login(fmt.Sprint(n)), "192.0.2.1"))
	}
	w.locked(from(login("x"), "192.0.2.1"))
	require.Error(t, w.UnlockSource(t.Context(), desk, netip.Addr{}, "a class"))
	require.NoError(t, w.UnlockSource(t.Context(), desk, netip.MustParseAddr("192.0.2.1"), "a class of thirty"))
	require.True(t, w.wrong(from(login("x"), "192.0.2.1")))
	require.Equal(t, "source", w.events[len(w.events)-1].Object)
	require.Empty(t, w.events[len(w.events)-1].Network, "where a patron comes from is not kept")
}

// One event for each lock, at the crossing, and none for those who are turned away.
func TestTrailHearsOfLocksOnce(t *testing.T) {
	w := newWorld(t, lockout.Config{Sources: 12})
	staff := patron("staff-9", "nine")
	staff.Staff = true
	for _, a := range []lockout.Attempt{patron("p-1", "jdoe"), staff, login("nobody")} {
		for range 1000 {
			w.wrong(from(a, "192.0.2.1"))
		}
	}
	var got []string
	for _, e := range w.events {
		who := ""
		for _, s := range e.Subjects {
			who += string(s.ID)
		}
		got = append(got, fmt.Sprint(e.Action, " ", e.Object, " by ", e.Actor, " ", who))
	}
	require.Equal(t, []string{"lock account by lockout p-1", "lock account staff-9 by lockout ", "lock source by lockout "}, got)
}

// What the trail is told it takes, and it is found there, until the patron is forgotten.
func TestOnARealTrail(t *testing.T) {
	dir := t.TempDir()
	ctx := t.Context()
	require.NoError(t, crypto.CreateKEK(filepath.Join(dir, "kek")))
	kek, err := crypto.OpenKEK(filepath.Join(dir, "kek"))
	require.NoError(t, err)
	require.NoError(t, crypto.CreateKeyring(filepath.Join(dir, "keys"), kek))
	keys, err := crypto.OpenKeyring(ctx, crypto.Config{Path: filepath.Join(dir, "keys"), KEK: kek, Store: memory.NewKeys()})
	require.NoError(t, err)
	require.NoError(t, keys.CreateKeys(ctx, "p-1"))
	log := memory.NewLog()
	trail, err := audit.New(ctx, audit.Config{Store: log, Keys: keys, Anchors: []audit.Anchor{audit.NewFileAnchor(filepath.Join(dir, "anchor"))}})
	require.NoError(t, err)
	secret, err := keys.LockoutKey(ctx)
	require.NoError(t, err)
	g, err := lockout.New(memory.NewLockouts(), lockout.Config{Key: secret, Audit: trail, Profile: lockout.PIN})
	require.NoError(t, err)
	lock := func(a lockout.Account) {
		for range 5 {
			r, err := g.Reserve(ctx, lockout.Attempt{Account: a, Channel: audit.Self})
			require.NoError(t, err)
			require.NoError(t, r.Failure(ctx))
		}
		require.NoError(t, g.Unlock(ctx, desk, a, "showed her card"))
		require.NoError(t, g.Lock(ctx, desk, a, "lost it again", time.Hour))
	}
	for _, a := range []lockout.Account{{ID: "p-1"}, {ID: "forgotten"}, {ID: "staff-9", Staff: true}, {Login: "nobody"}} {
		lock(a)
	}
	require.NoError(t, trail.Close(ctx))
	page, err := log.Entries(ctx, audit.Query{Limit: 100})
	require.NoError(t, err)
	require.Len(t, page.Entries, 12)
	for _, e := range page.Entries {
		require.NotContains(t, string(e.Body), "p-1")
		require.NotContains(t, string(e.Body), "forgotten")
	}
}

// A trail that does not take the event does not keep the lock from being one; and nobody unlocks without it.
func TestTrailIsDown(t *testing.T) {
	w := newWorld(t, lockout.Config{Audit: deadTrail{}})
	for range 4 {
		require.True(t, w.wrong(login("a")))
	}
	r := w.reserve(login("a"))
	require.ErrorIs(t, r.Failure(t.Context()), lockout.ErrNotAudited)
	w.locked(login("a"))
	require.ErrorIs(t, w.Unlock(t.Context(), desk, login("a").Account, "because"), errTrail)
	w.locked(login("a"))
}

type deadTrail struct{}

var errTrail = errors.New("the trail is down")

func (deadTrail) Record(context.Context, audit.Event) error { return errTrail }

func TestStatus(t *testing.T) {
	w := newWorld(t, lockout.Config{Profile: lockout.PIN})
	a := from(patron("p-1", "jdoe"), "192.0.2.1")
	device := a
	device.Device = w.Remember(a.Account)
	status := func() lockout.Status {
		s, err := w.Status(t.Context(), a.Account)
		require.NoError(t, err)
		return s
	}
	require.Equal(t, lockout.Status{Left: 5}, status())
	w.guesses(a, 3)
	w.guesses(device, 100)
	require.Equal(t, lockout.Status{Failed: 3, Left: 2, Daily: 3, Lanes: 1, LockedLanes: 1}, status())
	w.guesses(a, 100)
	require.Equal(t, lockout.Status{Failed: 5, Daily: 5, Lanes: 1, LockedLanes: 1, Until: w.clock().Add(15 * time.Minute)}, status())
	o, err := w.Overview(t.Context())
	require.NoError(t, err)
	require.Equal(t, lockout.Overview{Names: 2, Sources: 1, Locked: 1, Last: w.clock().Add(15 * time.Minute)}, o)
	s, err := w.SourceStatus(t.Context(), a.Source)
	require.NoError(t, err)
	require.Equal(t, lockout.Status{Failed: 5, Left: 95}, s) // guesses at a remembered device are not the source's
	w.pass(40 * time.Minute)
	require.Equal(t, lockout.Status{Left: 5, Daily: 5, Lanes: 1}, status())
}

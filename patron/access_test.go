package patron

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

func presetMatrix(t testing.TB) *access.Matrix {
	text, err := access.Preset("default")
	require.NoError(t, err)
	m, err := access.ParseMatrix(text)
	require.NoError(t, err)
	return m
}

// An oracle reads the access file as a tree of words.
type oracle struct {
	Purposes map[string]string
	Roles    map[string]struct {
		BreakGlass []string `yaml:"break-glass"`
		For        map[string]map[string]any
	}
}

func newOracle(t *testing.T) (o oracle) {
	text, err := access.Preset("default")
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, &o))
	return o
}

func (o oracle) level(role, purpose, segment string) string {
	if l, ok := o.Roles[role].For[purpose][segment].(string); ok {
		return l
	}
	return "none"
}

func (o oracle) may(role, purpose, act string) bool {
	list, _ := o.Roles[role].For[purpose]["may"].([]any)
	for _, a := range list {
		if a == act {
			return true
		}
	}
	return false
}

// Every cell of the default matrix, through the directory, against the file read in another way: each segment by itself and all
// together, viewed, changed, created and exported, and each act.
func TestEveryCell(t *testing.T) {
	o := newOracle(t)
	w := newWorld(t)
	ctx := context.Background()
	full := canaries()
	id := w.create(full)
	d := w.again(withAccess(presetMatrix(t)))
	masked := canaries()
	for s := range allSegments.All() {
		masked.mask(s)
	}
	roles, purposes := []string{"", "nobody", "Circulation", "circulation "}, []string{"", "nothing", "CHECKOUT"}
	for r := range o.Roles {
		roles = append(roles, r)
	}
	for p := range o.Purposes {
		purposes = append(purposes, p)
	}
	cells, revealed := 0, 0
	for _, role := range roles {
		for _, purpose := range purposes {
			call := Call{Actor: "staff-1", Role: role, Purpose: purpose, Channel: audit.UI}
			denied := func(allowed bool, err error, what string) {
				t.Helper()
				require.Equal(t, allowed, !errors.Is(err, ErrDenied), "%s for %s: %s: %v", role, purpose, what, err)
			}
			if role == "self" {
				call.Actor, call.Self = "", id
			}
			any := false
			for s := range allSegments.All() {
				cells++
				level := o.level(role, purpose, s.String())
				any = any || level != "none"
				v, err := d.View(ctx, call, id, access.SetOf(s))
				denied(level != "none", err, "view "+s.String())
				if err != nil {
					require.Zero(t, v)
				} else {
					require.Equal(t, access.SetOf(s), v.Present)
					require.Equal(t, level, v.Levels.Of(s).String())
				}
				want := map[string]string{}
				switch level {
				case "full":
					want[s.String()] = full.encode(s).Reveal()
				case "masked":
					want[s.String()] = masked.encode(s).Reveal()
				}
				revealed += len(want)
				require.Equal(t, want, plain(v.Profile), "%s for %s: %v", role, purpose, s)

				var part Profile
				part.take(s, &full)
				err = d.Update(ctx, call, id, Update{Segments: access.SetOf(s), Profile: part})
				denied(o.may(role, purpose, "change") && level == "full", err, "change "+s.String())

				fresh := person()
				fresh.take(access.Names, &Profile{})
				fresh.take(s, &full)
				fresh.Identifiers = []Identifier{{"", secret(fmt.Sprint(role, purpose, s))}}
				_, err = d.Create(ctx, call, fresh)
				denied(role != "self" && o.may(role, purpose, "create") && level == "full" && o.level(role, purpose, "identifiers") == "full", err, "create "+s.String())

				for x, err := range d.Export(ctx, call, Export{Segments: access.SetOf(s), Groups: []string{""}}) {
					denied(o.may(role, purpose, "export") && level != "none", err, "export "+s.String())
					if x.ID == id {
						require.Equal(t, want, plain(x.Profile))
					}
				}
			}
			_, err := d.View(ctx, call, id, 0)
			denied(any, err, "view all")
			_, err = d.Find(ctx, call, secret("nobody's"))
			denied(o.may(role, purpose, "find"), err, "find")
			_, err = d.Resolve(ctx, call, "no token")
			denied(o.may(role, purpose, "resolve"), err, "resolve")
			_, err = d.Import(ctx, call, Source{}, one(), nil)
			denied(role != "self" && o.may(role, purpose, "import"), err, "import")
			denied(role != "self" && o.may(role, purpose, "reindex"), d.Reindex(ctx, call, nil), "reindex")
			_, err = d.Unreviewed(ctx, call)
			denied(role != "self" && o.may(role, purpose, "review"), err, "review")
			for s := range allSegments.All() { // with a reason that is too short: only whether it would be allowed
				_, err = d.BreakGlass(ctx, call, id, access.SetOf(s), secret("no"), 0)
				allowed := false
				if _, ok := o.Roles[role].For[purpose]; ok && role != "self" {
					for _, b := range o.Roles[role].BreakGlass {
						allowed = allowed || b == s.String()
					}
				}
				require.Equal(t, allowed, errors.Is(err, access.ErrNoReason), "%s for %s: %v: %v", role, purpose, s, err)
			}
		}
	}
	require.Equal(t, len(roles)*len(purposes)*access.SegmentCount, cells)
	t.Logf("%d cells, %d of which reveal something", cells, revealed)
}

// A purpose that may import and not see a segment does not write it.
func TestImportRights(t *testing.T) {
	w := newWorld(t, withAccess(presetMatrix(t)))
	ctx := context.Background()
	sync := Call{Actor: "sis", Role: "integration", Purpose: "sync", Channel: audit.SIS}
	p := person("1")
	p.Blocks = []Block{{Use: "fine"}}
	_, err := w.Import(ctx, sync, Source{}, one(p), nil)
	require.ErrorIs(t, err, ErrDenied)
	_, err = w.Import(ctx, sync, Source{Owns: access.SetOf(access.Notes)}, one(person("1")), nil)
	require.ErrorIs(t, err, ErrDenied)
	require.Zero(t, w.store.size())
	in, err := w.Import(ctx, sync, Source{}, one(person("1")), nil)
	require.NoError(t, err)
	require.Equal(t, Imported{Added: 1}, in)
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func TestBreakGlass(t *testing.T) {
	c := &clock{now: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)}
	w := newWorld(t)
	ctx := context.Background()
	p := person("1")
	p.Phones = []Phone{{"home", secret("+46701234567")}}
	id, other := w.create(p), w.create(person("2"))
	d := w.again(withAccess(presetMatrix(t)), withNow(c.Now))
	desk := Call{Actor: "staff-1", Role: "circulation", Purpose: "checkout", Channel: audit.UI}
	phones := access.SetOf(access.Phones)
	reason := secret("left her phone at the desk")
	w.trail.take()
	refused := func(why string, is error, err error) {
		t.Helper()
		require.ErrorIs(t, err, ErrDenied)
		require.ErrorIs(t, err, is)
		events := w.trail.take()
		require.NotEmpty(t, events)
		e := events[len(events)-1]
		require.Equal(t, []any{audit.Denied, why}, []any{e.Outcome, e.Why})
	}
	grant := func(call Call, id ID, s access.Set, reason string, length time.Duration) error {
		g, err := d.BreakGlass(ctx, call, id, s, secret(reason), length)
		if err != nil {
			require.Zero(t, g)
		}
		return err
	}
	refused("no-right", access.ErrNotAllowed, grant(desk, id, access.SetOf(access.Birth), reason.Reveal(), 0))
	refused("no-right", access.ErrNotAllowed, grant(desk, id, 0, reason.Reveal(), 0))
	refused("no-reason", access.ErrNoReason, grant(desk, id, phones, "", 0))
	refused("too-long", access.ErrTooLong, grant(desk, id, phones, reason.Reveal(), 16*time.Minute))
	refused("too-long", access.ErrTooLong, grant(desk, id, phones, reason.Reveal(), -1))
	refused("no-patron", access.ErrNoSubject, grant(desk, ID{}, phones, reason.Reveal(), 0))
	require.ErrorIs(t, grant(desk, NewID(), phones, reason.Reveal(), 0), ErrNotFound)
	require.Equal(t, audit.NotFound, w.trail.take()[0].Outcome)

	g, err := d.BreakGlass(ctx, desk, id, phones, reason, 0)
	require.NoError(t, err)
	e := w.trail.take()[0]
	require.Equal(t, []any{audit.BreakGlass, audit.Done, g.ID, reason.Reveal()}, []any{e.Action, e.Outcome, e.Grant, e.Subjects[0].Note.Reveal()})
	view := func(change func(*Call), id ID) error {
		call := desk
		call.Grant = g.ID
		if change != nil {
			change(&call)
		}
		v, err := d.View(ctx, call, id, phones)
		if err != nil {
			require.Zero(t, v)
		}
		return err
	}
	require.NoError(t, view(nil, id))
	require.Equal(t, g.ID, w.trail.take()[0].Grant)
	_, err = d.View(ctx, desk, id, phones) // without naming it, a grant opens nothing
	require.ErrorIs(t, err, ErrDenied)
	w.trail.take()
	refused("grant-for-another-patron", access.ErrOtherSubject, view(nil, other))
	refused("grant-of-another", access.ErrOtherActor, view(func(c *Call) { c.Actor = "staff-2" }, id))
	refused("grant-for-another-role", access.ErrOtherRole, view(func(c *Call) { c.Role = "patron-services" }, id))
	refused("grant-for-another-purpose", access.ErrOtherPurpose, view(func(c *Call) { c.Purpose = "overdue" }, id))
	refused("no-such-grant", ErrNotFound, view(func(c *Call) { c.Grant = NewID().String() }, id))
	refused("no-such-grant", ErrNotFound, view(func(c *Call) { c.Grant = "a name, say" }, id))
	update := desk
	update.Grant = g.ID
	require.ErrorIs(t, d.Update(ctx, update, id, Update{Segments: phones}), ErrDenied, "what a grant opens is to be looked at")
	w.trail.take()

	// Whoever has the database cannot stretch a grant, nor write one.
	real, _ := w.store.Grant(ctx, g.ID)
	for _, forge := range []func(*Grant){
		func(g *Grant) { g.Segments = allSegments },
		func(g *Grant) { g.Until = g.Until.Add(-time.Minute) },
		func(g *Grant) { g.Issued = g.Issued.Add(time.Minute) },
		func(g *Grant) { g.Reason[len(g.Reason)-1] ^= 1 },
		func(g *Grant) { g.Reason = nil },
	} {
		forged := real
		forged.Reason = append([]byte(nil), real.Reason...)
		forge(&forged)
		w.store.grants[g.ID] = forged
		c.forward(2 * time.Minute)
		refused("grant-invalid", crypto.ErrNotAuthentic, view(nil, id))
		c.forward(-2 * time.Minute)
	}
	w.store.grants[g.ID] = real

	refused("unreviewed", access.ErrUnreviewed, grant(desk, other, phones, reason.Reveal(), 0))
	c.forward(15*time.Minute - time.Microsecond)
	require.NoError(t, view(nil, id))
	w.trail.take()
	c.forward(time.Microsecond)
	refused("grant-expired", access.ErrExpired, view(nil, id))
	c.forward(time.Minute)
	refused("grant-expired", access.ErrExpired, view(nil, id))
	refused("unreviewed", access.ErrUnreviewed, grant(desk, other, phones, reason.Reveal(), 0))

	review := Call{Actor: "staff-9", Role: "reviewer", Purpose: "review", Channel: audit.UI}
	own := review
	own.Actor = desk.Actor
	refused("own-review", access.ErrOwnReview, d.Review(ctx, own, g.ID))
	require.ErrorIs(t, d.Review(ctx, desk, g.ID), ErrDenied)
	pending, err := d.Unreviewed(ctx, review)
	require.NoError(t, err)
	require.Len(t, pending, 1)
	require.Equal(t, reason.Reveal(), pending[0].Reason.Reveal())
	require.ErrorIs(t, d.Review(ctx, review, NewID().String()), ErrNotFound)
	require.NoError(t, d.Review(ctx, review, g.ID))
	w.trail.take()
	refused("reviewed-already", ErrReviewed, d.Review(ctx, review, g.ID))
	pending, err = d.Unreviewed(ctx, review)
	require.NoError(t, err)
	require.Empty(t, pending)
	require.NoError(t, grant(desk, other, phones, reason.Reveal(), time.Minute))

	// The reason of somebody who was forgotten is gone, and the review goes on.
	require.NoError(t, d.cfg.Keys.Shred(ctx, other.Subject()))
	pending, err = d.Unreviewed(ctx, review)
	require.NoError(t, err)
	require.True(t, pending[0].Reason.IsEmpty())
}

// Of 50 grants asked for at once, one is given.
func TestBreakGlassRace(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	id := w.create(person("1"))
	w.trail.take()
	var wg sync.WaitGroup
	var mu sync.Mutex
	given := 0
	for range 50 {
		wg.Go(func() {
			g, err := w.BreakGlass(ctx, anyone, id, allSegments, secret("somebody has fainted here"), 0)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				given++
				return
			}
			require.Zero(t, g)
			require.ErrorIs(t, err, access.ErrUnreviewed)
			require.ErrorIs(t, err, ErrDenied)
		})
	}
	wg.Wait()
	require.Equal(t, 1, given)
	denied := 0
	for _, e := range w.trail.take() {
		if e.Outcome == audit.Denied {
			require.Equal(t, "unreviewed", e.Why)
			denied++
		}
	}
	require.Equal(t, 49, denied)
}

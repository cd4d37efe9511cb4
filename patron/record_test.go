package patron

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// calls are the calls that reveal or change something. Each returns whether anything came out of it.
func calls(w *world, id ID, names Lookup) map[string]func(context.Context) (revealed bool, err error) {
	return map[string]func(context.Context) (bool, error){
		"View": func(ctx context.Context) (bool, error) {
			v, err := w.View(ctx, anyone, id, 0)
			return !v.ID.IsZero() || len(plain(v.Profile)) > 0 || v.Present != 0 || v.Version != 0, err
		},
		"Find": func(ctx context.Context) (bool, error) {
			id, err := w.Find(ctx, anyone, secret("1"))
			return !id.IsZero(), err
		},
		"FindBy": func(ctx context.Context) (bool, error) {
			ids, err := w.FindBy(ctx, anyone, names.Index().Name(), secret("Svensson"), secret("1984-02-29"))
			return len(ids) > 0, err
		},
		"Find nobody": func(ctx context.Context) (bool, error) {
			_, err := w.Find(ctx, anyone, secret("nobody's"))
			return errors.Is(err, ErrNotFound) && !errors.Is(err, ErrNotRecorded) && ctx.Err() == nil, err
		},
		"Resolve": func(ctx context.Context) (bool, error) {
			id, err := w.Resolve(ctx, anyone, w.token(id.String()))
			return !id.IsZero(), err
		},
		"Export": func(ctx context.Context) (out bool, err error) {
			for x, e := range w.Export(ctx, anyone, Export{Segments: allSegments}) {
				out, err = out || !x.ID.IsZero() || len(plain(x.Profile)) > 0, errors.Join(err, e)
			}
			return out, err
		},
		"Create": func(ctx context.Context) (bool, error) {
			id, err := w.Create(ctx, anyone, person("new"))
			return !id.IsZero(), err
		},
		"Update": func(ctx context.Context) (bool, error) {
			return false, w.Update(ctx, anyone, id, Update{Segments: access.SetOf(access.Phones), Profile: Profile{Phones: []Phone{{Number: secret("+4670")}}}})
		},
		"Import": func(ctx context.Context) (bool, error) {
			in, err := w.Import(ctx, anyone, Source{}, one(person("1"), person("7")), nil)
			return in.Added+in.Updated+in.Same > 0, err
		},
		"Reindex": func(ctx context.Context) (bool, error) { return false, w.Reindex(ctx, anyone, nil) },
		"BreakGlass": func(ctx context.Context) (bool, error) {
			g, err := w.BreakGlass(ctx, anyone, id, allSegments, secret("somebody has fainted here"), 0)
			return g.ID != "", err
		},
		"Unreviewed": func(ctx context.Context) (bool, error) {
			list, err := w.Unreviewed(ctx, anyone)
			return len(list) > 0, err
		},
	}
}

func birthLookup(t testing.TB) Lookup {
	l, err := NewLookup("name and birth", "names.last", "birth.date")
	require.NoError(t, err)
	return l
}

// A trail that cannot be written, for whatever reason, lets nothing out and nothing in.
func TestNoRecordNoReveal(t *testing.T) {
	names := birthLookup(t)
	w := newWorld(t, withLookups(names))
	ctx := context.Background()
	p := person("1")
	p.Birth = secret("1984-02-29")
	id := w.create(p)
	require.NoError(t, w.Reindex(ctx, anyone, nil))
	_, err := w.BreakGlass(ctx, Call{Actor: "other", Role: "any", Purpose: "any", Channel: audit.UI}, id, allSegments, secret("somebody has fainted here"), 0)
	require.NoError(t, err)
	snapshot := func() any {
		w.store.mu.Lock()
		defer w.store.mu.Unlock()
		return []any{maps.Clone(w.store.rows), w.store.indexed, maps.Clone(w.store.grants)}
	}
	before := snapshot()
	for name, call := range calls(w, id, names) {
		t.Run(name, func(t *testing.T) {
			w.trail.hooked(func(context.Context, audit.Event) error { return errors.New("disk full") })
			out, err := call(ctx)
			require.False(t, out)
			require.ErrorIs(t, err, ErrNotRecorded)

			w.trail.hooked(func(ctx context.Context, _ audit.Event) error {
				<-ctx.Done()
				return ctx.Err()
			})
			short, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			out, err = call(short)
			require.False(t, out)
			require.ErrorIs(t, err, context.DeadlineExceeded)

			w.trail.hooked(func(context.Context, audit.Event) error { panic("out of order") })
			require.PanicsWithValue(t, "out of order", func() { call(ctx) })

			w.trail.hooked(nil)
			canceled, cancel2 := context.WithCancel(ctx)
			cancel2()
			out, err = call(canceled)
			require.False(t, out)
			require.ErrorIs(t, err, context.Canceled)
			require.Equal(t, before, snapshot())
		})
	}
	for name, call := range calls(w, id, names) {
		if name == "Find nobody" || name == "Unreviewed" {
			continue
		}
		_, err := call(ctx) // afterwards everything works again, without a restart
		require.NoError(t, err, name)
	}
}

// What is recorded as done and then fails is recorded as failed, but not for ever.
func TestFailedIsRecorded(t *testing.T) {
	w := newWorld(t)
	w.create(person("1"))
	w.trail.take()
	_, err := w.Create(context.Background(), anyone, person("1"))
	require.ErrorIs(t, err, ErrDuplicate)
	events := w.trail.take()
	require.Len(t, events, 2)
	require.Equal(t, audit.Done, events[0].Outcome)
	require.Equal(t, audit.Failed, events[1].Outcome)
	require.Equal(t, events[0].Subjects[0].ID, events[1].Subjects[0].ID)

	synctest.Test(t, func(t *testing.T) {
		first := true
		w.trail.hooked(func(ctx context.Context, _ audit.Event) error {
			if first {
				first = false
				return nil
			}
			<-ctx.Done() // a trail that hangs
			return ctx.Err()
		})
		_, err := w.Create(context.Background(), anyone, person("1"))
		require.ErrorIs(t, err, ErrDuplicate)
	})
}

// Each reveal has its event, which names who, in which role, what for, on which way, whom and exactly what, and which was durable before
// the first key was asked for and before the first row was written.
func TestRecordedBefore(t *testing.T) {
	matrix := presetMatrix(t)
	w := newWorld(t)
	rapid.Check(t, func(t *rapid.T) {
		p := drawProfile(t)
		id, err := w.Create(context.Background(), anyone, p)
		require.NoError(t, err)
		// A directory of another process: it has no keys in its cache.
		role := rapid.SampledFrom(matrix.Roles()).Draw(t, "role")
		purpose := rapid.SampledFrom(matrix.Purposes()).Draw(t, "purpose")
		channel := rapid.SampledFrom([]audit.Channel{audit.UI, audit.API, audit.Job}).Draw(t, "channel")
		asked := access.Set(rapid.Uint16Range(0, 1<<access.SegmentCount-1).Draw(t, "asked"))
		cold := w.again(withAccess(matrix))
		w.store.log.take()
		w.trail.take()
		call := Call{Actor: "staff-3", Role: role, Purpose: purpose, Channel: channel}
		v, err := cold.View(context.Background(), call, id, asked)
		events, ops := w.trail.take(), w.store.log.take()
		require.Len(t, events, 1)
		e := events[0]
		require.Equal(t, []any{audit.View, "staff-3", role, purpose, channel}, []any{e.Action, e.Actor, e.Role, e.Purpose, e.Channel})
		require.Equal(t, []audit.Subject{{ID: id.Subject()}}, e.Subjects)
		if err != nil {
			require.ErrorIs(t, err, ErrDenied)
			require.Equal(t, audit.Denied, e.Outcome)
			require.Equal(t, []string{"record denied"}, ops, "not even that there is such a patron")
			require.Empty(t, e.Segments)
			return
		}
		require.Equal(t, audit.Done, e.Outcome)
		require.Equal(t, v.Present.Names(), e.Segments)
		require.Zero(t, v.Profile.Segments()&^v.Present)
		require.Equal(t, []string{"get", "record done"}, ops[:2], "then the key, and only then")
	})

	w.store.log.take()
	w.trail.take()
	cold := w.again()
	id := cold.create(person("written"))
	require.Equal(t, []string{"key", "key", "find", "put keys", "record done", "write"}, w.store.log.take(), "at first, whose the store is and whether it is too old")
	cold = w.again()
	w.store.log.take()
	n := 0
	for range cold.Export(context.Background(), anyone, Export{Segments: allSegments}) {
		n++
	}
	ops := w.store.log.take()
	require.Equal(t, []string{"rows", "record done", "key"}, ops[:3])
	events := w.trail.take()
	require.Equal(t, n, events[len(events)-1].Count)
	require.NoError(t, cold.Update(context.Background(), anyone, id, Update{Segments: access.SetOf(access.Names)}))
	ops = w.store.log.take()
	require.Less(t, slices.Index(ops, "record done"), slices.Index(ops, "write"))
	u := w.trail.take()[0]
	require.Equal(t, []string{"names"}, u.Segments)
	require.Equal(t, "names", u.Subjects[0].Changes[0].Segment)
	require.Contains(t, u.Subjects[0].Changes[0].Before.Reveal(), "Svensson")
	require.True(t, u.Subjects[0].Changes[0].After.IsEmpty())
}

// An update and an import that find everything as it should be tell who is there, and so leave a trace.
func TestNothingChangedIsRecorded(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	id := w.create(person("1"))
	w.trail.take()
	require.NoError(t, w.Update(ctx, anyone, id, Update{Segments: access.SetOf(access.Names), Profile: person()}))
	require.Equal(t, uint64(1), w.store.row(id).Version)
	require.Len(t, w.trail.take(), 1)
	in, err := w.Import(ctx, anyone, Source{}, one(person("1")), nil)
	require.NoError(t, err)
	require.Equal(t, Imported{Same: 1}, in)
	events := w.trail.take()
	require.Len(t, events, 1)
	require.Zero(t, events[0].Count)
	require.ErrorIs(t, w.Update(ctx, anyone, id, Update{Version: 9, Segments: access.SetOf(access.Names)}), ErrConflict)
	require.Equal(t, audit.Failed, w.trail.take()[0].Outcome)
}

// With Version 0 an update is tried again when it loses a race; with a version it is not.
func TestUpdateRace(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	id := w.create(person("1"))
	lose := 0
	w.store.hooked(func(op string) error {
		if op == "write" && lose > 0 {
			lose--
			return &ConflictError{id}
		}
		return nil
	})
	lose = attempts - 1
	require.NoError(t, w.Update(ctx, anyone, id, Update{Segments: access.SetOf(access.Birth), Profile: Profile{Birth: secret("1984-02-29")}}))
	lose = attempts
	require.ErrorIs(t, w.Update(ctx, anyone, id, Update{Segments: access.SetOf(access.Birth)}), ErrConflict)
	lose = 1
	require.ErrorIs(t, w.Update(ctx, anyone, id, Update{Version: 2, Segments: access.SetOf(access.Birth)}), ErrConflict)
	require.Zero(t, lose)
	require.NoError(t, w.Update(ctx, anyone, id, Update{Version: 2, Segments: access.SetOf(access.Birth)}))
}

// A patron who acts for themself is a subject and no actor, reaches nobody else, and does not prolong their account.
func TestSelf(t *testing.T) {
	lookup, err := NewLookup("mail", "emails.address")
	require.NoError(t, err)
	w := newWorld(t, withLookups(lookup))
	ctx := context.Background()
	me, you := w.create(person("me")), w.create(person("you"))
	require.NoError(t, w.Reindex(ctx, anyone, nil))
	call := Call{Role: "self", Purpose: "self-service", Channel: audit.Self, Self: me}
	w.trail.take()
	refused := func(err error, why string) {
		t.Helper()
		var denied *DeniedError
		require.ErrorAs(t, err, &denied)
		require.Equal(t, why, denied.Why)
		events := w.trail.take()
		require.Len(t, events, 1)
		require.Equal(t, audit.Denied, events[0].Outcome)
		require.Equal(t, why, events[0].Why)
		require.Empty(t, events[0].Actor)
		require.Equal(t, me.Subject(), events[0].Subjects[0].ID)
	}
	_, err = w.View(ctx, call, you, 0)
	refused(err, "not-own")
	refused(w.Update(ctx, call, you, Update{}), "not-own")
	_, err = w.Create(ctx, call, person("x"))
	refused(err, "not-own")
	_, err = w.Import(ctx, call, Source{}, one(person("x")), nil)
	refused(err, "not-own")
	refused(w.Reindex(ctx, call, nil), "not-own")
	_, err = w.BreakGlass(ctx, call, me, allSegments, secret("I want to see it all"), 0)
	refused(err, "not-own")
	_, err = w.Unreviewed(ctx, call)
	refused(err, "not-own")
	refused(w.Review(ctx, call, NewID().String()), "not-own")
	refused(w.Update(ctx, call, me, Update{Facts: &Facts{Group: "professor"}}), "no-right")
	refused(w.Update(ctx, call, me, Update{Facts: &Facts{Expires: time.Now()}}), "no-right")

	require.NoError(t, w.Update(ctx, call, me, Update{Facts: &Facts{Wish: WishForget}}))
	require.Equal(t, WishForget, w.store.row(me).Facts.Wish)
	require.Equal(t, []audit.Subject{{ID: me.Subject(), Version: w.store.row(me).Version}}, w.trail.take()[0].Subjects)
	for _, reference := range []string{you.String(), "barcode:you"} {
		_, err = w.Resolve(ctx, call, w.token(reference))
		require.ErrorIs(t, err, ErrNotFound)
	}
	_, err = w.Find(ctx, call, secret("you"))
	require.ErrorIs(t, err, ErrNotFound)
	found, err := w.Find(ctx, call, secret("me"))
	require.NoError(t, err)
	require.Equal(t, me, found)
	v, err := w.View(ctx, call, me, 0)
	require.NoError(t, err)
	require.Equal(t, me, v.ID)
	w.trail.take()
	var got []ID
	for x, err := range w.Export(ctx, call, Export{Segments: allSegments}) {
		require.NoError(t, err)
		got = append(got, x.ID)
	}
	require.Equal(t, []ID{me}, got, "of all patrons, their own record")
	require.Equal(t, []audit.Subject{{ID: me.Subject()}}, w.trail.take()[0].Subjects)

	for _, nobody := range []Call{{Channel: audit.UI}, {Role: "any", Purpose: "any", Channel: audit.UI}, {Actor: "staff", Self: me, Channel: audit.UI}} {
		_, err := w.View(ctx, nobody, me, 0)
		require.ErrorContains(t, err, "no-actor")
	}
}

// No event holds personal data but in the secrets of its subjects.
func TestEventsNameNobody(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	in, err := w.Import(ctx, anyone, Source{Owns: allSegments}, one(canaries()), nil)
	require.NoError(t, err)
	require.Equal(t, 1, in.Added)
	id, err := w.Find(ctx, anyone, canaries().Identifiers[0].Value)
	require.NoError(t, err)
	_, err = w.Import(ctx, anyone, Source{Owns: allSegments}, one(Profile{Identifiers: canaries().Identifiers}), nil)
	require.NoError(t, err)
	_, err = w.BreakGlass(ctx, anyone, id, allSegments, secret(canary+" needs help quickly"), 0)
	require.NoError(t, err)
	events := w.trail.take()
	require.Len(t, events, 4)
	require.Len(t, events[2].Subjects[0].Changes, access.SegmentCount-1)
	require.Contains(t, events[3].Subjects[0].Note.Reveal(), canary)
	for _, e := range events {
		requireNoCanary(t, e)
	}
}

type brokenDecider struct{}

func (brokenDecider) Decide(context.Context, access.Request) (access.Decision, error) {
	d, _ := everything{}.Decide(context.Background(), access.Request{})
	return d, errors.New("cannot reach the policy server")
}

// A decider that fails has allowed nothing, whatever else it returns.
func TestDeciderFails(t *testing.T) {
	names := birthLookup(t)
	good := newWorld(t, withLookups(names))
	id := good.create(person("1"))
	w := good.again(withAccess(brokenDecider{}), withLookups(names))
	for name, call := range calls(w, id, names) {
		good.trail.take()
		good.store.log.take()
		out, err := call(context.Background())
		require.False(t, out, name)
		require.ErrorIs(t, err, ErrDenied, name)
		require.ErrorContains(t, err, "policy server")
		require.Equal(t, []string{"record denied"}, good.store.log.take(), name)
	}
}

// A store that fails is passed on, and nothing comes out.
func TestStoreFails(t *testing.T) {
	names := birthLookup(t)
	for op, least := range map[string]int{"get": 4, "find": 4, "write": 3, "rows": 1, "key": 4, "put keys": 2, "add grant": 1, "unreviewed": 2} {
		good := newWorld(t, withLookups(names))
		p := person("1")
		p.Birth = secret("1984-02-29")
		id := good.create(p)
		require.NoError(t, good.Reindex(context.Background(), anyone, nil))
		failed := 0
		for name := range calls(good, id, names) {
			w := good.again(withLookups(names)) // with an empty cache
			down := errors.New("the store is down")
			good.store.hooked(func(o string) error {
				if o == op {
					return down
				}
				return nil
			})
			out, err := calls(w, id, names)[name](context.Background())
			good.store.hooked(nil)
			if errors.Is(err, down) {
				require.False(t, out, "%s, %s", name, op)
				failed++
			}
		}
		require.GreaterOrEqual(t, failed, least, op)
	}
}

func TestNew(t *testing.T) {
	w := newWorld(t)
	l := birthLookup(t)
	good := Config{Store: w.store, Keys: w.keys, Access: everything{}, Recorder: w.trail}
	for _, c := range []struct {
		want  string
		spoil func(*Config)
	}{
		{"Config.Store", func(c *Config) { c.Store = nil }},
		{"Config.Keys", func(c *Config) { c.Keys = nil }},
		{"Config.Access", func(c *Config) { c.Access = nil }},
		{"Config.Recorder", func(c *Config) { c.Recorder = nil }},
		{"Config.Lookups", func(c *Config) { c.Lookups = []Lookup{{}} }},
		{"Config.Lookups", func(c *Config) { c.Lookups = []Lookup{l, l} }},
	} {
		cfg := good
		c.spoil(&cfg)
		_, err := New(cfg)
		require.ErrorContains(t, err, c.want)
	}
	d, err := New(good)
	require.NoError(t, err)
	_, err = d.BreakGlass(context.Background(), anyone, NewID(), allSegments, crypto.Secret{}, 0)
	require.ErrorIs(t, err, errNoGrants)
}

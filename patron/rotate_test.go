package patron

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/crypto"
)

func TestNewLookup(t *testing.T) {
	for _, c := range []struct {
		fields []string
		ok     bool
	}{
		{[]string{"emails.address"}, true},
		{[]string{"phones.number"}, true},
		{[]string{"names.last", "birth.date"}, true},
		{[]string{"birth.date", "names.last"}, true},
		{[]string{"names.last", "birth.date", "names.first"}, true},
		{[]string{"emails.address", "birth.date"}, true},
		{[]string{"birth.date"}, false},
		{[]string{"names.last"}, false},
		{[]string{"names.first"}, false},
		{[]string{"names.first", "names.middle"}, false},
		{[]string{"names.last", "names.last"}, false},
		{[]string{"addresses.postcode", "birth.date"}, false},
		{[]string{"emails.address", "emails.address"}, false},
		{[]string{"addresses.city"}, false},
		{[]string{"campus.name"}, false},
		{[]string{"emails"}, false},
		{[]string{"emails.number"}, false},
		{nil, false},
	} {
		_, err := NewLookup("birth-year", c.fields...)
		require.Equal(t, c.ok, err == nil, "%v: %v", c.fields, err)
	}
	for _, f := range []string{"birth.date", "names.last"} {
		_, err := NewLookup("x", f)
		require.ErrorIs(t, err, crypto.ErrLowEntropy)
	}
	_, err := NewLookup(crypto.IndexIdentifier, "emails.address")
	require.Error(t, err)
}

// Fields of one segment are taken from one entry, wherever they stand in the lookup; those of several are combined.
func TestLookupCombines(t *testing.T) {
	l, err := NewLookup("who", "names.first", "emails.address", "names.last")
	require.NoError(t, err)
	w := newWorld(t, withLookups(l))
	ctx := context.Background()
	p := person("1")
	p.Names = []Name{{First: secret("Anna"), Last: secret("Berg")}, {First: secret("Ana"), Last: secret("Monte")}, {Last: secret("Only")}}
	p.Emails = []Email{{Address: secret("a@example.org")}, {Address: secret("B@example.org")}}
	id := w.create(p)
	twin := w.create(Profile{Identifiers: person("2").Identifiers, Names: p.Names[:1], Emails: p.Emails[:1]})
	find := func(values ...string) []ID {
		var s []crypto.Secret
		for _, v := range values {
			s = append(s, secret(v))
		}
		ids, err := w.FindBy(ctx, anyone, "who", s...)
		if err != nil {
			require.ErrorIs(t, err, ErrNotFound)
		}
		return ids
	}
	_, err = w.FindBy(ctx, anyone, "who", secret("Anna"), secret("a@example.org"), secret("Berg"))
	require.ErrorIs(t, err, ErrNotReady, "a directory that has patrons, and a lookup that is new")
	require.NoError(t, w.Reindex(ctx, anyone, nil))
	require.ElementsMatch(t, []ID{id, twin}, find("ANNA", "A@example.org", "berg"))
	require.Equal(t, []ID{id}, find("Ana", "b@example.org", "Monte"))
	require.Empty(t, find("Anna", "a@example.org", "Monte"), "of two names")
	require.Empty(t, find("", "a@example.org", "Only"))
	_, err = w.FindBy(ctx, anyone, "who", secret("Anna"))
	require.Error(t, err)
	_, err = w.FindBy(ctx, anyone, "nothing", secret("Anna"))
	require.Error(t, err)

	// Whom a value finds tells the value: who may not see it may not look for it.
	desk := w.again(withAccess(presetMatrix(t)), withLookups(l))
	_, err = desk.FindBy(ctx, Call{Actor: "s", Role: "circulation", Purpose: "checkout", Channel: anyone.Channel}, "who", secret("Anna"), secret("a@example.org"), secret("Berg"))
	require.ErrorIs(t, err, ErrDenied)

	// Too many combinations are refused when they are written. When they are there already, they are indexed: a rotation has to end.
	many := person("3")
	for i := range 40 {
		many.Names = append(many.Names, Name{First: secret("F"), Last: secret(fmt.Sprint("L", i))})
		many.Emails = append(many.Emails, Email{Address: secret(fmt.Sprint("e", i, "@example.org"))})
	}
	_, err = w.Create(ctx, anyone, many)
	require.ErrorIs(t, err, errManyCombinations)
	in, err := w.Import(ctx, anyone, Source{}, one(many, person("4")), nil)
	require.NoError(t, err)
	require.Equal(t, 1, in.Added)
	require.Len(t, in.Refused, 1)
	_, err = w.again().Create(ctx, anyone, many)
	require.ErrorIs(t, err, errManyCombinations, "the keyring knows the lookup, whatever the Config")

	before := newWorld(t)
	id = before.create(many)
	w = before.again(withLookups(l))
	require.NoError(t, w.Reindex(ctx, anyone, nil))
	require.NoError(t, w.keys.RotateIndex(ctx, "who"))
	require.NoError(t, w.Reindex(ctx, anyone, nil))
	require.Equal(t, []ID{id}, find("F", "e39@example.org", "L39"))
	require.ErrorIs(t, w.Update(ctx, anyone, id, Update{Segments: access.SetOf(access.Emails), Profile: many}), errManyCombinations)
}

// A program that knows nothing of a lookup that another one has added keeps it up to date all the same.
func TestLookupsOfOthers(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, withLookups(birthLookup(t)))
	require.NoError(t, w.Reindex(ctx, anyone, nil))
	other := w.again()
	name := birthLookup(t).index.Name()
	p := person("1")
	p.Birth = secret("1984-02-29")
	id := other.create(p)
	for _, d := range []*world{w, other} {
		ids, err := d.FindBy(ctx, anyone, name, secret("Svensson"), secret("1984-02-29"))
		require.NoError(t, err)
		require.Equal(t, []ID{id}, ids)
	}
	require.NoError(t, other.keys.RotateIndex(ctx, crypto.IndexIdentifier))
	require.NoError(t, other.Reindex(ctx, anyone, nil))
	p.Birth = secret("1985-03-01")
	require.NoError(t, other.Update(ctx, anyone, id, Update{Segments: access.SetOf(access.Birth), Profile: p}))
	_, err := w.FindBy(ctx, anyone, name, secret("Svensson"), secret("1984-02-29"))
	require.ErrorIs(t, err, ErrNotFound)
	ids, err := w.FindBy(ctx, anyone, name, secret("Svensson"), secret("1985-03-01"))
	require.NoError(t, err)
	require.Equal(t, []ID{id}, ids)

	// Another index of the same name is refused.
	l, err := NewLookup(name, "emails.address")
	require.NoError(t, err)
	require.ErrorContains(t, w.again(withLookups(l)).Reindex(ctx, anyone, nil), "over other fields")
}

// A database that is restored from before an index was rotated has no tokens that anybody looks for: it finds nobody and would
// give identifiers twice. It is refused until the tokens are written anew.
func TestOldDatabase(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	id := w.create(person("1"))
	old, err := w.store.Get(ctx, id)
	require.NoError(t, err)
	require.NoError(t, w.keys.RotateIndex(ctx, crypto.IndexIdentifier))
	require.NoError(t, w.Reindex(ctx, anyone, nil))

	empty := newMemory()
	empty.keys = w.store.keys
	require.NoError(t, empty.Write(ctx, Batch{Indexed: old.Indexed, Writes: []Write{{Row: old}}}))
	w.store = empty
	restored := w.again()
	_, err = restored.Find(ctx, anyone, secret("1"))
	require.ErrorIs(t, err, ErrOldDatabase)
	_, err = restored.Create(ctx, anyone, person("1"))
	require.ErrorIs(t, err, ErrOldDatabase)
	_, err = restored.Import(ctx, anyone, Source{}, one(person("1")), nil)
	require.ErrorIs(t, err, ErrOldDatabase)

	// One that is interrupted leaves everybody refused, here and in other processes, until it is done.
	other := w.again()
	w.store.hooked(func(op string) error {
		if op == "rows" {
			return errors.New("killed")
		}
		return nil
	})
	require.Error(t, restored.keys.RotateIndex(canceled(), crypto.IndexIdentifier))
	require.Error(t, restored.Reindex(ctx, anyone, nil))
	w.store.hooked(func(op string) error {
		if op == "rows" && w.store.indexed > 2 {
			return errors.New("killed")
		}
		return nil
	})
	require.Error(t, restored.Reindex(ctx, anyone, nil))
	w.store.hooked(nil)
	for _, d := range []*world{restored, other, w.again()} {
		_, err = d.Find(ctx, anyone, secret("1"))
		require.ErrorIs(t, err, ErrNotReady)
		_, err = d.Create(ctx, anyone, person("1"))
		require.ErrorIs(t, err, ErrNotReady)
		_, err = d.Import(ctx, anyone, Source{}, one(person("1")), nil)
		require.ErrorIs(t, err, ErrNotReady)
	}
	require.NoError(t, restored.Reindex(ctx, anyone, nil))
	found, err := restored.Find(ctx, anyone, secret("1"))
	require.NoError(t, err)
	require.Equal(t, id, found)
	_, err = restored.Create(ctx, anyone, person("1"))
	require.ErrorIs(t, err, ErrDuplicate)
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// Keys are rotated, again and again, while others create, change and look up through two processes' directories. Whoever was created and
// acknowledged is found by every identifier by both, nobody's identifier is given twice, and a Reindex that was killed goes on.
func TestRotateUnderTraffic(t *testing.T) {
	names := birthLookup(t)
	w := newWorld(t, withLookups(names))
	ctx := context.Background()
	directories := []*world{w, w.again(withLookups(names))}
	for i := range 2*reindexPage + 50 {
		w.create(person(fmt.Sprint("old", i)))
	}
	require.NoError(t, w.Reindex(ctx, anyone, nil))
	w.store.log.take()

	var stop atomic.Bool
	var found, missed, twice, killed atomic.Int64
	var wg sync.WaitGroup
	for writer := range 4 {
		wg.Go(func() {
			mine := map[ID][]string{}
			var known []ID
			for i := 0; !stop.Load(); i++ {
				a, b := directories[i%2], directories[rand.IntN(2)]
				p := person(fmt.Sprint("w", writer, "-", i), fmt.Sprint("u", writer, "-", i))
				p.Names[0].Last, p.Birth = secret(fmt.Sprint("Last", writer, "-", i)), secret("1984-02-29")
				id, err := a.Create(ctx, anyone, p)
				if !errors.Is(err, nil) {
					t.Errorf("create: %v", err)
					return
				}
				known = append(known, id)
				mine[id] = []string{fmt.Sprint("w", writer, "-", i), fmt.Sprint("u", writer, "-", i)}
				if _, err := b.Create(ctx, anyone, person(fmt.Sprint("fresh", writer, "-", i), fmt.Sprint("U", writer, "- ", i))); !errors.Is(err, ErrDuplicate) {
					twice.Add(1)
				}
				if i%3 == 0 { // an identifier more, for somebody
					id := known[rand.IntN(len(known))]
					next := append(mine[id][:1:1], fmt.Sprint("n", writer, "-", i))
					if err := b.Update(ctx, anyone, id, Update{Segments: access.SetOf(access.Identifiers), Profile: person(next...)}); err != nil {
						t.Errorf("update: %v", err)
						return
					}
					mine[id] = next
				}
				for range 3 {
					id := known[rand.IntN(len(known))]
					for _, d := range directories {
						for _, identifier := range mine[id] {
							if got, err := d.Find(ctx, anyone, secret(identifier)); err != nil || got != id {
								missed.Add(1)
							}
							found.Add(1)
						}
					}
				}
				got, err := b.FindBy(ctx, anyone, names.Index().Name(), secret(fmt.Sprint("last", writer, "-", i)), secret("1984-02-29"))
				if err != nil || len(got) != 1 || got[0] != id {
					missed.Add(1)
				}
				old := fmt.Sprint("old", rand.IntN(2*reindexPage+50))
				if _, err := b.Find(ctx, anyone, secret(old)); err != nil {
					missed.Add(1)
				}
			}
		})
	}
	const rotations = 5
	for round := range rotations {
		d := directories[round%2]
		require.NoError(t, d.keys.RotateIndex(ctx, []string{crypto.IndexIdentifier, names.Index().Name()}[round%2]))
		// Killed at a page of chance, and then by two at once.
		short, cancel := context.WithCancel(ctx)
		pages := rand.IntN(5)
		err := d.Reindex(short, anyone, func(int) {
			if pages--; pages < 0 {
				cancel()
			}
		})
		cancel()
		if err != nil {
			require.ErrorIs(t, err, context.Canceled)
			killed.Add(1)
		}
		var both sync.WaitGroup
		for _, d := range directories {
			both.Go(func() {
				if err := d.Reindex(ctx, anyone, nil); err != nil {
					t.Errorf("reindex: %v", err)
				}
			})
		}
		both.Wait()
		time.Sleep(10 * time.Millisecond)
	}
	stop.Store(true)
	wg.Wait()
	require.NoError(t, w.Reindex(ctx, anyone, nil))
	t.Logf("%d patrons, %d rotations, %d killed, %d look-ups: %d missed, %d duplicates", w.store.size(), rotations, killed.Load(), found.Load(), missed.Load(), twice.Load())
	require.Zero(t, missed.Load())
	require.Zero(t, twice.Load())
	require.Positive(t, killed.Load())

	// Old tokens are gone: each row has those of the newest keys and no others.
	x, err := w.keys.RefreshIndexes()
	require.NoError(t, err)
	tokens := 0
	for _, row := range w.store.rows {
		p, err := w.open(ctx, row, allSegments)
		require.NoError(t, err)
		want, lookups, err := w.tokens(x, &p)
		require.NoError(t, err)
		require.Len(t, want, len(p.Identifiers), "one each: no rotation is under way")
		require.ElementsMatch(t, want, row.Tokens)
		require.ElementsMatch(t, lookups, row.Lookups)
		require.Equal(t, x.Change(), row.Indexed)
		tokens += len(want) + len(lookups)
	}
	require.LessOrEqual(t, len(w.store.owners), tokens)
}

// A Reindex that is overtaken by another rotation goes on with the newer keys instead of waiting for whoever began it.
func TestReindexOvertaken(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	for i := range reindexPage + 10 {
		w.create(person(fmt.Sprint(i)))
	}
	other := w.again()
	require.NoError(t, w.keys.RotateIndex(ctx, crypto.IndexIdentifier))
	once := true
	require.NoError(t, w.Reindex(ctx, anyone, func(int) {
		if once { // another process adds an index, writes one row, and is never seen again
			once = false
			l, err := NewLookup("mail", "emails.address")
			require.NoError(t, err)
			require.NoError(t, other.keys.AddIndex(ctx, l.Index()))
			other.create(person("late"))
		}
	}))
	for i := range reindexPage + 10 {
		_, err := other.Find(ctx, anyone, secret(fmt.Sprint(i)))
		require.NoError(t, err)
	}
	for _, r := range w.store.rows {
		require.Len(t, r.Tokens, 1)
	}
}

// An index added to a filled directory is not looked into before it is complete, also when the job was killed in between.
func TestLookupAdded(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	n := 2*reindexPage + 10
	for i := range n {
		p := person(fmt.Sprint(i))
		p.Emails = []Email{{Address: secret(fmt.Sprint("e", i, "@example.org"))}}
		w.create(p)
	}
	l, err := NewLookup("mail", "emails.address")
	require.NoError(t, err)
	d, other := w.again(withLookups(l)), w.again(withLookups(l))
	for _, x := range []*world{d, other} {
		_, err = x.FindBy(ctx, anyone, "mail", secret("e1@example.org"))
		require.ErrorIs(t, err, ErrNotReady)
	}
	short, cancel := context.WithCancel(ctx)
	err = d.Reindex(short, anyone, func(int) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
	_, err = other.FindBy(ctx, anyone, "mail", secret("e1@example.org"))
	require.ErrorIs(t, err, ErrNotReady)
	rows := 0
	require.NoError(t, other.Reindex(ctx, anyone, func(n int) { rows = n }))
	require.Equal(t, n-reindexPage, rows, "what was done before the kill is not done again")
	for i := range n {
		for _, x := range []*world{d, other} {
			ids, err := x.FindBy(ctx, anyone, "mail", secret(fmt.Sprint("E", i, "@example.org")))
			require.NoError(t, err)
			require.Len(t, ids, 1)
		}
	}
	require.NoError(t, other.Reindex(ctx, anyone, func(int) { t.Error("there is nothing to do") }))
}

// A row that somebody damaged stops a rotation, which names it: else it would silently be lost.
func TestReindexDamaged(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	id := w.create(person("1"))
	w.store.tamper(id, func(r *Row) {
		for i := range r.Segments {
			r.Segments[i].Data[15] ^= 1
		}
	})
	require.NoError(t, w.keys.RotateIndex(ctx, crypto.IndexIdentifier))
	err := w.Reindex(ctx, anyone, nil)
	require.ErrorIs(t, err, crypto.ErrNotAuthentic)
	require.ErrorContains(t, err, id.String())
}

// A keyring file that is older than the database is noticed.
func TestOldKeyring(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	w.create(person("1"))
	w.store.indexed = 99
	_, err := w.Find(ctx, anyone, secret("1"))
	require.ErrorIs(t, err, ErrOldKeyring)
	_, err = w.Create(ctx, anyone, person("2"))
	require.ErrorIs(t, err, ErrOldKeyring)
	_, err = w.Import(ctx, anyone, Source{}, one(person("2")), nil)
	require.ErrorIs(t, err, ErrOldKeyring)
	require.ErrorIs(t, w.Reindex(ctx, anyone, nil), ErrOldKeyring)
}

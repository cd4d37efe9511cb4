package patron

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

func all(t require.TestingT, seq iter.Seq2[Exported, error]) (list []Exported) {
	for x, err := range seq {
		require.NoError(t, err)
		list = append(list, x)
	}
	return list
}

// What one directory exports another imports, and has then the same; a second import changes nothing.
func TestExportImport(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(r *rapid.T) {
		from, to := newWorld(t), newWorld(t)
		want := map[string]map[string]string{}
		for range rapid.IntRange(0, 8).Draw(r, "patrons") {
			p := drawProfile(r)
			p.Facts = Facts{Group: "g", Categories: []string{"c"}, Library: "l", Expires: time.Date(2027, 1, 1, 0, 0, 0, 1234, time.FixedZone("x", 3600)), Wish: WishKeep}
			id := from.create(p)
			want[p.Identifiers[0].Value.Reveal()] = plain(p)
			v, err := from.View(ctx, anyone, id, 0)
			require.NoError(t, err)
			require.Equal(t, plain(p), plain(v.Profile))
			require.True(t, p.Facts.stored().equal(v.Profile.Facts))
		}
		profiles := func(w *world) (list []Profile) {
			for _, x := range all(t, w.Export(ctx, anyone, Export{Segments: allSegments})) {
				list = append(list, x.Profile)
			}
			return list
		}
		got := map[string]map[string]string{}
		for _, p := range profiles(from) {
			got[p.Identifiers[0].Value.Reveal()] = plain(p)
		}
		require.Equal(t, want, got)
		in, err := to.Import(ctx, anyone, Source{Owns: allSegments}, one(profiles(from)...), nil)
		require.NoError(t, err)
		require.Equal(t, Imported{Added: len(want)}, in)
		clear(got)
		for _, p := range profiles(to) {
			got[p.Identifiers[0].Value.Reveal()] = plain(p)
		}
		require.Equal(t, want, got)
		in, err = to.Import(ctx, anyone, Source{Owns: allSegments}, one(profiles(from)...), nil)
		require.NoError(t, err)
		require.Equal(t, Imported{Same: len(want)}, in)
	})
}

func TestExportOutside(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	for i := range exportPage + 3 {
		p := person(fmt.Sprint(i))
		p.Facts = Facts{Group: "students", Library: "main", Categories: []string{"math"}, Expires: time.Now(), Wish: WishForget, WishSince: time.Now()}
		if i%2 == 1 {
			p.Facts.Group = "staff"
		}
		w.create(p)
	}
	w.trail.take()
	e := Export{Segments: access.SetOf(access.Campus), Groups: []string{"students"}, Recipient: "university-statistics"}
	for x, err := range w.Export(ctx, anyone, e) {
		require.ErrorContains(t, err, "no-approval")
		require.Zero(t, x)
	}
	e.Approval = " "
	for _, err := range w.Export(ctx, anyone, e) {
		require.ErrorIs(t, err, ErrDenied)
	}
	e.Approval = "dpo-2026-7"
	w.trail.take()
	list := all(t, w.Export(ctx, anyone, e))
	require.Len(t, list, (exportPage+4)/2)
	ours := map[string]bool{}
	for _, x := range list {
		require.True(t, x.ID.IsZero())
		require.Len(t, x.Pseudonym, 22)
		ours[x.Pseudonym] = true
		require.Equal(t, Facts{Group: "students", Library: "main", Categories: []string{"math"}}, x.Profile.Facts)
		require.Empty(t, plain(x.Profile))
	}
	require.Len(t, ours, len(list))
	n := 0
	for _, event := range w.trail.take() {
		require.Equal(t, []string{"university-statistics", "dpo-2026-7"}, []string{event.Recipient, event.Approval})
		require.Equal(t, []string{"campus"}, event.Segments)
		n += event.Count
	}
	require.Equal(t, len(list), n)
	e.Recipient = "somebody-else"
	for _, x := range all(t, w.Export(ctx, anyone, e)) {
		require.False(t, ours[x.Pseudonym], "two recipients can join what they got")
	}
	require.Len(t, all(t, w.Export(ctx, anyone, Export{ExpiresBefore: time.Now().Add(time.Hour)})), exportPage+3)
	require.Empty(t, all(t, w.Export(ctx, anyone, Export{ExpiresBefore: time.Now().Add(-time.Hour)})))
	require.Empty(t, all(t, w.Export(ctx, anyone, Export{Libraries: []string{"branch"}})))
	for range w.Export(ctx, anyone, Export{}) {
		break // whoever stops early is not called again
	}
}

// The counts of an import are what happened, and what it replaces is what is documented.
func TestImportCounts(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	full := canaries()
	full.Facts = Facts{Group: "student", Wish: WishForget, WishSince: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	full.Identifiers = []Identifier{{"barcode", secret("b1")}, {"barcode", secret("b2")}, {"login", secret("l1")}}
	id := w.create(full)
	other := w.create(person("other"))

	bad := person("bad")
	bad.Birth = secret("29.2.1984")
	in, err := w.Import(ctx, anyone, Source{Owns: access.SetOf(access.Phones, access.Identifiers)}, one(
		Profile{Facts: Facts{Group: "alumni"}, Identifiers: []Identifier{{"barcode", secret("b3")}, {"login", secret("L1")}}, Names: []Name{{Last: secret("New")}}},
		person("other"),
		bad,
		person("b3", "other"), // belongs to two
		person("fresh", "fresh "),
		person("FRESH"), // the one before, once more in the same file
		Profile{Identifiers: []Identifier{{"barcode", secret("b3")}}, Facts: Facts{Group: "alumni"}},
	), nil)
	require.NoError(t, err)
	require.Equal(t, []int{1, 2, 2}, []int{in.Added, in.Updated, in.Same}, "%+v", in)
	require.Len(t, in.Refused, 2)
	rows := []int{in.Refused[0].Row, in.Refused[1].Row}
	require.ElementsMatch(t, []int{3, 4}, rows)
	require.True(t, errors.Is(in.Refused[0].Err, ErrDuplicate) || errors.Is(in.Refused[1].Err, ErrDuplicate))

	v, err := w.View(ctx, anyone, id, 0)
	require.NoError(t, err)
	require.Equal(t, Facts{Group: "alumni", Wish: WishForget, WishSince: full.Facts.WishSince}, v.Profile.Facts, "the source knows of no wish")
	require.Empty(t, v.Profile.Phones, "the source owns them and has none")
	require.Equal(t, plain(full)["emails"], plain(v.Profile)["emails"])
	require.Equal(t, "New", v.Profile.Names[0].Last.Reveal())
	for identifier, there := range map[string]bool{"b1": false, "b2": false, "b3": true, "l1": true} {
		found, err := w.Find(ctx, anyone, secret(identifier))
		require.Equal(t, there, err == nil, identifier)
		if there {
			require.Equal(t, id, found)
		}
	}
	v, err = w.View(ctx, anyone, other, 0)
	require.NoError(t, err)
	require.Len(t, v.Profile.Names, 1)
}

// Two systems that list different types of identifiers do not change a record back and forth.
func TestImportOrder(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	id := w.create(Profile{Identifiers: []Identifier{{"barcode", secret("b")}, {"login", secret("l")}, {"barcode", secret("c")}}})
	for _, p := range []Profile{
		{Identifiers: []Identifier{{"login", secret("l")}}},
		{Identifiers: []Identifier{{"login", secret("l")}, {"barcode", secret("b")}, {"barcode", secret("c")}}},
	} {
		_, err := w.Import(ctx, anyone, Source{}, one(p), nil)
		require.NoError(t, err)
	}
	version := w.store.row(id).Version
	for _, p := range []Profile{
		{Identifiers: []Identifier{{"login", secret("l")}}},
		{Identifiers: []Identifier{{"barcode", secret("b")}, {"barcode", secret("c")}}},
	} {
		in, err := w.Import(ctx, anyone, Source{}, one(p), nil)
		require.NoError(t, err)
		require.Equal(t, Imported{Same: 1}, in)
	}
	require.Equal(t, version, w.store.row(id).Version)
}

// Two rows of one file that mean the same patron by different identifiers are taken one after the other.
func TestImportTwoRowsOnePatron(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	id := w.create(Profile{Identifiers: []Identifier{{"barcode", secret("b")}, {"login", secret("l")}}})
	row := func(use, value, last string) Profile {
		return Profile{Identifiers: []Identifier{{use, secret(value)}}, Names: []Name{{Last: secret(last)}}}
	}
	in, err := w.Import(ctx, anyone, Source{}, one(row("barcode", "b", "first"), row("login", "l", "second"), row("login", "l", "third")), nil)
	require.NoError(t, err)
	require.Equal(t, Imported{Updated: 3}, in)
	v, err := w.View(ctx, anyone, id, 0)
	require.NoError(t, err)
	require.Equal(t, "third", v.Profile.Names[0].Last.Reveal())
	require.Equal(t, 1, w.store.size())
}

// An import that ends in the middle, in whatever way, and is done again has the same end as one that did not end; and a conflict
// counts nobody twice.
func TestImportInterrupted(t *testing.T) {
	w := newWorld(t)
	var list []Profile
	for i := range 2*importBatch + 10 {
		list = append(list, person(fmt.Sprint(i)))
	}
	broken := errors.New("the line is cut")
	in, err := w.Import(context.Background(), anyone, Source{}, func(yield func(Profile, error) bool) {
		for i, p := range list {
			if i == importBatch+20 {
				yield(Profile{}, broken)
				return
			}
			if !yield(p, nil) {
				return
			}
		}
	}, nil)
	require.Equal(t, broken, err)
	require.Equal(t, Imported{Added: importBatch}, in)
	ctx, cancel := context.WithCancel(context.Background())
	var seen []int
	in, err = w.Import(ctx, anyone, Source{}, one(list...), func(in Imported) {
		seen = append(seen, in.Same+in.Added)
		if len(seen) == 2 {
			cancel()
		}
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, Imported{Same: importBatch, Added: importBatch}, in)
	require.Equal(t, []int{importBatch, 2 * importBatch}, seen)
	conflicts := 3
	w.store.hooked(func(op string) error {
		if op == "write" && conflicts > 0 {
			conflicts--
			return []error{&ConflictError{}, &DuplicateError{}}[conflicts%2]
		}
		return nil
	})
	in, err = w.Import(context.Background(), anyone, Source{}, one(list...), nil)
	require.NoError(t, err)
	require.Equal(t, Imported{Same: 2 * importBatch, Added: 10}, in)
	require.Equal(t, len(list), w.store.size())
	w.store.hooked(func(op string) error {
		if op == "write" {
			return &ConflictError{}
		}
		return nil
	})
	in, err = w.Import(context.Background(), anyone, Source{}, one(person("late")), nil)
	require.ErrorIs(t, err, ErrConflict, "a store that always refuses is not asked for ever")
	require.Zero(t, in)
}

// Two imports of one file at once add everybody once.
func TestImportTwice(t *testing.T) {
	w := newWorld(t)
	var list []Profile
	for i := range 1200 {
		list = append(list, person(fmt.Sprint(i), fmt.Sprint("x", i)))
	}
	var wg sync.WaitGroup
	counts := make([]Imported, 4)
	for i := range counts {
		wg.Go(func() {
			var err error
			counts[i], err = w.again().Import(context.Background(), anyone, Source{}, one(list...), nil)
			require.NoError(t, err)
		})
	}
	wg.Wait()
	added, same := 0, 0
	for _, c := range counts {
		added, same = added+c.Added, same+c.Same
		require.Empty(t, c.Refused)
	}
	require.Equal(t, []int{len(list), 3 * len(list)}, []int{added, same})
	require.Equal(t, len(list), w.store.size())
}

// Somebody whose record cannot be opened or merged is refused; the rest goes on. A store that fails ends the import.
func TestImportRefuses(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	damaged, shredded, keyless := w.create(person("damaged")), w.create(person("shredded")), w.create(person("keyless"))
	var many []string
	for i := range maxEntries {
		many = append(many, fmt.Sprint("many", i))
	}
	w.create(person(many...))
	w.store.tamper(damaged, func(r *Row) { r.Segments[0].Data[20] ^= 1 })
	require.NoError(t, w.keys.Shred(ctx, shredded.Subject()))
	require.NoError(t, w.store.DeleteKey(ctx, keyless.Subject()))
	d := w.again()
	merged := Profile{Identifiers: []Identifier{{"login", secret("many7")}}}
	in, err := d.Import(ctx, anyone, Source{Owns: access.SetOf(access.Names)}, one(person("damaged"), person("shredded"), person("keyless"), merged, person("fine")), nil)
	require.NoError(t, err)
	require.Equal(t, 1, in.Added)
	require.Len(t, in.Refused, 4)
	for i, want := range []error{crypto.ErrNotAuthentic, crypto.ErrShredded, crypto.ErrNoKey, errUnfit} {
		require.Equal(t, i+1, in.Refused[i].Row)
		require.ErrorIs(t, in.Refused[i].Err, want)
	}
	d = w.again()
	down := errors.New("down")
	keys := 0
	w.store.hooked(func(op string) error {
		if op == "key" {
			if keys++; keys > 1 {
				return down
			}
		}
		return nil
	})
	in, err = d.Import(ctx, anyone, Source{}, one(person("fine"), person("many1")), nil)
	require.ErrorIs(t, err, down)
	require.Zero(t, in)
}

func TestResolve(t *testing.T) {
	w, foreign := newWorld(t), newWorld(t)
	ctx := context.Background()
	id := w.create(person("99 99"))
	for _, reference := range []string{id.String(), "barcode:9999", "barcode: 99 99"} {
		got, err := w.Resolve(ctx, anyone, w.token(reference))
		require.NoError(t, err)
		require.Equal(t, id, got)
		e := w.trail.take()
		require.Equal(t, audit.Resolve, e[len(e)-1].Action)
		require.Equal(t, []audit.Subject{{ID: id.Subject()}}, e[len(e)-1].Subjects)
	}
	for _, token := range []string{"", "cp", id.String(), "9999", foreign.token(id.String()), w.token(NewID().String()), w.token(""), w.token("nobody"), w.token("barcode:nobody"), w.token("9999"), w.token("username:9999"), w.token("barcode:9999") + "A"} {
		got, err := w.Resolve(ctx, anyone, token)
		require.ErrorIs(t, err, ErrNotFound)
		require.Zero(t, got)
		e := w.trail.take()
		require.Equal(t, audit.NotFound, e[0].Outcome)
		require.Empty(t, e[0].Subjects)
	}
	// An external number may have the form of an ID.
	external := NewID().String()
	id = w.create(person(external))
	got, err := w.Resolve(ctx, anyone, w.token(Reference("barcode", external)))
	require.NoError(t, err)
	require.Equal(t, id, got)
}

// Identifiers are unique across types and spellings, also among 300 who come at once.
func TestUnique(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	spellings := []string{"Straße 1", "STRASSE1", "strasse\u00ad1", "Ｓtrasse 1", " stra\u200bße\u00a01"}
	directories := []*world{w, w.again(), w.again()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var admitted []ID
	for i := range 300 {
		wg.Go(func() {
			p := Profile{Identifiers: []Identifier{
				{fmt.Sprintf("own%d", i), secret(fmt.Sprint("own", i))},
				{[]string{"barcode", "login", "external"}[i%3], secret(spellings[i%len(spellings)])},
			}}
			id, err := directories[i%3].Create(ctx, anyone, p)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				admitted = append(admitted, id)
				return
			}
			require.ErrorIs(t, err, ErrDuplicate)
		})
	}
	wg.Wait()
	require.Len(t, admitted, 1)
	require.Equal(t, 1, w.store.size())
	for _, s := range spellings {
		id, err := w.Find(ctx, anyone, secret(s))
		require.NoError(t, err)
		require.Equal(t, admitted[0], id)
	}
	other := w.create(person("other"))
	require.ErrorIs(t, w.Update(ctx, anyone, other, Update{Segments: access.SetOf(access.Identifiers), Profile: person(spellings[1])}), ErrDuplicate)
	_, err := w.Find(ctx, anyone, secret(" "))
	require.ErrorIs(t, err, ErrNotFound)
}

// Whoever was forgotten is not shown, changed, exported or taken over, and does not hold up anybody else.
func TestShredded(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	gone, here := w.create(canaries()), w.create(person("here"))
	require.NoError(t, w.keys.Shred(ctx, gone.Subject()))
	for _, s := range []access.Set{0, access.SetOf(access.Names)} {
		v, err := w.View(ctx, anyone, gone, s)
		require.ErrorIs(t, err, crypto.ErrShredded)
		require.Zero(t, v)
	}
	systems := w.again(withAccess(presetMatrix(t)))
	v, err := systems.View(ctx, Call{Actor: "s", Role: "systems", Purpose: "maintenance", Channel: audit.UI}, gone, 0)
	require.ErrorIs(t, err, crypto.ErrShredded, "not even that there was something")
	require.Zero(t, v)
	require.ErrorIs(t, w.Update(ctx, anyone, gone, Update{Segments: access.SetOf(access.Names)}), crypto.ErrShredded)
	require.ErrorIs(t, w.Update(ctx, anyone, gone, Update{Facts: &Facts{Group: "x"}}), crypto.ErrShredded)
	_, err = w.BreakGlass(ctx, anyone, gone, allSegments, secret("somebody has fainted here"), 0)
	require.ErrorIs(t, err, crypto.ErrShredded)
	in, err := w.Import(ctx, anyone, Source{}, one(Profile{Identifiers: canaries().Identifiers}, person("next")), nil)
	require.NoError(t, err)
	require.Equal(t, 1, in.Added)
	require.ErrorIs(t, in.Refused[0].Err, crypto.ErrShredded)
	for _, e := range []Export{{}, {Segments: allSegments}, {Recipient: "r", Approval: "a"}} {
		list := all(t, w.Export(ctx, anyone, e))
		require.Len(t, list, 2)
		for _, x := range list {
			require.NotEqual(t, gone, x.ID)
		}
	}
	// Reindexing makes them unfindable.
	require.NoError(t, w.keys.RotateIndex(ctx, crypto.IndexIdentifier))
	require.NoError(t, w.Reindex(ctx, anyone, nil))
	require.Empty(t, w.store.row(gone).Tokens)
	_, err = w.Find(ctx, anyone, canaries().Identifiers[0].Value)
	require.ErrorIs(t, err, ErrNotFound)
	found, err := w.Find(ctx, anyone, secret("here"))
	require.NoError(t, err)
	require.Equal(t, here, found)
}

// A sealed segment that is moved to another patron, segment, revision or installation does not open, and nothing of the patron is shown.
func TestSwaps(t *testing.T) {
	ctx := context.Background()
	w, foreign := newWorld(t), newWorld(t)
	mine := w.create(canaries())
	p := canaries()
	p.Identifiers = []Identifier{{"barcode", secret("other")}}
	other, abroad := w.create(p), foreign.create(canaries())
	first := w.store.row(mine)
	for range 2 {
		for s := range allSegments.All() {
			var changed Profile
			changed.take(s, &p)
			if s == access.Identifiers {
				changed.Identifiers = []Identifier{{"barcode", secret(NewID().String())}}
			}
			e := changed.add(s)
			if e.use != nil {
				*e.use = NewID().String()
			}
			if s != access.Birth && s != access.Photo && s != access.Identifiers {
				require.NoError(t, w.Update(ctx, anyone, mine, Update{Segments: access.SetOf(s), Profile: changed}))
			}
		}
	}
	real := w.store.row(mine)
	require.Less(t, real.Segments[0].Revision, real.Version+1)
	refused := 0
	try := func(to int, data []byte) {
		w.store.tamper(mine, func(r *Row) { *r = copyRow(real); r.Segments[to].Data = data })
		v, err := w.View(ctx, anyone, mine, 0)
		require.ErrorIs(t, err, crypto.ErrNotAuthentic)
		require.Zero(t, v)
		refused++
	}
	for to := range real.Segments {
		for from := range real.Segments {
			if from != to {
				try(to, real.Segments[from].Data)
			}
			try(to, w.store.row(other).Segments[from].Data)
			try(to, foreign.store.row(abroad).Segments[from].Data)
		}
		if first.Segments[to].Revision != real.Segments[to].Revision {
			try(to, first.Segments[to].Data) // yesterday's, as of today
		}
		for range 20 {
			data := append([]byte(nil), real.Segments[to].Data...)
			data[rand.IntN(len(data))] ^= 1 << rand.IntN(8)
			try(to, data)
		}
		try(to, nil)
		try(to, real.Segments[to].Data[:len(real.Segments[to].Data)-1])
	}
	w.store.tamper(mine, func(r *Row) { *r = copyRow(real); r.Segments[3].Revision++ })
	_, err := w.View(ctx, anyone, mine, 0)
	require.ErrorIs(t, err, crypto.ErrNotAuthentic)
	w.store.tamper(mine, func(r *Row) { *r = copyRow(real) })
	_, err = w.View(ctx, anyone, mine, 0)
	require.NoError(t, err)
	t.Logf("%d swaps, all refused", refused)
}

// A source that tells people apart by a number of its own does not merge two who share a bar code.
func TestImportByKey(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	who := func(number, barcode, name string) Profile {
		return Profile{Names: []Name{{Last: secret(name)}}, Identifiers: []Identifier{{"patron", secret(number)}, {"barcode", secret(barcode)}}}
	}
	in, err := w.Import(ctx, anyone, Source{Key: "patron"}, one(who("a1", "500", "Alba"), who("a2", "500", "Berta")), nil)
	require.NoError(t, err)
	require.Equal(t, 1, in.Added)
	require.Len(t, in.Refused, 1)
	require.ErrorIs(t, in.Refused[0].Err, ErrDuplicate)
	id, err := w.Find(ctx, anyone, secret("500"))
	require.NoError(t, err)
	v, err := w.View(ctx, anyone, id, allSegments)
	require.NoError(t, err)
	require.Equal(t, "Alba", v.Profile.Names[0].Last.Reveal())

	// A new bar code for the same number, and a number for somebody who had none, are no such thing.
	w.create(person("700"))
	in, err = w.Import(ctx, anyone, Source{Key: "patron"}, one(who("A 1", "501", "Alba"), who("a7", "700", "Celia")), nil)
	require.NoError(t, err)
	require.Equal(t, Imported{Updated: 2}, in)
}

// Two recipients outside do not get people in the same order.
func TestExportOrder(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	for i := range exportPage + 40 {
		p := person(fmt.Sprint("p", i))
		p.Facts.Group = fmt.Sprint("g", i)
		w.create(p)
	}
	order := func(recipient string) (groups []string) {
		for x, err := range w.Export(ctx, anyone, Export{Recipient: recipient, Approval: "a"}) {
			require.NoError(t, err)
			groups = append(groups, x.Profile.Facts.Group)
		}
		return groups
	}
	one, two, inside := order("one"), order("two"), order("")
	require.ElementsMatch(t, one, two)
	require.ElementsMatch(t, one, inside)
	same := 0
	for i := range one {
		if one[i] == two[i] || one[i] == inside[i] {
			same++
		}
	}
	require.Less(t, same, 20)
}

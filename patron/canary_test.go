package patron

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/davecgh/go-spew/spew"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// The canary stands in every secret field, with a number that says which one. It is in no other text of these tests.
const canary = "zanarie"

// canaries returns a profile with every field filled, each with a canary of its own; canaries of dates are the year 7351.
func canaries() Profile {
	var p Profile
	n := 0
	for s := range allSegments.All() {
		e := p.add(s)
		if e.use != nil {
			*e.use = "some-use"
		}
		for i, f := range Fields(s) {
			n++
			v := fmt.Sprintf("%s%d", canary, n)
			switch {
			case f.want == wantDate:
				v = fmt.Sprintf("7351-01-%02d", n%28+1)
			case s == access.Emails:
				v += "@" + v + ".example"
			case s == access.Photo:
				v = "https://" + v + ".example/"
			}
			*e.fields[i] = secret(v)
		}
	}
	return p
}

// sightings returns where canaries are seen in a text: as they are, in hexadecimal, or as numbers of bytes.
func sightings(text string) (seen []string) {
	lower := strings.ToLower(text)
	for _, c := range []string{canary, "7351-01-"} {
		for _, form := range []string{c, fmt.Sprintf("%x", c), strings.Trim(fmt.Sprint([]byte(c)), "[]"), fmt.Sprintf("% x", c)} {
			if strings.Contains(lower, form) {
				seen = append(seen, form)
			}
		}
	}
	return seen
}

type hiding[T any] struct{ hidden T }
type showing[T any] struct{ Shown T }

// printed returns a value in every way in which it is printed or written.
func printed[T any](v T) map[string]string {
	out := map[string]string{}
	for form, x := range map[string]any{
		"plain": v, "pointer": &v, "hidden": hiding[T]{v}, "hidden pointer": &hiding[*T]{&v}, "field": showing[T]{v},
		"slice": []T{v}, "map": map[string]T{"k": v}, "map of hidden": map[string]hiding[T]{"k": {v}}, "any": []any{v},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%T"} {
			out[verb+" of "+form] = fmt.Sprintf(verb, x)
		}
		var b bytes.Buffer
		slog.New(slog.NewTextHandler(&b, nil)).Info("m", "v", x)
		slog.New(slog.NewJSONHandler(&b, nil)).Info("m", "v", x, slog.Group("g", "v", x))
		j, err := json.Marshal(x)
		fmt.Fprint(&b, string(j), err)
		j, err = xml.Marshal(x)
		fmt.Fprint(&b, string(j), err)
		fmt.Fprint(&b, gob.NewEncoder(&b).Encode(x))
		fmt.Fprint(&b, spew.Sdump(x), (&spew.ConfigState{DisableMethods: true}).Sdump(x))
		func() {
			defer func() { fmt.Fprint(&b, recover()) }()
			j, err := yaml.Marshal(x)
			fmt.Fprint(&b, string(j), err)
		}()
		func() {
			defer func() { fmt.Fprint(&b, recover()) }()
			panic(x)
		}()
		func() {
			defer func() { fmt.Fprintf(&b, "%v %+v", recover(), errors.Join(fmt.Errorf("in an error: %v", x))) }()
			panic(fmt.Sprint(x))
		}()
		out["the rest of "+form] = b.String()
	}
	return out
}

func requireNoCanary[T any](t *testing.T, v T) {
	t.Helper()
	for way, text := range printed(v) {
		require.Empty(t, sightings(text), "%T by %s", v, way)
	}
}

func TestNothingPrints(t *testing.T) {
	p := canaries()
	require.NoError(t, p.check())
	for s := range allSegments.All() {
		require.True(t, p.Has(s))
	}
	w := newWorld(t)
	ctx := context.Background()
	id := w.create(p)
	v, err := w.View(ctx, anyone, id, 0)
	require.NoError(t, err)
	require.Equal(t, plain(p), plain(v.Profile))
	requireNoCanary(t, p)
	requireNoCanary(t, v)
	requireNoCanary(t, Update{Segments: allSegments, Profile: p})
	requireNoCanary(t, Refusal{1, p.check()})
	requireNoCanary(t, incoming{profile: p})
	requireNoCanary(t, writing{before: p, after: p})
	for x, err := range w.Export(ctx, anyone, Export{Segments: allSegments}) {
		require.NoError(t, err)
		require.Equal(t, plain(p), plain(x.Profile))
		requireNoCanary(t, x)
	}
	_, err = w.BreakGlass(ctx, anyone, id, allSegments, secret(canary+" is the long reason"), time.Minute)
	require.NoError(t, err)
	pending, err := w.Unreviewed(ctx, Call{Actor: "x", Role: "any", Purpose: "any", Channel: audit.UI})
	require.NoError(t, err)
	require.Contains(t, pending[0].Reason.Reveal(), canary)
	requireNoCanary(t, pending)
	for _, e := range w.trail.take() {
		requireNoCanary(t, e)
	}
	requireNoCanary(t, w.store.row(id))
	requireNoCanary(t, w.Directory)
	for s := range allSegments.All() {
		for e := range p.entries(s) {
			for _, f := range e.fields {
				requireNoCanary(t, *f)
			}
		}
	}
}

// A profile of plain strings is caught by nearly every way of printing: the detector works.
func TestCanaryDetector(t *testing.T) {
	type loose struct{ Name, Birth string }
	caught := 0
	ways := printed(loose{canary + "1", "7351-01-01"})
	for _, text := range ways {
		if len(sightings(text)) > 0 {
			caught++
		}
	}
	require.Greater(t, caught, len(ways)*6/10, "of %d", len(ways))
	for _, text := range []string{fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), fmt.Sprint([]byte(canary)), strings.ToUpper(canary)} {
		require.NotEmpty(t, sightings(text))
	}
}

// Every error of the package, fed with canaries as what is wrong, says what is wrong without them.
func TestErrorsSayNothing(t *testing.T) {
	ctx := context.Background()
	lookup, err := NewLookup("mail", "emails.address")
	require.NoError(t, err)
	w := newWorld(t, withLookups(lookup))
	require.NoError(t, w.Reindex(ctx, anyone, nil))
	id := w.create(canaries())
	other := w.create(person("other"))
	var all []error
	add := func(err error) {
		t.Helper()
		require.Error(t, err)
		all = append(all, err)
	}
	bad := []func(*Profile){
		func(p *Profile) { p.Identifiers = nil },
		func(p *Profile) { p.Identifiers[0].Value = crypto.Secret{} },
		func(p *Profile) { p.Identifiers[0].Use = canary + " X" },
		func(p *Profile) { p.Birth = secret(canary) },
		func(p *Profile) { p.Photo = secret("https://%zz" + canary) },
		func(p *Profile) { p.Emails[0].Address = secret(canary) },
		func(p *Profile) { p.Names[0].First = secret(canary + "\xff") },
		func(p *Profile) { p.Names[0].First = secret(strings.Repeat(canary, 1000)) },
		func(p *Profile) { p.Addresses[0].From = secret(canary) },
		func(p *Profile) { p.Notes[0].Use = canary + "!" },
		func(p *Profile) { p.Facts.Wish = canary },
		func(p *Profile) { p.Facts.Group = canary + "\xff" },
		func(*Profile) {}, // a duplicate
	}
	for _, spoil := range bad {
		p := canaries()
		spoil(&p)
		_, err := w.Create(ctx, anyone, p)
		add(err)
		add(w.Update(ctx, anyone, other, Update{Segments: allSegments, Profile: p, Facts: &p.Facts}))
		in, err := w.Import(ctx, anyone, Source{}, one(Profile{Identifiers: append(person("other").Identifiers, p.Identifiers...), Birth: p.Birth}), nil)
		require.NoError(t, err)
		for _, r := range in.Refused {
			add(r.Err)
		}
	}
	_, err = w.Find(ctx, anyone, secret(canary))
	add(err)
	_, err = w.FindBy(ctx, anyone, canary, secret(canary))
	add(err)
	_, err = w.FindBy(ctx, anyone, "mail", secret(canary))
	add(err)
	_, err = w.FindBy(ctx, anyone, "mail", secret(canary), secret(canary))
	add(err)
	for _, token := range []string{canary, "cp" + canary, w.token(canary)} {
		_, err = w.Resolve(ctx, anyone, token)
		add(err)
	}
	_, err = ParseID(canary)
	add(err)
	_, err = NewLookup("x", canary+"."+canary)
	add(err)
	_, err = NewLookup("x", "names."+canary)
	add(err)
	_, err = w.BreakGlass(ctx, anyone, id, access.SetOf(access.Names), secret(strings.Repeat(canary, 1000)), 0)
	add(err)
	_, err = w.BreakGlass(ctx, anyone, id, access.SetOf(access.Names), secret("7351-01-01"), 0)
	add(err)
	granted := anyone
	granted.Grant = canary
	_, err = w.View(ctx, granted, id, 0)
	add(err)
	add(w.Review(ctx, anyone, canary))

	// Whoever keeps the trail, decides or stores may say what they want.
	w.trail.hooked(func(_ context.Context, e audit.Event) error { return fmt.Errorf("cannot write %s for %v", canary, e) })
	_, err = w.View(ctx, anyone, id, 0)
	add(err)
	_, err = w.View(ctx, Call{}, id, 0)
	add(err)
	w.trail.hooked(nil)
	w.store.tamper(id, func(r *Row) { r.Segments[0].Data = []byte(canary + strings.Repeat(canary, 10)) })
	_, err = w.View(ctx, anyone, id, 0)
	add(err)
	for _, err := range w.Export(ctx, anyone, Export{Segments: allSegments}) {
		if err != nil {
			add(err)
		}
	}
	for _, err := range all {
		for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
			require.Empty(t, sightings(text), text)
		}
	}
	for _, e := range w.trail.take() {
		requireNoCanary(t, e)
	}
	require.Greater(t, len(all), 50)
}

func one(list ...Profile) iter.Seq2[Profile, error] {
	return func(yield func(Profile, error) bool) {
		for _, p := range list {
			if !yield(p, nil) {
				return
			}
		}
	}
}

// token returns the borrower token of a reference.
func (w *world) token(reference string) string {
	w.t.Helper()
	p, err := w.keys.Pseudonyms(Borrowers)
	require.NoError(w.t, err)
	token, err := p.Token(reference)
	require.NoError(w.t, err)
	return token
}

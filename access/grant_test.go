package access_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/carrel-project/carrel/access"
)

var (
	noon    = time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	asked   = access.Request{Actor: "staff-7", Role: "circulation", Purpose: "checkout", Subject: "patron-1"}
	allowed = access.Decision{BreakGlass: access.SetOf(access.Addresses, access.Phones)}
	phones  = access.SetOf(access.Phones)
)

const because = "Wallet found at the desk"

func granted(t require.TestingT) access.Grant {
	g, err := access.NewGrant("g1", asked, allowed, phones, because, 0, nil, noon)
	require.NoError(t, err)
	return g
}

func TestNewGrant(t *testing.T) {
	local := noon.In(time.FixedZone("", 7200)).Add(1700 * time.Nanosecond)
	g, err := access.NewGrant("g1", asked, allowed, phones, because, 0, nil, local)
	require.NoError(t, err)
	require.Equal(t, access.Grant{
		ID: "g1", Actor: "staff-7", Role: "circulation", Purpose: "checkout", Subject: "patron-1", Segments: phones,
		Issued: noon.Add(time.Microsecond), Until: noon.Add(15*time.Minute + time.Microsecond),
	}, g)
	require.NotContains(t, fmt.Sprintf("%+v", g), "Wallet", "the reason may name people")
	levels, err := g.Levels(asked, local)
	require.NoError(t, err, "open at the moment it is given, whatever was cut off")
	require.Equal(t, access.Levels(0).With(access.Phones, access.Full), levels)
}

func TestNewGrantRefuses(t *testing.T) {
	reviewed, err := granted(t).Review("boss-1", noon.Add(time.Hour))
	require.NoError(t, err)
	own, stretched, elsewhere := granted(t), granted(t), granted(t)
	own.Reviewer, own.Reviewed = own.Actor, noon.Add(time.Hour) // a store that let a review by the actor through
	stretched.Reviewed = noon.Add(time.Hour)                    // reviewed by nobody
	elsewhere.Actor = "staff-8"
	type arguments struct {
		id       string
		r        access.Request
		d        access.Decision
		segments access.Set
		reason   string
		length   time.Duration
		earlier  []access.Grant
		now      time.Time
	}
	for name, c := range map[string]struct {
		change func(*arguments)
		want   error
	}{
		"nothing wrong":         {func(*arguments) {}, nil},
		"a minute":              {func(a *arguments) { a.length = time.Minute }, nil},
		"all that is allowed":   {func(a *arguments) { a.segments = a.d.BreakGlass }, nil},
		"ten letters":           {func(a *arguments) { a.reason = " äbcde 12 \nfghij " }, nil},
		"an earlier, reviewed":  {func(a *arguments) { a.earlier = []access.Grant{reviewed, reviewed} }, nil},
		"an earlier of another": {func(a *arguments) { a.earlier = []access.Grant{elsewhere} }, nil},
		"no actor":              {func(a *arguments) { a.r.Actor = "" }, access.ErrNoActor},
		"a blank actor":         {func(a *arguments) { a.r.Actor = " \t" }, access.ErrNoActor},
		"no subject":            {func(a *arguments) { a.r.Subject = "" }, access.ErrNoSubject},
		"no id":                 {func(a *arguments) { a.id = "" }, access.ErrIncomplete},
		"no time":               {func(a *arguments) { a.now = time.Time{} }, access.ErrIncomplete},
		"no role":               {func(a *arguments) { a.r.Role = "" }, access.ErrNotAllowed},
		"no purpose":            {func(a *arguments) { a.r.Purpose = "" }, access.ErrNotAllowed},
		"nothing allowed":       {func(a *arguments) { a.d = access.Decision{} }, access.ErrNotAllowed},
		"no segments":           {func(a *arguments) { a.segments = 0 }, access.ErrNotAllowed},
		"a segment too many":    {func(a *arguments) { a.segments = a.segments.With(access.Birth) }, access.ErrNotAllowed},
		"a segment seen in full": {func(a *arguments) {
			a.d.Levels = a.d.Levels.With(access.Names, access.Full)
			a.segments = access.SetOf(access.Names)
		}, access.ErrNotAllowed},
		"a segment that is none":    {func(a *arguments) { a.segments |= 1 << 12 }, access.ErrNotAllowed},
		"none, and allowed":         {func(a *arguments) { a.segments |= 1 << 12; a.d.BreakGlass |= 1 << 12 }, access.ErrNotAllowed},
		"no reason":                 {func(a *arguments) { a.reason = "" }, access.ErrNoReason},
		"a blank reason":            {func(a *arguments) { a.reason = strings.Repeat(" \u00a0", 40) }, access.ErrNoReason},
		"nine letters":              {func(a *arguments) { a.reason = "abcdefghi" }, access.ErrNoReason},
		"nine letters of many byte": {func(a *arguments) { a.reason = "äöüäöüäöü" }, access.ErrNoReason},
		"dots and digits":           {func(a *arguments) { a.reason = "........ 1234567890 --" }, access.ErrNoReason},
		"longer than 15 minutes":    {func(a *arguments) { a.length = access.MaxGrant + 1 }, access.ErrTooLong},
		"backwards":                 {func(a *arguments) { a.length = -1 }, access.ErrTooLong},
		"an unreviewed earlier": {func(a *arguments) {
			a.earlier = []access.Grant{reviewed, elsewhere, granted(t)}
		}, access.ErrUnreviewed},
		"one for another patron": {func(a *arguments) {
			a.earlier, a.r.Subject = []access.Grant{granted(t)}, "patron-2"
		}, access.ErrUnreviewed},
		"one long over":           {func(a *arguments) { a.earlier, a.now = []access.Grant{granted(t)}, noon.AddDate(1, 0, 0) }, access.ErrUnreviewed},
		"one in another role":     {func(a *arguments) { a.earlier, a.r.Role = []access.Grant{granted(t)}, "systems" }, access.ErrUnreviewed},
		"one reviewed by oneself": {func(a *arguments) { a.earlier = []access.Grant{own} }, access.ErrUnreviewed},
		"one reviewed by nobody":  {func(a *arguments) { a.earlier = []access.Grant{stretched} }, access.ErrUnreviewed},
	} {
		t.Run(name, func(t *testing.T) {
			a := arguments{"g2", asked, allowed, phones, because, 0, nil, noon}
			c.change(&a)
			g, err := access.NewGrant(a.id, a.r, a.d, a.segments, a.reason, a.length, a.earlier, a.now)
			require.ErrorIs(t, err, c.want)
			if c.want != nil {
				require.Zero(t, g, "no grant beside an error")
				return
			}
			levels, err := g.Levels(a.r, a.now)
			require.NoError(t, err)
			require.Equal(t, a.segments, levels.AtLeast(access.Exists))
		})
	}
}

// An opener is Grant.Levels or a broken form of it.
type opener func(g access.Grant, r access.Request, now time.Time) (access.Levels, error)

// opening tries what a grant must and must not open, and returns the first that goes wrong.
func opening(open opener) error {
	g, err := access.NewGrant("g1", asked, allowed, phones, because, 0, nil, noon)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name   string
		change func(*access.Grant, *access.Request)
		after  time.Duration
		want   error
	}{
		{"at once", nil, 0, nil},
		{"the last microsecond", nil, 15*time.Minute - time.Microsecond, nil},
		{"the 15th minute", nil, 15 * time.Minute, access.ErrExpired},
		{"the 16th minute", nil, 16 * time.Minute, access.ErrExpired},
		{"a year later", nil, 365 * 24 * time.Hour, access.ErrExpired},
		{"a microsecond before", nil, -time.Microsecond, access.ErrExpired},
		{"a second patron", func(_ *access.Grant, r *access.Request) { r.Subject = "patron-2" }, 0, access.ErrOtherSubject},
		{"no patron", func(_ *access.Grant, r *access.Request) { r.Subject = "" }, 0, access.ErrOtherSubject},
		{"a colleague", func(_ *access.Grant, r *access.Request) { r.Actor = "staff-8" }, 0, access.ErrOtherActor},
		{"nobody", func(_ *access.Grant, r *access.Request) { r.Actor = "" }, 0, access.ErrOtherActor},
		{"another role", func(_ *access.Grant, r *access.Request) { r.Role = "systems" }, 0, access.ErrOtherRole},
		{"another purpose", func(_ *access.Grant, r *access.Request) { r.Purpose = "overdue" }, 0, access.ErrOtherPurpose},
		{"the zero grant and nobody", func(g *access.Grant, r *access.Request) {
			*g, *r = access.Grant{}, access.Request{}
		}, 0, access.ErrIncomplete},
		{"nobody's grant and nobody", func(g *access.Grant, r *access.Request) { g.Actor, r.Actor = "", "" }, 0, access.ErrIncomplete},
		{"no patron's grant and no patron", func(g *access.Grant, r *access.Request) { g.Subject, r.Subject = "", "" }, 0, access.ErrIncomplete},
		{"no segments", func(g *access.Grant, _ *access.Request) { g.Segments = 0 }, 0, access.ErrIncomplete},
		{"segments that are none", func(g *access.Grant, _ *access.Request) { g.Segments |= 1 << 13 }, 0, access.ErrIncomplete},
		{"stretched to a year", func(g *access.Grant, _ *access.Request) { g.Until = g.Issued.AddDate(1, 0, 0) }, time.Hour, access.ErrIncomplete},
		{"from the beginning of time", func(g *access.Grant, _ *access.Request) { g.Issued = time.Time{} }, 0, access.ErrIncomplete},
		{"turned round", func(g *access.Grant, _ *access.Request) { g.Issued, g.Until = g.Until, g.Issued }, 0, access.ErrIncomplete},
	} {
		g, r := g, asked
		if c.change != nil {
			c.change(&g, &r)
		}
		levels, err := open(g, r, noon.Add(c.after))
		if !errors.Is(err, c.want) {
			return fmt.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		want := access.Levels(0)
		if c.want == nil {
			want = want.With(access.Phones, access.Full)
		}
		if levels != want {
			return fmt.Errorf("%s: opens %s", c.name, levels.AtLeast(access.Exists))
		}
	}
	return nil
}

func TestGrantOpens(t *testing.T) {
	require.NoError(t, opening(access.Grant.Levels))
}

// What the test before is worth: each of these is caught by it.
func TestGrantOpensCatches(t *testing.T) {
	for name, broken := range map[string]opener{
		"any patron": func(g access.Grant, r access.Request, now time.Time) (access.Levels, error) {
			r.Subject = g.Subject
			return g.Levels(r, now)
		},
		"any actor": func(g access.Grant, r access.Request, now time.Time) (access.Levels, error) {
			r.Actor = g.Actor
			return g.Levels(r, now)
		},
		"any role": func(g access.Grant, r access.Request, now time.Time) (access.Levels, error) {
			r.Role = g.Role
			return g.Levels(r, now)
		},
		"any purpose": func(g access.Grant, r access.Request, now time.Time) (access.Levels, error) {
			r.Purpose = g.Purpose
			return g.Levels(r, now)
		},
		"the end included": func(g access.Grant, r access.Request, now time.Time) (access.Levels, error) {
			if now.Equal(g.Until) {
				now = now.Add(-time.Microsecond)
			}
			return g.Levels(r, now)
		},
		"a minute of grace": func(g access.Grant, r access.Request, now time.Time) (access.Levels, error) {
			if now.After(g.Until) {
				now = now.Add(-2 * time.Minute)
			}
			return g.Levels(r, now)
		},
		"before it was given": func(g access.Grant, r access.Request, now time.Time) (access.Levels, error) {
			if now.Before(g.Issued) {
				now = g.Issued
			}
			return g.Levels(r, now)
		},
		"more than was asked": func(g access.Grant, r access.Request, now time.Time) (access.Levels, error) {
			g.Segments = g.Segments.With(access.Addresses)
			return g.Levels(r, now)
		},
		"levels beside the error": func(g access.Grant, r access.Request, now time.Time) (access.Levels, error) {
			_, err := g.Levels(r, now)
			return access.Levels(0).With(access.Phones, access.Full), err
		},
		"any length": func(g access.Grant, r access.Request, now time.Time) (access.Levels, error) {
			if g.Until.Sub(g.Issued) > access.MaxGrant && now.Before(g.Until) {
				g.Issued, g.Until = now, now.Add(time.Minute)
			}
			return g.Levels(r, now)
		},
		"empty matches empty": func(g access.Grant, r access.Request, now time.Time) (access.Levels, error) {
			if g.Actor == r.Actor && g.Actor == "" {
				g.Actor, r.Actor = "x", "x"
			}
			return g.Levels(r, now)
		},
	} {
		t.Run(name, func(t *testing.T) { require.Error(t, opening(broken)) })
	}
}

func TestReview(t *testing.T) {
	g := granted(t)
	for name, c := range map[string]struct {
		g        access.Grant
		reviewer string
		now      time.Time
		want     error
	}{
		"by its actor":       {g, "staff-7", noon.Add(time.Hour), access.ErrOwnReview},
		"by nobody":          {g, "", noon.Add(time.Hour), access.ErrNoReviewer},
		"by a blank":         {g, " ", noon.Add(time.Hour), access.ErrNoReviewer},
		"before it was":      {g, "boss-1", noon.Add(-time.Microsecond), access.ErrTooEarly},
		"at no time":         {g, "boss-1", time.Time{}, access.ErrTooEarly},
		"of the zero grant":  {access.Grant{}, "boss-1", noon, access.ErrIncomplete},
		"while it is in use": {g, "boss-1", noon, nil},
	} {
		t.Run(name, func(t *testing.T) {
			reviewed, err := c.g.Review(c.reviewer, c.now)
			require.ErrorIs(t, err, c.want)
			if c.want != nil {
				require.Zero(t, reviewed)
			}
		})
	}
	reviewed, err := g.Review("boss-1", noon.Add(time.Hour))
	require.NoError(t, err)
	require.Equal(t, "boss-1", reviewed.Reviewer)
	require.Equal(t, noon.Add(time.Hour), reviewed.Reviewed)
	require.Zero(t, g.Reviewed, "the old value is as it was")
	_, err = reviewed.Review("boss-2", noon.Add(2*time.Hour))
	require.ErrorIs(t, err, access.ErrReviewed)

	own := g // a store that let a review by the actor through: it does not count, and another may review
	own.Reviewer, own.Reviewed = own.Actor, noon
	_, err = own.Review("boss-1", noon.Add(time.Hour))
	require.NoError(t, err)
}

// Whatever is asked for: what a grant opens is within what was allowed, for one patron and 15 minutes, and
// an actor never has two unreviewed grants.
func TestGrantProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.SampledFrom([]string{"", "a", "b"})
		var earlier []access.Grant
		now := noon
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(20*time.Minute)).Draw(t, "pass")))
			if i := rapid.IntRange(0, 3).Draw(t, "review"); i < len(earlier) {
				if g, err := earlier[i].Review(word.Draw(t, "reviewer"), now); err == nil {
					require.NotEqual(t, g.Actor, g.Reviewer)
					earlier[i] = g
				}
				continue
			}
			r := access.Request{Actor: word.Draw(t, "actor"), Role: word.Draw(t, "role"), Purpose: word.Draw(t, "purpose"), Subject: word.Draw(t, "subject")}
			d := access.Decision{BreakGlass: access.Set(rapid.Uint16().Draw(t, "allowed"))}
			segments := access.Set(rapid.Uint16().Draw(t, "segments"))
			if rapid.Bool().Draw(t, "fits") {
				segments &= d.BreakGlass
			}
			length := time.Duration(rapid.Int64Range(-1, int64(20*time.Minute)).Draw(t, "length"))
			g, err := access.NewGrant("g", r, d, segments, because, length, earlier, now)
			if err != nil {
				require.Zero(t, g)
				continue
			}
			earlier = append(earlier, g)
			unreviewed := 0
			for _, e := range earlier {
				if e.Actor == r.Actor && e.Reviewer == "" {
					unreviewed++
				}
			}
			require.Equal(t, 1, unreviewed)
			other := access.Request{Actor: word.Draw(t, "actor"), Role: word.Draw(t, "role"), Purpose: word.Draw(t, "purpose"), Subject: word.Draw(t, "subject")}
			after := time.Duration(rapid.Int64Range(-int64(time.Minute), int64(20*time.Minute)).Draw(t, "after"))
			levels, err := g.Levels(other, g.Issued.Add(after))
			limit := length
			if limit == 0 {
				limit = 15 * time.Minute
			}
			require.LessOrEqual(t, limit, 15*time.Minute)
			if other == r && after >= 0 && after < limit {
				require.NoError(t, err)
			} else {
				require.Error(t, err)
				require.Zero(t, levels)
			}
			for _, s := range access.AllSegments() {
				require.True(t, levels.Of(s) == access.None || levels.Of(s) == access.Full && d.BreakGlass.Has(s) && segments.Has(s))
			}
		}
	})
}

// The errors of grants name nobody, whatever was handed over.
func TestGrantErrorsNameNobody(t *testing.T) {
	const canary = "Ada-Lovelace"
	r := access.Request{Actor: canary, Role: canary, Purpose: canary, Subject: canary}
	d := access.Decision{BreakGlass: phones}
	g, err := access.NewGrant(canary, r, d, phones, canary, 0, nil, noon)
	require.NoError(t, err)
	other := r
	other.Subject += "2"
	var all []error
	collect := func(_ any, err error) { require.Error(t, err); all = append(all, err) }
	collect(access.NewGrant(canary, r, d, access.SetOf(access.Birth), canary, 0, nil, noon))
	collect(access.NewGrant(canary, r, d, phones, "Ada", 0, nil, noon))
	collect(access.NewGrant(canary, r, d, phones, canary, time.Hour, nil, noon))
	collect(access.NewGrant(canary, r, d, phones, canary, 0, []access.Grant{g}, noon))
	collect(g.Levels(other, noon))
	collect(g.Levels(r, noon.Add(time.Hour)))
	collect(g.Review(canary, noon))
	require.NotContains(t, errors.Join(all...).Error(), "Ada")
}

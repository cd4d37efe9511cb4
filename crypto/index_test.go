package crypto

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func mustIndex(t testing.TB, name string, fields ...string) Index {
	t.Helper()
	var all []Field
	for _, f := range fields {
		all = append(all, Field{Name: f})
	}
	x, err := NewIndex(name, all...)
	require.NoError(t, err)
	return x
}

func TestLowEntropy(t *testing.T) {
	for _, name := range []string{
		"birth", "birth year", "birth_date", "birthYear", "dateOfBirth", "dateofbirth", "date-of-birth", "DOB", "year", "age", "sex", "gender",
		"postcode", "postalCode", "zip", "zipCode", "ZIPCODE", "home postcode", "city", "town", "state", "country", "group", "patronGroup", "patron_group",
		"usergroup", "category", "class", "status", "language", "branch", "library", "homeLibrary", "expiry", "expirationDate",
	} {
		_, err := NewIndex("x", Field{Name: name})
		require.ErrorIs(t, err, ErrLowEntropy, name)
		_, err = NewIndex("x", Field{Name: name}, Field{Name: "anything", LowEntropy: true})
		require.ErrorIs(t, err, ErrLowEntropy, "two low ones: %s", name)
		_, err = NewIndex("x", Field{Name: name}, Field{Name: "surname"})
		require.NoError(t, err, "beside one with many values: %s", name)
	}
	for _, name := range []string{"identifier", "barcode", "e-mail", "email", "username", "external id", "surname", "phone", "image", "storage", "essex"} {
		_, err := NewIndex("x", Field{Name: name})
		require.NoError(t, err, name)
		_, err = NewIndex("x", Field{name, true})
		require.ErrorIs(t, err, ErrLowEntropy, name)
	}
	_, err := NewIndex("by year", Field{Name: "birth year"})
	require.EqualError(t, err, `crypto: a field with few values is not indexed by itself: index "by year" needs a field with many values beside it`)
	_, err = NewIndex("", Field{Name: "barcode"})
	require.Error(t, err)
	_, err = NewIndex("x")
	require.Error(t, err)
}

func TestTokens(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	k, other := h.open(nil), newHouse(t).open(nil)
	one, two := mustIndex(t, IndexIdentifier, "identifier"), mustIndex(t, "pair", "surname", "first name")
	require.NoError(t, k.AddIndex(ctx, two))
	require.NoError(t, other.AddIndex(ctx, two))
	token := func(k *Keyring, x Index, parts ...string) Token {
		t.Helper()
		tokens, err := k.Indexes().Tokens(x, parts...)
		require.NoError(t, err)
		require.Len(t, tokens, 1)
		return tokens[0]
	}
	require.Equal(t, token(k, one, "a"), token(h.open(nil), one, "a"), "the same in another process")
	all := map[Token]string{}
	add := func(what string, tk Token) {
		t.Helper()
		require.Empty(t, all[tk], what)
		all[tk] = what
	}
	add("other keyring", token(other, one, "a"))
	add("a", token(k, one, "a"))
	add("empty", token(k, one, ""))
	add("ab", token(k, one, "ab"))
	add("ab, c", token(k, two, "ab", "c"))
	add("a, bc", token(k, two, "a", "bc"))
	add("abc, ", token(k, two, "abc", ""))
	add(" , abc", token(k, two, "", "abc"))
	add("other keyring's ab, c", token(other, two, "ab", "c"))
	length := string(binary.BigEndian.AppendUint64(nil, 1))
	add("a length inside", token(k, two, "ab"+length, "c"))

	_, err := k.Indexes().Tokens(Index{}, "a")
	require.ErrorIs(t, err, ErrNoIndex)
	_, err = k.Indexes().Tokens(mustIndex(t, "none", "surname"), "a")
	require.ErrorIs(t, err, ErrNoIndex)
	_, err = k.Indexes().Tokens(two, "a")
	require.EqualError(t, err, `crypto: index "pair" is over 2 fields, got 1 values`)

	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.SliceOfN(rapid.StringN(0, 3, -1), 2, 2).Draw(t, "a"), rapid.SliceOfN(rapid.StringN(0, 3, -1), 2, 2).Draw(t, "b")
		x, err := k.Indexes().Tokens(two, a...)
		require.NoError(t, err)
		y, err := k.Indexes().Tokens(two, b...)
		require.NoError(t, err)
		require.Equal(t, slices.Equal(a, b), x[0] == y[0])
	})
}

// TestIndexLife walks through the states of an index: nobody who writes all tokens and looks for any of them misses a hit.
func TestIndexLife(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	k := h.open(nil)
	x := mustIndex(t, "phone", "phone")
	tokens := func() []Token {
		t.Helper()
		tk, err := k.Indexes().Tokens(x, "1")
		require.NoError(t, err)
		return tk
	}
	state := func() (s string) {
		st, err := k.Status()
		require.NoError(t, err)
		for _, i := range st.Indexes {
			if i.Name == "phone" {
				s += fmt.Sprint(i.Version, i.State, " ")
			}
		}
		return s
	}
	require.False(t, k.Indexes().Has("phone"))
	require.ErrorIs(t, k.RotateIndex(ctx, "phone"), ErrNoIndex)
	require.Error(t, k.AddIndex(ctx, Index{}))
	require.True(t, k.Indexes().Ready(IndexIdentifier))
	start := k.Indexes().Change()

	require.NoError(t, k.AddIndex(ctx, x))
	require.Equal(t, "1building ", state())
	require.False(t, k.Indexes().Ready("phone"))
	change := k.Indexes().Change()
	require.Greater(t, change, start)
	first := tokens()
	require.Len(t, first, 1)
	require.NoError(t, k.AddIndex(ctx, x), "again")
	require.NoError(t, k.RotateIndex(ctx, "phone"), "while it is building there is nothing to rotate")
	require.Equal(t, first, tokens())
	require.Equal(t, change, k.Indexes().Change())

	again, err := k.FinishIndexes(ctx, start)
	require.NoError(t, err)
	require.True(t, again, "rows were written with tokens from before the index")
	require.Equal(t, "1building ", state())
	again, err = k.FinishIndexes(ctx, change)
	require.NoError(t, err)
	require.False(t, again, "no old tokens to lose")
	require.Equal(t, "1active ", state())
	require.True(t, k.Indexes().Ready("phone"))
	require.Equal(t, first, tokens())

	require.NoError(t, k.RotateIndex(ctx, "phone"))
	require.Equal(t, "1active 2building ", state())
	both := tokens()
	require.Len(t, both, 2)
	require.Equal(t, first[0], both[0], "the complete one is looked up by first")
	require.NotEqual(t, both[0], both[1], "versions differ")
	k = h.open(nil) // interrupted
	require.NoError(t, k.RotateIndex(ctx, "phone"))
	require.Equal(t, both, tokens())
	change = k.Indexes().Change()
	again, err = k.FinishIndexes(ctx, change)
	require.NoError(t, err)
	require.True(t, again, "rows have to lose their old tokens")
	require.Equal(t, "2active ", state())
	require.Equal(t, both[1:], tokens())
	again, err = k.FinishIndexes(ctx, change)
	require.NoError(t, err)
	require.True(t, again, "said before the rows were written once more")
	again, err = k.FinishIndexes(ctx, k.Indexes().Change())
	require.NoError(t, err)
	require.False(t, again)
	require.Equal(t, "2active ", state())
	generation := k.state.Load().content.Generation
	_, err = k.FinishIndexes(ctx, k.Indexes().Change())
	require.NoError(t, err)
	require.Equal(t, generation, k.state.Load().content.Generation, "nothing to do is nothing written")

	// Another process learns of it when it asks.
	other := h.open(nil)
	require.NoError(t, k.RotateIndex(ctx, IndexIdentifier))
	require.Less(t, other.Indexes().Change(), k.Indexes().Change())
	fresh, err := other.RefreshIndexes()
	require.NoError(t, err)
	require.Equal(t, k.Indexes().Change(), fresh.Change())
	require.Same(t, fresh, other.Indexes())
}

// indexChild adds and rotates indexes, some of them its sibling's too.
func indexChild(args []string) {
	ctx := context.Background()
	k := childKeyring(args[0], nil, nil)
	for i := range 20 {
		for _, name := range []string{"both", args[1]} {
			x, err := NewIndex(fmt.Sprint(name, "-", i), Field{Name: "surname"})
			childMust(err)
			childMust(k.AddIndex(ctx, x))
			childMust(k.RotateIndex(ctx, IndexIdentifier))
			_, err = k.FinishIndexes(ctx, k.Indexes().Change())
			childMust(err)
		}
	}
	fmt.Println("done")
}

func TestIndexesInTwoProcesses(t *testing.T) {
	h := newHouse(t)
	var wg sync.WaitGroup
	for _, name := range []string{"one", "two"} {
		cmd, out := startChild(t, "index", h.path, name)
		wg.Go(func() {
			last := ""
			for out.Scan() {
				last = out.Text()
			}
			if err := cmd.Wait(); err != nil || last != "done" {
				t.Error(err, last)
			}
		})
	}
	wg.Wait()
	st, err := h.open(nil).Status()
	require.NoError(t, err)
	versions := map[string]int{}
	for _, x := range st.Indexes {
		versions[x.Name+" "+x.State]++
	}
	for name, n := range versions {
		require.Equal(t, 1, n, name)
	}
	for i := range 20 {
		for _, name := range []string{"both", "one", "two"} {
			require.NotZero(t, versions[fmt.Sprint(name, "-", i, " active")]+versions[fmt.Sprint(name, "-", i, " building")], "%s %d", name, i)
		}
	}
	require.Len(t, st.Indexes, 61+versions[IndexIdentifier+" building"]*versions[IndexIdentifier+" active"])
}

func TestPseudonyms(t *testing.T) {
	h := newHouse(t)
	k, foreign := h.open(nil), newHouse(t).open(nil)
	names := func(k *Keyring, name string) *Pseudonyms {
		p, err := k.Pseudonyms(name)
		require.NoError(t, err)
		return p
	}
	borrower, again := names(k, "borrower"), names(h.open(nil), "borrower")
	others := []*Pseudonyms{names(k, "borrowe"), names(k, "borrower2"), names(foreign, "borrower")}
	_, err := k.Pseudonyms("")
	require.Error(t, err)
	rapid.Check(t, func(t *rapid.T) {
		reference := rapid.String().Draw(t, "reference")
		token, err := borrower.Token(reference)
		require.NoError(t, err)
		require.Regexp(t, `^cp[A-Za-z0-9_-]+$`, token)
		same, err := again.Token(reference)
		require.NoError(t, err)
		require.Equal(t, token, same)
		opened, err := again.Open(token)
		require.NoError(t, err)
		require.Equal(t, reference, opened.Reveal())
		require.True(t, borrower.Is(token))
		all, err := borrower.Tokens(reference)
		require.NoError(t, err)
		require.Equal(t, []string{token}, all)
		for _, p := range others {
			_, err := p.Open(token)
			require.Equal(t, ErrNotPseudonym, err)
			is, err := p.Token(reference)
			require.NoError(t, err)
			require.NotEqual(t, token, is)
		}
		require.False(t, borrower.Is(reference))
	})
	// One token for a reference: whatever else decodes to the same bytes is refused.
	token, err := borrower.Token("6f9619ff-8b86-4d01-b42d-00cf4fc964ff")
	require.NoError(t, err)
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := len(tokenPrefix); i < len(token); i++ {
		for _, c := range alphabet + "=+/\n\r \x00" {
			if changed := token[:i] + string(c) + token[i+1:]; changed != token {
				_, err := borrower.Open(changed)
				require.Equal(t, ErrNotPseudonym, err)
			}
			if c > 'z' || c < '-' {
				require.False(t, borrower.Is(token[:i]+string(c)+token[i:]))
			}
		}
		require.False(t, borrower.Is(token[:i]))
	}
	raw, err := tokenText.DecodeString(token[2:])
	require.NoError(t, err)
	require.EqualValues(t, 1, raw[0])
	require.False(t, borrower.Is(tokenPrefix+tokenText.EncodeToString(append([]byte{0x81, 0}, raw[1:]...))), "the same version in two bytes")
	for _, s := range []string{token + "=", token + "\n", " " + token, "CP" + token[2:], token[2:], "", "cp"} {
		require.False(t, borrower.Is(s), "%q", s)
	}
	require.InDelta(t, 26+float64(len("6f9619ff-8b86-4d01-b42d-00cf4fc964ff"))*4/3, len(token), 2)
}

func TestPairwise(t *testing.T) {
	k, foreign := newHouse(t).open(nil), newHouse(t).open(nil)
	_, err := k.Pairwise("")
	require.EqualError(t, err, "crypto: pairwise pseudonyms need a recipient")
	seen := map[string]bool{}
	for _, k := range []*Keyring{k, foreign} {
		for _, recipient := range []string{"vendor", "vendo", "university"} {
			f, err := k.Pairwise(recipient)
			require.NoError(t, err)
			same, err := k.Pairwise(recipient)
			require.NoError(t, err)
			var wg sync.WaitGroup
			for _, s := range []Subject{"a", "ra", "b", ""} {
				p := f(s)
				require.Len(t, p, 22)
				require.False(t, seen[p], "%s %s", recipient, s)
				seen[p] = true
				for range 4 {
					wg.Go(func() {
						if same(s) != p {
							t.Error("differs")
						}
					})
				}
			}
			wg.Wait()
		}
	}
	require.Len(t, seen, 24)
}

func FuzzPseudonym(f *testing.F) {
	k := newHouse(f).open(nil)
	p, err := k.Pseudonyms("borrower")
	require.NoError(f, err)
	token, err := p.Token("a reference")
	require.NoError(f, err)
	f.Add(token)
	f.Add("cpAQ")
	f.Add("")
	f.Add(strings.Repeat("cp", 100))
	f.Fuzz(func(t *testing.T, text string) {
		opened, err := p.Open(text)
		if err != nil {
			require.Equal(t, ErrNotPseudonym, err)
		} else {
			again, err := p.Token(opened.Reveal())
			require.NoError(t, err)
			require.Equal(t, text, again, "two tokens for one reference")
		}
		token, err := p.Token(text)
		require.NoError(t, err)
		opened, err = p.Open(token)
		require.NoError(t, err)
		require.Equal(t, text, opened.Reveal())
	})
}

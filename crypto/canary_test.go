package crypto

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/davecgh/go-spew/spew"
	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/tink"
	"go.yaml.in/yaml/v3"
)

const canary = "CANARY-söt\"päron-7f3a9c0d51"

// printed is what a printer made of a value.
type printed struct{ how, text string }

var verbs = []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%T"}

// printEveryWay runs all printers over a value.
func printEveryWay(v any) (all []printed) {
	add := func(how, text string, err error) {
		all = append(all, printed{how, text})
		if err != nil {
			all = append(all, printed{how + ", error", err.Error()})
		}
	}
	for _, verb := range verbs {
		add("fmt "+verb, fmt.Sprintf(verb, v), nil)
		add("error with "+verb, fmt.Errorf("wrapped: %w", fmt.Errorf(verb, v)).Error(), nil)
	}
	add("fmt.Sprint", fmt.Sprint(v), nil)
	add("errors.New", errors.New("wrapped: "+fmt.Sprintln(v)).Error(), nil)

	var b bytes.Buffer
	for name, h := range map[string]slog.Handler{"text": slog.NewTextHandler(&b, nil), "JSON": slog.NewJSONHandler(&b, nil)} {
		b.Reset()
		log := slog.New(h)
		log.Info("plain", "v", v)
		log.With("v", v).WithGroup("g").Info("group", slog.Group("h", slog.Any("v", v)), slog.Any("list", []any{v}))
		add("slog "+name, b.String(), nil)
	}
	j, err := json.Marshal(v)
	add("JSON", string(j), err)
	x, err := xml.Marshal(v)
	add("XML", string(x), err)
	b.Reset()
	err = gob.NewEncoder(&b).Encode(v)
	add("gob", b.String(), err)
	y, err := func() (y []byte, err error) {
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("panic: %v", r)
			}
		}()
		return yaml.Marshal(v)
	}()
	add("YAML", string(y), err)

	add("spew", spew.Sdump(v), nil)
	add("spew, no methods", (&spew.ConfigState{DisableMethods: true, Indent: " "}).Sdump(v), nil)
	for _, verb := range []string{"%v", "%+v", "%#v", "%#+v"} {
		add("spew "+verb, spew.Sprintf(verb, v), nil)
	}
	func() {
		defer func() {
			r := recover()
			add("panic", fmt.Sprintf("%v %+v %s", r, r, r), nil)
		}()
		panic(v)
	}()
	return all
}

// finds reports whether a text shows a secret, or so much of it that it can be told, in any form that a printer has.
func finds(text, secret string) bool {
	part := secret[:8] // as much as stands together in a hex dump
	raw := []byte(part)
	spaced := func(format, separator string) string {
		var s []string
		for _, b := range raw {
			s = append(s, fmt.Sprintf(format, b))
		}
		return strings.Join(s, separator)
	}
	quoted := strconv.QuoteToASCII(secret)
	forms := []string{
		part, hex.EncodeToString(raw), strings.ToUpper(hex.EncodeToString(raw)),
		spaced("%d", " "), spaced("%d", ", "), spaced("%d", ","), spaced("%02x", " "), spaced("%#x", " "), spaced("%#x", ", "), spaced("%#02x", ", "),
		quoted[1 : len(quoted)-1], strings.Trim(strconv.Quote(part), `"`),
	}
	for shift := range 3 { // where the secret begins within a group of three bytes
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			s := e.EncodeToString(append(make([]byte, shift), raw...))
			forms = append(forms, s[(shift*8+5)/6:len(s)-2])
		}
	}
	for _, f := range forms {
		if strings.Contains(text, f) {
			return true
		}
	}
	return false
}

type (
	concealed[T any] struct {
		name   string
		secret T
	}
	shown[T any] struct {
		Name   string
		Secret T
	}
	nested[T any] struct {
		Outer shown[concealed[T]]
		inner *concealed[[]concealed[T]]
		any   any
	}
)

// shapes puts a value where programs keep values.
func shapes[T any](v T) map[string]any {
	return map[string]any{
		"plain": v, "pointer": &v, "pointer to pointer": new(&v),
		"hidden": concealed[T]{"n", v}, "pointer to hidden": &concealed[T]{"n", v}, "hidden pointer": concealed[*T]{"n", &v},
		"shown": shown[T]{"n", v}, "pointer to shown": &shown[T]{"n", v},
		"slice": []T{v}, "slice of hidden": []concealed[T]{{"n", v}}, "hidden slice": concealed[[]T]{"n", []T{v}},
		"map": map[string]T{"k": v}, "map of hidden": map[string]concealed[T]{"k": {"n", v}}, "hidden map": concealed[map[string]T]{"n", map[string]T{"k": v}},
		"array": [2]T{v, v}, "hidden array": concealed[[1]T]{"n", [1]T{v}},
		"nested": nested[T]{shown[concealed[T]]{"n", concealed[T]{"n", v}}, &concealed[[]concealed[T]]{"n", []concealed[T]{{"n", v}}}, v},
		"any":    []any{v, &v, concealed[any]{"n", v}},
	}
}

// hits returns the shapes and printers that show the secret.
func hits[T any](v T, secret string) (found []string) {
	for shape, s := range shapes(v) {
		for _, p := range printEveryWay(s) {
			if finds(p.text, secret) {
				found = append(found, shape+": "+p.how)
			}
		}
	}
	return found
}

func TestSecretDoesNotPrint(t *testing.T) {
	require.Empty(t, hits(NewSecret(canary), canary))
	require.Empty(t, hits(Plain{"names", 1, NewSecret(canary)}, canary))
	h := newHouse(t)
	k := h.open(newMemory())
	require.NoError(t, k.CreateKeys(t.Context(), "a"))
	sealed, err := k.Seal(t.Context(), "a", Plain{"x", 1, NewSecret(canary)}, Plain{"y", 1, NewSecret(canary)})
	require.NoError(t, err)
	opened, err := k.Open(t.Context(), "a", Sealed{"x", 1, sealed[0]}, Sealed{"y", 1, sealed[1]})
	require.NoError(t, err)
	for _, s := range opened {
		require.Equal(t, canary, s.Reveal())
		require.Empty(t, hits(s, canary))
	}
	require.Empty(t, hits(opened, canary))
	require.Equal(t, "[redacted]", fmt.Sprint(opened[1]))
	for _, encode := range []func(any) error{
		func(v any) error { _, err := json.Marshal(v); return err },
		func(v any) error { _, err := xml.Marshal(v); return err },
		func(v any) error { return gob.NewEncoder(io.Discard).Encode(v) },
		func(v any) error { _, err := yaml.Marshal(v); return err },
	} {
		require.ErrorContains(t, encode(opened[0]), "a Secret is not encoded", "a mask must not be stored for a value")
		require.ErrorContains(t, encode(shown[Secret]{"n", opened[0]}), "a Secret is not encoded")
	}
}

func TestEmptySecret(t *testing.T) {
	for _, s := range []Secret{{}, NewSecret("")} {
		require.True(t, s.IsEmpty())
		require.Empty(t, s.Reveal())
		require.Equal(t, "[redacted]", fmt.Sprintf("%s", s))
	}
	require.False(t, NewSecret(canary).IsEmpty())
}

// These have all that Secret has but the function: the methods alone do not help.
type (
	sliceSecret   struct{ text []byte }
	stringSecret  struct{ text string }
	pointerSecret struct{ text *[]byte }
)

func (sliceSecret) Format(f fmt.State, r rune)     { Secret{}.Format(f, r) }
func (sliceSecret) LogValue() slog.Value           { return Secret{}.LogValue() }
func (sliceSecret) MarshalText() ([]byte, error)   { return Secret{}.MarshalText() }
func (sliceSecret) GobEncode() ([]byte, error)     { return Secret{}.GobEncode() }
func (stringSecret) Format(f fmt.State, r rune)    { Secret{}.Format(f, r) }
func (stringSecret) LogValue() slog.Value          { return Secret{}.LogValue() }
func (stringSecret) MarshalText() ([]byte, error)  { return Secret{}.MarshalText() }
func (stringSecret) GobEncode() ([]byte, error)    { return Secret{}.GobEncode() }
func (pointerSecret) Format(f fmt.State, r rune)   { Secret{}.Format(f, r) }
func (pointerSecret) LogValue() slog.Value         { return Secret{}.LogValue() }
func (pointerSecret) MarshalText() ([]byte, error) { return Secret{}.MarshalText() }
func (pointerSecret) GobEncode() ([]byte, error)   { return Secret{}.GobEncode() }

// TestCanarySings shows that the canary test would fail if a Secret were anything but a function.
func TestCanarySings(t *testing.T) {
	text := []byte(canary)
	for name, found := range map[string][]string{
		"slice":   hits(sliceSecret{text}, canary),
		"string":  hits(stringSecret{canary}, canary),
		"pointer": hits(pointerSecret{&text}, canary),
	} {
		require.Contains(t, found, "hidden: fmt %s", name)
		require.Contains(t, found, "hidden: spew", name)
		require.Contains(t, found, "plain: spew, no methods", name)
	}
	// Without the methods, everything sings.
	found := hits(shown[string]{"n", canary}, canary)
	for _, how := range []string{"fmt %v", "fmt %+v", "fmt %#v", "fmt %s", "fmt %q", "fmt %x", "fmt %X", "slog text", "slog JSON", "JSON", "XML", "gob", "YAML", "spew", "panic"} {
		require.Contains(t, found, "plain: "+how)
	}
	require.Contains(t, hits([]byte(canary), canary), "plain: fmt %d")
	require.Contains(t, hits([]byte(canary), canary), "plain: JSON") // base64
}

func TestKeysDoNotPrint(t *testing.T) {
	h := newHouse(t)
	k := h.open(newMemory())
	require.NoError(t, k.CreateKeys(t.Context(), "a"))
	p, err := k.Pseudonyms("borrower")
	require.NoError(t, err)
	c := k.state.Load().content
	secrets := map[string][]byte{
		"epoch": c.Epochs[0].Key, "index": c.Indexes[0].Key, "pseudonym": c.Pseudonyms[0].Key, "ledger": c.Ledger.Key, "trail": c.Trail,
	}
	trail, err := k.TrailKey(t.Context())
	require.NoError(t, err)
	trail.MAC([]byte("so that a keyed hash is in the pool"))
	secrets["checkpoint"] = trail.signing().Seed()
	require.Empty(t, hits(trail, string(trail.signing())), "the whole private key")
	line, err := os.ReadFile(filepath.Join(filepath.Dir(h.path), "kek"))
	require.NoError(t, err)
	secrets["KEK"], err = parseKEK(string(line))
	require.NoError(t, err)
	for name, s := range secrets {
		require.Empty(t, hits(k, string(s)), name)
		require.Empty(t, hits(k.Indexes(), string(s)), name)
		require.Empty(t, hits(p, string(s)), name)
		require.Empty(t, hits(h.kek, string(s)), name)
		require.Empty(t, hits(trail, string(s)), name)
		require.Empty(t, hits(Config{KEK: h.kek}, string(s)), name)
	}
	require.NotEmpty(t, hits(c.Indexes, string(secrets["index"])), "the test sees keys")
}

//go:noinline
func panicDeep(s Secret, text concealed[Secret]) { panic(text) }

func panicChild([]string) {
	text := strings.Repeat(os.Getenv("CARREL_CANARY"), 1)
	os.Unsetenv("CARREL_CANARY")
	s := NewSecret(text)
	go func() { panic(s) }()
	panicDeep(s, concealed[Secret]{"n", s})
}

func TestPanicTrace(t *testing.T) {
	for _, level := range []string{"single", "all", "system"} {
		cmd := childCommand(t, "panic")
		cmd.Env = append(cmd.Env, "CARREL_CANARY="+canary, "GOTRACEBACK="+level)
		out, err := cmd.CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "goroutine ")
		require.False(t, finds(string(out), canary), "%s", out)
	}
}

// A gossip is a KMS client that repeats what it was given.
type gossip struct{ tink.AEAD }

func (gossip) Encrypt(p, _ []byte) ([]byte, error) { return nil, errors.New(canary + string(p)) }
func (gossip) Decrypt(c, _ []byte) ([]byte, error) { return nil, errors.New(canary + string(c)) }

// TestErrorsContainNoInput feeds the secret as bad input to everything that takes input.
func TestErrorsContainNoInput(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	store := newMemory()
	k := h.open(store)
	require.NoError(t, k.CreateKeys(ctx, "a", canary))
	good, err := k.Seal(ctx, "a", Plain{"names", 1, NewSecret(canary)})
	require.NoError(t, err)
	moved, err := k.Seal(ctx, canary, Plain{"names", 1, NewSecret(canary)})
	require.NoError(t, err)
	index, err := NewIndex("barcode", Field{Name: "barcode"})
	require.NoError(t, err)
	identifier, err := NewIndex(IndexIdentifier, Field{Name: "identifier"})
	require.NoError(t, err)
	names, err := k.Pseudonyms(canary)
	require.NoError(t, err)
	long := Subject(strings.Repeat(canary, 20))
	inBase64 := base64.StdEncoding.EncodeToString([]byte(canary))
	dir := t.TempDir()
	file := func(content string) string {
		name := filepath.Join(dir, fmt.Sprint(len(content))+"-file")
		require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
		return name
	}
	open := func(subject Subject, parts ...Sealed) error { _, err := k.Open(ctx, subject, parts...); return err }
	kek := func(content string) error { _, err := OpenKEK(file(content)); return err }
	keyring := func(content string) error {
		h := newHouse(t)
		h.write("", []byte(content))
		_, err := OpenKeyring(ctx, Config{Path: h.path, KEK: h.kek})
		return err
	}
	ledger := func(content func(header string) string) error {
		h := newHouse(t)
		h.write(".ledger", []byte(content(string(h.file(".ledger")))))
		_, err := OpenKeyring(ctx, Config{Path: h.path, KEK: h.kek})
		return err
	}
	sealedKeyring := func(plain string) error {
		h := newHouse(t)
		var f keyringFile
		require.NoError(t, json.Unmarshal(h.file(""), &f))
		key, err := h.kek.Decrypt(f.Key, nil)
		require.NoError(t, err)
		inner, err := newAEAD(key)
		require.NoError(t, err)
		f.Sealed, err = inner.Encrypt([]byte(plain), f.bound())
		require.NoError(t, err)
		data, err := json.Marshal(f)
		require.NoError(t, err)
		h.write("", data)
		_, err = OpenKeyring(ctx, Config{Path: h.path, KEK: h.kek})
		return err
	}
	weak := []byte(canary + "and some more of it")[:keySize]

	cases := map[string]error{
		"long subject, open":    open(long),
		"long subject, create":  k.CreateKeys(ctx, long),
		"long subject, shred":   k.Shred(ctx, long),
		"unknown subject":       open(canary + "?"),
		"another label":         open("a", Sealed{canary, 1, good[0]}),
		"another subject":       open("a", Sealed{"names", 1, moved[0]}),
		"plaintext for sealed":  open("a", Sealed{"names", 1, []byte(strings.Repeat(canary, 3))}),
		"format and plaintext":  open("a", Sealed{"names", 1, append([]byte{formatVersion}, strings.Repeat(canary, 3)...)}),
		"short":                 open("a", Sealed{"names", 1, []byte(canary)[:5]}),
		"KEK: text":             kek(canary),
		"KEK: prefix and text":  kek(kekPrefix + canary),
		"KEK: prefix, base64":   kek(kekPrefix + inBase64),
		"KEK: weak":             kek(kekPrefix + base64.StdEncoding.EncodeToString(weak)),
		"KEK: key for its path": func() error { _, err := OpenKEK(kekPrefix + inBase64); return err }(),
		"keyring: text":         keyring(canary),
		"keyring: field":        keyring(`{"carrel-keyring":1,` + strconv.Quote(canary) + `:1}`),
		"keyring: id":           keyring(`{"carrel-keyring":1,"id":` + strconv.Quote(canary) + `}`),
		"keyring: version":      keyring(`{"carrel-keyring":` + strconv.Quote(canary) + `}`),
		"keyring: sealed":       keyring(`{"carrel-keyring":1,"id":"00000000000000000000000000000000","sealed":"` + inBase64 + `"}`),
		"keyring: inside":       sealedKeyring(canary),
		"keyring: inside, JSON": sealedKeyring(`{"generation":` + strconv.Quote(canary) + `}`),
		"ledger: text":          ledger(func(string) string { return canary }),
		"ledger: header":        ledger(func(string) string { return canary + "\n" }),
		"ledger: line":          ledger(func(h string) string { return h + canary + "\n" }),
		"ledger: words":         ledger(func(h string) string { return h + "1 " + canary + " " + canary + " " + canary + "\n" }),
		"ledger: tombstone":     ledger(func(h string) string { return h + "1 x AAAAAAAAAAAAAAAAAAAAAA " + canary + "\n" }),
		"gossip, create":        CreateKeyring(filepath.Join(dir, "gossip"), gossip{}),
		"gossip, open":          func() error { _, err := OpenKeyring(ctx, Config{Path: h.path, KEK: gossip{}}); return err }(),
		"index: no such":        func() error { _, err := k.Indexes().Tokens(index, canary); return err }(),
		"index: too many":       func() error { _, err := k.Indexes().Tokens(identifier, canary, canary); return err }(),
		"index: low entropy":    func() error { _, err := NewIndex("x", Field{"birth " + canary, true}); return err }(),
		"pseudonym: text":       func() error { _, err := names.Open(canary); return err }(),
		"pseudonym: prefix":     func() error { _, err := names.Open(tokenPrefix + canary); return err }(),
		"pseudonym: base64": func() error {
			_, err := names.Open(tokenPrefix + tokenText.EncodeToString([]byte("\x01"+canary)))
			return err
		}(),
		"no store": h.open(nil).Shred(ctx, canary),
	}
	foreign := newHouse(t).open(nil)
	other, err := foreign.Pseudonyms(canary)
	require.NoError(t, err)
	token, err := other.Token(canary)
	require.NoError(t, err)
	_, cases["pseudonym: foreign"] = names.Open(token)
	wrapped, err := store.Key(ctx, canary)
	require.NoError(t, err)
	require.NoError(t, k.Shred(ctx, canary))
	cases["shredded"] = open(canary)
	cases["shredded, create"] = k.CreateKeys(ctx, canary)
	wrapped.Subject, wrapped.Wrapped = canary+"2", []byte(canary)
	store.restore(wrapped)
	cases["wrapped: plaintext"] = open(canary + "2")
	_, cases["rotation"] = k.Rotate(ctx, nil)
	for name, err := range cases {
		require.Error(t, err, name)
		for e := err; e != nil; e = errors.Unwrap(e) {
			for _, p := range printEveryWay(e) {
				require.False(t, finds(p.text, canary), "%s: %s: %s", name, p.how, p.text)
			}
		}
		require.NotContains(t, err.Error(), "\n", name)
		require.True(t, strings.HasPrefix(err.Error(), "crypto: "), "%s: %v", name, err)
	}
}

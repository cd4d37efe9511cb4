package crypto

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func kekLine(key []byte) string { return kekPrefix + base64.StdEncoding.EncodeToString(key) + "\n" }

func TestKEKFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kek")
	require.NoError(t, CreateKEK(path))
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Regexp(t, `^carrel-kek-1:[A-Za-z0-9+/]{43}=\n$`, string(content))
	if runtime.GOOS != "windows" {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), info.Mode())
	}
	err = CreateKEK(path)
	require.ErrorIs(t, err, ErrExists)
	require.EqualError(t, err, "crypto: there is a file already; it is not overwritten, because it may be the only copy of a key: "+path)
	again, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, content, again)
	a, err := OpenKEK(path)
	require.NoError(t, err)
	ct, err := a.Encrypt([]byte("x"), []byte("y"))
	require.NoError(t, err)
	plain, err := a.Decrypt(ct, []byte("y"))
	require.NoError(t, err)
	require.Equal(t, "x", string(plain))

	other := filepath.Join(dir, "other")
	require.NoError(t, CreateKEK(other))
	second, err := os.ReadFile(other)
	require.NoError(t, err)
	require.NotEqual(t, content, second)

	missing := filepath.Join(dir, "missing")
	_, err = OpenKEK(missing)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.EqualError(t, err, "crypto: key file "+missing+": no such file or directory")
	_, err = OpenKEK(dir)
	require.ErrorContains(t, err, dir)
	err = CreateKEK(filepath.Join(dir, "no", "kek"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = OpenKEK(string(content))
	require.EqualError(t, err, "crypto: this is a key, want the path of a key file")

	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2, "nothing temporary is left")
}

func TestKEKPermissions(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has other permissions")
	}
	path := filepath.Join(t.TempDir(), "kek")
	require.NoError(t, CreateKEK(path))
	for _, mode := range []fs.FileMode{0o644, 0o640, 0o604, 0o620, 0o602, 0o666, 0o777, 0o610, 0o601} {
		require.NoError(t, os.Chmod(path, mode))
		_, err := OpenKEK(path)
		require.ErrorIs(t, err, ErrPermissions, "%o", mode)
		require.EqualError(t, err, "crypto: others than its owner may read or write this key file: "+path+"; chmod 600 it, and think about who has read it")
	}
	for _, mode := range []fs.FileMode{0o600, 0o400, 0o700} {
		require.NoError(t, os.Chmod(path, mode))
		_, err := OpenKEK(path)
		require.NoError(t, err, "%o", mode)
	}
}

func TestWeakKeys(t *testing.T) {
	counter, down, seven := make([]byte, keySize), make([]byte, keySize), make([]byte, keySize)
	for i := range counter {
		counter[i], down[i], seven[i] = byte(i), byte(255-i), byte(7*i+200)
	}
	path := filepath.Join(t.TempDir(), "kek")
	for name, key := range map[string][]byte{
		"zero":          make([]byte, keySize),
		"ones":          bytes.Repeat([]byte{0xff}, keySize),
		"text":          []byte("0123456789abcdef0123456789ABCDEF"),
		"a sentence":    []byte("ein Geheimnis, ganz fürchterlich"[:keySize-1] + "x"),
		"hexadecimal":   []byte("9f86d081884c7d659a2feaa0c55ad015"),
		"default":       []byte("change-me-change-me-change-me-32"),
		"example":       []byte("carrel example key, never use it"),
		"counter":       counter,
		"counting down": down,
		"sevens":        seven,
		"repeated":      bytes.Repeat([]byte{1, 0x82, 3, 0x84, 5, 0x86, 7, 0x88}, 4),
		"half zero":     append(make([]byte, 18), newKey(14)...),
	} {
		require.Len(t, key, keySize, name)
		require.NoError(t, os.WriteFile(path, []byte(kekLine(key)), 0o600))
		_, err := OpenKEK(path)
		require.ErrorIs(t, err, ErrWeakKey, name)
		require.EqualError(t, err, "crypto: this is a default or test key; make a new one: "+path, name)
	}
	for range 10_000 {
		require.NoError(t, checkRandom(newKey(keySize)))
	}
}

func TestNoKEK(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kek")
	good := newKey(keySize)
	line := kekLine(good)
	for name, text := range map[string]string{
		"empty": "", "prefix": kekPrefix, "another version": strings.Replace(line, "-1:", "-2:", 1),
		"short": kekLine(good[:31]), "long": kekLine(append(good, 1)), "no padding": strings.TrimRight(line, "=\n"),
		"two lines": line + line, "a line feed inside": line[:30] + "\n" + line[30:], "a space inside": line[:30] + " " + line[30:],
		"URL alphabet": kekPrefix + strings.Repeat("-_", 21) + "8=", "trailing bits": strings.TrimRight(line, "=\n")[:len(kekPrefix)+42] + "B=",
		"binary": string(good), "hexadecimal": "00112233445566778899aabbccddeeff", "huge": line + strings.Repeat(" ", 10000) + "x",
		"without prefix": strings.TrimPrefix(line, kekPrefix),
	} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := OpenKEK(path)
		if name == "huge" {
			require.NoError(t, err, "what follows 4,096 bytes is not read")
			continue
		}
		require.EqualError(t, err, "crypto: not a key file: want one line, carrel-kek-1: and 32 bytes in base64: "+path, name)
	}
	for _, text := range []string{line, strings.TrimSpace(line), "\n " + line + "\r\n"} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := OpenKEK(path)
		require.NoError(t, err)
	}
}

func TestKeyringFile(t *testing.T) {
	ctx := context.Background()
	h := newHouse(t)
	content := h.file("")
	require.ErrorIs(t, CreateKeyring(h.path, h.kek), ErrExists)
	require.Equal(t, content, h.file(""))
	open := func(cfg Config) error { _, err := OpenKeyring(ctx, cfg); return err }

	wrong := newHouse(t)
	err := open(Config{Path: h.path, KEK: wrong.kek})
	require.ErrorIs(t, err, ErrWrongKEK)
	require.EqualError(t, err, "crypto: the key-encryption key does not open this keyring: "+h.path)
	err = open(Config{Path: h.path + "x", KEK: h.kek})
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.EqualError(t, err, "crypto: keyring "+h.path+"x: file does not exist; without it nothing that it sealed can be opened: restore it, or create one for a new installation")

	for want, cfg := range map[string]Config{
		"crypto: Config.Path is empty, want the path of the keyring": {KEK: h.kek},
		"crypto: Config.KEK is nil, want the key-encryption key":     {Path: h.path},
		"crypto: Config.CacheSize is -1, must not be negative":       {Path: h.path, KEK: h.kek, CacheSize: -1},
		"crypto: Config.CacheTTL is -1ns, must not be negative":      {Path: h.path, KEK: h.kek, CacheTTL: -1},
	} {
		require.EqualError(t, open(cfg), want)
	}
	require.EqualError(t, CreateKeyring(h.path+"y", nil), "crypto: a keyring needs a key-encryption key")
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	_, err = OpenKeyring(canceled, Config{Path: h.path, KEK: h.kek})
	require.ErrorIs(t, err, context.Canceled)

	// A ledger without a keyring may be all that is left of one.
	require.NoError(t, os.Remove(h.path))
	require.ErrorIs(t, CreateKeyring(h.path, h.kek), ErrExists)
	h.write("", content)
	require.NoError(t, open(Config{Path: h.path, KEK: h.kek}))

	for name, text := range map[string]string{
		"empty": "", "garbage": "\x00\x01", "null": "null", "list": "[]", "two": string(content) + string(content),
		"unknown field": strings.Replace(string(content), `{"`, `{"x":1,"`, 1), "KEK": kekLine(newKey(keySize)),
		"no version": strings.Replace(string(content), `"carrel-keyring":2,`, "", 1),
		"version 1":  strings.Replace(string(content), `"carrel-keyring":2`, `"carrel-keyring":1`, 1),
		"version 3":  strings.Replace(string(content), `"carrel-keyring":2`, `"carrel-keyring":3`, 1),
		"long id":    strings.Replace(string(content), `"id":"`, `"id":"00`, 1),
		"odd id":     strings.Replace(string(content), `"id":"`, `"id":"0`, 1),
		"no id":      `{"carrel-keyring":1}`,
		"generation": strings.Replace(string(content), `"generation":1`, `"generation":2`, 1),
	} {
		h.write("", []byte(text))
		err := open(Config{Path: h.path, KEK: h.kek})
		require.Error(t, err, name)
		require.ErrorContains(t, err, h.path, name)
		require.NotContains(t, err.Error(), "\n", name)
	}
	h.write("", []byte(strings.Replace(string(content), `"carrel-keyring":2`, `"carrel-keyring":3`, 1)))
	require.EqualError(t, open(Config{Path: h.path, KEK: h.kek}), "crypto: "+h.path+": a keyring of version 3; this carrel reads versions 1 to 2")
	for m := range mangle(content) {
		h.write("", m)
		if err := open(Config{Path: h.path, KEK: h.kek}); err == nil {
			// JSON has more than one way to write the same: letters of field names, say, and space at the end.
			var was, is keyringFile
			require.NoError(t, json.Unmarshal(content, &was))
			require.NoError(t, json.Unmarshal(m, &is))
			require.Equal(t, was, is)
		}
	}
}

// TestDamagedKeyring: what is inside is checked too, though only who has the key-encryption key can write it.
func TestDamagedKeyring(t *testing.T) {
	h := newHouse(t)
	s := h.open(nil).state.Load()
	for name, damage := range map[string]func(*content){
		"no epochs":         func(c *content) { c.Epochs = nil },
		"short epoch key":   func(c *content) { c.Epochs = []epochKey{{Number: 1, Key: newKey(16)}} },
		"the same epoch":    func(c *content) { c.Epochs = append(slices.Clone(c.Epochs), c.Epochs[0]) },
		"no pseudonyms":     func(c *content) { c.Pseudonyms = nil },
		"short pseudonym":   func(c *content) { c.Pseudonyms = []pseudonymKey{{1, nil}} },
		"short index":       func(c *content) { c.Indexes = []indexKey{{Name: "a", Version: 1, State: indexActive, Key: newKey(31)}} },
		"index without one": func(c *content) { c.Indexes = []indexKey{{Version: 1, State: indexActive, Key: newKey(32)}} },
		"no ledger key":     func(c *content) { c.Ledger.Key = nil },
	} {
		c := s.content
		damage(&c)
		data, err := encodeKeyring(h.kek, s.id, c)
		require.NoError(t, err)
		h.write("", data)
		_, err = OpenKeyring(context.Background(), Config{Path: h.path, KEK: h.kek})
		require.EqualError(t, err, "crypto: "+h.path+": the keyring is damaged", name)
	}
}

func TestCreateKeyringAtOnce(t *testing.T) {
	h := newHouse(t)
	path := h.path + "2"
	var wg sync.WaitGroup
	won := make(chan bool, 16)
	for range 16 {
		wg.Go(func() {
			if err := CreateKeyring(path, h.kek); err == nil {
				won <- true
			} else {
				require.ErrorIs(t, err, ErrExists)
			}
		})
	}
	wg.Wait()
	require.Len(t, won, 1)
	_, err := OpenKeyring(context.Background(), Config{Path: path, KEK: h.kek})
	require.NoError(t, err)
}

func FuzzKEKFile(f *testing.F) {
	f.Add(kekLine(newKey(keySize)))
	f.Add(kekLine(make([]byte, keySize)))
	f.Add(kekPrefix)
	f.Fuzz(func(t *testing.T, text string) {
		if key, err := parseKEK(text); err == nil {
			require.Equal(t, kekLine(key), strings.TrimSpace(text)+"\n")
		}
	})
}

func FuzzKeyringFile(f *testing.F) {
	h := newHouse(f)
	good := h.file("")
	k := h.open(nil)
	var was keyringFile
	require.NoError(f, json.Unmarshal(good, &was))
	f.Add(good)
	f.Add([]byte(`{"carrel-keyring":2,"id":"0011223344556677889900112233445566778899","generation":1,"sealed":"AAAA"}`))
	f.Add([]byte(`{"carrel-keyring":1}`))
	path := filepath.Join(f.TempDir(), "keys")
	f.Fuzz(func(t *testing.T, data []byte) {
		require.NoError(t, os.WriteFile(path, data, 0o600))
		other := &Keyring{path: path, kek: k.kek}
		s, err := other.read(nil)
		if err != nil {
			return
		}
		is, err := other.readFile()
		require.NoError(t, err)
		require.Equal(t, was, is)
		require.Equal(t, k.state.Load().content, s.content)
	})
}

package sqlite_test

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/sqlite"
)

// writings are the ways in which a name may be written before it is hashed.
func writings(text string) (list []string) {
	list = []string{text, strings.ToLower(text), strings.ToUpper(text)}
	if a, err := netip.ParseAddr(text); err == nil {
		raw := a.As16()
		list = append(list, string(a.AsSlice()), string(raw[:]))
		if a.Is6() {
			clear(raw[8:])
			list = append(list, string(raw[:]), string(raw[:8]), netip.AddrFrom16(raw).String())
		}
	}
	seen := map[string]bool{}
	n := 0
	for _, w := range list {
		if !seen[w] {
			seen[w], list[n] = true, w
			n++
		}
	}
	return list[:n]
}

// messages are what may be hashed of a text: itself, and as package lockout does it, which everybody can read: a byte for the kind, the length, the text, zeros up to a block.
func messages(text string) [][]byte {
	list := [][]byte{[]byte(text)}
	for kind := byte(1); kind <= 4; kind++ {
		m := binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(text)))
		m = append(m, text...)
		if kind != 4 && len(m) < 3+52 {
			m = append(m, make([]byte, 3+52-len(m))...)
		}
		list = append(list, m)
	}
	return list
}

// crack hashes a dictionary in all ways that somebody has who has the file and the source code, and these keys, and returns which texts are found.
func crack(stored map[lockout.Name]bool, dictionary []string, keys [][]byte) map[string]bool {
	found := map[string]bool{}
	var mu sync.Mutex
	var done sync.WaitGroup
	const workers = 2
	for w := range workers {
		done.Go(func() {
			hashes := []hash.Hash{sha256.New(), sha1.New(), md5.New(), sha512.New()}
			for _, key := range keys {
				hashes = append(hashes, hmac.New(sha256.New, key))
			}
			var sum [sha512.Size]byte
			for i := w; i < len(dictionary); i += workers {
				for _, text := range writings(dictionary[i]) {
					for _, m := range messages(text) {
						for _, h := range hashes {
							h.Reset()
							h.Write(m)
							if stored[lockout.Name(h.Sum(sum[:0])[:len(lockout.Name{})])] {
								mu.Lock()
								found[dictionary[i]] = true
								mu.Unlock()
							}
						}
					}
				}
			}
		})
	}
	done.Wait()
	return found
}

// Whoever has the file and not the key finds nobody in it: no name stands in any of its bytes, and of a dictionary in which all of them are, none is found.
func TestLockoutsDump(t *testing.T) {
	size := 100_000
	if raceEnabled {
		size = 3_000
	}
	if os.Getenv("CARREL_TEST_LONG") != "" {
		size = 1_000_000
	}
	db, _, path := open(t)
	key := randomKey()
	guard, err := lockout.New(sqlite.NewLockouts(db), lockout.Config{Key: key})
	require.NoError(t, err)
	const each = 40
	var accounts []lockout.Account
	var sources []netip.Addr
	for i := range each {
		accounts = append(accounts,
			lockout.Account{Login: fmt.Sprintf("Erika.Mustermann%04d", i)},
			lockout.Account{Login: fmt.Sprintf("B2026%06d", i), ID: fmt.Sprintf("patron-%08d", 7919*i)},
			lockout.Account{Login: fmt.Sprintf("desk%05d", i), ID: fmt.Sprintf("librarian-%05d", i), Staff: true})
		sources = append(sources, netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), netip.MustParseAddr(fmt.Sprintf("2001:db8:%x:4242::%x", i, i+1)),
			netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}))
	}
	var planted []string
	for i, a := range accounts {
		r, err := guard.Reserve(t.Context(), lockout.Attempt{Account: a, Source: sources[i]})
		require.NoError(t, err)
		require.NoError(t, r.Failure(t.Context()))
		text := a.ID
		if text == "" {
			text = strings.ToLower(a.Login)
		}
		planted = append(planted, text, sources[i].String())
	}

	files, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 2, "the database and its log")
	var content []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		content = append(content, b...)
	}
	lower := bytes.ToLower(content)
	for i, a := range accounts {
		for _, text := range []string{a.Login, a.ID, sources[i].String()} {
			for _, w := range writings(text) {
				if len(w) < 8 { // four bytes of an address are in any file by chance
					continue
				}
				require.False(t, bytes.Contains(lower, []byte(strings.ToLower(w))), "plain: %s", text)
				require.False(t, bytes.Contains(lower, []byte(hex.EncodeToString([]byte(w)))), "hex: %s", text)
				require.False(t, bytes.Contains(content, []byte(base64.RawStdEncoding.EncodeToString([]byte(w))[:len(w)])), "base64: %s", text)
			}
		}
	}

	stored := map[lockout.Name]bool{}
	page, err := sqlite.NewLockouts(db).States(t.Context(), time.Now(), lockout.Query{Limit: 10_000})
	require.NoError(t, err)
	for _, e := range page.Entries {
		stored[e.Key.Name()] = true
		name := e.Key.Name()
		require.True(t, bytes.Contains(content, name[:]), "the search finds what is there")
	}
	require.Len(t, stored, 2*len(accounts))

	dictionary := append([]string{}, planted...)
	for i := len(dictionary); i < size; i++ {
		dictionary = append(dictionary, fmt.Sprintf("patron-%08d", 7919*each+i))
	}
	const label = "carrel/v1/lockout/names"
	derived := func(secret string) []byte {
		k, err := hkdf.Key(sha256.New, []byte(secret), nil, label, 32)
		require.NoError(t, err)
		return k
	}
	keys := [][]byte{nil, make([]byte, 32), []byte(label), []byte("carrel"), derived(""), derived(string(make([]byte, 32)))}
	require.Empty(t, crack(stored, dictionary, keys))

	// With the key all are found: it is only that which keeps them from it.
	require.Len(t, crack(stored, planted, [][]byte{derived(key.Reveal())}), len(planted))
	for i, a := range accounts {
		s, err := guard.Status(t.Context(), a)
		require.NoError(t, err)
		require.Equal(t, 1, s.Failed)
		s, err = guard.SourceStatus(t.Context(), sources[i])
		require.NoError(t, err)
		require.Equal(t, 1, s.Failed)
	}
}

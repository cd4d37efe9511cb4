package postgres_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/postgres"
)

// A dump of the table names nobody: neither as it stands, nor in another notation, nor by a hash that needs no key.
func TestLockoutsDump(t *testing.T) {
	db, _ := open(t)
	store := postgres.NewLockouts(db)
	guard, err := lockout.New(store, lockout.Config{Key: guessKey()})
	require.NoError(t, err)
	var planted []string
	for i := range 40 {
		a := lockout.Account{Login: fmt.Sprintf("erika.mustermann%04d", i)}
		if i%2 == 1 {
			a.ID = fmt.Sprintf("patron-%08d", 7919*i)
		}
		source := netip.MustParseAddr(fmt.Sprintf("2001:db8:%x:4242::%x", i, i+1))
		r, err := guard.Reserve(t.Context(), lockout.Attempt{Account: a, Source: source})
		require.NoError(t, err)
		require.NoError(t, r.Failure(t.Context()))
		raw := source.As16()
		planted = append(planted, a.Login, source.String(), string(raw[:8]))
		if a.ID != "" {
			planted = append(planted, a.ID)
		}
	}
	var dump strings.Builder // as pg_dump writes it, and the bytes of the keys
	rows, err := db.Query("SELECT l::text, key FROM lockouts AS l UNION ALL SELECT c::text, '' FROM lockout_clock AS c")
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var text string
		var key []byte
		require.NoError(t, rows.Scan(&text, &key))
		fmt.Fprintf(&dump, "%s\n%s\n", text, key)
	}
	require.NoError(t, rows.Err())
	content := strings.ToLower(dump.String())
	for _, text := range planted {
		require.NotContains(t, content, text)
		require.NotContains(t, content, hex.EncodeToString([]byte(text)))
		require.NotContains(t, dump.String(), base64.RawStdEncoding.EncodeToString([]byte(text)))
		plain, keyed := sha256.Sum256([]byte(text)), hmac.New(sha256.New, nil)
		keyed.Write([]byte(text))
		for _, sum := range [][]byte{plain[:], keyed.Sum(nil)} {
			require.NotContains(t, content, hex.EncodeToString(sum[:len(lockout.Name{})]))
		}
	}
	states := guessStates(t, store)
	require.Len(t, states, 80)
	for _, e := range states {
		require.Contains(t, content, hex.EncodeToString(e.Key[:]), "the search finds what is there")
	}
}

package redis_test

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"net/netip"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/lockout"
)

// dump returns all that is kept under a prefix, keys and values, as the server has it.
func dump(t *testing.T, client goredis.UniversalClient, prefix string) string {
	t.Helper()
	var all strings.Builder
	for _, key := range keysOf(t, client, prefix) {
		all.WriteString(key + "\n")
		raw, err := client.Dump(t.Context(), key).Result()
		require.NoError(t, err)
		all.WriteString(raw)
		if strings.HasSuffix(key, ":clock") {
			continue
		}
		fields, err := client.HGetAll(t.Context(), key).Result()
		require.NoError(t, err)
		for field, value := range fields {
			all.WriteString("\n" + field + "\n" + value)
		}
	}
	return all.String()
}

// TestDumpNamesNobody looks for logins, IDs and addresses in all that is kept, as they are and as a thief without the key would write them.
func TestDumpNamesNobody(t *testing.T) {
	store, client, prefix := open(t)
	g := guard(t, store)
	address, subnet := netip.MustParseAddr("198.51.100.77"), netip.MustParseAddr("2001:db8:7:7:1:2:3:4")
	var dictionary []string
	for _, a := range []lockout.Attempt{
		{Account: lockout.Account{Login: "canary-login", ID: "canary-id"}, Source: address},
		{Account: lockout.Account{Login: "canary-staff", ID: "canary-staff-id", Staff: true}, Source: subnet},
		{Account: lockout.Account{Login: "Canary-Nobody"}, Source: address},
	} {
		for range 3 {
			r, err := g.Reserve(t.Context(), a)
			require.NoError(t, err)
			require.NoError(t, r.Failure(t.Context()))
		}
		a.Device = g.Remember(a.Account)
		r, err := g.Reserve(t.Context(), a)
		require.NoError(t, err)
		require.NoError(t, r.Failure(t.Context()))
		dictionary = append(dictionary, a.Login, a.ID, strings.ToLower(a.Login), a.Source.String(), string(a.Source.AsSlice()), string(a.Source.WithZone("").AsSlice()[:4]), a.Device)
		require.NoError(t, g.Lock(t.Context(), audit.Event{Actor: "canary-desk"}, a.Account, "canary-reason", time.Hour))
	}
	dictionary = append(dictionary, "canary", "198.51.100", "2001:db8", string(subnet.AsSlice()[:8]))
	all := dump(t, client, prefix)
	require.Greater(t, len(keysOf(t, client, prefix)), 4)
	for _, word := range dictionary {
		if len(word) < 5 { // of no account, and four bytes that may be there by chance
			continue
		}
		for _, form := range []string{word, strings.ToUpper(word), hex.EncodeToString([]byte(word)), base64.StdEncoding.EncodeToString([]byte(word))[:len(word)]} {
			require.NotContains(t, all, form)
		}
		for _, key := range []string{"", "carrel", "lockout", "carrel/v1/lockout"} {
			for _, h := range []func() hash.Hash{md5.New, sha1.New, sha256.New, sha512.New} {
				mac := hmac.New(h, []byte(key))
				mac.Write([]byte(word))
				plain := h()
				plain.Write([]byte(word))
				for _, sum := range [][]byte{mac.Sum(nil), plain.Sum(nil)} {
					require.NotContains(t, all, hex.EncodeToString(sum[:5]), "%q hashed", word)
				}
			}
		}
	}

	// Whoever does all that a Guard does, with a key of their own, finds nobody either.
	thief := guard(t, store, func(c *lockout.Config) {
		sum := sha256.Sum256([]byte("another key"))
		c.Key = crypto.NewSecret(string(sum[:]))
	})
	status, err := thief.Status(t.Context(), lockout.Account{Login: "canary-login", ID: "canary-id"})
	require.NoError(t, err)
	require.Equal(t, lockout.Status{Left: 5}, status)
	status, err = g.Status(t.Context(), lockout.Account{Login: "canary-login", ID: "canary-id"})
	require.NoError(t, err)
	require.Equal(t, 3, status.Failed)
}

// TestKeysEnd looks at how long the server keeps each key: no less than it is needed if its clock is set forward by an hour meanwhile, and not for ever.
func TestKeysEnd(t *testing.T) {
	const check, spare = lockout.MaxCheck, 5 * time.Minute
	const hour = time.Hour + 5*time.Minute
	for _, c := range []struct {
		profile lockout.Profile
		hold    time.Duration
		want    time.Duration
	}{
		{lockout.Alma, 0, 2*15*time.Minute + check + hour + spare},
		{lockout.PCI, 0, 2*30*time.Minute + check + hour + spare},
		{lockout.PIN, 0, 48*time.Hour + check + hour + spare},
		{lockout.Alma, 20 * time.Hour, 20*time.Hour + check + hour},
		{lockout.PIN, 20 * time.Hour, 48*time.Hour + check + hour + spare}, // what is longer stays
		{lockout.Alma, 3 * time.Minute, 2*15*time.Minute + check + hour + spare},
	} {
		store, client, prefix := open(t)
		g := guard(t, store, func(cfg *lockout.Config) { cfg.Profile = c.profile })
		a := jdoe
		a.Source = netip.Addr{}
		wrongOnce := func() {
			r, err := g.Reserve(t.Context(), a)
			require.NoError(t, err)
			require.NoError(t, r.Failure(t.Context()))
		}
		wrongOnce()
		if c.hold != 0 {
			require.NoError(t, g.Lock(t.Context(), audit.Event{Actor: "staff-1"}, a.Account, "why", c.hold))
			_, err := g.Reserve(t.Context(), a)
			require.ErrorIs(t, err, lockout.ErrLocked)
		}
		for _, key := range keysOf(t, client, prefix) {
			if strings.HasSuffix(key, ":clock") {
				continue
			}
			ttl, err := client.PTTL(t.Context(), key).Result()
			require.NoError(t, err)
			require.InDelta(t, c.want.Seconds(), ttl.Seconds(), 5, "%v %v", c.profile, c.hold)
		}
	}
}

// TestNothingIsKeptOfASuccess looks at what is left when the password was right.
func TestNothingIsKeptOfASuccess(t *testing.T) {
	store, client, prefix := open(t)
	g := guard(t, store)
	r, err := g.Reserve(t.Context(), jdoe)
	require.NoError(t, err)
	require.Len(t, keysOf(t, client, prefix), 2, "the account and the source")
	require.NoError(t, r.Success(t.Context()))
	require.Empty(t, keysOf(t, client, prefix))
}

// TestShorterLimitsLeaveTheLonger has two limits in one hash, the shorter one last.
func TestShorterLimitsLeaveTheLonger(t *testing.T) {
	store, client, prefix := open(t)
	name, now := lockout.Name{1}, time.Now()
	recent, daily := name.Common()
	for _, s := range []lockout.Slot{{Key: daily, Attempts: 5, Duration: 24 * time.Hour}, {Key: recent, Attempts: 5, Duration: 3 * time.Minute}} {
		_, err := store.Reserve(t.Context(), now, []lockout.Slot{s})
		require.NoError(t, err)
	}
	require.NoError(t, store.Hold(t.Context(), now, name, now.Add(time.Hour)))
	keys := keysOf(t, client, prefix)
	require.Len(t, keys, 1)
	ttl, err := client.PTTL(t.Context(), keys[0]).Result()
	require.NoError(t, err)
	require.Greater(t, ttl, 48*time.Hour)
}

package lockout_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
)

func TestAliasesShareOneBudget(t *testing.T) {
	w := newWorld(t, lockout.Config{})
	for _, name := range []string{"jdoe", "29000000000077", "j.doe@example.org", "JDOE", ""} {
		require.True(t, w.wrong(patron("p-1", name)))
	}
	w.locked(patron("p-1", "jdoe"))
	w.locked(patron("p-1", "another login"))
	require.True(t, w.wrong(patron("p-2", "jdoe")), "another account")
}

// Ways of writing a login that leads nowhere are one, as those that lead somewhere are: otherwise one could tell them apart.
func TestVariantsShareOneBudget(t *testing.T) {
	for _, variants := range [][]string{
		{"jdoe", "JDoe", " jdoe ", "j doe", "ｊｄｏｅ", "j\u00addoe", "JDOE\u200b"},
		{"Straße", "STRASSE", "strasse", "ſtrasse", "Strasse\t"},
		{"Müller", "Mu\u0308ller", "MÜLLER", "müller\ufe0f", "müller\n"},
		{"2900 0000 0000 77", "29000000000077", "２９００００００００００７７", "2900\u00a0000000 0077", "290\u2060 00000000077"},
		{"", " ", "\u200b", "\t\n", "\u00ad"},
	} {
		w := newWorld(t, lockout.Config{})
		for _, v := range variants[:5] {
			require.True(t, w.wrong(login(v)), "%q", v)
		}
		for _, v := range variants {
			w.locked(login(v))
		}
		require.True(t, w.wrong(login("somebody else")))
	}
}

// An empty login is a login like any other (django-axes locked everybody).
func TestEmptyLoginLocksNobodyElse(t *testing.T) {
	w := newWorld(t, lockout.Config{})
	require.Equal(t, 5, w.guesses(login(""), 100))
	require.Equal(t, 5, w.guesses(login("jdoe"), 100))
	require.Equal(t, 5, w.guesses(patron("p-1", ""), 100))
}

// A login, a patron and a member of staff of one name are three; long names count.
func TestNamesAreApart(t *testing.T) {
	w := newWorld(t, lockout.Config{Sources: 1000})
	long := strings.Repeat("z", 600)
	staff := patron("x", "x")
	staff.Staff = true
	for _, a := range []lockout.Attempt{login("x"), patron("x", "x"), staff, login("y"), login(long), login("y" + long)} {
		require.Equal(t, 5, w.guesses(a, 100))
	}
}

func TestSubscriberOf64BitsHasOneBudget(t *testing.T) {
	w := newWorld(t, lockout.Config{})
	checked := 0
	for n := range 1 << 16 {
		a := login(fmt.Sprint("name", n)) // each name once
		a.Source = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, byte(n >> 8), byte(n)})
		if n%2 == 1 {
			a.Source = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 1, 2, 3, 4, byte(n), byte(n >> 8), 9})
		}
		if w.wrong(a) {
			checked++
		}
	}
	require.Equal(t, 100, checked)
	require.True(t, w.wrong(from(login("other"), "2001:db8:1:2:304::1")), "the next 64 bits")
	require.True(t, w.wrong(from(login("other"), "192.0.2.1")))
}

func TestSourcesAreAddresses(t *testing.T) {
	w := newWorld(t, lockout.Config{Sources: 5})
	for n := range 5 {
		require.True(t, w.wrong(from(login(fmt.Sprint(n)), []string{"192.0.2.1", "::ffff:192.0.2.1"}[n%2])))
	}
	w.locked(from(login("a"), "192.0.2.1"))
	w.locked(from(login("a"), "::ffff:192.0.2.1"))
	require.True(t, w.wrong(from(login("a"), "192.0.2.2")))
	require.True(t, w.wrong(login("b")), "from nowhere")
}

// Whoever has an account logs in to it between guesses at others: that gives them no guess more.
func TestOwnLoginsBetweenGuesses(t *testing.T) {
	w := newWorld(t, lockout.Config{})
	checked := 0
	for n := range 1000 {
		if r, err := w.Reserve(t.Context(), from(patron("mine", "me"), "192.0.2.1")); err == nil {
			require.NoError(t, r.Success(t.Context()))
		}
		if w.wrong(from(login(fmt.Sprint("victim", n)), "192.0.2.1")) {
			checked++
		}
	}
	require.Equal(t, 100, checked)
}

func TestRightLoginForgets(t *testing.T) {
	w := newWorld(t, lockout.Config{})
	for range 10 {
		require.Equal(t, 4, w.guesses(from(patron("p", "p"), "192.0.2.1"), 4))
		w.right(from(patron("p", "p"), "192.0.2.1"))
		require.Equal(t, 4, w.reserveAndAbandon(patron("p", "p")).Remaining())
	}
}

func (w *world) reserveAndAbandon(a lockout.Attempt) *lockout.Reservation {
	w.Helper()
	r := w.reserve(a)
	require.NoError(w, r.Abandon(w.Context()))
	return r
}

func TestAbandonedIsNotCounted(t *testing.T) {
	w := newWorld(t, lockout.Config{Profile: lockout.PIN})
	for range 1000 {
		w.reserveAndAbandon(from(patron("p", "p"), "192.0.2.1"))
	}
	require.Equal(t, 5, w.guesses(from(patron("p", "p"), "192.0.2.1"), 100))
}

func TestConcludedOnce(t *testing.T) {
	w := newWorld(t, lockout.Config{})
	r := w.reserve(login("a"))
	require.NoError(t, r.Failure(t.Context()))
	require.ErrorIs(t, r.Success(t.Context()), lockout.ErrConcluded)
	require.ErrorIs(t, r.Abandon(t.Context()), lockout.ErrConcluded)
	require.Equal(t, 4, w.guesses(login("a"), 100))
	late := w.reserve(login("b"))
	w.pass(lockout.MaxCheck)
	require.ErrorIs(t, late.Success(t.Context()), lockout.ErrLate)
}

// Somebody uses up the account's guesses from elsewhere, again and again: on a device that has logged in before the owner gets in all the same.
func TestOwnDeviceIsNotLockedOut(t *testing.T) {
	w := newWorld(t, lockout.Config{Profile: lockout.PIN})
	owner := from(patron("p-1", "jdoe"), "198.51.100.7")
	w.right(owner)
	owner.Device = w.Remember(owner.Account)
	for night := range 48 {
		w.guesses(from(patron("p-1", "jdoe"), fmt.Sprintf("192.0.2.%d", night)), 100)
		w.locked(patron("p-1", "jdoe"))
		if night%3 == 0 {
			require.True(t, w.wrong(owner))
		}
		w.right(owner)
		w.pass(15 * time.Minute)
	}
}

// A device has guesses of its own, as many as everybody; and they are at one account.
func TestDeviceHasABudget(t *testing.T) {
	w := newWorld(t, lockout.Config{Profile: lockout.PIN})
	device := patron("p-1", "jdoe")
	device.Device = w.Remember(device.Account)
	require.Equal(t, 5, w.guesses(device, 100))
	require.Equal(t, 5, w.guesses(patron("p-1", "jdoe"), 100), "the others have theirs")
	for range 200 {
		w.pass(15 * time.Minute)
		w.guesses(device, 100)
	}
	victim := patron("p-2", "victim")
	victim.Device = device.Device
	require.Equal(t, 5, w.guesses(victim, 100))
	w.locked(patron("p-2", "victim")) // it was not another lane
}

// What is not exactly what was given is nothing.
func TestForgedDevices(t *testing.T) {
	w := newWorld(t, lockout.Config{})
	a := patron("p-1", "jdoe")
	token := w.Remember(a.Account)
	require.NotEqual(t, token, w.Remember(a.Account))
	require.Equal(t, 5, w.guesses(a, 100))
	tries := []string{"", token + "A", token[:len(token)-1], token + "=", "\x00", w.Remember(patron("p-2", "jdoe").Account), newWorld(t, lockout.Config{}).Remember(a.Account)}
	for i := range token {
		for _, c := range "A_z0" {
			if rune(token[i]) != c {
				tries = append(tries, token[:i]+string(c)+token[i+1:])
			}
		}
	}
	for _, forged := range tries {
		a.Device = forged
		w.locked(a)
	}
	a.Device = token
	require.True(t, w.wrong(a))
	w.pass(181 * 24 * time.Hour)
	require.Equal(t, 5, w.guesses(a, 5))
	a.Device = ""
	w.locked(a) // the token had ended: it was the common lane
}

// From the library's own machines an account has guesses of its own, once for the network, and the source counts.
func TestKnownNetworks(t *testing.T) {
	w := newWorld(t, lockout.Config{Known: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.2.0.5/32")}})
	require.Equal(t, 5, w.guesses(from(patron("p", "p"), "192.0.2.1"), 100))
	w.locked(from(patron("p", "p"), "192.0.2.2"))
	checked := 0
	for n := range 200 {
		if w.wrong(from(patron("p", "p"), fmt.Sprintf("10.1.%d.%d", n/7, n))) {
			checked++
		}
	}
	require.Equal(t, 5, checked)
	require.Equal(t, 5, w.guesses(from(patron("p", "p"), "10.2.0.5"), 100))
	sprayed := 0
	for n := range 500 {
		if w.wrong(from(login(fmt.Sprint(n)), "10.1.255.1")) {
			sprayed++
		}
	}
	require.Equal(t, 100, sprayed)
}

// Whatever somebody types to come to an account, it is one account: with staff, too, who name it by its ID.
func TestLoginIsNoPartOfAnAccount(t *testing.T) {
	w := newWorld(t, lockout.Config{})
	checked := 0
	for n := range 600 {
		if w.wrong(patron("p-1", strings.Repeat("0", n)+"29")) {
			checked++
		}
	}
	require.Equal(t, 5, checked)
	long := strings.Repeat("z", 70)
	w.locked(patron("p-1", long))
	require.NoError(t, w.Unlock(t.Context(), desk, lockout.Account{ID: "p-1"}, "asked"))
	device := patron("p-1", long)
	device.Device = w.Remember(lockout.Account{ID: "p-1"})
	require.Equal(t, 5, w.guesses(patron("p-1", long), 100))
	require.True(t, w.wrong(device))
	s, err := w.Status(t.Context(), lockout.Account{ID: "p-1"})
	require.NoError(t, err)
	require.Equal(t, 5, s.Failed)
	require.NoError(t, w.Lock(t.Context(), desk, lockout.Account{ID: "p-1"}, "stolen", time.Hour))
	w.locked(device)
	for _, id := range []string{strings.Repeat("i", 51), strings.Repeat("i", 52), strings.Repeat("i", 53), strings.Repeat("i", 200)} {
		require.Equal(t, 3, w.guesses(patron(id, "short"), 3))
		require.Equal(t, 2, w.guesses(patron(id, long), 100))
	}
}

// What is not seen in a login does not push out what is: a login that leads nowhere is counted under the same name however much stands before it.
func TestInvisiblePartsDoNotCount(t *testing.T) {
	w := newWorld(t, lockout.Config{})
	require.Equal(t, 5, w.guesses(login(""), 100))
	require.Equal(t, 5, w.guesses(login(strings.Repeat(" ", 600)+"reader9"), 100))
	w.locked(login("reader9"))
	w.locked(login(strings.Repeat("\u200b", 10_000) + "Reader9"))
}

// All of IPv4 behind a translator is not one source.
func TestTranslatedAddresses(t *testing.T) {
	w := newWorld(t, lockout.Config{Sources: 5, Known: []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}})
	for n := range 5 {
		require.True(t, w.wrong(from(login(fmt.Sprint(n)), "64:ff9b::192.0.2.1")))
	}
	w.locked(from(login("x"), "192.0.2.1"))
	require.True(t, w.wrong(from(login("x"), "64:ff9b::192.0.2.2")))
	require.Equal(t, 4, w.guesses(from(login("x"), "64:ff9b::192.0.2.3"), 100))
	require.True(t, w.wrong(from(login("x"), "10.1.2.3")), "the known network has a lane of its own")
	require.Equal(t, "198.51.100.7", lockout.Source(netip.MustParseAddr("10.0.0.1"), []string{"198.51.100.7"}, []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}).String())
}

func TestSourceBehindProxies(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/64")}
	for _, c := range []struct {
		peer      string
		forwarded []string
		want      string
	}{
		{"192.0.2.1", nil, "192.0.2.1"},
		{"192.0.2.1", []string{"1.1.1.1"}, "192.0.2.1"}, // not a proxy of ours
		{"10.0.0.1", nil, "10.0.0.1"},
		{"10.0.0.1", []string{"198.51.100.7"}, "198.51.100.7"},
		{"::ffff:10.0.0.1", []string{"::ffff:198.51.100.7"}, "198.51.100.7"},
		{"10.0.0.1", []string{"1.1.1.1, 198.51.100.7"}, "198.51.100.7"}, // the client wrote 1.1.1.1
		{"10.0.0.1", []string{"1.1.1.1", "198.51.100.7"}, "198.51.100.7"},
		{"10.0.0.1", []string{"1.1.1.1, 198.51.100.7, 10.2.2.2"}, "198.51.100.7"},
		{"10.0.0.1", []string{"10.9.9.9"}, "10.9.9.9"},
		{"10.0.0.1", []string{"1.1.1.1, nonsense"}, "10.0.0.1"},
		{"10.0.0.1", []string{"1.1.1.1, , 10.2.2.2"}, "10.2.2.2"},
		{"10.0.0.1", []string{"198.51.100.7:4711"}, "198.51.100.7"},
		{"10.0.0.1", []string{"[2001:db9::7]:4711"}, "2001:db9::7"},
		{"10.0.0.1", []string{"[2001:db9::7]"}, "2001:db9::7"},
		{"2001:db8::1", []string{"fe80::1%eth0"}, "fe80::1"},
		{"10.0.0.1", []string{""}, "10.0.0.1"},
	} {
		require.Equal(t, c.want, lockout.Source(netip.MustParseAddr(c.peer), c.forwarded, trusted).String(), "%+v", c)
	}
	require.Equal(t, "invalid IP", lockout.Source(netip.Addr{}, []string{"1.1.1.1"}, trusted).String())
}

// Known and unknown logins lead to the same calls of the store, in the same order, with slots of the same limits.
func TestUnknownIsWrittenLikeKnown(t *testing.T) {
	var calls [2]string
	for i, a := range []lockout.Attempt{patron("6f9619ff-8b86-4d01-b42d-00cf4fc964ff", "jdoe"), login("jdoe")} {
		s := &tracingStore{Lockouts: memory.NewLockouts()}
		w := newWorldOn(t, s, lockout.Config{Profile: lockout.PIN})
		require.Equal(t, 5, w.guesses(from(a, "192.0.2.1"), 8))
		w.locked(from(a, "192.0.2.1"))
		w.pass(16 * time.Minute)
		w.right(from(a, "192.0.2.1"))
		calls[i] = s.calls
	}
	require.Equal(t, calls[0], calls[1])
	require.Contains(t, calls[0], "reserve")
}

package lockout_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
)

// TestMonthOfALibrary lets 50,000 patrons log in for 30 days. Three in a hundred attempts are mistyped, and whoever mistypes tries again. A third comes through the one address of
// the campus, where also somebody tries out passwords; somebody else uses up the guesses of one account in a hundred for twenty days, whose owners mostly come on
// devices that know them.
func TestMonthOfALibrary(t *testing.T) {
	const typos = 0.03
	patrons, days := 1_000, 30
	if long() {
		patrons = 50_000
	}
	for _, profile := range []lockout.Profile{lockout.Alma, lockout.PIN, lockout.NIST, lockout.PCI} {
		for _, attacked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v attacked %v", profile, attacked), func(t *testing.T) {
				m := month{rnd: rand.New(rand.NewPCG(1, uint64(profile))), typos: typos, now: t0, tokens: make([]string, patrons)}
				g, err := lockout.New(memory.NewLockouts(), lockout.Config{Profile: profile, Now: func() time.Time { return m.now }})
				require.NoError(t, err)
				m.T, m.Guard = t, g
				each := 24 * time.Hour / time.Duration(patrons) // a login a day for each
				if attacked {
					m.victims = patrons / 100
				}
				for n := range patrons * days {
					m.now = m.now.Add(each)
					m.login(m.rnd.IntN(patrons))
					if attacked && n > patrons*10 { // by then people have been there
						m.attack()
					}
				}
				rate := float64(m.lockedOut) / float64(m.logins)
				t.Logf("%d logins, %d locked out: %.4f %%; victims %d of %d", m.logins, m.lockedOut, 100*rate, m.victimsOut, m.victimLogins)
				require.Less(t, rate, 0.001)
				require.Positive(t, m.logins)
				if attacked { // most victims come on their devices
					require.Less(t, float64(m.victimsOut)/float64(m.victimLogins), 0.3)
					if profile == lockout.PIN { // the attack is one
						require.Positive(t, m.victimsOut)
					}
				}
			})
		}
	}
}

type month struct {
	*testing.T
	*lockout.Guard
	rnd     *rand.Rand
	typos   float64
	now     time.Time
	tokens  []string // by patron
	victims int      // the first so many

	logins, lockedOut        int
	victimLogins, victimsOut int
}

// login is one patron who logs in, with a second or third try if need be.
func (m *month) login(n int) {
	a := lockout.Attempt{Account: lockout.Account{ID: fmt.Sprint("p-", n), Login: fmt.Sprint(n)}, Source: netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})}
	if n%3 == 0 {
		a.Source = netip.AddrFrom4([4]byte{192, 0, 2, 1}) // the campus
	}
	remembers := n%5 > 0 // the others use library terminals, or forget cookies
	if remembers {
		a.Device = m.tokens[n]
	}
	victim := n < m.victims
	m.logins++
	if victim {
		m.victimLogins++
	}
	for range 20 {
		r, err := m.Reserve(m.Context(), a)
		if errors.Is(err, lockout.ErrLocked) {
			if victim {
				m.victimsOut++
			} else {
				m.lockedOut++
			}
			return
		}
		if err != nil {
			m.Fatal(err)
		}
		if m.rnd.Float64() < m.typos {
			_ = r.Failure(m.Context())
			continue
		}
		if err := r.Success(m.Context()); err != nil {
			m.Fatal(err)
		}
		if remembers && m.tokens[n] == "" {
			m.tokens[n] = m.Remember(a.Account)
		}
		return
	}
}

// attack is a guess at one of the victims' accounts from anywhere, and now and then one at any account from the campus.
func (m *month) attack() {
	var from [4]byte
	for i := range from {
		from[i] = byte(m.rnd.Uint32())
	}
	attempts := []lockout.Attempt{{Account: lockout.Account{ID: fmt.Sprint("p-", m.rnd.IntN(m.victims))}, Source: netip.AddrFrom4(from)}}
	if m.rnd.IntN(50) == 0 {
		attempts = append(attempts, lockout.Attempt{Account: lockout.Account{ID: fmt.Sprint("p-", m.rnd.IntN(len(m.tokens)))}, Source: netip.AddrFrom4([4]byte{192, 0, 2, 1})})
	}
	for _, a := range attempts {
		if r, err := m.Reserve(m.Context(), a); err == nil {
			_ = r.Failure(m.Context())
		}
	}
}

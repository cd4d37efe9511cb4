package lockout_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
)

// Ten thousand attempts at accounts that exist and ten thousand at ones that do not, in turns, cannot be told apart by the time they take. A test of this kind is wrong once
// in a hundred times, so it is done again, twice at most: a difference that is there is found all three times.
func TestUnknownTakesTheSameTime(t *testing.T) {
	attempts := func() (known, unknown []lockout.Attempt) {
		for i := range 10_000 {
			name := fmt.Sprintf("reader%05d", i)
			if i%3 == 0 {
				name = fmt.Sprintf("reader%05d.%s@students.example.org", i, strings.Repeat("long", i%12))
			}
			source := netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
			known = append(known, lockout.Attempt{Account: lockout.Account{Login: name, ID: fmt.Sprintf("6f9619ff-8b86-4d01-b42d-00cf4f%06d", i)}, Source: source})
			unknown = append(unknown, lockout.Attempt{Account: lockout.Account{Login: name}, Source: source})
		}
		return known, unknown
	}
	p := 0.0
	for try := 0; try < 3 && p <= 0.01; try++ {
		known, unknown := attempts()
		p = differ(t, known, unknown)
		t.Logf("p = %.3f", p)
	}
	require.Greater(t, p, 0.01)
}

// The comparison finds what others do: an attempt at an account that does not exist is over sooner.
func TestDifferenceIsFound(t *testing.T) {
	var known, unknown []lockout.Attempt
	for i := range 10_000 {
		known = append(known, lockout.Attempt{Account: lockout.Account{ID: fmt.Sprintf("6f9619ff-8b86-4d01-b42d-00cf4f%06d", i)}, Source: netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})})
		unknown = append(unknown, lockout.Attempt{Account: lockout.Account{Login: fmt.Sprint(i)}}) // one limit less to look at
	}
	require.Less(t, differ(t, known, unknown), 1e-6)
}

// differ returns the probability of times so different if there were no difference (Mann and Whitney, 1947).
func differ(t *testing.T, a, b []lockout.Attempt) float64 {
	g, err := lockout.New(memory.NewLockouts(), lockout.Config{Sources: 1000})
	require.NoError(t, err)
	type timed struct {
		took time.Duration
		ofA  bool
	}
	var all []timed
	one := func(i int, ofA bool) {
		// As they are for a caller who has just read them: not in memory that was cold. Both are read in both cases.
		x, y := a[i], b[i]
		x.Login, x.ID, y.Login, y.ID = strings.Clone(x.Login), strings.Clone(x.ID), strings.Clone(y.Login), strings.Clone(y.ID)
		if !ofA {
			x, y = y, x
		}
		begin := time.Now()
		r, err := g.Reserve(t.Context(), x)
		if err == nil {
			err = r.Failure(t.Context())
		}
		took := time.Since(begin)
		require.NoError(t, err)
		runtime.KeepAlive(y)
		all = append(all, timed{took, ofA})
	}
	for i := range a {
		first := rand.IntN(2) == 0 // a fixed order, however fair it looks, meets rhythms of the machine
		one(i, first)
		one(i, !first)
	}
	slices.SortFunc(all, func(x, y timed) int { return int(x.took - y.took) })
	n, m, ranks, ties := float64(len(a)), float64(len(b)), 0.0, 0.0
	for i := 0; i < len(all); {
		j := i
		for j < len(all) && all[j].took == all[i].took {
			j++
		}
		size := float64(j - i)
		ties += size*size*size - size
		for _, x := range all[i:j] {
			if x.ofA {
				ranks += float64(i+j+1) / 2
			}
		}
		i = j
	}
	u := ranks - n*(n+1)/2
	sigma := math.Sqrt(n * m / 12 * (n + m + 1 - ties/((n+m)*(n+m-1))))
	return math.Erfc(math.Abs(u-n*m/2) / sigma / math.Sqrt2)
}

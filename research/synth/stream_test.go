package synth

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLogAndExpAgreeWithMath(t *testing.T) {
	for x := 1e-12; x < 1e12; x *= 1.0137 {
		require.InEpsilon(t, 1+math.Abs(math.Log(x)), 1+math.Abs(log(x)), 1e-15)
		require.InDelta(t, math.Log(x), log(x), 1e-14)
	}
	for x := -30.0; x < 30; x += 0.00731 {
		require.InEpsilon(t, math.Exp(x), exp(x), 1e-14)
	}
	require.Equal(t, 0.0, log(1))
	require.Equal(t, 1.0, exp(0))
}

// The raw streams are fixed for ever: every figure that was published with a seed depends on them.
func TestStreamsAreFixed(t *testing.T) {
	var s stream
	s.reset(1, forLoan, 2, 3)
	require.Equal(t, "63d09200ac576e24 1c96fafa931b63a7", fmt.Sprintf("%016x %016x", s.pcg.Uint64(), s.pcg.Uint64()))
	require.Equal(t, uint64(0xe220a8397b1dcdaf), mix(0), "SplitMix64's first output for seed 0")
}

func TestDistributions(t *testing.T) {
	var s stream
	s.reset(7, forLoan, 0, 0)
	const n = 400_000
	var sum, square, expo float64
	var picks [3]int
	var buckets [10]int
	for range n {
		x := s.normal(3, 2)
		sum, square = sum+x, square+x*x
		expo += s.exponential(5)
		picks[s.pick([]float64{0.5, 0.3, 0.2})]++
		buckets[s.below(10)]++
	}
	mean := sum / n
	require.InDelta(t, 3, mean, 0.02)
	require.InDelta(t, 2, math.Sqrt(square/n-mean*mean), 0.02)
	require.InDelta(t, 5, expo/n, 0.05)
	for i, share := range []float64{0.5, 0.3, 0.2} {
		require.InDelta(t, share, float64(picks[i])/n, 0.005)
	}
	for _, b := range buckets {
		require.InDelta(t, 0.1, float64(b)/n, 0.003)
	}
}

// Streams of neighbors have nothing to do with each other.
func TestNeighborsAreStrangers(t *testing.T) {
	const n = 100_000
	var a, b stream
	var product, sumA, sumB float64
	for i := range uint64(n) {
		a.reset(1, forLoan, i, 0)
		b.reset(1, forLoan, i+1, 0)
		x, y := a.float(), b.float()
		sumA, sumB, product = sumA+x, sumB+y, product+x*y
	}
	require.InDelta(t, 0.5, sumA/n, 0.005)
	require.InDelta(t, 0, product/n-sumA/n*sumB/n, 0.002)
}

// Popularity falls with rank as at Reed College: a line of slope -0.91 in logarithms.
func TestPopularity(t *testing.T) {
	l, err := Generate(Params{Seed: 3, Loans: 1_000_000})
	require.NoError(t, err)
	counts := make([]int, titles)
	for i := range l.keys {
		f := l.facts(i)
		counts[f.title]++
	}
	slices.SortFunc(counts, func(a, b int) int { return b - a })
	require.InDelta(t, -popularitySlope, slope(counts[4:3000]), 0.02)
	require.Positive(t, counts[titles/2], "the tail is borrowed as well")
}

func slope(counts []int) float64 {
	var n, sx, sy, sxx, sxy float64
	for i, c := range counts {
		x, y := math.Log(float64(i+5)+0.5), math.Log(float64(c))
		w := 1 / float64(i+5) // each stretch of the logarithmic axis counts the same
		n, sx, sy, sxx, sxy = n+w, sx+w*x, sy+w*y, sxx+w*x*x, sxy+w*x*y
	}
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}

// The heap always gives the copy that has been back longest.
func TestShelf(t *testing.T) {
	var s stream
	s.reset(9, forLoan, 0, 0)
	var h shelf
	back := map[uint32]int64{}
	for now := int64(1); now < 5000; now++ {
		until := now + int64(s.below(60))
		if s.chance(0.01) {
			until = never
		}
		oldest := never
		for _, b := range back {
			oldest = min(oldest, b)
		}
		c := h.take(now, until)
		b, known := back[c]
		if oldest < now {
			require.True(t, known)
			require.Equal(t, oldest, b)
		} else {
			require.False(t, known, "all are out: a new one")
		}
		back[c] = until
	}
}

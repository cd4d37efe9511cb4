package synth

import (
	"math"
	"math/bits"
	"math/rand/v2"
)

// A stream is a source of random numbers for one purpose and one thing, such as the third loan of patron 17.
// Everything has a stream of its own, so that nothing that is added changes what was there.
//
// Only PCG's raw output is used: its algorithm is fixed, that of the methods of rand.Rand is not.
type stream struct{ pcg rand.PCG }

type purpose uint64

// The purposes. A new one goes to the end.
const (
	forPatron purpose = 1 + iota
	forTimes
	forLoan
	forNames
	forFurther
	forTitle
	forFilled
	forUnfilled
	forBorrowed
	forLent
	forFee
	forNotice
)

// reset makes s the stream of purpose p for the thing numbered a, b.
func (s *stream) reset(seed uint64, p purpose, a, b uint64) {
	high := mix(mix(seed+uint64(p)*0x9e3779b97f4a7c15) ^ a)
	s.pcg.Seed(high, mix(high^b))
}

// mix is the finalizer of SplitMix64: neighbors become strangers.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// float is uniform in [0, 1).
func (s *stream) float() float64 { return float64(s.pcg.Uint64()>>11) / (1 << 53) }

// chance is true with probability p.
func (s *stream) chance(p float64) bool { return s.float() < p }

// below is uniform in [0, n).
func (s *stream) below(n uint64) uint64 {
	high, _ := bits.Mul64(s.pcg.Uint64(), n)
	return high
}

// pick returns an index with the probability of its share; the shares add up to 1.
func (s *stream) pick(shares []float64) int {
	u := s.float()
	for i, share := range shares {
		if u -= share; u < 0 {
			return i
		}
	}
	return len(shares) - 1
}

// exponential has the given mean.
func (s *stream) exponential(mean float64) float64 { return float64(-mean * log(1-s.float())) }

// normal is Marsaglia's polar method.
func (s *stream) normal(mean, sd float64) float64 {
	for {
		x, y := 2*s.float()-1, 2*s.float()-1
		if r := float64(x*x) + float64(y*y); r < 1 && r > 0 {
			return mean + float64(sd*float64(x*math.Sqrt(-2*log(r)/r)))
		}
	}
}

// token is n random letters and digits, at most 12 of them.
func (s *stream) token(b []byte, n int) []byte {
	const alphabet = "0123456789abcdefghjkmnpqrstvwxyz" // Crockford's base 32
	for v := s.pcg.Uint64(); n > 0; n, v = n-1, v>>5 {
		b = append(b, alphabet[v&31])
	}
	return b
}

// log and exp are our own, from operations that IEEE 754 defines to the last bit: math.Log and math.Exp are
// assembly on some machines. The conversions forbid fusing a multiplication with an addition, which
// compilers for some machines do.

func log(x float64) float64 {
	f, e := math.Frexp(x)
	if f < math.Sqrt2/2 {
		f, e = 2*f, e-1
	}
	s := (f - 1) / (f + 1) // log f = 2 atanh s, |s| < 0.172
	z, sum := float64(s*s), 0.0
	for k := 23.0; k >= 1; k -= 2 {
		sum = float64(sum*z) + 1/k
	}
	return float64(2*s*sum) + float64(float64(e)*math.Ln2)
}

func exp(x float64) float64 {
	k := math.Floor(float64(x*(1/math.Ln2)) + 0.5)
	r := x - float64(k*math.Ln2) // |r| < 0.35
	sum := 1.0
	for i := 14.0; i >= 1; i-- {
		sum = float64(sum*r)/i + 1
	}
	return math.Ldexp(sum, int(k))
}

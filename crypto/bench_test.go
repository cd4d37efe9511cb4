package crypto

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// benchSegments are the twelve segments of a patron record with the sizes of their JSON for an ordinary patron.
var benchSegments = []struct {
	label string
	size  int
}{
	{"names", 96}, {"addresses", 212}, {"phones", 74}, {"emails", 68}, {"identifiers", 128}, {"birth", 60},
	{"blocks", 86}, {"notes", 250}, {"roles", 64}, {"campus", 60}, {"statistics", 142}, {"photo", 78},
}

// BenchmarkRecord opens a patron record of twelve segments of 60 to 250 bytes, 1,318 together, in each way in turn within one
// run, so that what else the machine does falls on all of them alike. The ways are:
//
//	bare      the standard library's AES-256-GCM into one reused buffer, with the associated data ready made: the floor
//	unwrap    the same, after the subject key was unwrapped and set up with the standard library
//	cached    Keyring.Open, its key in the cache
//	uncached  Keyring.Open, its key from a store in memory
//	envelope  Tink's KMS envelope encryption, field by field, with a local key for the KMS
//
// A heap of 32 MB is kept alive, as any server has: with next to none, the collector runs hundreds of times a second, and that is measured
// instead (then cached/bare is about a tenth more).
//
// A round does every way a few dozen times; the figure of a way is the median of its rounds, and its ratio the median of the
// ratios within each round.
func BenchmarkRecord(b *testing.B) {
	r := newRecordBench(b)
	ways := []struct {
		name, base string
		times      int
		run        func()
	}{
		{"bare", "bare", 40, r.bare},
		{"unwrap", "bare", 40, r.unwrap},
		{"cached", "bare", 40, r.cached},
		{"uncached", "unwrap", 40, r.uncached},
		{"envelope", "unwrap", 10, r.envelope},
	}
	taken := map[string][]float64{}
	ratios := map[string][]float64{}
	b.ReportAllocs()
	for b.Loop() {
		for _, w := range ways {
			start := time.Now()
			for range w.times {
				w.run()
			}
			taken[w.name] = append(taken[w.name], float64(time.Since(start).Nanoseconds())/float64(w.times))
			base := taken[w.base]
			ratios[w.name] = append(ratios[w.name], taken[w.name][len(taken[w.name])-1]/base[len(base)-1])
		}
	}
	for _, w := range ways {
		b.ReportMetric(median(taken[w.name]), "ns/"+w.name)
		if w.name != w.base {
			b.ReportMetric(median(ratios[w.name]), w.name+"/"+w.base)
		}
	}
	b.ReportMetric(0, "ns/op") // of all the ways together says nothing
}

func BenchmarkOpenCached(b *testing.B)   { r := newRecordBench(b); each(b, r.cached) }
func BenchmarkOpenUncached(b *testing.B) { r := newRecordBench(b); each(b, r.uncached) }
func BenchmarkOpenBare(b *testing.B)     { r := newRecordBench(b); each(b, r.bare) }

func BenchmarkSeal(b *testing.B) {
	r := newRecordBench(b)
	each(b, func() {
		_, err := r.keys.Seal(b.Context(), r.subject, r.plain...)
		r.must(err)
	})
}

func BenchmarkIndexToken(b *testing.B) {
	r := newRecordBench(b)
	index, err := NewIndex(IndexIdentifier, Field{Name: "identifier"})
	require.NoError(b, err)
	indexes := r.keys.Indexes()
	each(b, func() {
		_, err := indexes.Tokens(index, "21234000000017")
		r.must(err)
	})
}

func BenchmarkCreateKey(b *testing.B) {
	r := newRecordBench(b)
	n := 0
	each(b, func() {
		n++
		r.must(r.keys.CreateKeys(b.Context(), Subject(fmt.Sprint("subject-", n))))
	})
}

func each(b *testing.B, f func()) {
	b.ReportAllocs()
	for b.Loop() {
		f()
	}
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}

// A recordBench is one record, sealed in each of the ways.
type recordBench struct {
	must    func(error)
	ctx     context.Context
	keys    *Keyring
	subject Subject
	plain   []Plain
	sealed  []Sealed

	gcm       cipher.AEAD
	bound     [][]byte
	bareData  [][]byte // nonce and ciphertext
	into      []byte
	epoch     cipher.AEAD
	wrapped   []byte
	keyBound  []byte
	kms       tink.AEAD
	perField  tink.AEAD
	fieldData [][]byte

	heap []byte
}

func newRecordBench(b *testing.B) *recordBench {
	r := &recordBench{ctx: b.Context(), subject: "6f9619ff-8b86-4d01-b42d-00cf4fc964ff", into: make([]byte, 0, 512), heap: make([]byte, 32<<20)}
	r.must = func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	r.keys = newHouse(b).open(newMemory())
	r.must(r.keys.CreateKeys(r.ctx, r.subject))
	for _, s := range benchSegments {
		text := make([]byte, s.size)
		rand.Read(text)
		r.plain = append(r.plain, Plain{s.label, 7, NewSecret(string(text))})
	}
	data, err := r.keys.Seal(r.ctx, r.subject, r.plain...)
	r.must(err)
	for i, d := range data {
		require.Len(b, d, benchSegments[i].size+Overhead)
		r.sealed = append(r.sealed, Sealed{r.plain[i].Label, 7, d})
	}

	raw := newKey(keySize)
	r.gcm = standardGCM(b, raw)
	ours, err := r.keys.key(r.ctx, r.subject)
	r.must(err)
	for i, p := range r.plain {
		r.bound = append(r.bound, boundTo(slices.Clip(ours.bound), p.Label, p.Revision))
		nonce := newKey(12)
		r.bareData = append(r.bareData, r.gcm.Seal(nonce, nonce, []byte(p.Value.Reveal()), r.bound[i]))
	}
	r.epoch = standardGCM(b, newKey(keySize))
	r.keyBound = r.keys.state.Load().boundToKey(r.subject, 1)
	nonce := newKey(12)
	r.wrapped = r.epoch.Seal(nonce, nonce, raw, r.keyBound)

	r.kms, err = newAEAD(newKey(keySize))
	r.must(err)
	r.perField = aead.NewKMSEnvelopeAEAD2(aead.AES256GCMKeyTemplate(), r.kms)
	for i, p := range r.plain {
		d, err := r.perField.Encrypt([]byte(p.Value.Reveal()), r.bound[i])
		r.must(err)
		r.fieldData = append(r.fieldData, d)
	}
	return r
}

func standardGCM(b *testing.B, key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	require.NoError(b, err)
	g, err := cipher.NewGCM(block)
	require.NoError(b, err)
	return g
}

func (r *recordBench) bare() { r.bareWith(r.gcm) }

func (r *recordBench) bareWith(g cipher.AEAD) {
	for i, d := range r.bareData {
		_, err := g.Open(r.into, d[:12], d[12:], r.bound[i])
		r.must(err)
	}
}

func (r *recordBench) unwrap() {
	raw, err := r.epoch.Open(nil, r.wrapped[:12], r.wrapped[12:], r.keyBound)
	r.must(err)
	block, err := aes.NewCipher(raw)
	r.must(err)
	g, err := cipher.NewGCM(block)
	r.must(err)
	r.bareWith(g)
}

// cached opens the record and looks at every byte string, as whoever opens a record does.
func (r *recordBench) cached() {
	opened, err := r.keys.Open(r.ctx, r.subject, r.sealed...)
	r.must(err)
	for i, s := range opened {
		if len(s.Reveal()) != benchSegments[i].size {
			panic("a plaintext of another length")
		}
	}
}

func (r *recordBench) uncached() {
	r.keys.cache.kill(r.subject)
	r.cached()
}

func (r *recordBench) envelope() {
	for i, d := range r.fieldData {
		_, err := r.perField.Decrypt(d, r.bound[i])
		r.must(err)
	}
}

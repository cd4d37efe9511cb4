package crypto

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"unicode"
	"unicode/utf8"

	"github.com/tink-crypto/tink-go/v2/aead/aesgcm"
	daead "github.com/tink-crypto/tink-go/v2/daead/subtle"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	prf "github.com/tink-crypto/tink-go/v2/prf/subtle"
	"github.com/tink-crypto/tink-go/v2/secretdata"
	"github.com/tink-crypto/tink-go/v2/tink"
)

const (
	keySize = 32 // AES-256-GCM, HMAC-SHA-256
	sivSize = 64 // AES-SIV: two keys of 256 bits
)

func newKey(size int) []byte {
	key := make([]byte, size)
	rand.Read(key) // never fails
	return key
}

// newAEAD returns AES-256-GCM with a random nonce before the ciphertext.
func newAEAD(key []byte) (tink.AEAD, error) {
	parameters, err := aesgcm.NewParameters(aesgcm.ParametersOpts{
		KeySizeInBytes: keySize, IVSizeInBytes: 12, TagSizeInBytes: 16, Variant: aesgcm.VariantNoPrefix})
	if err != nil {
		return nil, err
	}
	k, err := aesgcm.NewKey(secretdata.NewBytesFromData(key, insecuresecretdataaccess.Token{}), 0, parameters)
	if err != nil {
		return nil, err
	}
	return aesgcm.NewAEAD(k)
}

// newSubjectAEAD returns the same as newAEAD, from the standard library, which Tink calls too: it opens into a buffer
// of ours, so that opening a whole record allocates once.
func newSubjectAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func newDeterministic(key []byte) (tink.DeterministicAEAD, error) { return daead.NewAESSIV(key) }

// mac returns the first 128 bits of HMAC-SHA-256.
func mac(key, data []byte) (out [16]byte) {
	h, err := prf.NewHMACPRF("SHA256", key)
	if err == nil {
		var sum []byte
		if sum, err = h.ComputePRF(data, 16); err == nil {
			copy(out[:], sum)
			return out
		}
	}
	panic("crypto: HMAC-SHA-256 is not available") // fixed parameters: only a broken build comes here
}

// publishedKeys are the SHA-256 of keys that stand in documentation, ours and others'.
var publishedKeys = [...][sha256.Size]byte{
	sha256.Sum256([]byte("carrel example key, never use it")), // docs/keys.md
}

// checkRandom refuses keys that were plainly not drawn at random: published ones, text, counters, a few bytes repeated. A
// random key of 32 bytes is refused once in more than 10^10 tries.
func checkRandom(key []byte) error {
	text := utf8.Valid(key) && !bytes.ContainsFunc(key, func(r rune) bool { return !unicode.IsPrint(r) })
	counter := true
	var seen [256]bool
	kinds := 0
	for i, b := range key {
		counter = counter && (i < 2 || b-key[i-1] == key[1]-key[0])
		if !seen[b] {
			seen[b] = true
			kinds++
		}
	}
	sum := sha256.Sum256(key)
	for _, published := range publishedKeys {
		if bytes.Equal(sum[:], published[:]) {
			return ErrWeakKey
		}
	}
	if text || counter || kinds < 16 {
		return ErrWeakKey
	}
	return nil
}

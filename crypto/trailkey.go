package crypto

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"sync"
)

// A TrailKey is what an audit trail is kept with: it signs the trail's checkpoints and authenticates what is written to
// it, so that nobody without the keyring adds to it, whoever owns the database. It is safe for concurrent use and does not print its keys.
type TrailKey struct {
	signing hidden[ed25519.PrivateKey]
	macs    sync.Pool // of hash.Hash, keyed
}

// TrailKey returns the key of the installation's audit trail. A keyring of an earlier carrel that has none gets one.
func (k *Keyring) TrailKey(ctx context.Context) (*TrailKey, error) {
	s := k.state.Load()
	if len(s.content.Trail) == 0 {
		err := k.change(ctx, func(c *content) (bool, error) {
			if len(c.Trail) > 0 {
				return false, nil
			}
			c.Trail = newKey(keySize)
			return true, nil
		})
		if err != nil {
			return nil, err
		}
		s = k.state.Load()
	}
	seed, err := hkdf.Key(sha256.New, s.content.Trail, s.id[:], labelTrail+"checkpoint", ed25519.SeedSize)
	if err != nil {
		return nil, errors.New("crypto: the key of the trail cannot be made")
	}
	key, err := hkdf.Key(sha256.New, s.content.Trail, s.id[:], labelTrail+"entry", keySize)
	if err != nil {
		return nil, errors.New("crypto: the key of the trail cannot be made")
	}
	t := &TrailKey{signing: hide(ed25519.NewKeyFromSeed(seed))}
	t.macs.New = func() any { return hmac.New(sha256.New, key) }
	clear(seed)
	return t, nil
}

// Public returns the key by which anybody can check the signatures.
func (t *TrailKey) Public() ed25519.PublicKey {
	return t.signing().Public().(ed25519.PublicKey)
}

// Sign signs a message with Ed25519 (RFC 8032).
func (t *TrailKey) Sign(message []byte) []byte { return ed25519.Sign(t.signing(), message) }

// MAC returns the first 128 bits of HMAC-SHA-256 over data.
func (t *TrailKey) MAC(data []byte) (out [16]byte) {
	h := t.macs.Get().(hasher)
	defer t.macs.Put(h)
	h.Reset()
	h.Write(data)
	var sum [sha256.Size]byte
	copy(out[:], h.Sum(sum[:0]))
	return out
}

type hasher interface {
	Reset()
	Write([]byte) (int, error)
	Sum([]byte) []byte
}

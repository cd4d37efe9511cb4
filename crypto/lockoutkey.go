package crypto

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
)

// LockoutKey returns the key under which package lockout counts the installation's guesses: 32 bytes, derived from that of the trail (RFC 5869).
func (k *Keyring) LockoutKey(ctx context.Context) (Secret, error) {
	if _, err := k.TrailKey(ctx); err != nil { // there is one now
		return Secret{}, err
	}
	s := k.state.Load()
	key, err := hkdf.Key(sha256.New, s.content.Trail, s.id[:], labelLockout, keySize)
	if err != nil {
		return Secret{}, errors.New("crypto: the key of lockouts cannot be made")
	}
	return NewSecret(string(key)), nil
}

// CheckKey refuses, with [ErrWeakKey], a key of less than 32 bytes or one that was plainly not drawn at random: published examples, text, counters, a few bytes repeated.
func CheckKey(key Secret) error {
	raw := []byte(key.Reveal())
	defer clear(raw)
	if len(raw) < keySize {
		return ErrWeakKey
	}
	return checkRandom(raw)
}

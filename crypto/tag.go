package crypto

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"math"
	"sync"
)

// A Tag is a value that only a subject's key yields. It stands for the subject where rows about them have to be found
// again: whoever has the key can compute it, and when the key is destroyed nobody can, so that the rows
// belong to nobody any more.
type Tag [16]byte

// tagger makes the tags of one subject. Its key is derived when it is first asked for one, because most subject keys only open.
type tagger struct {
	raw  hidden[[]byte]
	once sync.Once
	key  hidden[[]byte]
	err  error
}

func newTagger(raw []byte) *tagger { return &tagger{raw: hide(append([]byte(nil), raw...))} }

func (t *tagger) tag(label string) (tag Tag, err error) {
	t.once.Do(func() {
		key, err := hkdf.Key(sha256.New, t.raw(), nil, labelTag, keySize)
		t.key, t.err = hide(key), err
		clear(t.raw())
	})
	if t.err != nil {
		return tag, errors.New("crypto: a tag cannot be made")
	}
	h := hmac.New(sha256.New, t.key())
	h.Write([]byte(label))
	copy(tag[:], h.Sum(nil))
	return tag, nil
}

// Tag returns the tag of a subject for a label: HMAC-SHA-256, 128 bits, under a key derived from the subject's (RFC 5869).
// Tags of different labels have nothing in common for whoever lacks the key.
//
// Errors: those of [Keyring.Open] but [ErrNotAuthentic] for a seal.
func (k *Keyring) Tag(ctx context.Context, subject Subject, label string) (Tag, error) {
	key, err := k.key(ctx, subject)
	if err != nil {
		return Tag{}, err
	}
	tag, err := key.tags.tag(label)
	if err == nil && key.dead.Load() {
		err = ErrShredded
	}
	return tag, err
}

// EachTags calls f with the tags of every living subject, one for each label, until f returns an error. It is the way from a tag back
// to its subject: there is no other, and none once the key is destroyed. A subject whose key cannot be opened is passed over.
// The key store is read in pages; keys that appear meanwhile may be left out.
func (k *Keyring) EachTags(ctx context.Context, labels []string, f func(Subject, []Tag) error) error {
	if k.store == nil {
		return ErrNoStore
	}
	if _, err := k.ledger.refresh(); err != nil {
		return err
	}
	s, err := k.refresh(k.state.Load())
	if err != nil {
		return err
	}
	tags := make([]Tag, len(labels))
	for after := Subject(""); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		page, err := k.store.OlderKeys(ctx, math.MaxUint32, after, rotatePage)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return nil
		}
		after = page[len(page)-1].Subject
		for _, w := range page {
			if isReserved(w.Subject) || k.ledger.has(w.Subject) {
				continue
			}
			raw, err := s.unwrap(w)
			if errors.Is(err, ErrNoEpoch) { // one that another process has begun
				if s, err = k.refresh(s); err != nil {
					return err
				}
				raw, err = s.unwrap(w)
			}
			if err != nil {
				continue
			}
			t := newTagger(raw)
			clear(raw)
			for i, label := range labels {
				if tags[i], err = t.tag(label); err != nil {
					return err
				}
			}
			if err := f(w.Subject, tags); err != nil {
				return err
			}
		}
	}
}

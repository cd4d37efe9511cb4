package crypto

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// noted is the subject under which the store of keys takes down how far the erasure ledger is. It lies there like a key, sealed
// under the key of an epoch, so that any store can keep it; but it is a number and the ledger's head.
const noted Subject = "carrel erasure ledger"

// isReserved reports whether a subject is none: the keyring keeps something of its own under it.
func isReserved(s Subject) bool { return s == mark || s == noted }

// vouch returns an error unless the ledger goes on from what the keyring, as its file is now, and the store know of it: a tombstone that is added to an older copy would make that
// copy the right one.
func (k *Keyring) vouch(ctx context.Context) error {
	s, err := k.refresh(k.state.Load())
	if err != nil {
		return err
	}
	_, known, err := k.readNote(ctx)
	if err != nil {
		return err
	}
	if _, err := k.ledger.refresh(); err != nil {
		return err
	}
	if err := k.ledger.contains(s.content.Ledger); err != nil {
		return err
	}
	return k.ledger.contains(known)
}

// remember has keyring and store take down how far the ledger is, so that from then on a shorter one, or another, is refused. An old ledger
// that is put back beside its old keyring is seen by the store, an old store by nobody: it need not be, for the ledger is replayed.
func (k *Keyring) remember(ctx context.Context) error {
	err := k.rewrite(ctx, false, func(c *content) (bool, error) {
		now, err := k.ledger.mark(c.Ledger)
		return now.Count > c.Ledger.Count, err
	})
	return errors.Join(err, k.rememberInStore(ctx))
}

func (k *Keyring) rememberInStore(ctx context.Context) error {
	if err := k.markStore(ctx); err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		old, known, err := k.readNote(ctx)
		if err != nil {
			return err
		}
		now, err := k.ledger.mark(known)
		if err != nil || known.Count == now.Count {
			return err
		}
		raw := binary.BigEndian.AppendUint64(make([]byte, 0, keySize), now.Count)
		raw = append(raw, now.Head...)
		if lost, err := k.putReserved(ctx, noted, raw[:keySize], old); err != nil || !lost {
			return err
		} // else somebody else has taken it down, or a rotation has wrapped it anew
	}
}

// putReserved stores something of the keyring's own, unless what is there is not old. It is wrapped in the epoch that is the newest now, and again if that has changed
// meanwhile: whoever rotated may not come by again.
func (k *Keyring) putReserved(ctx context.Context, subject Subject, raw, old []byte) (lost bool, err error) {
	s, err := k.refresh(k.state.Load())
	if err != nil {
		return false, err
	}
	w, err := s.wrap(subject, raw)
	if err != nil {
		return false, err
	}
	refused, err := k.store.PutKeys(ctx, []KeyChange{{Key: w, Old: old}})
	if err != nil || len(refused) > 0 {
		return len(refused) > 0, err
	}
	now, err := k.refresh(s)
	if err != nil || now.current == s.current {
		return false, err
	}
	_, err = k.rewrap(ctx, s, now, []WrappedKey{w}, new(Rotation))
	return false, err
}

// readReserved returns what the store has of the keyring's own, or [ErrNoKey].
func (k *Keyring) readReserved(ctx context.Context, subject Subject) (w WrappedKey, raw []byte, err error) {
	if w, err = k.store.Key(ctx, subject); err != nil {
		return w, nil, err
	}
	w.Subject = subject // whatever the row says
	s := k.state.Load()
	raw, err = s.unwrap(w)
	if errors.Is(err, ErrNoEpoch) && w.Epoch > s.current { // one that another process has begun
		if s, err = k.refresh(s); err == nil {
			raw, err = s.unwrap(w)
		}
	}
	return w, raw, err
}

// readNote returns how far the ledger was when the store was last told.
func (k *Keyring) readNote(ctx context.Context) (wrapped []byte, m ledgerMark, err error) {
	w, raw, err := k.readReserved(ctx, noted)
	switch {
	case errors.Is(err, ErrNoKey):
		return nil, m, nil
	case errors.Is(err, ErrNoEpoch), errors.Is(err, ErrNotAuthentic):
		return nil, m, fmt.Errorf("%w: what the store of keys says of it was not written by this keyring", ErrLedger)
	case err != nil:
		return nil, m, err
	}
	return w.Wrapped, ledgerMark{Count: binary.BigEndian.Uint64(raw), Head: raw[8:24]}, nil
}

package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/carrel-project/carrel/crypto"
)

// An Entry is an event as a store keeps it: sealed, authenticated, and with what it is found by. All but Number and Key is made from
// the Body, which is all that counts: when they differ, somebody changed the store.
type Entry struct {
	Number uint64    // its place in the log, from 0
	Action Action    // of the event
	Time   time.Time // of the event, UTC, whole microseconds
	Tags   []Tag     // of the subjects; sorted, none twice
	Body   []byte

	// Key, when it is not zero, makes appending repeatable: an entry whose key is there already is not appended again.
	Key [16]byte
}

const (
	bodyVersion = 1
	nonceSize   = 8
)

// A Tag stands for a subject in the entries of one calendar month (UTC): two bytes for the month, counted from January 1970, so that
// the tags of a month lie side by side in an index, and 14 bytes of a [crypto.Tag], which only the subject's key yields. They are
// others every month, so that after somebody was forgotten no more than a month of what nobody can attribute hangs together.
type Tag [16]byte

// monthOf returns the number of a month, counted from January 1970.
func monthOf(t time.Time) uint16 {
	t = t.UTC()
	return uint16((t.Year()-1970)*12 + int(t.Month()) - 1)
}

// monthLabel is what the tags of a month are made of.
func monthLabel(month uint16) string { return fmt.Sprintf("trail month %d", month) }

func makeTag(month uint16, secret crypto.Tag) (tag Tag) {
	binary.BigEndian.PutUint16(tag[:], month)
	copy(tag[2:], secret[:])
	return tag
}

// sealLabel is what is sealed of a subject is bound to.
const sealLabel = "trail"

// Prepare seals an event, so that it can be appended to the store in a transaction of the caller's own, together with what it
// is about: with [Store].Append of a store on that transaction. It will be found from the commit on; the next checkpoint covers it.
// What is revealed must not depend on a transaction that can still be rolled back: that is for [Trail.Record].
//
// It works after Close, too; another trail then makes the leaf.
//
// Subjects without a key, because they were forgotten or never there, are left out; Count still counts them.
//
// Errors: [ErrEvent]; those of [crypto.Keyring.Seal].
func (t *Trail) Prepare(ctx context.Context, e Event) (Entry, error) {
	if ownBusiness(e.Action) {
		return Entry{}, errOwn
	}
	return t.prepare(ctx, e)
}

func (t *Trail) prepare(ctx context.Context, e Event) (Entry, error) {
	if err := e.check(); err != nil {
		return Entry{}, err
	}
	var err error
	if e.Grant, err = t.grantOf(ctx, &e); err != nil {
		return Entry{}, err
	}
	public := e.encode()
	b := make([]byte, 0, len(public)+64+64*len(e.Subjects))
	b = append(b, bodyVersion)
	b = append(b, make([]byte, nonceSize)...)
	rand.Read(b[1:]) // never fails
	b = binary.AppendUvarint(b, uint64(len(public)))
	b = append(b, public...)
	month := monthOf(e.Time)
	label := monthLabel(month)
	entry := Entry{Action: e.Action, Time: time.UnixMicro(e.Time.UnixMicro()).UTC()}
	type part struct {
		tag    Tag
		sealed []byte
	}
	parts := make([]part, 0, len(e.Subjects))
	for i := range e.Subjects {
		s := &e.Subjects[i]
		secret, err := t.keys.Tag(ctx, s.ID, label)
		p := part{tag: makeTag(month, secret)}
		if plain := s.encode(); err == nil && plain != "" {
			var sealed [][]byte
			if sealed, err = t.keys.Seal(ctx, s.ID, crypto.Plain{Label: sealLabel, Value: crypto.NewSecret(plain)}); err == nil {
				p.sealed = sealed[0]
			}
		}
		switch {
		case errors.Is(err, crypto.ErrNoKey), errors.Is(err, crypto.ErrShredded):
			continue
		case err != nil:
			return Entry{}, err
		}
		parts = append(parts, p)
	}
	// Callers have lists of people in the order of their IDs, which stand in the database for everybody to read.
	slices.SortFunc(parts, func(a, b part) int { return bytes.Compare(a.tag[:], b.tag[:]) })
	b = binary.AppendUvarint(b, uint64(len(parts)))
	for _, p := range parts {
		b = append(b, p.tag[:]...)
		b = binary.AppendUvarint(b, uint64(len(p.sealed)))
		b = append(b, p.sealed...)
		entry.Tags = append(entry.Tags, p.tag)
	}
	entry.Tags = sortTags(entry.Tags)
	leaf, err := appendLeaf(nil, b)
	if err != nil {
		return Entry{}, err
	}
	mac := t.key.MAC(leaf)
	if entry.Body = append(b, mac[:]...); len(entry.Body) > maxEvent {
		return Entry{}, errTooLong
	}
	return entry, nil
}

// grantLabel is what the reference of a break-glass grant in the trail is made of.
func grantLabel(grant string) string { return "trail grant " + grant }

// grantOf returns what stands in the trail for a grant: a tag of the subject's, because the library system keeps grants by their ID beside whom they are on. Without
// anybody's key it is nothing.
func (t *Trail) grantOf(ctx context.Context, e *Event) (string, error) {
	if e.Grant == "" {
		return "", nil
	}
	for _, s := range e.Subjects {
		tag, err := t.keys.Tag(ctx, s.ID, grantLabel(e.Grant))
		switch {
		case errors.Is(err, crypto.ErrNoKey), errors.Is(err, crypto.ErrShredded):
			continue
		case err != nil:
			return "", err
		}
		return hex.EncodeToString(tag[:]), nil
	}
	return "", nil
}

var errTooLong = errors.New("audit: an event of more than 4 MiB: split it")

// appendLeaf appends what a leaf says of a body without its MAC: the body, with the SHA-256 of each ciphertext in place of it. So
// the ciphertexts are committed to, and nothing else that depends on a person but tags.
func appendLeaf(leaf, body []byte) ([]byte, error) {
	r := reader{b: body}
	if r.byte() != bodyVersion {
		return nil, errEncoding
	}
	r.bytes(nonceSize)
	r.part()
	n := r.uvarint()
	if r.bad || n > uint64(len(r.b)/(tagSize+1)) {
		return nil, errEncoding
	}
	leaf = append(leaf, body[:len(body)-len(r.b)]...)
	for range n {
		leaf = append(leaf, r.bytes(uint64(tagSize))...)
		sealed := r.part()
		if r.bad {
			return nil, errEncoding
		}
		if len(sealed) == 0 {
			leaf = append(leaf, 0)
			continue
		}
		sum := sha256.Sum256(sealed)
		leaf = append(append(leaf, sha256.Size), sum[:]...)
	}
	if r.bad || len(r.b) > 0 {
		return nil, errEncoding
	}
	return leaf, nil
}

const (
	tagSize = len(Tag{})
	macSize = 16
)

// leafOf returns the leaf of a body, the last bytes of which are the MAC of what stands before them. The buffer may be reused.
func leafOf(buffer, body []byte) ([]byte, error) {
	if len(body) < macSize {
		return nil, errEncoding
	}
	end := len(body) - macSize
	leaf, err := appendLeaf(buffer[:0], body[:end:end])
	return append(leaf, body[end:]...), err
}

// leafHash returns the hash of an entry's leaf (RFC 6962, section 2.1), and whether it is an entry that was made with the key; a nil key says that this cannot be
// known. What is none is in the log all the same, for its place is taken: its leaf is one that no entry has, so that who verifies without
// the key sees that it does not fit, and believes no claim of it.
func leafHash(key *crypto.TrailKey, buffer, body []byte) (hash tlog.Hash, leaf []byte, ok bool) {
	leaf, err := leafOf(buffer, body)
	if ok = err == nil && (key == nil || authentic(key, leaf)); !ok {
		leaf = append(append(leaf[:0], foreign), body...)
	}
	return tlog.RecordHash(leaf), leaf, ok
}

// foreign begins the leaf of what is no entry. Those of entries begin with their version.
const foreign = 0xff

// authentic reports whether a leaf was made with the trail's key.
func authentic(key *crypto.TrailKey, leaf []byte) bool {
	if len(leaf) < macSize {
		return false
	}
	end := len(leaf) - macSize
	mac := key.MAC(leaf[:end])
	return string(mac[:]) == string(leaf[end:])
}

// An Opened entry is one that was taken apart. Its event has no Subjects: those are sealed.
type opened struct {
	nonce  [nonceSize]byte // no two events have the same: what has it again is a copy
	event  Event
	tags   []Tag    // as they stand in the body
	sealed [][]byte // one for each tag; empty: the event says nothing more about them
}

// open takes a body apart. The result shares its memory.
func open(body []byte) (o opened, err error) {
	if len(body) < macSize {
		return o, errEncoding
	}
	r := reader{b: body[:len(body)-macSize]}
	if r.byte() != bodyVersion {
		return o, errEncoding
	}
	copy(o.nonce[:], r.bytes(nonceSize))
	public := r.part()
	if r.bad {
		return o, errEncoding
	}
	if o.event, err = decode(public); err != nil {
		return o, err
	}
	n := r.uvarint()
	if r.bad || n > uint64(len(r.b)/(tagSize+1)) {
		return o, errEncoding
	}
	for range n {
		var tag Tag
		copy(tag[:], r.bytes(uint64(tagSize)))
		sealed := r.part()
		if r.bad {
			return o, errEncoding
		}
		o.tags, o.sealed = append(o.tags, tag), append(o.sealed, sealed)
	}
	if len(r.b) > 0 {
		return o, errEncoding
	}
	return o, nil
}

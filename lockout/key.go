package lockout

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"hash"
	"net/netip"
	"sync"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/internal/fold"
)

// What a name is of. The byte goes into the HMAC first, so that a login is never taken for an account.
const (
	ofLogin byte = iota + 1
	ofPatron
	ofStaff
	ofSource
	ofLane
	ofDevice
)

// keys makes names. It is safe for concurrent use.
type keys struct{ pool sync.Pool }

// A keyer is one keyed hash with what it writes to and from.
type keyer struct {
	h   hash.Hash
	buf []byte
	sum [sha256.Size]byte
}

func newKeys(secret crypto.Secret) (*keys, error) {
	key, err := hkdf.Key(sha256.New, []byte(secret.Reveal()), nil, "carrel/v1/lockout/names", minKey)
	if err != nil {
		return nil, errors.New("lockout: Config.Key cannot be used")
	}
	return &keys{sync.Pool{New: func() any { return &keyer{h: hmac.New(sha256.New, key)} }}}, nil
}

// mac is HMAC-SHA-256 over the kind and the parts, each after its length.
func (k *keyer) mac(of byte, parts ...string) []byte {
	k.begin(of)
	for _, p := range parts {
		k.part(p)
	}
	return k.end()
}

func (k *keyer) begin(of byte) { k.buf = append(k.buf[:0], of) }

func (k *keyer) part(p string) {
	k.buf = binary.BigEndian.AppendUint16(k.buf, uint16(len(p)))
	k.buf = append(k.buf, p...)
}

func (k *keyer) end() []byte {
	k.h.Reset()
	k.h.Write(k.buf)
	return k.h.Sum(k.sum[:0])
}

// maxLogin is as much of a login or an ID as counts. Nobody's is longer, and hashing a megabyte would take time.
const maxLogin = 512

// account returns the name of an account. It does the same work whether there is one or not: both messages are written, filled up to the same length because SHA-256
// takes its time by blocks, and one of them is chosen without a branch.
func (k *keyer) account(a Account) (name Name) {
	login := fold.String(a.Login[:min(len(a.Login), maxLogin)])
	login = login[:min(len(login), maxLogin)] // one character may become many
	id := a.ID[:min(len(a.ID), maxLogin)]
	of := byte(ofPatron)
	if a.Staff {
		of = ofStaff
	}
	size := max(len(login), len(id), oneBlock)
	end := 3 + size
	k.begin(ofLogin)
	k.part(login)
	k.buf = fill(k.buf, end)
	k.buf = append(k.buf, of)
	k.part(id)
	k.buf = fill(k.buf, 2*end)
	subtle.ConstantTimeCopy(1-subtle.ConstantTimeEq(int32(len(id)), 0), k.buf[:end], k.buf[end:])
	k.buf = k.buf[:end]
	copy(name[:], k.end())
	return name
}

// oneBlock is the length of a text that makes the message fill one block of SHA-256, with the nine bytes that it appends.
const oneBlock = 64 - 9 - 3

// fill appends zeros up to a size.
func fill(b []byte, size int) []byte {
	return append(b, make([]byte, size-len(b))...) // which allocates nothing besides
}

// source returns the name of a source. An IPv6 subscriber has 64 bits for themself.
func (k *keyer) source(a netip.Addr) (name Name) {
	a = clean(a)
	raw := a.As16()
	if a.Is6() {
		clear(raw[8:])
	}
	copy(name[:], k.mac(ofSource, string(raw[:])))
	return name
}

// lane returns the lane of an account that a device or a known network has.
func (k *keyer) lane(name Name, kind string, of []byte) (lane [5]byte) {
	copy(lane[:], k.mac(ofLane, string(name[:]), kind, string(of)))
	if lane == ([5]byte{}) {
		lane[0] = 1 // that is the common one
	}
	return lane
}

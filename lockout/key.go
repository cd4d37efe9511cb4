package lockout

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
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

func newKeys(secret crypto.Secret) *keys {
	key := []byte(secret.Reveal())
	return &keys{sync.Pool{New: func() any { return &keyer{h: hmac.New(sha256.New, key)} }}}
}

// mac is HMAC-SHA-256 over the kind and the parts, each after its length.
func (k *keyer) mac(of byte, parts ...string) []byte {
	k.buf = append(k.buf[:0], "carrel/v1/lockout\x00"...)
	k.buf = append(k.buf, of)
	for _, p := range parts {
		k.buf = binary.AppendUvarint(k.buf, uint64(len(p)))
		k.buf = append(k.buf, p...)
	}
	k.h.Reset()
	k.h.Write(k.buf)
	return k.h.Sum(k.sum[:0])
}

// maxLogin is as much of a login as counts. Nobody's is longer, and hashing a megabyte would take time that tells.
const maxLogin = 512

// account returns the name of an account. It does the same work whether there is one or not.
func (k *keyer) account(a Account) (name Name) {
	login := a.Login
	if len(login) > maxLogin {
		login = login[:maxLogin]
	}
	copy(name[:], k.mac(ofLogin, fold.String(login)))
	of := ofPatron
	if a.Staff {
		of = ofStaff
	}
	if account := Name(k.mac(of, a.ID)); a.ID != "" {
		name = account
	}
	return name
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

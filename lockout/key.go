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

func (k *keyer) end() []byte { return k.sumOf(k.buf) }

func (k *keyer) sumOf(message []byte) []byte {
	k.h.Reset()
	k.h.Write(message)
	return k.h.Sum(k.sum[:0])
}

// Fold returns the form in which logins are compared: Unicode NFKC and full case folding, without white space and without characters that are not seen. It is that of
// patron.Normalize. Whatever finds the account of a login must compare by it and by nothing finer or coarser: otherwise whoever writes a login in two ways, and finds that the two have one budget or two,
// knows whether it leads to an account.
func Fold(login string) string { return fold.String(login) }

// maxLogin is as much of a folded login, or of an ID, as counts. Nobody's is longer.
const maxLogin = 512

// account returns the name of an account. It does the same work whether there is one or not. The name of an ID has nothing to do with the login.
func (k *keyer) account(a Account) (name Name) {
	login := a.Login
	if len(login) > maxLogin {
		login = fold.Visible(login) // what is not seen shall not push the rest out
		login = login[:min(len(login), maxLogin)]
	}
	login = Fold(login)
	login = login[:min(len(login), maxLogin)] // one character may become many
	id := a.ID[:min(len(a.ID), maxLogin)]
	of := byte(ofPatron)
	if a.Staff {
		of = ofStaff
	}
	known := 1 - subtle.ConstantTimeEq(int32(len(id)), 0)
	if len(login) > oneBlock { // as it is typed, of an account that there is as of one that there is not
		var other Name
		copy(name[:], k.filled(ofLogin, login))
		copy(other[:], k.filled(of, id))
		subtle.ConstantTimeCopy(known, name[:], other[:])
		return name
	}
	k.begin(ofLogin)
	k.part(login)
	k.fill(0)
	end := len(k.buf)
	k.buf = append(k.buf, of)
	k.part(id)
	k.fill(end)
	message := k.buf[known*end:] // chosen without a branch
	if len(id) <= oneBlock {
		message = message[:end]
	}
	copy(name[:], k.sumOf(message))
	return name
}

// filled is the MAC over one text as account writes it.
func (k *keyer) filled(of byte, text string) []byte {
	k.begin(of)
	k.part(text)
	k.fill(0)
	return k.end()
}

// oneBlock is the length of a text with which the message fills one block of SHA-256: besides the text there are three bytes before it, and nine that the hash appends. SHA-256 takes its time by
// blocks, so shorter texts are filled up to that.
const oneBlock = 64 - 9 - 3

// fill appends zeros to the message that begins at from. They stand after the text with its length, so no text ends in them.
func (k *keyer) fill(from int) {
	if n := from + 3 + oneBlock - len(k.buf); n > 0 {
		k.buf = append(k.buf, make([]byte, n)...) // which allocates nothing besides
	}
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

package lockout

import (
	"crypto/hmac"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/carrel-project/carrel/crypto"
)

// A token of a device is, in base64url: a version, the day it was made, 16 random bytes and 16 of an HMAC over all of it and the account.
const (
	tokenVersion = 1
	tokenSigned  = 1 + 4 + 16
	tokenSize    = tokenSigned + 16
)

// DeviceLife is how long a token of [Guard.Remember] is good.
const DeviceLife = 180 * day

// Remember returns a token for the device from which somebody has just logged in to an account, for a cookie: Secure, HttpOnly and SameSite. With it as
// [Attempt.Device], guesses from that device are counted apart from all others: whoever uses up the account's guesses elsewhere does not lock
// its owner out. It opens nothing by itself, is good for this account only, and for [DeviceLife]. Nothing takes it back but that time and another [Config.Key]: whoever
// has it has five guesses more, say. Do not give one to machines that everybody uses.
func (g *Guard) Remember(a Account) string {
	k := g.keys.pool.Get().(*keyer)
	defer g.keys.pool.Put(k)
	name := k.account(a)
	token := make([]byte, tokenSigned, tokenSize)
	token[0] = tokenVersion
	binary.BigEndian.PutUint32(token[1:], uint32(g.clock.wall().Unix()/int64(day/time.Second)))
	rand.Read(token[5:])
	token = append(token, k.mac(ofDevice, string(name[:]), string(token))[:tokenSize-tokenSigned]...)
	return base64.RawURLEncoding.EncodeToString(token)
}

// device returns the random bytes of a token that this Guard gave for this account.
func (g *Guard) device(k *keyer, name Name, text string) ([]byte, bool) {
	if len(text) != base64.RawURLEncoding.EncodedLen(tokenSize) {
		return nil, false
	}
	token, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || token[0] != tokenVersion {
		return nil, false
	}
	age := g.clock.wall().Sub(time.Unix(int64(binary.BigEndian.Uint32(token[1:]))*int64(day/time.Second), 0))
	signed, mac := token[:tokenSigned], token[tokenSigned:]
	if !hmac.Equal(mac, k.mac(ofDevice, string(name[:]), string(signed))[:len(mac)]) || age > DeviceLife || age < -day {
		return nil, false
	}
	return signed[5:], true
}

func drawKey() crypto.Secret {
	var raw [minKey]byte
	rand.Read(raw[:])
	return crypto.NewSecret(string(raw[:]))
}

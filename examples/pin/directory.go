package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/carrel-project/carrel/lockout"
)

// A Patron of the demonstration. ID is that of the account, and does not change with the card.
type Patron struct{ ID, Card, User, PIN string }

var demo = []Patron{
	{"5f0c4c3e-5d0e-4c57-9a53-0b8f1f3a6d01", "29000000000077", "reader1", "2718"},
	{"5f0c4c3e-5d0e-4c57-9a53-0b8f1f3a6d02", "29000000000085", "reader2", "3141"},
	{"5f0c4c3e-5d0e-4c57-9a53-0b8f1f3a6d03", "29000000000093", "reader3", "1414"},
}

// A Cost is what checking a PIN takes.
type Cost struct {
	Time, Memory uint32 // passes, KiB
	Threads      uint8
}

// OWASP is the cost for Argon2id that the Password Storage Cheat Sheet of OWASP begins with. Ten thousand PINs are soon tried at any cost by whoever has
// the hashes; the cost helps where people chose something longer.
var OWASP = Cost{Time: 2, Memory: 19 << 10, Threads: 1}

// A hash is of one PIN.
type hash struct{ salt, sum [16]byte }

// A Directory stands for the library system's own table of patrons.
type Directory struct {
	cost   Cost
	ids    map[string]string // by login
	names  map[string]string // by ID
	pins   map[string]hash   // by ID
	nobody hash              // no PIN has it
	turns  chan struct{}     // so many hashes at a time: each takes its memory
}

// NewDirectory hashes the PINs.
func NewDirectory(cost Cost, patrons []Patron) *Directory {
	d := &Directory{
		cost:  cost,
		ids:   map[string]string{},
		names: map[string]string{},
		pins:  map[string]hash{},
		turns: make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
	rand.Read(d.nobody.salt[:])
	rand.Read(d.nobody.sum[:])
	for _, p := range patrons {
		var h hash
		rand.Read(h.salt[:])
		h.sum = d.sum(h.salt, p.PIN)
		d.pins[p.ID], d.names[p.ID] = h, p.User
		d.ids[lockout.Fold(p.Card)], d.ids[lockout.Fold(p.User)] = p.ID, p.ID
	}
	return d
}

// Find returns the ID of the account that a card number or a user name leads to, or "". Logins are compared exactly as the guard compares those that lead to no
// account: if the two differed, the ways to write a login would tell whether it leads to one. People type card numbers in groups, as they are printed.
func (d *Directory) Find(_ context.Context, login string) (string, error) {
	return d.ids[lockout.Fold(login)], nil
}

// Name returns what the page calls somebody.
func (d *Directory) Name(id string) string { return d.names[id] }

// maxTurn is how long a check waits for its turn.
const maxTurn = 5 * time.Second

var errTurn = errors.New("too many PINs are being checked")

// Verify reports whether it is the account's PIN. An ID that is no account's takes as long.
func (d *Directory) Verify(ctx context.Context, id, pin string) (bool, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, maxTurn, errTurn)
	defer cancel()
	select {
	case d.turns <- struct{}{}:
		defer func() { <-d.turns }()
	case <-ctx.Done():
		return false, fmt.Errorf("nothing was compared: %w", context.Cause(ctx))
	}
	h, known := d.pins[id]
	if !known {
		h = d.nobody
	}
	sum := d.sum(h.salt, pin)
	return subtle.ConstantTimeCompare(sum[:], h.sum[:]) == 1 && known, nil
}

func (d *Directory) sum(salt [16]byte, pin string) (sum [16]byte) {
	copy(sum[:], argon2.IDKey([]byte(pin), salt[:], d.cost.Time, d.cost.Memory, d.cost.Threads, uint32(len(sum))))
	return sum
}

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/carrel-project/carrel/circulation"
)

// gone returns the pseudonyms of borrowers who must not be in the files any more: records named them, in whatever
// role, and now none does, nor does the list of patrons. It is worked out from the synthetic library and the
// records that are still linked, not from what the store believes of its borrowers.
func (d *demo) gone(after demoView) map[string]bool {
	gone, named := map[string]bool{}, map[string]bool{}
	for e := range d.lib.Entries() {
		parts, err := e.Parts()
		if err != nil {
			continue // the store has refused it, too
		}
		still := after.linked[circulation.Pointer{Kind: parts.Facts.Kind, ID: parts.Facts.ID}]
		for _, l := range parts.Links {
			who, err := d.seal.borrower(string(l.Person))
			if err != nil {
				continue
			}
			if still {
				named[string(who)] = true
			} else {
				gone[string(who)] = true
			}
		}
	}
	for who := range gone {
		if named[who] || d.listed[circulation.Borrower(who)] {
			delete(gone, who)
		}
	}
	return gone
}

// searchable returns all bytes of the database's files.
func (d *demo) searchable() (all []byte, err error) {
	for _, suffix := range []string{"", "-wal", "-journal"} {
		data, err := os.ReadFile(d.db.path + suffix)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%s: %w", d.db.path, reason(err))
		}
		all = append(all, data...)
	}
	return all, nil
}

// found counts which of the words occur anywhere in data, in one pass: at every byte it looks up the eight that
// follow. No word is shorter.
func found(data []byte, words map[string]bool) int {
	hits := map[string]bool{}
	byStart := map[uint64][]string{}
	var maybe [1 << 16]bool // the low bits of the keys, to leave the map alone nearly always
	for w := range words {
		k := binary.LittleEndian.Uint64([]byte(w))
		byStart[k] = append(byStart[k], w)
		maybe[uint16(k)] = true
	}
	for i := 0; i+8 <= len(data); i++ {
		k := binary.LittleEndian.Uint64(data[i:])
		if !maybe[uint16(k)] {
			continue
		}
		for _, w := range byStart[k] {
			if len(data)-i >= len(w) && string(data[i:i+len(w)]) == w {
				hits[w] = true
			}
		}
	}
	return len(hits)
}

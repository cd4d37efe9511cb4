package memory

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

// Patrons is a store of patrons, as sealed as they come. It is safe for concurrent use.
type Patrons struct {
	mu     sync.RWMutex
	rows   map[patron.ID]patron.Row
	owners map[crypto.Token]map[patron.ID]bool // whether it is among their Tokens, and not only among their Lookups
	newest uint64                              // change of the index keys
}

var _ patron.Store = (*Patrons)(nil)

// NewPatrons returns an empty store.
func NewPatrons() *Patrons {
	return &Patrons{rows: make(map[patron.ID]patron.Row), owners: make(map[crypto.Token]map[patron.ID]bool)}
}

func cloneRow(r patron.Row) patron.Row {
	r.Facts.Categories = slices.Clone(r.Facts.Categories)
	r.Facts.Expires, r.Facts.WishSince = micro(r.Facts.Expires), micro(r.Facts.WishSince)
	r.Restricted, r.Erasing = micro(r.Restricted), micro(r.Erasing)
	r.Tokens, r.Lookups = slices.Clone(r.Tokens), slices.Clone(r.Lookups)
	r.Segments = slices.Clone(r.Segments)
	for i := range r.Segments {
		r.Segments[i].Data = slices.Clone(r.Segments[i].Data)
	}
	return r
}

// Get implements patron.Store.
func (p *Patrons) Get(ctx context.Context, id patron.ID) (patron.Row, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if err := ctx.Err(); err != nil {
		return patron.Row{}, err
	}
	r, ok := p.rows[id]
	if !ok {
		return patron.Row{}, patron.ErrNotFound
	}
	return cloneRow(r), nil
}

// Find implements patron.Store. It returns all owners of a token, however many there are.
func (p *Patrons) Find(ctx context.Context, tokens []crypto.Token) (patron.Found, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if err := ctx.Err(); err != nil {
		return patron.Found{}, err
	}
	found := patron.Found{Owners: make(map[crypto.Token][]patron.ID), Indexed: p.newest}
	for _, token := range tokens {
		if found.Owners[token] != nil {
			continue
		}
		for id := range p.owners[token] {
			found.Owners[token] = append(found.Owners[token], id)
		}
	}
	return found, nil
}

// Rows implements patron.Store, in the order of the IDs.
func (p *Patrons) Rows(ctx context.Context, q patron.Query) (page []patron.Row, err error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for id, r := range p.rows {
		if bytes.Compare(id[:], q.After[:]) > 0 && (q.IndexedBefore == 0 || r.Indexed < q.IndexedBefore) && (!q.Erasing || !r.Erasing.IsZero()) {
			page = append(page, r)
		}
	}
	slices.SortFunc(page, func(a, b patron.Row) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	page = slices.Clip(page[:min(len(page), max(q.Limit, 0))])
	for i, r := range page {
		page[i] = cloneRow(r)
	}
	return page, nil
}

// Write implements patron.Store. The batch is applied as a set, whatever the order of its writes: one of the Tokens that one
// write gives up can be taken by another. Rows get the batch's Indexed and the version after the one that they replace. When two rows
// of the batch have the same token, the DuplicateError names the later one.
func (p *Patrons) Write(ctx context.Context, b patron.Batch) error {
	if err := checkBatch(b); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := p.check(b); err != nil {
		return err
	}
	p.newest = b.Indexed
	for _, w := range b.Writes {
		p.forget(p.rows[w.Row.ID])
		delete(p.rows, w.Row.ID)
	}
	for _, w := range b.Writes {
		if w.Remove {
			continue
		}
		r := cloneRow(w.Row)
		r.Version, r.Indexed = w.Old+1, b.Indexed
		p.rows[r.ID] = r
		p.index(r)
	}
	return nil
}

// checkBatch finds what no caller should hand over.
func checkBatch(b patron.Batch) error {
	ids := make(map[patron.ID]bool)
	for _, w := range b.Writes {
		if w.Row.ID.IsZero() || ids[w.Row.ID] {
			return errors.New("memory: a batch of patrons has an ID twice, or a row without one")
		}
		ids[w.Row.ID] = true
		if w.Remove {
			continue
		}
		segments := make(map[access.Segment]bool)
		for _, s := range w.Row.Segments {
			if segments[s.Segment] {
				return errors.New("memory: a patron has a segment twice")
			}
			segments[s.Segment] = true
		}
		for _, list := range [][]crypto.Token{w.Row.Tokens, w.Row.Lookups} {
			tokens := make(map[crypto.Token]bool)
			for _, token := range list {
				if tokens[token] {
					return errors.New("memory: a patron has a token twice")
				}
				tokens[token] = true
			}
		}
	}
	return nil
}

// check finds what keeps a batch from being written, before anything is changed.
func (p *Patrons) check(b patron.Batch) error {
	if b.Indexed < p.newest {
		return patron.ErrStaleIndexes
	}
	written := make(map[patron.ID]bool, len(b.Writes))
	for _, w := range b.Writes {
		if p.rows[w.Row.ID].Version != w.Old { // 0 if there is none
			return &patron.ConflictError{ID: w.Row.ID}
		}
		written[w.Row.ID] = true
	}
	taken := make(map[crypto.Token]bool)
	for _, w := range b.Writes {
		if w.Remove {
			continue
		}
		for _, token := range w.Row.Tokens {
			if taken[token] {
				return &patron.DuplicateError{ID: w.Row.ID}
			}
			taken[token] = true
			for id, identifier := range p.owners[token] {
				// What rows of this batch have is given up, or it is found in taken.
				if identifier && !written[id] {
					return &patron.DuplicateError{ID: w.Row.ID}
				}
			}
		}
	}
	return nil
}

func (p *Patrons) index(r patron.Row) {
	enter := func(tokens []crypto.Token, identifier bool) {
		for _, token := range tokens {
			if p.owners[token] == nil {
				p.owners[token] = make(map[patron.ID]bool)
			}
			p.owners[token][r.ID] = identifier
		}
	}
	enter(r.Lookups, false)
	enter(r.Tokens, true)
}

func (p *Patrons) forget(r patron.Row) {
	for _, token := range slices.Concat(r.Tokens, r.Lookups) {
		if delete(p.owners[token], r.ID); len(p.owners[token]) == 0 {
			delete(p.owners, token)
		}
	}
}

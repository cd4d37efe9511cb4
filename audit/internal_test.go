package audit

import (
	"context"

	"golang.org/x/mod/sumdb/tlog"
)

// LeafHash is what an owner of the database can compute as well.
func LeafHash(body []byte) tlog.Hash {
	hash, _, _ := leafHash(nil, nil, body)
	return hash
}

// Claim records what only the trail itself does.
func (t *Trail) Claim(ctx context.Context, e Event) error { return t.write(ctx, e) }

// PrepareClaim prepares it.
func (t *Trail) PrepareClaim(ctx context.Context, e Event) (Entry, error) { return t.prepare(ctx, e) }

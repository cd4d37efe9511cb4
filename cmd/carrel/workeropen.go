package main

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

func addServerFlag(cmd *cobra.Command, dsn *string) {
	cmd.Flags().StringVar(dsn, "db", "", "the database: postgres://USER@HOST/DATABASE?search_path=SCHEMA (its password is better in PGPASSWORD or ~/.pgpass than here)")
}

// openJobs opens a database and the job queue in it.
func openJobs(ctx context.Context, dsn string, mode openMode, conns int) (*database, *pgxpool.Pool, error) {
	if !onServer(dsn) {
		return nil, nil, errors.New("worker: jobs need PostgreSQL, named as postgres://…; for a SQLite file run carrel sweep from cron")
	}
	d, err := openDatabase(ctx, dsn, mode)
	if err != nil {
		return nil, nil, err
	}
	p, ok := d.backend.(*postgresSchema)
	if !ok {
		return nil, nil, errors.Join(errors.New("worker: jobs need PostgreSQL"), d.close())
	}
	pool, err := p.pool(ctx, conns)
	if err != nil {
		return nil, nil, errors.Join(err, d.close())
	}
	if err := jobTablesThere(ctx, d, pool); err != nil {
		pool.Close()
		return nil, nil, errors.Join(err, d.close())
	}
	return d, pool, nil
}

func newJobClient(pool *pgxpool.Pool, cfg *river.Config) (*jobClient, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return river.NewClient(riverpgxv5.New(pool), cfg)
}

// A nightDatabase is what nights work in: the records, and the jobs beside them.
type nightDatabase struct {
	d     *database
	pool  *pgxpool.Pool
	keys  *crypto.Keyring // nil: nothing goes into the audit trail
	trail trailFlags
}

func openNights(cmd *cobra.Command, f *workerFlags) (*nightDatabase, error) {
	d, pool, err := openJobs(cmd.Context(), f.dsn, readWrite, 2*f.workers+4)
	if err != nil {
		return nil, err
	}
	n := &nightDatabase{d: d, pool: pool, trail: f.trail}
	// The key-encryption key may be in a KMS, which is asked once; and what is wrong with keys and anchors is better said now than at night.
	if n.keys, err = d.trailKeys(cmd, f.trail); err == nil && n.keys != nil {
		err = d.anchored(cmd.Context(), f.trail.anchors)
	}
	if err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

// swept calls f with the store for one sweep, whose batches are in the audit trail if there is a keyring.
func (n *nightDatabase) swept(ctx context.Context, f func(sweptStore) error) error {
	if n.keys == nil {
		return f(n.d)
	}
	return n.d.withTrail(ctx, n.keys, n.trail.anchors, func(t *audit.Trail) error {
		return f(n.d.recorded(n.d.db, t, byCommand(n.trail.actor, "systems")))
	})
}

func (n *nightDatabase) close() error {
	n.pool.Close()
	return n.d.close()
}

// sweptStore is what a sweep of a shard needs; all of it, so that wholePages hides nothing.
type sweptStore interface {
	anonymize.Store
	anonymize.Finisher
	anonymize.Deferrer
}

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// migrateJobs makes the tables of the job queue in the first schema of the search path, or brings them up to date, and reports whether it
// changed anything. Of several that do so at once, one does, and the others wait for it. It wants a pool of at least two connections.
func migrateJobs(ctx context.Context, pool *pgxpool.Pool) (changed bool, err error) {
	m, err := jobMigrator(pool)
	if err != nil {
		return false, err
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Release()
	const lock = "(hashtextextended('carrel jobs ' || current_schema(), 0))"
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock"+lock); err != nil {
		return false, err
	}
	defer conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock"+lock)
	done, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err == nil && len(done.Versions) > 0, err
}

// jobTablesBehind reports whether the tables of the job queue are missing or old. Tables of a newer carrel are no trouble: the queue adds to them.
func jobTablesBehind(ctx context.Context, pool *pgxpool.Pool) (bool, error) {
	m, err := jobMigrator(pool)
	if err != nil {
		return false, err
	}
	found, err := m.Validate(ctx, nil)
	return err == nil && !found.OK, err
}

// jobTablesThere says what to do when the tables of the job queue are not there.
func jobTablesThere(ctx context.Context, d *database, pool *pgxpool.Pool) error {
	behind, err := jobTablesBehind(ctx, pool)
	switch {
	case err != nil:
		return d.refused(ctx, err)
	case behind:
		return fmt.Errorf("%s: has no tables for the worker's jobs yet, or those of an older carrel: run carrel migrate", d.path)
	}
	return nil
}

func jobMigrator(pool *pgxpool.Pool) (*rivermigrate.Migrator[pgx.Tx], error) {
	return rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
}

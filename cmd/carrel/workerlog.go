package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"

	"github.com/jackc/pgx/v5/pgconn"
)

// workerLog returns the worker's own log, one line an event, and that of the job queue, which is heard when something is wrong.
func workerLog(out io.Writer, level slog.Level) (own, queue *slog.Logger) {
	own = slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level}))
	queue = slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: scrub}))
	return own, queue
}

// scrub takes out of a line of the queue's log what the driver says: addresses and users when a connection fails, rows when a statement does.
// The queue logs errors and panics as texts under a few names.
func scrub(_ []string, a slog.Attr) slog.Attr {
	if err, ok := a.Value.Any().(error); ok {
		return slog.String(a.Key, queueProblem(err).Error())
	}
	switch a.Key {
	case "error", "err", "panic_val", "trace":
		return slog.String(a.Key, scrubbed(a.Value.String()))
	}
	return a
}

var sqlState = regexp.MustCompile(`SQLSTATE [0-9A-Z]{5}`)

// scrubbed returns all of a driver's text that may be shown.
func scrubbed(text string) string {
	if state := sqlState.FindString(text); state != "" {
		return "PostgreSQL refuses (" + state + ")"
	}
	return "the connection to PostgreSQL failed, or it was too slow"
}

// queueProblem says what is wrong with the job queue in words that may be shown, and is a context's error if it was one.
func queueProblem(err error) error {
	var refused *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return interruption("worker: interrupted")
	case errors.As(err, &refused):
		return fmt.Errorf("worker: PostgreSQL refuses (SQLSTATE %s)", refused.Code)
	}
	return errors.New("worker: the connection to PostgreSQL failed, or it was too slow")
}

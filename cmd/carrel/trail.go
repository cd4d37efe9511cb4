package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/store/sqlite"
)

func addAnchorFlag(cmd *cobra.Command, anchor *string) {
	cmd.Flags().StringVar(anchor, "anchor", "", "file outside the database to which the trail's checkpoints are appended (default $CARREL_ANCHOR, or the path of the database and .anchor)")
}

// anchorPath returns where the anchor is: the flag, the environment, or beside the database, where its owner can change both.
func anchorPath(flag, path string) string {
	return cmp.Or(flag, os.Getenv("CARREL_ANCHOR"), path+".anchor")
}

// spoolPath returns where events wait while the database does not take them.
func spoolPath(path string) string { return path + ".spool" }

// withTrail opens the trail in a database, and after f makes its last checkpoint. What f did is done also when that fails.
func (d *database) withTrail(ctx context.Context, keys *crypto.Keyring, anchor string, f func(*audit.Trail) error) error {
	anchor = anchorPath(anchor, d.path)
	t, err := audit.New(ctx, audit.Config{Store: sqlite.NewLog(d.db), Keys: keys, Anchors: []audit.Anchor{audit.NewFileAnchor(anchor)}, Spool: spoolPath(d.path)})
	if err != nil {
		return trailProblem(err)
	}
	// An anchor that cannot be written shall be heard of before anything is done. A trail that was changed stops nobody at the desk: it is said, and
	// goes on to be recorded.
	switch _, err := t.Sequence(ctx); {
	case errors.Is(err, audit.ErrTampered), errors.Is(err, audit.ErrBehind):
	case err != nil && ctx.Err() == nil:
		return trailProblem(err)
	}
	err = f(t)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if cerr := t.Close(end); cerr != nil {
		cerr = fmt.Errorf("what was done is in the trail, but no checkpoint covers it: %w", trailProblem(cerr))
		if err == nil {
			return cerr
		}
		return rewordedError{err.Error() + "; and " + cerr.Error(), err}
	}
	return err
}

// trailIn returns a trail within a transaction, whose events are there when that commits. The next trail on the database makes
// leaves of them; this one is not closed.
func (d *database) trailIn(ctx context.Context, tx sqlite.DB, keys *crypto.Keyring, anchor string) (*audit.Trail, error) {
	const never = 10_000 * time.Hour
	t, err := audit.New(ctx, audit.Config{Store: sqlite.NewLog(tx), Keys: keys, Anchors: []audit.Anchor{audit.NewFileAnchor(anchorPath(anchor, d.path))}, Interval: never})
	return t, trailProblem(err)
}

// trailProblem says what to do about an error of the trail.
func trailProblem(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, audit.ErrTampered):
		return rewordedError{"the audit trail in the database was changed by somebody; carrel log verify says where", err}
	case errors.Is(err, audit.ErrBehind):
		return rewordedError{"the audit trail in the database has lost entries that the anchor knows of, as after a restore or a cut; carrel log verify says which, and carrel log restored lets it go on", err}
	case errors.Is(err, audit.ErrHeld):
		return rewordedError{strings.TrimPrefix(err.Error(), "audit: ") + "; see carrel log hold", err}
	}
	return rewordedError{strings.TrimPrefix(err.Error(), "audit: "), err}
}

// byCommand says in the trail that the command itself did something.
func byCommand(role string) audit.Event {
	return audit.Event{Actor: "carrel", Role: role, Channel: audit.CLI, Time: time.Now()}
}

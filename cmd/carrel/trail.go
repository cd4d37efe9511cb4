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
)

func addAnchorFlag(cmd *cobra.Command, anchors *[]string) {
	cmd.Flags().StringArrayVar(anchors, "anchor", nil, "file outside the database to which the trail's checkpoints are appended; may be repeated (default $CARREL_ANCHOR, or the path of the SQLite file, or of the keyring, and .anchor)")
}

// anchorPaths returns where the anchors are: the flags, the environment, or beside the database, where its owner can change both.
func (d *database) anchorPaths(flags []string) ([]string, error) {
	if len(flags) > 0 {
		return flags, nil
	}
	if at := os.Getenv("CARREL_ANCHOR"); at != "" {
		return []string{at}, nil
	}
	if d.beside == "" {
		return nil, errors.New("--anchor is missing: a database on a server has no place beside it, so say where the trail's anchor is, with --anchor or CARREL_ANCHOR, or name the keyring that it is beside")
	}
	return []string{d.beside + ".anchor"}, nil
}

func anchorsAt(paths []string) (list []audit.Anchor) {
	for _, path := range paths {
		list = append(list, audit.NewFileAnchor(path))
	}
	return list
}

// addActorFlag is for commands that need nobody's name, and say in the trail who ran them.
func addActorFlag(cmd *cobra.Command, actor *string) {
	cmd.Flags().StringVar(actor, "actor", "", "who does it, for the audit trail: the reference of a member of staff or a job, no name (default $CARREL_ACTOR, or carrel)")
}

// trailFlags are what commands have that leave a record of what they did.
type trailFlags struct {
	keys, actor string
	anchors     []string
}

func (f *trailFlags) register(cmd *cobra.Command) {
	addKeysFlag(cmd, &f.keys)
	addAnchorFlag(cmd, &f.anchors)
	addActorFlag(cmd, &f.actor)
}

func actorOf(flag string) string { return cmp.Or(flag, os.Getenv("CARREL_ACTOR"), "carrel") }

// spoolPath returns where events wait while the database does not take them; "" when nobody said where the keyring of a database on a server is.
func (d *database) spoolPath() string {
	if d.beside == "" {
		return ""
	}
	return d.beside + ".spool"
}

// spooled returns how much waits there, and how many files were put aside.
func (d *database) spooled() (size int64, aside int, err error) {
	if path := d.spoolPath(); path != "" {
		size, aside, err = audit.Spooled(path)
	}
	return size, aside, trailProblem(err)
}

// anchored refuses a trail that has checkpoints when one of its anchors has none: a share that is not mounted, or a typing error. Going on would begin
// a new anchor there, and nothing of the one that was would be missed.
func (d *database) anchored(ctx context.Context, flags []string) error {
	anchors, err := d.anchorPaths(flags)
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		path := firstWithout(anchors)
		if path == "" {
			return nil
		}
		tree, err := d.log(d.db).Tree(ctx)
		if err != nil {
			return trailProblem(err)
		}
		if tree.Size == 0 || len(tree.Checkpoint) == 0 {
			return nil
		}
		if try == 3 {
			return fmt.Errorf("anchor %s: there is none, but the trail has %s: is the share mounted? carrel log anchor --new begins a new one", path, plural(int(tree.Size), "entry"))
		}
		select { // another process may be about to write the first checkpoint there
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// firstWithout returns the first path at which there is no file, or an empty one; "" if there is something at all of them.
func firstWithout(anchors []string) string {
	for _, path := range anchors {
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) || err == nil && info.Mode().IsRegular() && info.Size() == 0 {
			return path
		}
	}
	return ""
}

// withTrail opens the trail in a database, and after f makes its last checkpoint. What f did is done also when that fails.
func (d *database) withTrail(ctx context.Context, keys *crypto.Keyring, anchors []string, f func(*audit.Trail) error) error {
	if err := d.anchored(ctx, anchors); err != nil {
		return err
	}
	return d.withAnchors(ctx, keys, anchors, f)
}

// withAnchors is withTrail for anchors that may be new.
func (d *database) withAnchors(ctx context.Context, keys *crypto.Keyring, anchors []string, f func(*audit.Trail) error) error {
	paths, err := d.anchorPaths(anchors)
	if err != nil {
		return err
	}
	t, err := audit.New(ctx, audit.Config{Store: d.log(d.db), Keys: keys, Anchors: anchorsAt(paths), Spool: d.spoolPath()})
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
	if cerr := t.Close(end); cerr != nil && !sameTrouble(err, cerr) {
		if cerr = trailProblem(cerr); !errors.Is(cerr, audit.ErrLost) {
			cerr = fmt.Errorf("what was done is in the trail, but no checkpoint covers it: %w", cerr)
		}
		if err == nil {
			return cerr
		}
		return rewordedError{err.Error() + "; and " + cerr.Error(), err}
	}
	return err
}

// sameTrouble reports that two errors say the same of the trail.
func sameTrouble(a, b error) bool {
	for _, e := range []error{audit.ErrTampered, audit.ErrBehind, audit.ErrLost} {
		if errors.Is(a, e) && errors.Is(b, e) {
			return true
		}
	}
	return false
}

// trailIn returns a trail within a transaction, whose events are there when that commits. The next trail on the database makes
// leaves of them; this one is not closed.
func (d *database) trailIn(ctx context.Context, tx handle, keys *crypto.Keyring, anchors []string) (*audit.Trail, error) {
	const never = 10_000 * time.Hour
	paths, err := d.anchorPaths(anchors)
	if err != nil {
		return nil, err
	}
	t, err := audit.New(ctx, audit.Config{Store: d.log(tx), Keys: keys, Anchors: anchorsAt(paths), Interval: never})
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
		return rewordedError{"the database has fewer trail entries than the anchor (it was restored, or cut): carrel log verify says which are lost, carrel log restored goes on", err}
	case errors.Is(err, audit.ErrLost):
		return rewordedError{"what was done was recorded, but the database has the record no more: somebody removes entries of the audit trail, or keeps them out; see carrel log verify", err}
	case errors.Is(err, audit.ErrHeld):
		return rewordedError{strings.TrimPrefix(err.Error(), "audit: ") + "; see carrel log hold", err}
	}
	return rewordedError{strings.TrimPrefix(err.Error(), "audit: "), err}
}

// byCommand says in the trail that a command did something, for whom it was run.
func byCommand(actor, role string) audit.Event {
	return audit.Event{Actor: actorOf(actor), Role: role, Channel: audit.CLI, Time: time.Now()}
}

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/rights"
)

func newRestore() *cobra.Command {
	r := new(restoring)
	cmd := &cobra.Command{
		Use:   "restore FILE --db NEW (--identity-file FILE | --passphrase-file FILE) --keys FILE --actor A --approval REF",
		Short: "Restore a backup, without those who were forgotten since",
		Long: `Unpacks a backup of carrel backup beside the new database and checks it; deletes again what it brought back of people who were forgotten
since; makes keys and tokens anew that are of an earlier epoch or index; records in the audit trail which of its entries are lost, if the anchor knows of
more; and only then gives the file its name. Nothing is overwritten.

Nothing is put in place when the erasure ledger is missing, older than the keyring knows it to be, or not as it was written, nor when the backup
is older than the horizon (carrel keys schedule). The directory NEW.restoring holds it until it is done. If it is
interrupted after the backup was checked, run it again and it goes on. Then run carrel sweep: what was unlinked since names its borrowers again.

Exit status: 0 restored, 1 restored, but something in the backup was not as it should be, 2 not restored.

To try it, use a copy of keyring, ledger and anchor: the real ones learn of the restored database. carrel backup verify changes nothing.`,
		Example: `  carrel restore library.age --db library.db --identity-file /mnt/safe/backup.key --keys /etc/carrel/keys --anchor /mnt/anchor/library --actor systems-2 --approval "incident 2026-7"
  carrel restore library.age --db library.db --passphrase-file /mnt/safe/phrase --keys /etc/carrel/keys --actor systems-2 --approval "incident 2026-7" --json`,
		Args: oneBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needed(cmd, "db", "actor", "approval"); err != nil {
				return err
			}
			r.cmd, r.report.File = cmd, args[0]
			err := r.run()
			if cmd.Context().Err() != nil {
				state := "nothing was restored"
				if r.unpacked {
					state = "run it again and it goes on"
				}
				return interruption(place(cmd) + "interrupted; " + state)
			}
			return placed(cmd, err)
		},
	}
	r.upkeep.register(cmd, "reference under which the restore was decided")
	r.with.register(cmd)
	cmd.Flags().BoolVar(&r.asJSON, "json", false, "print JSON")
	return cmd
}

// A restoring is what the flags of the command say, and how far it is.
type restoring struct {
	cmd    *cobra.Command
	upkeep upkeepFlags
	with   identityFlags
	asJSON bool

	path     string // of the new database
	dir      string // in which it is made
	files    keyFiles
	unpacked bool // and checked: from here on it can go on
	report   restoreReport
}

// A restoreReport is what `restore --json` says.
type restoreReport struct {
	File      string   `json:"file"`
	Database  string   `json:"database"`
	Created   string   `json:"created"` // the backup
	Schema    int      `json:"schema"`
	Patrons   int      `json:"patrons"`
	Reerased  int      `json:"reerased"` // people who were forgotten since
	Unlinked  int      `json:"unlinked"` // records that named them
	Epoch     uint32   `json:"epoch"`    // 0: all was of the newest one already
	Rewrapped int      `json:"rewrapped"`
	Renewed   int      `json:"renewed"`
	Reindexed int      `json:"reindexed"` // patrons, for an index whose key was rotated since
	Ended     []uint32 `json:"ended"`
	From      uint64   `json:"lost_from"` // entries of the trail: from this one
	To        uint64   `json:"lost_to"`   // to before this one
	Unopened  int      `json:"unopened"`  // keys that cannot be opened, and were left as they are
	Unindexed bool     `json:"unindexed"` // the tokens could not all be made anew
	Tampered  bool     `json:"tampered"`  // the trail in the backup is not as it was signed

	Kept []rights.Kept `json:"kept,omitempty"` // records that name somebody who is forgotten, and are protected
}

func (r *restoring) run() (err error) {
	if onServer(r.upkeep.dsn) {
		return errNotAFile
	}
	if r.path, err = databasePath(r.upkeep.dsn); err != nil {
		return err
	}
	r.dir, r.report.Database = r.path+".restoring", r.path
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := absent(r.path + suffix); err != nil {
			return r.settled(err)
		}
	}
	err = r.with.openBackup(r.cmd, r.report.File, func(b *backupReader) (err error) {
		if r.files, err = b.keyring(r.cmd.Context(), r.upkeep.keys, r.path); err != nil {
			return err
		}
		anchors, err := (&database{beside: r.path}).anchorPaths(r.upkeep.anchors)
		if err != nil {
			return err
		}
		if path := firstWithout(anchors); path != "" {
			return fmt.Errorf("anchor %s: there is none; say with --anchor where it is kept. If it is lost, docs/backups.md says how to begin one with what the backup has of it", path)
		}
		release, err := claim(r.dir)
		if err != nil {
			return err
		}
		defer release()
		err = r.unpack(b)
		if err == nil {
			err = r.finish()
		}
		if !r.unpacked {
			os.RemoveAll(r.dir)
		}
		return err
	})
	if err != nil {
		return err
	}
	return r.print()
}

// settled removes what is left of a restore that was killed when it was over: a directory without a database of its own.
func (r *restoring) settled(err error) error {
	if info, derr := os.Lstat(r.dir); derr != nil || !info.IsDir() {
		return err
	}
	release, cerr := claim(r.dir)
	if cerr != nil {
		return err
	}
	defer release()
	made, merr := os.Lstat(filepath.Join(r.dir, databaseName))
	if at, aerr := os.Lstat(r.path); errors.Is(merr, os.ErrNotExist) || merr == nil && aerr == nil && os.SameFile(at, made) {
		os.RemoveAll(r.dir)
	}
	return err
}

// unpack unpacks the backup and checks it, unless an earlier run has.
func (r *restoring) unpack(b *backupReader) error {
	head, err := json.Marshal(b.backupHead)
	if err != nil {
		return err
	}
	path, mark := filepath.Join(r.dir, databaseName), filepath.Join(r.dir, headName)
	r.report.Created = b.Created
	if _, err := os.Lstat(path); err == nil {
		r.unpacked = true // here is something that is not to be removed
		if is, err := os.ReadFile(mark); err != nil || !bytes.Equal(is, head) {
			return fmt.Errorf("%s: holds another backup, whose restore was begun and not finished; finish that, or remove the directory", r.dir)
		}
		return nil
	}
	list, err := filepath.Glob(filepath.Join(r.dir, "*"))
	if err != nil {
		return err
	}
	for _, left := range list {
		if filepath.Base(left) != "lock" {
			os.Remove(left)
		}
	}
	draft := path + ".partial"
	if _, err := unpackTo(r.cmd, b, draft); errors.Is(err, errDamagedBackup) {
		return fmt.Errorf("%s: %w; nothing was restored", r.report.File, err)
	} else if err != nil {
		return err
	}
	if err := r.check(draft); err != nil {
		return err
	}
	f, err := createPrivate(mark)
	if err != nil {
		return err
	}
	_, err = f.Write(head)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(draft, path)
	}
	if err == nil {
		err = syncDirectory(r.dir)
	}
	if err != nil {
		return fmt.Errorf("%s: cannot be written: %w", r.dir, reason(err))
	}
	r.unpacked = true
	return nil
}

// check refuses a database that is damaged, that a newer carrel wrote, or that the keyring does not open.
func (r *restoring) check(path string) error {
	ctx := r.cmd.Context()
	d, err := connect(ctx, path, upgradeIt)
	if err != nil {
		return err
	}
	err = func() error {
		if problem, err := integrity(ctx, d); err != nil {
			return err
		} else if problem != "" {
			return fmt.Errorf("%s: %s; nothing was restored", r.report.File, problem)
		}
		// Before anything is changed: only tables that are as old as sealing have keys.
		m, err := d.bringUp(ctx, false)
		if err != nil {
			return err
		}
		r.report.Schema = m.To
		_, err = d.open(ctx, r.files)
		return err
	}()
	if cerr := d.close(); err == nil {
		err = cerr
	}
	return err
}

// finish makes of what was unpacked a database to work with, and gives it its name. All of it may be done again.
func (r *restoring) finish() error {
	ctx := r.cmd.Context()
	made := filepath.Join(r.dir, databaseName)
	err := withDatabase(ctx, made, readWrite, func(d *database) error {
		d.beside = r.path // anchor and spool are where they will be looked for
		k, err := d.open(ctx, r.files)
		if err != nil {
			return err
		}
		if r.report.Schema, err = d.version(ctx); err != nil {
			return err
		}
		err = d.withTrail(ctx, k, r.upkeep.anchors, func(t *audit.Trail) error { return r.forget(ctx, d, k, t) })
		if errors.Is(err, audit.ErrTampered) && ctx.Err() == nil {
			// Nobody can mend that in a backup. It is said, and the rest is as it should be.
			r.report.Tampered, err = true, nil
		}
		if err != nil {
			return err
		}
		return d.Finish(ctx)
	})
	if err != nil {
		return err
	}
	if info, err := os.Stat(made + "-wal"); err == nil && info.Size() > 0 {
		return fmt.Errorf("%s: another program has opened it; run it again when that is over", made)
	}
	f, err := os.OpenFile(made, os.O_RDWR, 0)
	if err == nil {
		err = f.Sync()
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", made, reason(err))
	}
	if err := putInPlace(made, r.path); err != nil {
		return err
	}
	if err := os.RemoveAll(r.dir); err != nil {
		return fmt.Errorf("%s: was restored; what is left in %s can be removed: %w", r.path, r.dir, reason(err))
	}
	return nil
}

// forget records the restore, and does again what was done since the backup to those who were forgotten.
func (r *restoring) forget(ctx context.Context, d *database, k *crypto.Keyring, t *audit.Trail) error {
	lost, err := t.Restore(ctx, r.upkeep.by())
	if err != nil && !errors.Is(err, audit.ErrTampered) {
		return trailProblem(err)
	}
	if r.report.From, r.report.To, err = r.lost(lost.From, lost.To); err != nil {
		return err
	}
	if err := r.reindex(ctx, d, k, t); ctx.Err() != nil {
		return err
	} else if err != nil {
		r.report.Unindexed = true
		fmt.Fprintf(r.cmd.ErrOrStderr(), "carrel: %s%s; carrel keys rotate --index identifier goes on with it\n", place(r.cmd), oneLine(err.Error()))
	}
	var again rights.Again
	if r.report.Reerased, again, err = d.reerase(ctx, k, t, r.upkeep.actor); err != nil {
		return err
	}
	r.report.Kept = again.Kept
	for _, n := range again.Records {
		r.report.Unlinked += n
	}
	p := newProgress(r.cmd.ErrOrStderr(), "rewrapping keys", 0)
	defer p.end()
	e := r.upkeep.by()
	e.Role = "systems"
	done, err := t.Tend(ctx, e, func(r crypto.Rotation) { p.set(int64(r.Rewrapped), thousands(r.Rewrapped)+" keys") })
	if errors.Is(err, crypto.ErrNotAuthentic) {
		r.report.Unopened, err = done.Unopened, nil // all others are done, and nobody can mend these
	}
	if err != nil {
		return keyProblem(err)
	}
	r.report.Epoch, r.report.Rewrapped, r.report.Renewed, r.report.Ended = done.Epoch, done.Rewrapped, done.Renewed, append([]uint32{}, done.Ended...)
	if err := d.db.QueryRowContext(ctx, "SELECT count(*) FROM patrons").Scan(&r.report.Patrons); err != nil {
		return d.refused(ctx, err)
	}
	e.Time, e.Action, e.Object, e.Count = time.Now(), audit.Import, "backup", r.report.Patrons
	return trailProblem(t.Record(ctx, e))
}

// reindex writes the tokens by which patrons are found, if the key of an index was rotated since the backup: until then nobody is found.
func (r *restoring) reindex(ctx context.Context, d *database, k *crypto.Keyring, t *audit.Trail) error {
	have, err := d.patrons(d.db).Find(ctx, nil)
	if err != nil {
		return patronProblem(err)
	}
	want, err := k.RefreshIndexes()
	if err != nil {
		return keyProblem(err)
	}
	if have.Indexed == 0 || have.Indexed >= want.Change() {
		return nil // there was never anybody, or all is as it should be
	}
	dir, err := d.directory(d.db, k, t, nil)
	if err != nil {
		return err
	}
	p := newProgress(r.cmd.ErrOrStderr(), "rewriting tokens", 0)
	defer p.end()
	return patronProblem(dir.Reindex(ctx, jobCall(r.upkeep.actor, "systems", "maintenance"), func(n int) {
		r.report.Reindexed = n
		p.set(int64(n), thousands(n)+" rows")
	}))
}

// lost takes down which entries of the trail are lost, for the run that goes on if this one is stopped: the trail says it once.
func (r *restoring) lost(from, to uint64) (uint64, uint64, error) {
	name := filepath.Join(r.dir, "lost")
	if from == to {
		if data, err := os.ReadFile(name); err == nil {
			fmt.Sscanf(string(data), "%d-%d", &from, &to)
		}
		return from, to, nil
	}
	if err := os.WriteFile(name, fmt.Appendf(nil, "%d-%d\n", from, to), 0o600); err != nil {
		return from, to, fmt.Errorf("%s: cannot be written: %w", r.dir, reason(err))
	}
	return from, to, nil
}

func (r *restoring) print() error {
	w := &errWriter{out: r.cmd.OutOrStdout()}
	if r.asJSON {
		w.err = printJSON(r.cmd, r.report)
	} else {
		w.printf("%s: %s, from a backup of %s\n", oneLine(r.path), plural(r.report.Patrons, "patron"), r.report.Created)
		if n := r.report.Reerased; n > 0 {
			w.printf("Erased again: %s who %s forgotten since; unlinked: %s.\n", plural(n, "patron"), was(n), plural(r.report.Unlinked, "record"))
		}
		if len(r.report.Kept) > 0 && w.err == nil {
			w.printf(namesForgotten)
			w.err = cmp.Or(w.err, printKept(w.out, r.report.Kept))
		}
		if r.report.Epoch > 0 {
			w.printf("Of epoch %d now: %s rewrapped, %s renewed.\n", r.report.Epoch, plural(r.report.Rewrapped, "key"), plural(r.report.Renewed, "token"))
		}
		if n := r.report.Reindexed; n > 0 {
			w.printf("The tokens by which patrons are found were made anew: %s written.\n", plural(n, "row"))
		}
		w.printf("Lost with what was not backed up: restrictions and waiting erasures that were asked for since then. Ask for them again: carrel rights restrict, carrel rights erase --partial.\n")
		if r.report.To > r.report.From {
			w.printf("Recorded: the trail's entries %d to %d are lost. For carrel log verify: --known %d-%d\n", r.report.From, r.report.To-1, r.report.From, r.report.To)
		}
		if n := r.report.Unopened; n > 0 {
			w.printf("Left as before, because nothing opens it: %s.\n", plural(n, "key"))
		}
		if r.report.Tampered {
			w.printf("The audit trail in the backup was changed by somebody; carrel log verify says where.\n")
		}
	}
	if w.err == nil && (r.report.Tampered || r.report.Unopened > 0 || r.report.Unindexed) {
		return errFound
	}
	return w.err
}

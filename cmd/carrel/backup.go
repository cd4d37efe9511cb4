package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// backupPatience is how long a backup waits for a moment at which nobody reads an older state.
const backupPatience = time.Minute

func newBackup() *cobra.Command {
	var b backup
	cmd := &cobra.Command{
		Use:   "backup --db FILE --out FILE (--recipient KEY | --recipients-file FILE | --passphrase-file FILE)",
		Short: "Write an encrypted backup of a SQLite database, while others work on it",
		Long: `Writes the database as of one moment into an age file that opens with the age tool and tar as well. No copy in plain is made on
the way, and others go on working meanwhile; only a sweep's last step, which empties the write-ahead log, has to wait for it.

Keyring, key-encryption key, erasure ledger and anchor are never in it: back them up apart, or it opens nothing; and people who are forgotten later are
forgotten in it, too. --recipient is a public key of age-keygen; the secret one belongs on another machine. An existing file is not overwritten. The backup is
recorded in the audit trail.

A database on PostgreSQL is backed up with its own tools: docs/backups.md.`,
		Example: `  carrel backup --db library.db --keys /etc/carrel/keys --out /backup/library-2026-11-28.age --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
  carrel backup --db library.db --out library.age --recipients-file /etc/carrel/backup.keys --actor job-backup --json
  carrel backup verify library.age --identity-file /mnt/safe/backup.key --keys /etc/carrel/keys`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return noCommand(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db", "out"); err != nil {
				return err
			}
			return placed(cmd, b.run(cmd))
		},
	}
	addDBFlag(cmd, &b.dsn)
	b.trail.register(cmd)
	cmd.Flags().StringVar(&b.out, "out", "", "the file to write")
	b.to.register(cmd)
	cmd.Flags().StringVar(&b.approval, "approval", "", "reference under which it was approved, for the audit trail")
	cmd.Flags().BoolVar(&b.asJSON, "json", false, "print JSON")
	cmd.AddCommand(newBackupVerify())
	return cmd
}

// A backup is what the flags of the command say, and what becomes of it.
type backup struct {
	dsn, out, approval string
	trail              trailFlags
	to                 recipientFlags
	asJSON             bool

	recipients []age.Recipient
	manifest   backupManifest
	snapshot   *snapshot
	written    bool // all of it
}

// A backupReport is what `backup --json` says.
type backupReport struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
	backupManifest
	Seconds float64 `json:"seconds"`
}

func (b *backup) run(cmd *cobra.Command) (err error) {
	began := time.Now()
	if onServer(b.dsn) {
		return errNotAFile
	}
	if b.recipients, err = b.to.recipients(cmd); err != nil {
		return err
	}
	out, err := draftOf(b.out)
	if err != nil {
		return err
	}
	defer out.drop()
	ctx := cmd.Context()
	err = withDatabase(ctx, b.dsn, readWrite, func(d *database) error {
		k, err := d.openKeys(ctx, b.trail.keys)
		if err != nil {
			return err
		}
		return d.withTrail(ctx, k, b.trail.anchors, func(t *audit.Trail) error {
			return b.recorded(ctx, d, t, func() error { return b.write(cmd, d, k, out) })
		})
	})
	b.snapshot.release()
	if ctx.Err() != nil {
		return interruption(place(cmd) + "interrupted; nothing was written")
	}
	if !b.written {
		return err
	}
	// Whatever is wrong with the trail, the backup is whole; and where somebody changed the trail it is evidence.
	size, perr := out.publish()
	switch {
	case perr != nil:
		return perr
	case err != nil:
		return rewordedError{err.Error() + "; the backup was written all the same", err}
	}
	return b.report(cmd, size, time.Since(began))
}

var errNotAFile = errors.New("a database on PostgreSQL is backed up and restored with its own tools, pg_dump and pg_restore: docs/backups.md has the steps")

// recorded does something after the trail says that it is done, and has the trail say if it was not.
func (b *backup) recorded(ctx context.Context, d *database, t *audit.Trail, do func() error) error {
	patrons := 0
	if err := d.db.QueryRowContext(ctx, "SELECT count(*) FROM patrons").Scan(&patrons); err != nil {
		return d.refused(ctx, err)
	}
	e := byCommand(b.trail.actor, "systems")
	// Not as its Count: nobody is shown anything, and after a breach the report would take it for people of whom something is out.
	e.Action, e.Outcome, e.Object, e.Approval, e.Tally = audit.Export, audit.Done, "backup", b.approval, []audit.Tally{{Name: "patrons", Count: patrons}}
	if err := t.Record(ctx, e); err != nil {
		return trailProblem(err)
	}
	// Now, so that the checkpoint in the backup covers all that is in it. A trail that was tampered with goes into the backup as it is.
	if _, err := t.Sequence(ctx); err != nil && !errors.Is(err, audit.ErrTampered) && !errors.Is(err, audit.ErrBehind) {
		return trailProblem(err)
	}
	err := do()
	if err != nil {
		e.Time, e.Outcome = time.Now(), audit.Failed
		err = errors.Join(err, trailProblem(t.Record(context.WithoutCancel(ctx), e)))
	}
	return err
}

// write writes the backup into a file that has no name yet.
func (b *backup) write(cmd *cobra.Command, d *database, k *crypto.Keyring, out *draft) error {
	s, ok := d.backend.(*sqliteFile)
	if !ok {
		return errNotAFile
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	var err error
	if b.snapshot, err = s.still(ctx, backupPatience); err != nil {
		return err
	}
	defer b.snapshot.end()
	at := time.Now()
	if err := b.describe(ctx, d, k, at); err != nil {
		return err
	}
	// Counting reads the whole database once more, while it is encrypted.
	type counted struct {
		rows map[string]int64
		err  error
	}
	counts := make(chan counted, 1)
	go func() {
		rows, err := rowCounts(ctx, b.snapshot)
		counts <- counted{rows, err}
	}()
	waited := false
	defer func() {
		cancel()
		if !waited {
			<-counts // it uses the connection
		}
	}()
	p := newProgress(cmd.ErrOrStderr(), "backup", b.snapshot.size)
	defer p.end()
	buffered := bufio.NewWriterSize(out, 1<<20)
	var counting error
	b.manifest, err = writeBackup(ctx, buffered, b.recipients, b.manifest.backupHead, at, b.snapshot.file, func() (backupManifest, error) {
		c := <-counts
		waited, counting = true, c.err
		b.manifest.Counts = c.rows
		return b.manifest, c.err
	}, func(n int64) { p.set(n, megabytes(n)+" of "+megabytes(b.snapshot.size)) })
	if err == nil {
		err = buffered.Flush()
	}
	switch {
	case counting != nil:
		return d.refused(ctx, counting)
	case errors.As(err, new(readError)):
		return fmt.Errorf("%s: cannot be read: %w", d.path, reason(err))
	}
	b.written = err == nil
	return out.failed(err)
}

// describe fills in what is known before the database is read.
func (b *backup) describe(ctx context.Context, d *database, k *crypto.Keyring, at time.Time) error {
	m := &b.manifest
	m.Version, m.Created, m.Keyring, m.Size = backupVersion, stamp(at), k.ID(), b.snapshot.size
	if err := b.snapshot.QueryRowContext(ctx, "PRAGMA user_version").Scan(&m.Schema); err != nil {
		return d.refused(ctx, err)
	}
	var err error
	if m.Epoch, err = d.circulation(b.snapshot).TokenEpoch(ctx); err != nil {
		return err
	}
	tree, err := d.log(b.snapshot).Tree(ctx)
	if err != nil {
		return trailProblem(err)
	}
	m.Trail = backupTrail{tree.Size, tree.Next - min(tree.Next, tree.Size), string(tree.Checkpoint)}
	status, err := k.Status()
	if err != nil {
		return keyProblem(err)
	}
	m.Tombstones = status.Shredded
	return nil
}

func (b *backup) report(cmd *cobra.Command, size int64, took time.Duration) error {
	if b.asJSON {
		return printJSON(cmd, backupReport{b.out, size, b.manifest, took.Seconds()})
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %s of database, sha256 %s\nThe keyring and its ledger are not in it: back them up apart.\n",
		oneLine(b.out), plural(int(b.manifest.Counts["patrons"]), "patron"), megabytes(b.manifest.Size), b.manifest.SHA256)
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

func newBackupVerify() *cobra.Command {
	var with identityFlags
	var keys string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify FILE (--identity-file FILE | --passphrase-file FILE) [--keys FILE]",
		Short: "Look whether a backup can be restored, without restoring it",
		Long: `Unpacks a backup into a directory of its own that only its owner may enter, below TMPDIR, and removes it again. Checks that all of it is
there and as it was written, SQLite's own integrity check, the number of rows in each table, that the audit trail is as it was signed, and that
the keyring opens what is sealed, without showing it. Without a keyring, which --keys or CARREL_KEYS names, the last two are left out.

Exit status: 0 it is good, 1 something is wrong with it, 2 it could not be looked at.`,
		Example: `  carrel backup verify library.age --identity-file /mnt/safe/backup.key --keys /etc/carrel/keys
  carrel backup verify library.age --passphrase-file /mnt/safe/phrase --json`,
		Args: oneBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			v := &backupVerification{cmd: cmd, File: args[0], Checks: []checkup{}}
			err := with.openBackup(cmd, args[0], func(r *backupReader) error { return v.run(r, keys) })
			if cmd.Context().Err() != nil {
				return interruption(place(cmd) + "interrupted")
			}
			if err != nil {
				return placed(cmd, err)
			}
			return v.report(asJSON)
		},
	}
	with.register(cmd)
	cmd.Flags().StringVar(&keys, "keys", "", "the keyring (default $CARREL_KEYS); $CARREL_KEK names the key-encryption key")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// A backupVerification is what `backup verify --json` says.
type backupVerification struct {
	File string `json:"file"`
	backupManifest
	Checks []checkup `json:"checks"`
	Good   bool      `json:"ok"`

	cmd   *cobra.Command
	dir   string
	named bool     // somebody said where the keyring is:
	files keyFiles // there
}

func (v *backupVerification) say(name string, s state, format string, args ...any) {
	v.Checks = append(v.Checks, checkup{name, s, oneLine(fmt.Sprintf(format, args...))})
}

// run makes all checks. Its errors say that it could not.
func (v *backupVerification) run(r *backupReader, keys string) (err error) {
	ctx := v.cmd.Context()
	v.backupHead = r.backupHead
	if v.named = keys != "" || os.Getenv("CARREL_KEYS") != ""; v.named {
		if v.files, err = r.keyring(ctx, keys, ""); err != nil {
			return err
		}
	}
	if v.dir, err = os.MkdirTemp("", "carrel-verify-"); err != nil { // mode 0700
		return reason(err)
	}
	defer os.RemoveAll(v.dir)
	path := filepath.Join(v.dir, databaseName)
	m, err := unpackTo(v.cmd, r, path)
	if errors.Is(err, errDamagedBackup) {
		v.say("contents", failed, "damaged, or a part is missing")
		return nil
	} else if err != nil {
		return err
	}
	v.backupManifest = m
	v.say("contents", fine, "complete and as written, sha256 %s", m.SHA256)
	d, err := connect(ctx, path, readOnly)
	if err != nil {
		v.say("integrity", failed, "is no SQLite database")
		return nil
	}
	err = v.database(ctx, d)
	if cerr := d.close(); err == nil {
		err = cerr
	}
	return err
}

// unpackTo unpacks the database into a file that must not exist, and syncs it.
func unpackTo(cmd *cobra.Command, r *backupReader, path string) (m backupManifest, err error) {
	f, err := createPrivate(path)
	if err != nil {
		return m, err
	}
	p := newProgress(cmd.ErrOrStderr(), "unpacking", r.Size)
	m, err = r.unpack(cmd.Context(), f, func(n int64) { p.set(n, megabytes(n)+" of "+megabytes(r.Size)) })
	p.end()
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil && !errors.Is(err, errDamagedBackup) {
		err = fmt.Errorf("%s: cannot be written: %w", path, reason(err))
	}
	return m, err
}

// database checks what was unpacked.
func (v *backupVerification) database(ctx context.Context, d *database) error {
	problem, err := integrity(ctx, d)
	if err != nil {
		return err
	}
	if problem != "" {
		v.say("integrity", failed, "%s", problem)
		return nil
	}
	v.say("integrity", fine, "SQLite finds nothing")
	if err := v.rows(ctx, d); err != nil {
		return err
	}
	if !v.named {
		v.say("trail", warning, "was not looked at: name the keyring with --keys or CARREL_KEYS")
		v.say("keyring", warning, "was not looked at: name it with --keys or CARREL_KEYS")
		return nil
	}
	if have, err := d.version(ctx); err != nil {
		return err
	} else if want, err := newest(d.migrations()); err != nil {
		return err
	} else if have != want {
		v.say("keyring", warning, "trail and keys were not looked at: the schema is of version %d, this program's of %d; carrel restore brings it up to date", have, want)
		return nil
	}
	k, err := d.open(ctx, v.files)
	if err != nil {
		v.say("keyring", failed, "%v", err)
		return nil
	}
	if err := v.trail(ctx, d, k); err != nil {
		return err
	}
	return v.sealed(ctx, d, k)
}

// integrity returns what SQLite finds wrong with a database.
func integrity(ctx context.Context, d *database) (problem string, err error) {
	var first string
	if err := d.db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&first); err != nil {
		if ctx.Err() != nil {
			return "", d.refused(ctx, err)
		}
		return "SQLite cannot read it", nil
	}
	if first != "ok" {
		return "SQLite finds it damaged", nil // its own words may hold what is in rows
	}
	return "", nil
}

// rows compares the number of rows in each table.
func (v *backupVerification) rows(ctx context.Context, d *database) error {
	counts, err := rowCounts(ctx, d.db)
	if err != nil {
		return d.refused(ctx, err)
	}
	var wrong []string
	tables := maps.Clone(counts)
	maps.Copy(tables, v.Counts)
	total := int64(0)
	for _, table := range slices.Sorted(maps.Keys(tables)) {
		want, known := v.Counts[table]
		have, there := counts[table]
		if want != have || known != there {
			wrong = append(wrong, table)
		}
		total += have
	}
	if len(wrong) > 0 {
		v.say("rows", failed, "not as many as the manifest says in %s", strings.Join(wrong, ", "))
	} else {
		v.say("rows", fine, "%s in %s, as the manifest says", plural(int(total), "row"), plural(len(counts), "table"))
	}
	return nil
}

// trail verifies the audit trail against the checkpoint in the manifest.
func (v *backupVerification) trail(ctx context.Context, d *database, k *crypto.Keyring) (err error) {
	cfg := audit.VerifyConfig{Store: d.log(d.db)}
	if cfg.Verifier, err = verifier(ctx, k); err != nil {
		return err
	}
	if cfg.Key, err = k.TrailKey(ctx); err != nil {
		return keyProblem(err)
	}
	if text := v.backupManifest.Trail.Checkpoint; text != "" {
		cfg.Anchored = [][][]byte{audit.SplitCheckpoints([]byte(text))}
	}
	p := newProgress(v.cmd.ErrOrStderr(), "verifying the trail", 0)
	defer p.end()
	cfg.Progress = func(done, all uint64) {
		p.set(int64(done), fmt.Sprintf("%s of %s entries", thousands(int(done)), thousands(int(all))))
	}
	found, err := audit.Verify(ctx, cfg)
	if err != nil {
		return trailProblem(err)
	}
	declared := len(found.Findings)
	for _, f := range found.Findings {
		if f.Kind != audit.Declared {
			declared--
		}
	}
	switch {
	case !found.Intact():
		v.say("trail", failed, "%s; carrel log verify, after a restore, says where", plural(len(found.Findings)-declared, "finding"))
	case found.Unanchored > 0 || found.Size != v.backupManifest.Trail.Size:
		v.say("trail", failed, "the checkpoint in the manifest is of another trail than the one in the database")
	case declared > 0:
		v.say("trail", fine, "%s as signed, with %s that somebody declared", plural(int(found.Size), "entry"), plural(declared, "gap"))
	default:
		v.say("trail", fine, "%s as signed", plural(int(found.Size), "entry"))
	}
	return nil
}

// sealed opens what is sealed about one patron who was not forgotten, and shows nothing of it.
func (v *backupVerification) sealed(ctx context.Context, d *database, k *crypto.Keyring) error {
	for after := (patron.ID{}); ; {
		page, err := d.patrons(d.db).Rows(ctx, patron.Query{After: after, Limit: 100})
		if err != nil {
			return patronProblem(err)
		}
		if len(page) == 0 {
			v.say("keyring", fine, "is this backup's; nobody is in it who could be opened")
			return nil
		}
		for _, row := range page {
			if forgotten, err := k.Forgotten(ctx, row.ID.Subject()); err != nil {
				return keyProblem(err)
			} else if len(forgotten) > 0 || len(row.Segments) == 0 {
				continue
			}
			s := row.Segments[0]
			if _, err := k.Open(ctx, row.ID.Subject(), crypto.Sealed{Label: s.Segment.String(), Revision: s.Revision, Data: s.Data}); err != nil {
				v.say("keyring", failed, "does not open what is sealed: %v", keyProblem(err))
			} else {
				v.say("keyring", fine, "opens what is sealed")
			}
			return nil
		}
		after = page[len(page)-1].ID
	}
}

func (v *backupVerification) report(asJSON bool) error {
	v.Good = !slices.ContainsFunc(v.Checks, func(c checkup) bool { return c.State == failed })
	var err error
	if asJSON {
		err = printJSON(v.cmd, v)
	} else {
		t := table{columns: words("CHECK STATE WHAT")}
		for _, c := range v.Checks {
			t.add(c.Name, c.State.String(), c.What)
		}
		err = t.print(v.cmd.OutOrStdout())
	}
	if err == nil && !v.Good {
		err = errFound
	}
	return err
}

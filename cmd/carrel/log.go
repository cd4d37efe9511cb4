package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/store/sqlite"
)

func newLog() *cobra.Command {
	return group(&cobra.Command{
		Use:   "log",
		Short: "Verify, read, prune and export the audit trail",
		Long: `The audit trail says who looked at, changed or exported whose data, who logged in, and what was swept, pruned or shredded. It is a part
of the database, and nobody can change it unnoticed: its checkpoints are signed and appended to an anchor, a file that belongs where the
database's owner can append but not overwrite (--anchor or CARREL_ANCHOR).`,
		Example: `  carrel log verify --db library.db --anchor /mnt/anchor/library
  carrel log report views --db library.db --identifier-file - --actor dpo --role reviewer --purpose review
  carrel log prune --db library.db --keep views=P1Y --keep logins=P6M --actor dpo --approval "retention 2026"`,
	}, newLogVerify(), newLogReport(), newLogPrune(), newLogHold(), newLogExport(), newLogStatus(), newLogKey(), newLogRestored())
}

// verifier returns what checks the checkpoints of a keyring's trail.
func verifier(ctx context.Context, keys *crypto.Keyring) (note.Verifier, error) {
	text, err := audit.VerifierKey(ctx, keys)
	if err != nil {
		return nil, keyProblem(err)
	}
	return note.NewVerifier(text)
}

func newLogVerify() *cobra.Command {
	var dsn, keys, public string
	var anchors []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify --db DSN",
		Short: "Check that nobody changed the audit trail",
		Long: `Reads the whole trail and checks it against the checkpoints of the anchor: what was edited, put in, left out, moved or cut off is named with
its place. With the keyring it also checks that every entry was written by carrel. An auditor who has no keyring gives the text that carrel log key
prints as --key. Nothing is written. Exit status 1: something was found.`,
		Example: `  carrel log verify --db library.db --anchor /mnt/anchor/library
  carrel log verify --db copy.db --anchor anchor.txt --key "carrel/trail/…"`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db"); err != nil {
				return err
			}
			return withDatabase(cmd.Context(), dsn, readOnly, func(d *database) error {
				cfg, err := d.verification(cmd, keys, public)
				if err != nil {
					return err
				}
				if len(anchors) == 0 {
					anchors = []string{anchorPath("", d.path)}
				}
				for _, anchor := range anchors {
					list, err := audit.NewFileAnchor(anchor).Checkpoints()
					if err != nil {
						return trailProblem(err)
					}
					cfg.Anchored = append(cfg.Anchored, list...)
				}
				p := newProgress(cmd.ErrOrStderr(), "verifying", 0)
				cfg.Progress = func(done, all uint64) {
					p.set(int64(done), fmt.Sprintf("%s of %s entries", thousands(int(done)), thousands(int(all))))
				}
				v, err := audit.Verify(cmd.Context(), cfg)
				p.end()
				if cmd.Context().Err() != nil {
					return interruption("log verify: interrupted")
				} else if err != nil {
					return trailProblem(err)
				}
				spooled, aside, err := audit.Spooled(spoolPath(d.path))
				if err != nil {
					return trailProblem(err)
				}
				return printVerified(cmd, verified{v, spooled, aside, v.OK()}, anchors, asJSON)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&dsn, "db", "", "the database: the path of a SQLite file")
	addKeysFlag(cmd, &keys)
	f.StringArrayVar(&anchors, "anchor", nil, "file with anchored checkpoints; may be repeated (default $CARREL_ANCHOR, or the path of the database and .anchor)")
	f.StringVar(&public, "key", "", "the text that carrel log key prints, instead of a keyring")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// verification returns how to verify a database's trail: with its keyring, or with the public key alone.
func (d *database) verification(cmd *cobra.Command, keys, public string) (cfg audit.VerifyConfig, err error) {
	cfg.Store = sqlite.NewLog(d.db)
	if public != "" {
		if cfg.Verifier, err = note.NewVerifier(public); err != nil {
			return cfg, errors.New("log verify: --key: not a text that carrel log key prints")
		}
		return cfg, nil
	}
	files, err := findKeys(keys, d.path)
	if err != nil {
		return cfg, err
	}
	k, err := files.open(cmd.Context(), sqlite.NewKeys(d.db))
	if err != nil {
		return cfg, err
	}
	if cfg.Verifier, err = verifier(cmd.Context(), k); err != nil {
		return cfg, err
	}
	cfg.Key, err = k.TrailKey(cmd.Context())
	return cfg, keyProblem(err)
}

// verified is what log verify --json prints.
type verified struct {
	audit.Verification
	Spooled int64 `json:"spooled_bytes"` // of events that wait beside the database
	Aside   int   `json:"spool_damaged"` // files in the spool that are damaged or forged
	Good    bool  `json:"ok"`
}

func printVerified(cmd *cobra.Command, v verified, anchors []string, asJSON bool) error {
	v.Good = v.Good && v.Aside == 0 && (v.Anchored > 0 || v.Size == 0)
	if asJSON {
		if err := printJSON(cmd, v); err != nil {
			return err
		}
	} else {
		w := &errWriter{out: cmd.OutOrStdout()}
		w.printf("%s in the tree, %s of them pruned; %s pending\n", plural(int(v.Size), "entry"), thousands(int(v.Pruned)), thousands(int(v.Pending)))
		w.printf("%s anchored in %s, the last over %s\n", plural(v.Checkpoints+v.Unchecked, "checkpoint"), oneLine(strings.Join(anchors, ", ")), plural(int(v.Anchored), "entry"))
		if v.Anchored == 0 && v.Size > 0 {
			w.printf("Nothing is anchored there: whoever owns the database and the keyring could have rewritten all of it.\n")
		}
		if v.Spooled > 0 {
			w.printf("%s bytes of events wait in the spool; the next command that writes to the trail takes them in.\n", thousands(int(v.Spooled)))
		}
		if v.Aside > 0 {
			w.printf("%s in the spool: damaged or forged, and put aside.\n", plural(v.Aside, "file"))
		}
		if len(v.Findings) > 0 {
			t := table{columns: words("FINDING FROM TO DETAIL")}
			for i, f := range v.Findings {
				if i == maxListed {
					w.printf("The first %s of %s:\n", thousands(maxListed), plural(len(v.Findings), "finding"))
					break
				}
				t.add(string(f.Kind), fmt.Sprint(f.From), fmt.Sprint(f.To), f.Detail)
			}
			w.table(t)
		} else if v.Good {
			w.printf("Nothing was changed.\n")
		}
		if w.err != nil {
			return w.err
		}
	}
	if !v.Good {
		return errFound
	}
	return nil
}

func newLogKey() *cobra.Command {
	var dsn, keys string
	cmd := &cobra.Command{
		Use:   "key --db DSN",
		Short: "Print the public key by which anybody can check the trail's checkpoints",
		Long: `Prints the verifier key of the trail's checkpoints, in the form of golang.org/x/mod/sumdb/note. It is no secret: give it to the auditor before
it is needed, so that nobody can hand them another one.`,
		Example: `  carrel log key --db library.db`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db"); err != nil {
				return err
			}
			return withDatabase(cmd.Context(), dsn, readOnly, func(d *database) error {
				files, err := findKeys(keys, d.path)
				if err != nil {
					return err
				}
				k, err := files.open(cmd.Context(), sqlite.NewKeys(d.db))
				if err != nil {
					return err
				}
				text, err := audit.VerifierKey(cmd.Context(), k)
				if err != nil {
					return keyProblem(err)
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&dsn, "db", "", "the database: the path of a SQLite file")
	addKeysFlag(cmd, &keys)
	return cmd
}

// upkeepFlags are what commands have that write to the trail itself.
type upkeepFlags struct{ dsn, keys, anchor, actor, approval string }

func (u *upkeepFlags) register(cmd *cobra.Command, approval string) {
	cmd.Flags().StringVar(&u.dsn, "db", "", "the database: the path of a SQLite file")
	addKeysFlag(cmd, &u.keys)
	addAnchorFlag(cmd, &u.anchor)
	cmd.Flags().StringVar(&u.actor, "actor", "", "who does it: the reference of a member of staff, no name")
	if approval != "" {
		cmd.Flags().StringVar(&u.approval, "approval", "", approval)
	}
}

func (u *upkeepFlags) by() audit.Event {
	return audit.Event{Time: time.Now(), Outcome: audit.Done, Actor: u.actor, Approval: u.approval, Channel: audit.CLI}
}

// with opens the trail that the flags name.
func (u *upkeepFlags) with(cmd *cobra.Command, do func(*database, *crypto.Keyring, *audit.Trail) error) error {
	if err := needed(cmd, "db", "actor"); err != nil {
		return err
	}
	return withDatabase(cmd.Context(), u.dsn, readWrite, func(d *database) error {
		files, err := findKeys(u.keys, d.path)
		if err != nil {
			return err
		}
		k, err := files.open(cmd.Context(), sqlite.NewKeys(d.db))
		if err != nil {
			return err
		}
		err = d.withTrail(cmd.Context(), k, u.anchor, func(t *audit.Trail) error { return do(d, k, t) })
		if cmd.Context().Err() != nil {
			return interruption(cmd.CommandPath()[len(cmd.Root().Name())+1:] + ": interrupted; run it again and it goes on")
		}
		return err
	})
}

func newLogRestored() *cobra.Command {
	var u upkeepFlags
	cmd := &cobra.Command{
		Use:   "restored --db DSN --actor A --approval REF",
		Short: "Say in the trail that a part of it was lost, so that it goes on",
		Long: `After the database was restored from a backup, its trail lacks entries that the anchor knows of, and no checkpoint is signed over the gap.
This records the gap, with who said so and under which reference, and the trail goes on. carrel log verify names the gap for ever.`,
		Example: `  carrel log restored --db library.db --actor systems-2 --approval "incident 2026-7"`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "approval"); err != nil {
				return err
			}
			return u.with(cmd, func(_ *database, _ *crypto.Keyring, t *audit.Trail) error {
				lost, err := t.Restore(cmd.Context(), u.by())
				if err != nil {
					return trailProblem(err)
				}
				text := "Nothing is lost: the trail has all that the anchor knows of.\n"
				if lost.To > lost.From {
					text = fmt.Sprintf("Recorded: the entries %d to %d are lost.\n", lost.From, lost.To-1)
				}
				_, err = fmt.Fprint(cmd.OutOrStdout(), text)
				return err
			})
		},
	}
	u.register(cmd, "reference under which the loss is documented")
	return cmd
}

func newLogStatus() *cobra.Command {
	var dsn string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status --db DSN",
		Short: "Say how long the trail is, and whether its checkpoints keep up",
		Long: `Counts, without opening anything: entries, those that no checkpoint covers yet, the age of the last anchored checkpoint, what waits in the
spool. It needs no keys.`,
		Example: `  carrel log status --db library.db --json`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db"); err != nil {
				return err
			}
			return withDatabase(cmd.Context(), dsn, readOnly, func(d *database) error {
				tree, err := sqlite.NewLog(d.db).Tree(cmd.Context())
				if err != nil {
					return err
				}
				s := logStatus{Entries: tree.Next, Pending: tree.Next - min(tree.Next, tree.Size), Anchor: anchorPath("", d.path)}
				if info, err := os.Stat(s.Anchor); err == nil {
					s.Anchored = stamp(info.ModTime())
				}
				if s.Spooled, s.Aside, err = audit.Spooled(spoolPath(d.path)); err != nil {
					return trailProblem(err)
				}
				if asJSON {
					return printJSON(cmd, s)
				}
				w := &errWriter{out: cmd.OutOrStdout()}
				w.printf("%s, %s not yet under a checkpoint\n", plural(int(s.Entries), "entry"), thousands(int(s.Pending)))
				if s.Anchored == "" {
					w.printf("no anchor %s\n", s.Anchor)
				} else {
					w.printf("anchor %s, written last at %s\n", s.Anchor, s.Anchored)
				}
				w.printf("spool: %s bytes, %s put aside\n", thousands(int(s.Spooled)), plural(s.Aside, "file"))
				return w.err
			})
		},
	}
	cmd.Flags().StringVar(&dsn, "db", "", "the database: the path of a SQLite file")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// logStatus is what log status --json prints.
type logStatus struct {
	Entries  uint64 `json:"entries"` // counting those that were pruned
	Pending  uint64 `json:"pending"`
	Anchor   string `json:"anchor"`
	Anchored string `json:"anchored,omitempty"`
	Spooled  int64  `json:"spooled_bytes"`
	Aside    int    `json:"spool_damaged"`
}

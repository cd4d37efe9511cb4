package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

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
	var anchors, knownRanges []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify --db DSN",
		Short: "Check that nobody changed the audit trail",
		Long: `Reads the whole trail and checks it against the checkpoints of the anchor: what was edited, put in, left
out, moved or cut off is named with its place. With the keyring it also checks that every entry was
written by carrel. An auditor who has no keyring gives the text that carrel log key prints as --key.
Nothing is written.

Exit status 1: something was found, or entries are under no anchored checkpoint. A loss that carrel log
restored has declared is found for ever; --known FROM-TO, with the two numbers as they are printed (TO is
the first entry after it), says that you know of it.`,
		Example: `  carrel log verify --db library.db --anchor /mnt/anchor/library
  carrel log verify --db library.db --known 67-70
  carrel log verify --db copy.db --anchor anchor.txt --key "carrel/trail/…"`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db"); err != nil {
				return err
			}
			known, err := parseKnown("log verify", knownRanges)
			if err != nil {
				return err
			}
			return withDatabase(cmd.Context(), dsn, readOnly, func(d *database) error {
				cfg, err := d.verification(cmd, keys, public)
				if err != nil {
					return err
				}
				if err := d.besideKeyring(keys); err != nil {
					return err
				}
				paths, err := d.anchorPaths(anchors)
				if err != nil {
					return err
				}
				v, err := verifyAnchored(cmd, cfg, paths, len(anchors) > 0 || os.Getenv("CARREL_ANCHOR") != "")
				if cmd.Context().Err() != nil {
					return interruption("log verify: interrupted")
				} else if err != nil {
					return fmt.Errorf("log verify: %w", trailProblem(err))
				}
				spooled, aside, err := d.spooled()
				if err != nil {
					return err
				}
				r := verified{Verification: v, Known: []audit.Finding{}, Spooled: spooled, Aside: aside}
				r.settle(cmd, known)
				return r.print(cmd, paths, cfg.Key == nil, asJSON)
			})
		},
	}
	f := cmd.Flags()
	addDBFlag(cmd, &dsn)
	addKeysFlag(cmd, &keys)
	f.StringArrayVar(&anchors, "anchor", nil, "file with anchored checkpoints; may be repeated (default $CARREL_ANCHOR, or the path of the SQLite file, or of the keyring, and .anchor)")
	f.StringVar(&public, "key", "", "the text that carrel log key prints, instead of a keyring")
	f.StringArrayVar(&knownRanges, "known", nil, "a declared loss that is known, as FROM-TO; may be repeated")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

var rangeForm = regexp.MustCompile(`^(\d{1,18})-(\d{1,18})$`)

// parseKnown reads --known.
func parseKnown(command string, list []string) (known []audit.Range, err error) {
	for _, one := range list {
		m := rangeForm.FindStringSubmatch(one)
		if m == nil {
			return nil, fmt.Errorf("%s: --known %s: want FROM-TO as log verify prints them, as in 67-70", command, oneLine(one))
		}
		from, _ := strconv.ParseUint(m[1], 10, 64) // 18 digits fit
		to, _ := strconv.ParseUint(m[2], 10, 64)
		known = append(known, audit.Range{From: from, To: to})
	}
	return known, nil
}

// verification returns how to verify a database's trail: with its keyring, or with the public key alone.
func (d *database) verification(cmd *cobra.Command, keys, public string) (cfg audit.VerifyConfig, err error) {
	cfg.Store = d.log(d.db)
	if public != "" {
		if cfg.Verifier, err = note.NewVerifier(public); err != nil {
			return cfg, errors.New("log verify: --key: not a text that carrel log key prints")
		}
		return cfg, nil
	}
	k, err := d.openKeys(cmd.Context(), keys)
	if err != nil {
		return cfg, err
	}
	if cfg.Verifier, err = verifier(cmd.Context(), k); err != nil {
		return cfg, err
	}
	cfg.Key, err = k.TrailKey(cmd.Context())
	return cfg, keyProblem(err)
}

// verifyAnchored verifies against what is in the anchors. Who writes to the trail meanwhile is waited for: their entries are anchored a moment later.
func verifyAnchored(cmd *cobra.Command, cfg audit.VerifyConfig, paths []string, named bool) (v audit.Verification, err error) {
	if cfg.Anchored, err = readAnchors(paths, cfg.Verifier, named); err != nil {
		return v, err
	}
	p := newProgress(cmd.ErrOrStderr(), "verifying", 0)
	defer p.end()
	cfg.Progress = func(done, all uint64) {
		p.set(int64(done), fmt.Sprintf("%s of %s entries", thousands(int(done)), thousands(int(all))))
	}
	for try := 0; ; try++ {
		v, err = audit.Verify(cmd.Context(), cfg)
		if err != nil || v.Unanchored == 0 || count(cfg.Anchored) == 0 || try == 3 {
			return v, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-cmd.Context().Done():
			return v, cmd.Context().Err()
		}
		before := count(cfg.Anchored)
		if cfg.Anchored, err = readAnchors(paths, cfg.Verifier, named); err != nil || count(cfg.Anchored) == before {
			return v, err
		}
	}
}

func count(anchored [][][]byte) (n int) {
	for _, list := range anchored {
		n += len(list)
	}
	return n
}

// readAnchors returns the checkpoints of each anchor. Named ones must be there, and be of this trail.
func readAnchors(paths []string, verifier note.Verifier, named bool) (all [][][]byte, err error) {
	for _, path := range paths {
		if _, err := os.Stat(path); named && errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("anchor %s: no such file", path)
		}
		list, err := audit.NewFileAnchor(path).Checkpoints()
		if err != nil {
			return nil, err
		}
		ours := len(list) == 0
		for _, one := range list {
			first, _, _ := bytes.Cut(one, []byte("\n")) // of one that is torn, a part
			ours = ours || len(first) > 0 && strings.HasPrefix(verifier.Name(), string(first))
		}
		if !ours {
			return nil, fmt.Errorf("anchor %s: is not an anchor of this trail", path)
		}
		all = append(all, list)
	}
	return all, nil
}

// verified is what log verify --json prints.
type verified struct {
	audit.Verification
	Known   []audit.Finding `json:"known"`         // declared losses that --known names; not among the findings any more
	Spooled int64           `json:"spooled_bytes"` // of events that wait beside the database
	Aside   int             `json:"spool_damaged"` // files in the spool that are damaged or forged
	Good    bool            `json:"ok"`
}

// settle takes what is known out of the findings and says whether all is good.
func (v *verified) settle(cmd *cobra.Command, known []audit.Range) {
	all := v.Findings
	v.Findings = []audit.Finding{}
	for _, f := range all {
		is := false
		for _, r := range known {
			is = is || f.Kind == audit.Declared && f.From == r.From && f.To == r.To
		}
		if is {
			v.Known = append(v.Known, f)
		} else {
			v.Findings = append(v.Findings, f)
		}
	}
	for _, r := range known {
		there := false
		for _, f := range v.Known {
			there = there || f.From == r.From && f.To == r.To
		}
		if !there {
			fmt.Fprintf(cmd.ErrOrStderr(), "carrel: log verify: --known %d-%d: no such loss was declared\n", r.From, r.To)
		}
	}
	v.Good = len(v.Findings) == 0 && v.Aside == 0 && v.Unanchored == 0 && (v.Anchored > 0 || v.Size == 0)
}

func (v *verified) print(cmd *cobra.Command, anchors []string, noKeyring, asJSON bool) error {
	err := error(nil)
	if asJSON {
		err = printJSON(cmd, v)
	} else {
		err = v.text(cmd, oneLine(strings.Join(anchors, ", ")), noKeyring)
	}
	if err == nil && !v.Good {
		err = errFound
	}
	return err
}

func (v *verified) text(cmd *cobra.Command, anchors string, noKeyring bool) error {
	w := &errWriter{out: cmd.OutOrStdout()}
	if v.Size == 0 {
		w.printf("The trail is empty")
		if v.Pending > 0 {
			w.printf(" but for %s under no checkpoint yet", plural(int(v.Pending), "entry"))
		}
		w.printf(".\n")
	} else {
		w.printf("%s in the tree, %s of them pruned; %s pending\n", plural(int(v.Size), "entry"), thousands(int(v.Pruned)), thousands(int(v.Pending)))
	}
	if n := v.Checkpoints + v.Unchecked; n > 0 || v.Anchored > 0 {
		w.printf("%s anchored in %s, the last over %s\n", plural(n, "checkpoint"), anchors, plural(int(v.Anchored), "entry"))
		if v.Unanchored > 0 {
			w.printf("%s after it %s under no anchored checkpoint: the anchor is an old one, or was cut.\n", plural(int(v.Unanchored), "entry"), isAre(int(v.Unanchored)))
		}
	} else {
		w.printf("Nothing is anchored in %s.\n", anchors)
		if v.Size > 0 {
			w.printf("Whoever owns the database and the keyring could have rewritten all of it.\n")
		}
	}
	if v.Torn > 0 {
		w.printf("%s in the anchor %s only begun, as a crash or a full disk leaves it.\n", plural(v.Torn, "checkpoint"), isAre(v.Torn))
	}
	if noKeyring {
		w.printf("Without the keyring: who wrote the entries was not checked.\n")
	}
	if v.Spooled > 0 {
		w.printf("%s bytes of events wait in the spool; the next command that writes to the trail takes them in.\n", thousands(int(v.Spooled)))
	}
	if v.Aside > 0 {
		w.printf("%s in the spool: damaged or forged, and put aside.\n", plural(v.Aside, "file"))
	}
	for _, f := range v.Known {
		w.printf("Known: the entries from %d to before %d are lost, and were declared so.\n", f.From, f.To)
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
	} else if v.Good && v.Size > 0 && len(v.Known) == 0 {
		w.printf("Nothing was changed.\n")
	} else if v.Good && v.Size > 0 {
		w.printf("Otherwise nothing was changed.\n")
	}
	return w.err
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

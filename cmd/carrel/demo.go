package main

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/research/synth"
)

//go:embed demo/policy.yaml
var demoPolicy []byte

func newDemo() *cobra.Command {
	d := &demo{}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Make up a library, forget what is due, prove it, and write a page about it",
		Long: `Makes up a library of people who never were, seals who they are, in a SQLite file, sweeps it under a layered policy,
searches the file byte by byte for what is sealed and for the borrowers that are forgotten, explains a few records, and
writes one HTML page about it.
It takes a few seconds and needs nothing.

Exit status 1: the search found a borrower that should be gone, or something sealed in plain, or the audit trail does not verify.`,
		Example: `  carrel demo
  carrel demo --dir demo --loans 200000 --seed 7`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d.loans < 1 || d.loans > 10_000_000 {
				return fmt.Errorf("%s--loans must be 1 to 10000000", place(cmd))
			}
			d.cmd, d.at = cmd, time.Now().Truncate(time.Second)
			d.say = cmd.OutOrStdout()
			if asJSON {
				d.say = io.Discard
			}
			result, err := d.run(cmd.Context())
			if err != nil && cmd.Context().Err() != nil {
				return interruption("demo: interrupted; what it made so far is in " + d.dir)
			}
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd, result)
			}
			if err == nil && result.Search.After+result.Trail.Findings > 0 {
				return errFound
			}
			return err
		},
	}
	cmd.Flags().StringVar(&d.dir, "dir", "", "directory for the database and the page (default a new temporary one)")
	cmd.Flags().IntVar(&d.loans, "loans", 50_000, "number of loans")
	cmd.Flags().Uint64Var(&d.seed, "seed", 1, "another number makes up another library")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// A demo is one run of the demonstration.
type demo struct {
	dir   string
	loans int
	seed  uint64

	cmd    *cobra.Command
	say    io.Writer // what happens, in words
	at     time.Time // when the library closes for the night
	policy *anonymize.Policy
	lib    *synth.Library
	db     *database
	keys   *crypto.Keyring
	seal   *sealer
	listed map[circulation.Borrower]bool // on the list of patrons

	secrets map[string]bool // what was sealed, in plain
	barcode string          // of one of the patrons
}

// A demoResult is what `demo --json` says.
type demoResult struct {
	Directory string           `json:"directory"`
	Database  string           `json:"database"`
	Policy    string           `json:"policy"`
	Page      string           `json:"page"`
	Patrons   int              `json:"patrons"`
	Records   int              `json:"records"`
	Sweep     anonymize.Report `json:"sweep"`
	Search    demoSearch       `json:"search"`
	Trail     demoTrail        `json:"trail"`
	Seconds   float64          `json:"seconds"`
}

// A demoSearch is what the byte search found of the borrowers that must be gone.
type demoSearch struct {
	Sought int   `json:"sought"`       // borrowers of whom no record and no list knows any more
	Before int   `json:"found_before"` // how many of them were in the file before the sweep
	After  int   `json:"found_after"`
	Bytes  int64 `json:"bytes"` // searched after the sweep

	Sealed int `json:"sealed"`       // names, streets, e-mail addresses, bar codes and borrower numbers that were sealed
	Plain  int `json:"sealed_found"` // how many of them are in the file, before or after the sweep
}

// A demoTrail is what was verified of the audit trail.
type demoTrail struct {
	Entries     uint64 `json:"entries"`
	Checkpoints int    `json:"checkpoints"`
	Findings    int    `json:"findings"`
}

func (d *demo) run(ctx context.Context) (r demoResult, err error) {
	began := time.Now()
	if err := d.prepare(); err != nil {
		return r, err
	}
	r.Directory, r.Database = d.dir, filepath.Join(d.dir, "library.db")
	r.Policy, r.Page = filepath.Join(d.dir, "policy.yaml"), filepath.Join(d.dir, "index.html")
	if d.policy, err = anonymize.ParsePolicy(demoPolicy); err != nil {
		return r, fileProblem("demo policy", err)
	}
	if err := writeNew(r.Policy, demoPolicy, 0o644); err != nil {
		return r, err
	}
	if err := d.fill(ctx, &r); err != nil {
		return r, err
	}
	defer func() {
		if d.db != nil {
			d.db.close()
		}
	}()

	// What the rules say of every record, to show some of them; and what lies in the file before.
	before, err := d.look(ctx)
	if err != nil {
		return r, err
	}
	if err := d.reopen(ctx); err != nil { // closing writes everything into the one file
		return r, err
	}
	old, err := d.searchable()
	if err != nil {
		return r, err
	}
	if r.Sweep, err = d.db.sweepRecorded(d.cmd, d.keys, trailFlags{anchors: d.anchors()}, d.policy, anonymize.Shard{}, d.at); err != nil {
		return r, err
	}
	after, err := d.look(ctx)
	if err != nil {
		return r, err
	}
	if err := d.reopen(ctx); err != nil {
		return r, err
	}

	gone := d.gone(after)
	r.Search.Sought = len(gone)
	r.Search.Before = found(old, gone)
	now, err := d.searchable()
	if err != nil {
		return r, err
	}
	r.Search.After, r.Search.Bytes = found(now, gone), int64(len(now))
	r.Search.Sealed, r.Search.Plain = len(d.secrets), found(append(old, now...), d.secrets)
	if r.Trail, err = d.verify(ctx); err != nil {
		return r, err
	}
	r.Seconds = time.Since(began).Seconds()

	unlinked, linked := 0, 0
	for _, k := range r.Sweep.Kinds {
		unlinked, linked = unlinked+k.Unlinked, linked+k.LinkedBefore
	}
	fmt.Fprintf(d.say, "swept:    %s of %s records unlinked in %.1f s, under %s\n", thousands(unlinked), thousands(linked), r.Sweep.Seconds, r.Policy)
	fmt.Fprintf(d.say, "sealed:   of %s names, streets, e-mail addresses, bar codes and borrower numbers, %s are in the file, before or after\n",
		thousands(r.Search.Sealed), thousands(r.Search.Plain))
	fmt.Fprintf(d.say, "searched: of the pseudonyms of %s borrowers whom nothing names any more, %s were in the file before, %s are in its %s bytes now\n",
		thousands(r.Search.Sought), thousands(r.Search.Before), thousands(r.Search.After), thousands(int(r.Search.Bytes)))
	fmt.Fprintf(d.say, "trail:    %s of who did what, verified against %s; %s\n",
		plural(int(r.Trail.Entries), "entry"), plural(r.Trail.Checkpoints, "signed checkpoint"), plural(r.Trail.Findings, "finding"))
	page, err := d.page(r, before, after)
	if err != nil {
		return r, err
	}
	if err := writeNew(r.Page, page, 0o644); err != nil {
		return r, err
	}
	_, err = fmt.Fprintf(d.say, `page:     %s

Go on with it, and remove the directory afterwards:
  carrel sweep --db %s --policy %s --dry-run --at %s
  echo %s | carrel patron show --db %[2]s --identifier-file - --actor me --role patron-services --purpose support
  carrel log report exposure --staff me --db %[2]s --actor you --role reviewer --purpose review
`, r.Page, r.Database, r.Policy, d.at.AddDate(0, 3, 0).Format(time.DateOnly), d.barcode)
	return r, err
}

// anchors returns the demonstration's own anchor: that of the installation, in CARREL_ANCHOR, is none of its business.
func (d *demo) anchors() []string { return []string{d.db.path + ".anchor"} }

// prepare makes the directory. It leaves alone what an earlier demo made.
func (d *demo) prepare() (err error) {
	if d.dir == "" {
		if d.dir, err = os.MkdirTemp("", "carrel-demo-"); err != nil {
			return fmt.Errorf("demo: no temporary directory: %w; name one with --dir", reason(err))
		}
		return nil
	}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return fmt.Errorf("%s: %w", d.dir, reason(err))
	}
	for _, name := range []string{"library.db", "library.db.keys", "library.db.keys.kek", "library.db.anchor", "policy.yaml", "index.html"} {
		if _, err := os.Lstat(filepath.Join(d.dir, name)); err == nil {
			return fmt.Errorf("%s: exists already; choose another --dir", filepath.Join(d.dir, name))
		}
	}
	return nil
}

// fill makes up the library and puts it into the database.
func (d *demo) fill(ctx context.Context, r *demoResult) (err error) {
	d.lib, err = synth.Generate(synth.Params{Seed: d.seed, Loans: d.loans, Until: d.at.UTC().Truncate(24 * time.Hour)})
	if err != nil {
		return err
	}
	if d.db, err = openDatabase(ctx, r.Database, createIt); err != nil {
		return err
	}
	if err := d.sealPatrons(ctx); err != nil {
		return err
	}
	// Who left more than a year ago is no longer on the list of patrons, as in life.
	d.listed = map[circulation.Borrower]bool{}
	year := d.at.AddDate(-1, 0, 0)
	_, err = d.db.SaveAccounts(ctx, func(yield func(circulation.Account, error) bool) {
		for a := range d.lib.Accounts() {
			if a.Expires.IsZero() || a.Expires.After(year) {
				a, err := d.sealedAccount(a)
				d.listed[a.Borrower] = true
				if !yield(a, err) {
					return
				}
			}
		}
	})
	if err != nil {
		return fmt.Errorf("%s: %w", r.Database, err)
	}
	p := newProgress(d.cmd.ErrOrStderr(), "filling", 0)
	saved, err := d.db.Save(ctx, d.watched(d.lib.Entries(), p))
	p.end()
	if err != nil {
		return fmt.Errorf("%s: %w", r.Database, err)
	}
	for a := range d.lib.Accounts() { // somebody is in court
		if a, err = d.sealedAccount(a); err != nil {
			return err
		}
		if err := d.db.AddHold(ctx, circulation.Hold{Borrower: a.Borrower, Ref: "demo case"}); err != nil {
			return fmt.Errorf("%s: %w", r.Database, err)
		}
		break
	}
	r.Patrons, r.Records = d.lib.Patrons(), saved.Added
	_, err = fmt.Fprintf(d.say, "made up:  %s patrons, %s loans and %s other records, in %s\n", thousands(r.Patrons), thousands(d.lib.Loans()), thousands(r.Records-d.lib.Loans()), r.Database)
	return err
}

func (d *demo) sealedAccount(a circulation.Account) (_ circulation.Account, err error) {
	a.Borrower, err = d.seal.borrower(string(a.Borrower))
	return a, err
}

func (d *demo) watched(entries iter.Seq[circulation.Entry], p *progress) iter.Seq2[circulation.Entry, error] {
	return func(yield func(circulation.Entry, error) bool) {
		n := 0
		for e := range entries {
			if n++; n%1000 == 0 {
				p.set(int64(n), thousands(n)+" records")
			}
			e, err := d.seal.sealed(e)
			if !yield(e, err) {
				return
			}
		}
	}
}

// reopen closes the database, so that its write-ahead log is emptied into it, and opens it again.
func (d *demo) reopen(ctx context.Context) error {
	if err := d.db.close(); err != nil {
		return err
	}
	var err error
	path := d.db.path
	d.db = nil
	d.db, err = openDatabase(ctx, path, readWrite)
	return err
}

// A demoView is what the rules say of all records that name a borrower.
type demoView struct {
	linked   map[circulation.Pointer]bool
	examples []demoExample
	months   map[string]int // kept records by the month in which they may go
	unknown  int            // kept records that wait for a fact not known yet
}

// A demoExample is the first record that a rule unlinks or that a reason keeps.
type demoExample struct {
	unlink   bool
	Why      string // the policy's word on the rule
	Decision string // as explain prints it
}

// look decides on every record that names a borrower.
func (d *demo) look(ctx context.Context) (demoView, error) {
	v := demoView{linked: map[circulation.Pointer]bool{}, months: map[string]int{}}
	seen := map[string]bool{}
	e := explainer{policy: d.policy, at: d.at}
	for _, kind := range circulation.Kinds() {
		q := anonymize.Query{Kind: kind, Limit: 10_000, At: d.at, Needs: anonymize.NeedEverything}
		for more := true; more; more = q.Cursor != "" {
			page, err := d.db.Linked(ctx, q)
			if err != nil {
				return v, fmt.Errorf("%s: %w", d.db.path, err)
			}
			q.Cursor = page.Cursor
			for i := range page.Records {
				r := &page.Records[i]
				v.linked[circulation.Pointer{Kind: kind, ID: r.ID}] = true
				decision := d.policy.Decide(r, d.at)
				key := fmt.Sprint(kind, decision.Unlink, decision.Rule)
				if !decision.Unlink {
					v.note(decision)
					key = fmt.Sprint(kind, decision.Reasons)
				}
				if !seen[key] {
					seen[key] = true
					v.examples = append(v.examples, demoExample{decision.Unlink,
						cmp.Or(d.policy.Why(kind, decision.Rule), ruleMeaning(decision.Rule)), strings.TrimSpace(string(e.decide(nil, r)))})
				}
			}
		}
	}
	return v, nil
}

// note counts when a kept record may go.
func (v *demoView) note(d anonymize.Decision) {
	if d.EligibleAt.IsZero() {
		v.unknown++
	} else {
		v.months[d.EligibleAt.UTC().Format("2006-01")]++
	}
}

package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
)

// How long each may take until it is worth a warning.
const (
	lateEpoch  = 5 * 24 * time.Hour  // so late a rotation may be
	erasureAge = 30 * 24 * time.Hour // GDPR article 12, 3: a month
	overdueAge = 2 * 24 * time.Hour  // a sweep runs every night, and one may fail
	receiptAge = 7 * 24 * time.Hour  // of most libraries something is due every day
	pendingAge = time.Hour           // a program that writes to the trail makes a checkpoint within seconds
)

func newDoctor() *cobra.Command {
	var dsn, keys, policyFile, metrics string
	var anchors []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor --db DSN",
		Short: "Look whether a database, its settings, keys and trail are as they should be",
		Long: `Makes a list of checks and says of each whether it is well, and if not, what to do: the schema and its indexes; settings of the
database that would keep copies of what was erased, write it into a log or lose what was promised; who may read the files; how old the
key of the epoch is; whether the trail has checkpoints and the spool is empty; when something was unlinked last. With --policy it
reads all records that name a borrower and says since when the oldest is due. Nothing is written, and nothing it says identifies
anybody.

Exit status: 0 all is well, 1 something is not, 2 it could not look.`,
		Example: `  carrel doctor --db library.db --keys /etc/carrel/keys --policy policy.yaml
  carrel doctor --db "postgres://carrel@db.example.org/lms?search_path=carrel" --keys /etc/carrel/keys --json
  carrel doctor --db library.db --metrics /var/lib/node_exporter/textfile/carrel-doctor.prom`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db"); err != nil {
				return err
			}
			var policy *anonymize.Policy
			if policyFile != "" {
				var err error
				if policy, err = readPolicy(cmd, policyFile); err != nil {
					return err
				}
			}
			db, err := connect(cmd.Context(), dsn, readOnly)
			if err != nil {
				return err
			}
			d := &doctor{database: db, cmd: cmd, now: time.Now()}
			err = d.examine(cmd.Context(), keys, anchors, policy)
			if cerr := db.close(); err == nil {
				err = cerr
			}
			if err != nil {
				return err
			}
			if metrics != "" {
				if err := writeMetrics(metrics, d.metrics()); err != nil {
					return err
				}
			}
			return d.report(asJSON)
		},
	}
	addDBFlag(cmd, &dsn)
	addKeysFlag(cmd, &keys)
	addAnchorFlag(cmd, &anchors)
	cmd.Flags().StringVar(&policyFile, "policy", "", "the retention policy: look for records that are due and were not unlinked, which reads all that name a borrower")
	addMetricsFlag(cmd, &metrics)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// A state is how a check came out, from well to bad.
type state int

const (
	fine state = iota
	warning
	failed
)

func (s state) String() string { return [...]string{"ok", "warning", "failed"}[s] }

func (s state) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// A checkup is what one check found, in one line.
type checkup struct {
	Name  string `json:"check"`
	State state  `json:"state"`
	What  string `json:"what"`
}

// A doctor looks at one database, and never says anything that identifies somebody.
type doctor struct {
	*database
	cmd    *cobra.Command
	now    time.Time
	found  []checkup
	gauges []metric
}

func (d *doctor) say(name string, s state, format string, args ...any) {
	d.found = append(d.found, checkup{name, s, oneLine(fmt.Sprintf(format, args...))})
}

// ok says that all is well, or what is not.
func (d *doctor) ok(name string, well bool, otherwise state, good, bad string) {
	if well {
		d.say(name, fine, "%s", good)
	} else {
		d.say(name, otherwise, "%s", bad)
	}
}

func (d *doctor) gauge(name, help string, value float64) {
	d.gauges = append(d.gauges, metric{name: name, help: help, samples: []sample{{nil, value}}})
}

// examine makes all checks. Its errors say that it could not.
func (d *doctor) examine(ctx context.Context, keys string, anchors []string, policy *anonymize.Policy) error {
	have, err := d.version(ctx)
	if err != nil {
		return err
	}
	want, err := newest(d.migrations())
	if err != nil {
		return err
	}
	if err := d.upgradable(ctx, have); err != nil {
		return err
	}
	switch {
	case have > want:
		d.say("schema", failed, "is of version %d, this program's of %d: a newer carrel has migrated it; update this program", have, want)
	case have == 0:
		d.say("schema", failed, "there are no tables: carrel migrate makes them")
	case have < want:
		d.say("schema", failed, "is of version %d, this program's of %d: run carrel migrate", have, want)
	default:
		d.say("schema", fine, "version %d", have)
	}
	d.check(ctx, d)
	files := d.keyring(ctx, keys, have == want)
	if have == want { // else nothing is where it is looked for
		if err := d.trail(ctx, anchors); err != nil {
			return err
		}
		if err := d.erasures(ctx); err != nil {
			return err
		}
		if err := d.sweeps(ctx, policy); err != nil {
			return err
		}
	}
	d.modes(files)
	if ctx.Err() != nil {
		return interruption("doctor: interrupted")
	}
	return nil
}

// keyring looks at the keys, and returns where they are, if that is known.
func (d *doctor) keyring(ctx context.Context, flag string, tables bool) *keyFiles {
	f, err := d.findKeys(flag)
	switch {
	case errors.Is(err, errNoKeys):
		d.say("keyring", warning, "was not looked at: say where it is, with --keys or CARREL_KEYS")
		return nil
	case err != nil:
		d.say("keyring", failed, "%v", err)
		return nil
	case !f.exists():
		d.say("keyring", warning, "there is none at %s: say where it is with --keys or CARREL_KEYS, or make one for a new database with carrel keys init", f.keyring)
		return nil
	}
	d.keyPlaces(f)
	if !tables {
		return &f
	}
	k, err := d.database.open(ctx, f)
	if err != nil {
		d.say("keyring", failed, "%v", err)
		return &f
	}
	s, err := k.Status()
	if err != nil {
		d.say("keyring", failed, "%v", keyProblem(err))
		return &f
	}
	d.ok("keyring", !s.Rotating, warning, "opens, and is this database's", "opens, but a rotation was begun and not finished: carrel keys rotate goes on with it")
	for _, e := range s.Epochs {
		if !e.Current {
			continue
		}
		age := d.now.Sub(e.Created)
		d.gauge("carrel_key_epoch_age_seconds", "Age of the key of the current epoch.", max(0, age.Seconds()))
		d.ok("key-age", d.now.Before(s.Due.Add(lateEpoch)), warning, fmt.Sprintf("the epoch began %s ago; %s", roughly(age), scheduled(s.Schedule)),
			fmt.Sprintf("the epoch began %s ago: carrel keys rotate --due begins a new one, run every night", roughly(age)))
	}
	return &f
}

// keyPlaces warns of keys that go with the database into its backup, or with whoever takes it.
func (d *doctor) keyPlaces(f keyFiles) {
	if _, file := d.backend.(*sqliteFile); !file {
		d.say("key-place", fine, "files of their own, outside the database; keep them out of the server's backups, too")
		return
	}
	var near []string
	if sameDirectory(f.keyring, d.path) {
		near = append(near, "the keyring")
	}
	if !f.inKMS() && sameDirectory(f.kek, d.path) {
		near = append(near, "the key-encryption key")
	}
	d.ok("key-place", len(near) == 0, warning, "apart from the database",
		"beside the database, and so in its backups: "+strings.Join(near, " and ")+"; move it elsewhere, and say where with --keys and CARREL_KEK")
}

func sameDirectory(a, b string) bool {
	x, err := os.Stat(filepath.Dir(a))
	y, err2 := os.Stat(filepath.Dir(b))
	return err == nil && err2 == nil && os.SameFile(x, y)
}

// modes looks who may read the files that are on this machine.
func (d *doctor) modes(f *keyFiles) {
	if runtime.GOOS == "windows" {
		return // permissions there are no bits
	}
	var files, open []string
	if _, file := d.backend.(*sqliteFile); file {
		files = append(files, d.path, d.path+"-wal", d.path+"-shm")
	}
	if f != nil {
		files = append(files, f.keyring, f.keyring+".ledger")
		if !f.inKMS() {
			files = append(files, f.kek)
		}
	}
	for _, name := range files {
		if info, err := os.Stat(name); err == nil && info.Mode().Perm()&0o077 != 0 {
			open = append(open, name)
		}
	}
	if len(files) > 0 {
		d.ok("file-modes", len(open) == 0, warning, "only their owner may read the files", "others than the owner may open "+strings.Join(open, ", ")+": chmod 600")
	}
}

// trail looks whether checkpoints keep up with entries, and whether events wait.
func (d *doctor) trail(ctx context.Context, anchors []string) error {
	if paths, err := d.anchorPaths(anchors); err != nil {
		d.say("checkpoint", warning, "was not looked at: say where the anchor is, with --anchor or CARREL_ANCHOR, or name the keyring")
	} else if err := d.checkpoint(ctx, paths); err != nil {
		return err
	}
	if d.spoolPath() == "" {
		return nil
	}
	size, aside, err := d.spooled()
	if err != nil {
		d.say("spool", failed, "%v", err)
		return nil
	}
	d.gauge("carrel_spool_bytes", "Size of the events that wait beside the database.", float64(size))
	switch {
	case aside > 0:
		d.say("spool", failed, "%s put aside, damaged or forged: look at %s", plural(aside, "file"), d.spoolPath())
	case size > 0:
		d.say("spool", warning, "%s bytes of events wait, which the database did not take; the next command that writes to the trail takes them in", thousands(int(size)))
	default:
		d.say("spool", fine, "empty")
	}
	return nil
}

func (d *doctor) checkpoint(ctx context.Context, paths []string) error {
	var last time.Time // when all anchors had been written
	for i, path := range paths {
		s := logStatus{Anchor: path}
		sizes, written, err := anchorSizes(path) // before the trail, which goes ahead of it
		if err != nil {
			d.say("checkpoint", failed, "%v", trailProblem(err))
			return nil
		}
		tree, err := d.log(d.db).Tree(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", d.path, err)
		}
		if problem := s.compare(sizes, written, tree.Size); problem != "" {
			d.say("checkpoint", failed, "anchor %s: %s", path, problem)
			return nil
		}
		if last.IsZero() || written.Before(last) {
			last = written
		}
		if i < len(paths)-1 {
			continue
		}
		d.tree(tree, last)
	}
	return nil
}

func (d *doctor) tree(tree audit.Tree, last time.Time) {
	pending := tree.Next - min(tree.Next, tree.Size)
	d.gauge("carrel_trail_pending_entries", "Entries of the audit trail that no checkpoint covers yet.", float64(pending))
	age := d.now.Sub(last)
	if !last.IsZero() {
		d.gauge("carrel_checkpoint_age_seconds", "Time since the trail's last checkpoint was anchored.", max(0, age.Seconds()))
	}
	switch {
	case tree.Next == 0:
		d.say("checkpoint", fine, "the trail is empty")
	case pending > 0 && (last.IsZero() || age > pendingAge):
		d.say("checkpoint", warning, "%s under no checkpoint yet: the next command that writes to the trail makes one, as carrel log hold list does", plural(int(pending), "entry"))
	case last.IsZero():
		d.say("checkpoint", warning, "no checkpoint is anchored")
	default:
		d.say("checkpoint", fine, "the last was anchored %s ago, over %s", roughly(age), plural(int(tree.Size), "entry"))
	}
}

// erasures looks for patrons who have asked to be erased and are not.
func (d *doctor) erasures(ctx context.Context) error {
	var waiting int
	var since sql.NullInt64
	if err := d.db.QueryRowContext(ctx, "SELECT count(*), min(erasing) FROM patrons WHERE erasing IS NOT NULL").Scan(&waiting, &since); err != nil {
		return d.refused(ctx, err)
	}
	age := time.Duration(0)
	if since.Valid {
		age = max(0, d.now.Sub(time.UnixMicro(since.Int64)))
	}
	d.gauge("carrel_waiting_erasures", "Patrons whose erasure was asked for and waits until nothing is owed.", float64(waiting))
	d.gauge("carrel_oldest_waiting_erasure_seconds", "How long the oldest of them has waited.", age.Seconds())
	d.ok("erasures", age <= erasureAge, warning, fmt.Sprintf("%s for an erasure", waits(waiting)),
		fmt.Sprintf("%s for an erasure, the longest for %s: does carrel rights purge run every night? What is owed it lists with carrel rights erase", waits(waiting), roughly(age)))
	return nil
}

func waits(n int) string {
	if n == 1 {
		return "1 patron waits"
	}
	return plural(n, "patron") + " wait"
}

// sweeps looks whether the sweep runs.
func (d *doctor) sweeps(ctx context.Context, policy *anonymize.Policy) error {
	if policy != nil {
		if err := d.overdue(ctx, policy); err != nil {
			return err
		}
	}
	receipts, err := d.Receipts(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", d.path, err)
	}
	if len(receipts) == 0 {
		var records bool
		if err := d.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM records)").Scan(&records); err != nil {
			return d.refused(ctx, err)
		}
		d.ok("last-receipt", !records, warning, "nothing to sweep yet", "no sweep has unlinked anything yet: carrel sweep")
		return nil
	}
	last := slices.MaxFunc(receipts, func(a, b anonymize.Receipt) int { return a.At.Compare(b.At) }).At
	age := d.now.Sub(last)
	d.gauge("carrel_last_receipt_age_seconds", "Time since a sweep unlinked something.", max(0, age.Seconds()))
	d.ok("last-receipt", age <= receiptAge, warning, fmt.Sprintf("something was unlinked %s ago", roughly(age)),
		fmt.Sprintf("something was unlinked %s ago, and nothing since: does the sweep run?", roughly(age)))
	return nil
}

// overdue reads all records that name a borrower, and says since when the oldest should not.
func (d *doctor) overdue(ctx context.Context, policy *anonymize.Policy) error {
	if from := policy.Effective(); d.now.Before(from) {
		d.say("overdue", fine, "the policy is not effective before %s", stamp(from))
		return nil
	}
	p := newProgress(d.cmd.ErrOrStderr(), "doctor", 0)
	defer p.end()
	due, read := 0, 0
	var oldest time.Time
	for _, kind := range circulation.Kinds() {
		q := anonymize.Query{Kind: kind, Limit: 10_000, At: d.now, Needs: anonymize.NeedEverything}
		for more := true; more; more = q.Cursor != "" {
			page, err := d.Linked(ctx, q)
			if ctx.Err() != nil {
				return interruption("doctor: interrupted")
			} else if err != nil {
				return fmt.Errorf("%s: %w", d.path, err)
			}
			q.Cursor = page.Cursor
			for i := range page.Records {
				v := policy.Decide(&page.Records[i], d.now)
				if !v.Unlink {
					continue
				}
				due++
				if at := v.EligibleAt; !at.IsZero() && (oldest.IsZero() || at.Before(oldest)) {
					oldest = at
				}
			}
			read += len(page.Records)
			p.set(int64(read), fmt.Sprintf("%s: %s read, %s due", kind, thousands(read), thousands(due)))
		}
	}
	age := time.Duration(0)
	if !oldest.IsZero() {
		age = d.now.Sub(oldest)
	}
	d.gauge("carrel_due_records", "Records that are due and name a borrower still.", float64(due))
	d.gauge("carrel_oldest_overdue_seconds", "How long the oldest of the records that are due has been so.", age.Seconds())
	switch {
	case due == 0:
		d.say("overdue", fine, "nothing is due, of %s", plural(read, "record"))
	case age > overdueAge:
		d.say("overdue", warning, "%s due, the oldest for %s: the sweep has not run; carrel sweep", plural(due, "record"), roughly(age))
	default:
		d.say("overdue", fine, "%s due, none for more than %s", plural(due, "record"), roughly(overdueAge))
	}
	return nil
}

// roughly writes a duration for people.
func roughly(t time.Duration) string {
	t = max(t, 0)
	switch {
	case t < time.Second:
		return "a moment"
	case t < 2*time.Minute:
		return plural(int(t.Seconds()), "second")
	case t < 2*time.Hour:
		return plural(int(t.Minutes()), "minute")
	case t < 48*time.Hour:
		return plural(int(t.Hours()), "hour")
	}
	return plural(int(t.Hours()/24), "day")
}

func (d *doctor) metrics() []metric {
	checks := metric{name: "carrel_check", help: "What carrel doctor found: 0 ok, 1 warning, 2 failed."}
	for _, c := range d.found {
		checks.samples = append(checks.samples, sample{[]string{"name", c.Name}, float64(c.State)})
	}
	ran := metric{name: "carrel_doctor_last_run_timestamp_seconds", help: "When carrel doctor ran last.", samples: []sample{{nil, float64(d.now.Unix())}}}
	return append([]metric{checks, ran}, d.gauges...)
}

// report prints what was found, and is errFound when something is not well.
func (d *doctor) report(asJSON bool) (err error) {
	worst := fine
	t := table{columns: words("CHECK STATE WHAT")}
	for _, c := range d.found {
		worst = max(worst, c.State)
		t.add(c.Name, c.State.String(), c.What)
	}
	if asJSON {
		err = printJSON(d.cmd, struct {
			Checks []checkup `json:"checks"`
			Worst  state     `json:"worst"`
		}{d.found, worst})
	} else {
		err = t.print(d.cmd.OutOrStdout())
	}
	return cmp.Or(err, map[bool]error{true: errFound}[worst > fine])
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/internal/nearest"
)

const maxListed = 20 // bad rows of a file that are listed; the rest is counted

func newImport() *cobra.Command {
	var flags importFlags
	var mapFile, zoneName, region string
	var dropUnknown bool
	files := map[string]*[]string{}
	cmd := &cobra.Command{
		Use:   "import --db DSN [--patrons FILE] [--loans FILE] …",
		Short: "Read exports of a library system into carrel's embedded store",
		Long: `Reads CSV or JSON Lines files, gzipped or not, into carrel's embedded store: a SQLite file, which is created
when it does not exist, or a schema of its own in PostgreSQL. Each file is taken over whole or not at all; rows that are wrong are listed by line number.
A record that is there already is updated, and one that has been unlinked stays unlinked. The columns, and the
map file that renames them, are in docs/formats.md.

What names a person is sealed before it is stored: patrons' names, addresses, identifiers and so on under a key of each
patron's own, borrowers as pseudonyms, comments and notes. The keyring is made with the first import; keep it apart from
the database (docs/keys.md).

Times that name no zone are in --zone: use the zone of the policy.`,
		Example: `  carrel import --db library.db --patrons patrons.csv --loans loans.csv.gz --fees fees.csv
  carrel import --db library.db --map evergreen.yaml --zone America/Chicago --loans circs.csv --requests holds.csv
  carrel import --db library.db --loans issues.csv --loans old_issues.csv
  carrel import --db library.db --loans loans.jsonl.gz --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db"); err != nil {
				return err
			}
			zone, err := parseZone(zoneName)
			if err != nil {
				return err
			}
			if region = strings.ToUpper(region); !knownRegion(region) {
				return fmt.Errorf("%s--phone-region: want a country as two capital letters, as in SE", place(cmd))
			}
			var m mapping
			if mapFile != "" {
				if m, err = readMapping(cmd, mapFile); err != nil {
					return err
				}
			}
			var imports []*importFile
			for _, kind := range fileKinds() {
				for _, name := range *files[kind.name] {
					f, err := openImport(cmd.Context(), kind, name, mapFile, m[kind.name], circulation.Times(zone))
					if err != nil {
						return err
					}
					defer f.rows.close()
					f.dropUnknown, f.region = dropUnknown, region
					imports = append(imports, f)
				}
			}
			if len(imports) == 0 {
				return fmt.Errorf("%snothing to import; name at least one file, as in --loans loans.csv", place(cmd))
			}
			return importAll(cmd, flags, imports)
		},
	}
	addDBFlag(cmd, &flags.dsn)
	addKeysFlag(cmd, &flags.keys)
	addAnchorFlag(cmd, &flags.anchors)
	addActorFlag(cmd, &flags.actor)
	for _, kind := range fileKinds() {
		files[kind.name] = cmd.Flags().StringArray(kind.name, nil, fmt.Sprintf("file of %s: .csv, .csv.gz, .jsonl or .jsonl.gz; may be repeated", kind.name))
	}
	cmd.Flags().StringVar(&mapFile, "map", "", "file that says what the columns are called (YAML)")
	cmd.Flags().BoolVar(&dropUnknown, "drop-unknown-pointers", false, "import rows that point at records that are not in the database, without the pointer")
	cmd.Flags().StringVar(&zoneName, "zone", "UTC", "time zone of times that name none")
	cmd.Flags().StringVar(&region, "phone-region", "", "country of phone numbers that begin with no +, as two letters (SE, US); without it they are kept as they are written")
	cmd.Flags().BoolVar(&flags.returning, "returning", false, "take in also patrons who are not there and were erased before (carrel rights erase): they have come back; without it they are counted and left out")
	cmd.Flags().BoolVar(&flags.asJSON, "json", false, "print JSON")
	return cmd
}

func parseZone(name string) (*time.Location, error) {
	loc, err := time.LoadLocation(name)
	if err != nil || name == "Local" || name == "" {
		return nil, errors.New("--zone: unknown time zone; want a name like Europe/Stockholm or UTC")
	}
	return loc, nil
}

func readMapping(cmd *cobra.Command, file string) (mapping, error) {
	data, err := readFile(cmd, file, maxPolicy)
	if err != nil {
		return nil, err
	}
	m, err := parseMapping(data)
	var bad *mapError
	if errors.As(err, &bad) && bad.line > 0 {
		return nil, fmt.Errorf("%s:%d: %w", file, bad.line, err)
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return m, nil
}

// An importFile is one export on its way into the store.
type importFile struct {
	kind    fileKind
	rows    *rowReader
	sources map[string]source // by our column; the ones that the file has
	times   func(string) (time.Time, error)
	ignored map[string]bool
	mapped  bool // by a map file

	points      map[string]circulation.Kind // columns that name another record
	exists      func(circulation.Kind, string) (bool, error)
	dropUnknown bool
	seal        *sealer
	actor       string // for the audit trail
	returning   bool   // take in who was erased before
	left, gone  int    // patrons who stay as they are, and who were left out because they were erased before
	region      string // of phone numbers without a country code

	count   int // rows read
	line    int // of the row read last
	cleared int
	dropped int        // pointers at what is not in the database
	unknown int        // the same, when that is an error
	bad     int        // rows that are wrong
	listed  []rowError // the first of them
	broken  error      // the file itself could not be read to its end
}

// openImport opens a file and sees to it that the columns are there, before anything is written.
func openImport(ctx context.Context, kind fileKind, name, mapFile string, renamed map[string]source, times func(string) (time.Time, error)) (*importFile, error) {
	rows, err := openRows(ctx, name)
	if err != nil {
		return nil, err
	}
	f := &importFile{kind: kind, rows: rows, times: times, points: kind.points(), sources: map[string]source{}, ignored: map[string]bool{}, mapped: renamed != nil}
	for _, column := range kind.columns {
		if s, ok := renamed[column]; ok {
			f.sources[column] = s
		} else {
			f.sources[column] = source{column: column}
		}
	}
	rows.known = f.reads
	if err := f.checkHeader(mapFile, renamed); err != nil {
		rows.close()
		return nil, err
	}
	return f, nil
}

// reads reports whether a column of the file is one that its kind has, or that the map file names.
func (f *importFile) reads(column string) bool {
	if slices.Contains(f.kind.columns, column) {
		return true
	}
	for _, s := range f.sources {
		if s.column == column {
			return true
		}
	}
	return false
}

// names returns what the columns may be called in a message: nothing, when no column is one that we know. Then
// what stands there may be no header at all but somebody's loan.
func (f *importFile) names() (names []string) {
	if !slices.ContainsFunc(f.rows.header, f.reads) {
		return nil
	}
	for _, name := range f.rows.header {
		if isColumnName(name) {
			names = append(names, name)
		}
	}
	return names
}

func isColumnName(s string) bool {
	return s != "" && len(s) <= 40 && !strings.ContainsFunc(s, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("_-. ", r)
	})
}

func (f *importFile) checkHeader(mapFile string, renamed map[string]source) error {
	if f.rows.header == nil {
		return nil // JSON Lines: each row has its own keys
	}
	for _, column := range f.kind.columns {
		if s, ok := renamed[column]; ok && s.column != "" && !slices.Contains(f.rows.header, s.column) {
			return fmt.Errorf("%s: has no column %q, which %s:%d wants for %s%s", f.rows.name, s.column, mapFile, s.line, column, nearest.Hint(s.column, f.names()))
		}
	}
	var missing []string
	hint := ""
	for _, column := range f.kind.required {
		if s := f.sources[column]; s.column != "" && !slices.Contains(f.rows.header, s.column) {
			missing = append(missing, column)
			if w := nearest.Word(column, f.names()); w != "" {
				hint += fmt.Sprintf("; did you mean its column %q to be %s?", w, column)
			}
		}
	}
	if len(missing) > 0 {
		rename, none := "; rename it there or with --map", ""
		if hint != "" {
			rename = " Rename it there or with --map"
		}
		if last := missing[len(missing)-1]; last != f.kind.columns[0] {
			none = fmt.Sprintf("; if there is none on purpose, the map says %s: ~, and records that are in the database lose theirs", last)
		}
		return fmt.Errorf("%s: has no column %s%s%s%s", f.rows.name, strings.Join(missing, " and no column "), hint, rename, none)
	}
	return nil
}

// next reads one row under our column names. The error is a *rowError when only this row is wrong.
func (f *importFile) next() (*row, error) {
	raw, err := f.rows.next()
	if err != nil {
		var bad *rowError
		if errors.As(err, &bad) {
			f.count++
		}
		return nil, err
	}
	f.count++
	f.line = raw.line
	f.noteIgnored(raw.keys())
	for _, column := range f.kind.required {
		if s := f.sources[column]; s.column != "" {
			if _, ok := raw.value(s.column); !ok {
				return nil, &rowError{raw.line, fmt.Sprintf("key %s is missing", s.column)}
			}
		}
	}
	theirs := func(column string) string { v, _ := raw.value(column); return v }
	r := &row{times: f.times, seal: f.seal, value: func(column string) string { s := f.sources[column]; return s.read(theirs) }}
	if id := f.kind.columns[0]; r.text(id) == "" {
		r.fail(id, "is empty")
	}
	return r, nil
}

func (f *importFile) noteIgnored(keys []string) {
	if f.rows.header != nil && f.count > 1 {
		return // a CSV file has the same columns in every row
	}
	for _, key := range keys {
		used := false
		for _, s := range f.sources {
			used = used || s.column == key
		}
		if !used && key != "" && !isColumnName(key) {
			key = "(a name that no column would have)"
		}
		if !used && key != "" && len(f.ignored) < 1000 {
			f.ignored[key] = true
		}
	}
}

// errBadRows makes the store take back the rows of a file that has bad ones.
var errBadRows = errors.New("bad rows")

// read goes through the whole file and hands on what is good, until something is bad: from there on it
// only looks for what else is, so that somebody can repair all of it in one go.
func (f *importFile) read(p *progress, hand func(*row) (good bool)) error {
	for {
		r, err := f.next()
		if f.count%1000 == 0 {
			p.set(f.rows.read(), thousands(f.count)+" rows")
		}
		var bad *rowError
		switch {
		case err == io.EOF && f.bad > 0:
			return errBadRows
		case err == io.EOF:
			return nil
		case errors.As(err, &bad):
			f.note(*bad)
			continue
		case err != nil:
			f.broken = fmt.Errorf("%s: %w", f.rows.name, err)
			return f.broken
		}
		if !hand(r) {
			return f.broken
		}
	}
}

// unfit says what makes an entry unfit to be stored, in words of our own: the package's name the record, whose ID
// is a borrower where the columns are mixed up.
func unfit(e circulation.Entry) error {
	parts, err := e.Parts()
	switch {
	case err == nil:
		return nil
	case len(parts.Links) > 0 && parts.Links[0].Role != circulation.RoleBorrower:
		return fmt.Errorf("the %s names a %s but no borrower", parts.Facts.Kind, parts.Links[0].Role)
	}
	return fmt.Errorf("the %s contradicts itself", parts.Facts.Kind)
}

// checkPointers looks for the records that a row points at. One that is not there makes the row a bad one, or is
// dropped if that was asked for.
func (f *importFile) checkPointers(r *row) error {
	for _, column := range f.kind.columns[1:] {
		kind, ok := f.points[column]
		if !ok {
			continue
		}
		id := r.text(column)
		if id == "" || r.err != nil {
			continue
		}
		there, err := f.exists(kind, id)
		switch {
		case err != nil:
			return err
		case there:
		case f.dropUnknown:
			if r.dropped == nil {
				r.dropped = map[string]bool{}
			}
			r.dropped[column] = true
			f.dropped++
		default:
			f.unknown++
			r.fail(column, "names a %s that is not in the database", kind)
		}
	}
	return nil
}

func (f *importFile) note(e rowError) {
	if f.bad++; f.bad <= maxListed {
		f.listed = append(f.listed, e)
	}
}

// entries yields the file's records for the store.
func (f *importFile) entries(p *progress) iter.Seq2[circulation.Entry, error] {
	return func(yield func(circulation.Entry, error) bool) {
		err := f.read(p, func(r *row) bool {
			if err := f.checkPointers(r); err != nil {
				f.broken = err
				return false
			}
			e := f.kind.entry(r)
			if r.err == nil {
				r.err = unfit(e)
			}
			if r.err != nil {
				f.note(rowError{f.line, r.err.Error()})
			}
			if r.cleared {
				f.cleared++
			}
			return f.bad > 0 || yield(e, nil)
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

// An importReport is what `import --json` says.
type importReport struct {
	Files   []fileReport `json:"files"`
	Seconds float64      `json:"seconds"`
}

type fileReport struct {
	Kind            string   `json:"kind"`
	File            string   `json:"file"`
	Rows            int      `json:"rows"`
	Added           int      `json:"added"`
	Updated         int      `json:"updated"`
	Same            int      `json:"same"`
	AlreadyUnlinked int      `json:"already_unlinked"`
	KeptLinked      int      `json:"kept_linked"`
	PointersDropped int      `json:"pointers_dropped"`
	MarksCleared    int      `json:"marks_cleared"`
	Left            int      `json:"left"`      // patrons who are restricted or wait to be erased: they stay as they are
	Returning       int      `json:"returning"` // patrons who are not there, and were erased before: they were left out
	IgnoredColumns  []string `json:"ignored_columns"`
}

// importFlags are those of import that concern all files.
type importFlags struct {
	dsn, keys, actor string
	anchors          []string
	returning        bool
	asJSON           bool
}

func importAll(cmd *cobra.Command, flags importFlags, imports []*importFile) error {
	start := time.Now()
	d, err := openDatabase(cmd.Context(), flags.dsn, createIt)
	if err != nil {
		return err
	}
	keys, err := openKeysFor(cmd.Context(), d, flags.keys, cmd.ErrOrStderr())
	if err != nil {
		d.abandon()
		return err
	}
	seal, err := newSealer(cmd.Context(), keys, d)
	if err != nil {
		d.abandon()
		return err
	}
	if err := d.anchored(cmd.Context(), flags.anchors); err != nil {
		d.abandon()
		return err
	}
	report := importReport{Files: []fileReport{}}
	for _, f := range imports {
		f.seal, f.actor, f.returning = seal, flags.actor, flags.returning
		saved, err := f.save(cmd.Context(), d, flags, cmd.ErrOrStderr())
		if err != nil {
			if len(report.Files) == 0 {
				d.abandon()
				return err
			}
			d.close()
			var done []string
			for _, r := range report.Files {
				done = append(done, r.Kind)
			}
			return fmt.Errorf("%w (%s before it are in; importing them again does no harm)", err, strings.Join(done, ", "))
		}
		report.Files = append(report.Files, f.report(saved))
		if err := f.recordRecords(cmd.Context(), d, keys, flags, saved); err != nil {
			d.close()
			return fmt.Errorf("%s: was imported, but not all of that is in the audit trail: %w", f.rows.name, err)
		}
	}
	if err := keys.CreateKeys(cmd.Context()); err != nil { // for nobody: the database now is this keyring's
		d.close()
		return keyProblem(err)
	}
	if err := d.close(); err != nil {
		return err
	}
	if err := d.isThere(); err != nil {
		return err
	}
	report.Seconds = time.Since(start).Seconds()
	if flags.asJSON {
		return printJSON(cmd, report)
	}
	return report.print(cmd.OutOrStdout(), imports)
}

// save hands the file to the store and explains what went wrong.
func (f *importFile) save(ctx context.Context, d *database, flags importFlags, stderr io.Writer) (circulation.Saved, error) {
	if len(f.points) > 0 {
		exists, done, err := d.lookUp(ctx)
		if err != nil {
			return circulation.Saved{}, err
		}
		defer done()
		f.exists = exists
	}
	p := newProgress(stderr, f.rows.name, f.rows.size)
	var saved circulation.Saved
	var err error
	if f.kind.entry == nil {
		saved, err = f.savePatrons(ctx, d, flags, p)
	} else {
		saved, err = d.Save(ctx, f.entries(p))
	}
	p.end()
	from, to, pointer := d.points(err)
	switch {
	case errors.Is(err, context.Canceled):
		return saved, interruption(fmt.Sprintf("import: interrupted; nothing of %s was imported, simply run it again", f.rows.name))
	case f.broken != nil:
		return saved, fmt.Errorf("%w; nothing of the file was imported", f.broken)
	case f.bad > 0:
		for _, e := range f.listed {
			fmt.Fprintf(stderr, "%s:%d: %s\n", f.rows.name, e.line, oneLine(e.message))
		}
		more := ""
		if f.bad > maxListed {
			more = fmt.Sprintf(", of which the first %d are listed", maxListed)
		}
		hint := ""
		if f.unknown > 0 {
			hint = "; import what they point at first, or say --drop-unknown-pointers if it is gone for good"
		}
		return saved, fmt.Errorf("%s: %s%s; nothing of the file was imported%s", f.rows.name, plural(f.bad, "bad row"), more, hint)
	case pointer:
		// Without the ID: where the columns are mixed up, it is a borrower.
		return saved, fmt.Errorf("%s:%d: the %s points at a %s that is not in the database; import that first (nothing of the file was imported)",
			f.rows.name, f.line, from, to)
	case err != nil:
		return saved, fmt.Errorf("%s: %w; nothing of %s was imported", d.path, rotatedMeanwhile(err), f.rows.name)
	}
	return saved, nil
}

// recordRecords says in the trail that a file of records was taken over. Of patrons the directory says more.
func (f *importFile) recordRecords(ctx context.Context, d *database, keys *crypto.Keyring, flags importFlags, s circulation.Saved) error {
	if f.kind.entry == nil {
		return nil
	}
	e := byCommand(flags.actor, "integration")
	e.Action, e.Outcome, e.Purpose, e.Count, e.Kind = audit.Import, audit.Done, "sync", s.Added+s.Updated, f.kind.columns[0]
	ctx = context.WithoutCancel(ctx) // it is in
	return d.withTrail(ctx, keys, flags.anchors, func(t *audit.Trail) error { return trailProblem(t.Record(ctx, e)) })
}

func (f *importFile) report(s circulation.Saved) fileReport {
	return fileReport{Kind: f.kind.name, File: f.rows.name, Rows: f.count,
		Added: s.Added, Updated: s.Updated, Same: s.Same, AlreadyUnlinked: s.AlreadyUnlinked, KeptLinked: s.KeptLinked,
		PointersDropped: s.PointersDropped + f.dropped, MarksCleared: f.cleared, Left: f.left, Returning: f.gone,
		IgnoredColumns: slices.AppendSeq([]string{}, slices.Values(slices.Sorted(maps.Keys(f.ignored))))}
}

func (r importReport) print(out io.Writer, imports []*importFile) error {
	t := table{columns: words("FILE ROWS ADDED UPDATED SAME ALREADY-UNLINKED POINTERS-DROPPED MARKS-CLEARED")}
	for _, f := range r.Files {
		t.add(f.File, thousands(f.Rows), thousands(f.Added), thousands(f.Updated), thousands(f.Same),
			thousands(f.AlreadyUnlinked), thousands(f.PointersDropped), thousands(f.MarksCleared))
	}
	if err := t.print(out); err != nil {
		return err
	}
	for i, f := range r.Files {
		if f.Left > 0 {
			if _, err := fmt.Fprintf(out, "%s: %s restricted or about to be erased, and left as they are\n", f.File, plural(f.Left, "patron")); err != nil {
				return err
			}
		}
		if f.Returning > 0 {
			if _, err := fmt.Fprintf(out, "%s: %s erased before, and left out; with --returning they are taken in\n", f.File, plural(f.Returning, "patron")); err != nil {
				return err
			}
		}
		if f.KeptLinked > 0 {
			_, err := fmt.Fprintf(out, "%s: %s without borrower keep the one they had: unfinished, owed for or under a legal hold\n", f.File, plural(f.KeptLinked, "record"))
			if err != nil {
				return err
			}
		}
		if len(f.IgnoredColumns) == 0 {
			continue
		}
		var unused []string // columns that we know and the file lacks: an ignored one may be one of them misspelt
		for column, s := range imports[i].sources {
			if s.column == column && !slices.Contains(imports[i].rows.header, column) {
				unused = append(unused, column)
			}
		}
		slices.Sort(unused)
		notes := make([]string, len(f.IgnoredColumns))
		for j, column := range f.IgnoredColumns {
			notes[j] = column
			// Who wrote a map has thought about the columns; and a far guess is worse than none.
			if w := nearest.Word(column, unused); w != "" && w[0] == column[0] && !imports[i].mapped {
				notes[j] += " (or is it " + w + "?)"
			}
		}
		if _, err := fmt.Fprintf(out, "%s: columns that carrel does not read: %s\n", oneLine(f.File), oneLine(strings.Join(notes, ", "))); err != nil {
			return err
		}
	}
	return nil
}

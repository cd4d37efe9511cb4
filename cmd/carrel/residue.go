package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/research/residue"
)

func newResidue() *cobra.Command {
	var dsn, keys string
	var in residueSample
	var cfg residue.Config
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "residue --db DSN (--sample FILE | --person ID --item ID)",
		Short: "Look in any library system's database for what still joins people to what they borrowed",
		Long: `Looks in a database, carrel's own or any other, for places where people can still be joined to what they borrowed: columns beside
each other, texts, JSON, rows that point at rows, and in a SQLite file also free pages, the write-ahead log and the journal.

--sample names loans that were unlinked, as they were before: a CSV or JSON Lines file, gzipped or not, with the columns borrower and
item, loan or title; other columns are named and ignored. Several identifiers of one go into borrower2, item2 and so on: give
all that the system has, numbers and bar codes. Leave out what may still be linked. docs/residue.md says how to take a sample.

Nothing is written, and nobody is locked out. Neither people nor what they borrowed are printed: only where, and how many.

Exit status 0: nothing was found. 1: something was. 2: the search could not be made.`,
		Example: `  carrel residue --db koha.db --sample unlinked.csv.gz
  carrel residue --db "postgres://evergreen@db.example.org/evergreen" --sample unlinked.csv --json
  carrel residue --db library.db --sample unlinked.jsonl --keys library.db.keys
  carrel residue --db library.db --person 29000000000077 --item 39000000012345 --loan 170`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db"); err != nil {
				return err
			}
			sample, err := in.read(cmd)
			if err != nil {
				return err
			}
			report, name, err := searchResidue(cmd, dsn, keys, sample, cfg)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd, report)
			} else {
				err = printResidue(cmd.OutOrStdout(), name, report)
			}
			if err == nil && len(report.Findings) > 0 {
				return errFound
			}
			return err
		},
	}
	addDBFlag(cmd, &dsn)
	in.register(cmd)
	addKeysFlag(cmd, &keys)
	cmd.Flags().StringSliceVar(&cfg.Schemas, "schema", nil, "PostgreSQL: only this schema; may be repeated (default all but the server's own)")
	cmd.Flags().IntVar(&cfg.Near, "near", 512, "how many bytes may lie between a person and a thing in free pages and logs")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// searchResidue searches what a DSN names, and returns also what messages call it.
func searchResidue(cmd *cobra.Command, dsn, keys string, sample *residue.Sample, cfg residue.Config) (r *residue.Report, name string, err error) {
	ctx := cmd.Context()
	if cfg.Near < 1 || cfg.Near > 1<<16 {
		return nil, "", fmt.Errorf("%s--near must be 1 to 65536", place(cmd))
	}
	p := newProgress(cmd.ErrOrStderr(), "residue", 0)
	cfg.Progress = func(now residue.Progress) {
		p.set(now.Bytes, fmt.Sprintf("round %d: %s read, %s", now.Round, megabytes(now.Bytes), oneLine(now.Table)))
	}
	defer p.end()
	if onServer(dsn) {
		d, err := connect(ctx, dsn, readOnly)
		if err != nil {
			return nil, "", err
		}
		defer d.close()
		version, err := d.version(ctx)
		if err != nil {
			version = 0 // another schema than the first has carrel's tables; it is searched as any is
		}
		if err := addTokens(cmd, d, version > 0, keys, sample); err != nil {
			return nil, "", err
		}
		r, err = residue.New(sample, cfg).Postgres(ctx, d.db)
		if err != nil {
			return nil, "", residueProblem(ctx, d.path, d, err)
		}
		return r, d.path, nil
	}
	if len(cfg.Schemas) > 0 {
		return nil, "", fmt.Errorf("%s--schema is for PostgreSQL; a SQLite file is searched whole", place(cmd))
	}
	path, err := databasePath(dsn)
	if err != nil {
		return nil, "", err
	}
	// No connection is opened to look: SQLite makes files beside a database that has a log.
	if err := (&sqliteFile{path: path}).prepare(readOnly); err != nil {
		return nil, "", errors.New(strings.Replace(err.Error(), "; carrel import makes one", "", 1))
	}
	tables, err := residue.SQLiteTables(path)
	if err != nil {
		return nil, "", residueProblem(ctx, path, nil, err)
	}
	ours := slices.Contains(tables, "records") && slices.Contains(tables, "links") && slices.Contains(tables, "persons")
	if ours || keys != "" {
		d, err := connectSQLite(path, readOnly)
		if err != nil {
			return nil, "", err
		}
		err = addTokens(cmd, d, ours, keys, sample)
		if cerr := d.close(); err == nil {
			err = cerr
		}
		if err != nil {
			return nil, "", err
		}
	}
	if r, err = residue.New(sample, cfg).SQLite(ctx, path); err != nil {
		return nil, "", residueProblem(ctx, path, nil, err)
	}
	return r, path, nil
}

// addTokens adds the pseudonyms under which carrel's own database has the people of the sample.
func addTokens(cmd *cobra.Command, d *database, ours bool, keys string, sample *residue.Sample) error {
	if !ours {
		if keys != "" {
			return fmt.Errorf("%s--keys is for a database of carrel's, and %s has no tables of carrel's", place(cmd), d.path)
		}
		return nil
	}
	files, err := d.findKeys(keys)
	if errors.Is(err, errNoKeys) || err == nil && files.beside && !files.exists() {
		fmt.Fprintf(cmd.ErrOrStderr(), "carrel: %s%s is carrel's own and names people by pseudonyms; without its keyring (--keys) these are not looked for, only people in plain\n", place(cmd), d.path)
		return nil
	}
	if err != nil {
		return err
	}
	k, err := d.open(cmd.Context(), files)
	if err != nil {
		return err
	}
	borrowers, err := k.Pseudonyms(patron.Borrowers)
	if err != nil {
		return keyProblem(err)
	}
	return sample.Extend(func(person string) ([]string, error) {
		tokens, err := borrowers.Tokens(patron.Reference("patron", person))
		return tokens, keyProblem(err)
	})
}

// residueProblem says what went wrong, without what the database was about to say.
func residueProblem(ctx context.Context, name string, d *database, err error) error {
	var refused *residue.RefusedError
	switch {
	case ctx.Err() != nil:
		return interruption("residue: interrupted; nothing was written")
	case errors.Is(err, residue.ErrNotSQLite):
		return fmt.Errorf("%s: is not a SQLite file, or only the beginning of one", name)
	case errors.As(err, &refused) && d != nil:
		return d.refused(ctx, err)
	}
	return fmt.Errorf("%s: %w", name, reason(err))
}

func megabytes(n int64) string {
	if n < 10e6 {
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return thousands(int(n/1e6)) + " MB"
}

// fewLoans is from how many on a sample tells also what is joined by numbers.
const fewLoans = 10

// printResidue writes the report for people: what was found, what was looked at, and what not.
func printResidue(out io.Writer, name string, r *residue.Report) error {
	w := &errWriter{out: out}
	if len(r.Findings) == 0 {
		w.printf("Nothing found: no place in %s joins anybody of the sample to what they borrowed.\n", oneLine(name))
		if r.Pairs < fewLoans {
			w.printf("The sample is small: where numbers join the tables, or the tables are small, so few loans are not told from chance. Name more.\n")
		}
	} else {
		w.printf("Found in %s\n", oneLine(name))
		t := table{columns: words("TABLE COLUMN PAIRS IN WRITTEN JOIN")}
		expected, weak := false, false
		for i := range r.Findings {
			f := &r.Findings[i]
			pairs, in := thousands(f.Pairs), plural(int(f.Rows), "row")
			if f.Kind == residue.Bytes {
				in = plural(f.Pages, "page")
			}
			if f.Weak {
				pairs, weak = pairs+" (weak)", true
			} else if f.Expected > 0 {
				pairs, expected = fmt.Sprintf("%s (%.2g by chance)", pairs, f.Expected), true
			}
			t.add(f.Table, f.Column, pairs, in, strings.Join(f.Forms, ", "), f.Where())
		}
		w.table(t)
		if expected {
			w.printf("By chance: so many pairs numbers alone would have joined there.\n")
		}
		if weak {
			w.printf("Weak: the sample is too small to tell it from chance; name more loans.\n")
		}
	}
	rows := int64(0)
	for _, t := range r.Tables {
		rows += t.Rows
	}
	w.printf("\nLooked for %s of %s and %s, in %s, %s", plural(r.Pairs, "loan"), plural(r.Persons, "person"), plural(r.Things, "identifier"), plural(len(r.Tables), "table"), plural(int(rows), "row"))
	for _, p := range r.Pages {
		if p.Pages > 0 {
			w.printf(", %s of %s", plural(int(p.Pages), "page"), p.Name)
		}
	}
	w.printf("; %s read in %.1f s\n", megabytes(r.Bytes), r.Seconds)
	if r.Given > r.Pairs {
		w.printf("Of %s that were given, %s were drawn at random; --limit takes more.\n", plural(r.Given, "loan"), thousands(r.Pairs))
	}
	for _, g := range r.Gaps {
		warning := ""
		if g.Warning {
			warning = "WARNING: "
		}
		w.printf("%snot looked at: %s: %s\n", warning, oneLine(g.What), oneLine(g.Why))
	}
	return w.err
}

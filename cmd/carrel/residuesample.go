package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/research/residue"
)

// A residueSample is whom and what to look for, as the flags say it.
type residueSample struct {
	file, person, item, loan string
	limit                    int
}

func (s *residueSample) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.file, "sample", "", "loans that were unlinked, as they were before (.csv, .csv.gz, .jsonl or .jsonl.gz)")
	cmd.Flags().StringVar(&s.person, "person", "", "instead of a sample: one borrower's identifier, a made-up one best")
	cmd.Flags().StringVar(&s.item, "item", "", "what that person borrowed")
	cmd.Flags().StringVar(&s.loan, "loan", "", "the ID of that loan")
	cmd.Flags().IntVar(&s.limit, "limit", residue.DefaultLimit, "how many loans of the sample to look for; of more, some are drawn at random")
}

// The columns of a sample. Each may come several times, as in borrower2.
var (
	samplePerson = regexp.MustCompile(`^borrower[0-9]*$`)
	sampleThing  = regexp.MustCompile(`^(item|loan|record|title)[0-9]*$`)
)

func (s *residueSample) read(cmd *cobra.Command) (*residue.Sample, error) {
	if s.limit < 1 || s.limit > 50_000 {
		return nil, fmt.Errorf("%s--limit must be 1 to 50000", place(cmd))
	}
	sample := residue.NewSample(s.limit)
	one := s.person != "" || s.item != "" || s.loan != ""
	switch {
	case one && s.file != "":
		return nil, fmt.Errorf("%seither --sample, or --person with --item or --loan", place(cmd))
	case one:
		if !sample.Add(residue.Pair{Person: []string{s.person}, Thing: []string{s.item, s.loan}}) {
			return nil, fmt.Errorf("%s--person needs --item or --loan beside it, and they it", place(cmd))
		}
		return sample, nil
	case s.file == "":
		return nil, fmt.Errorf("%s--sample is missing: a file of loans that were unlinked, as they were before; or --person and --item for one", place(cmd))
	}
	rows, err := openRows(cmd.Context(), s.file)
	if err != nil {
		return nil, err
	}
	defer rows.close()
	rows.known = func(key string) bool { return samplePerson.MatchString(key) || sampleThing.MatchString(key) }
	if rows.header != nil && (!slices.ContainsFunc(rows.header, samplePerson.MatchString) || !slices.ContainsFunc(rows.header, sampleThing.MatchString)) {
		return nil, fmt.Errorf("%s: want a column borrower, and at least one of item, loan, record and title", s.file)
	}
	ignored, empty := map[string]bool{}, 0
	for {
		row, err := rows.next()
		var bad *rowError
		switch {
		case err == io.EOF:
			return sample, s.finish(cmd, sample, ignored, empty)
		case errors.As(err, &bad):
			return nil, fmt.Errorf("%s:%d: %s", s.file, bad.line, bad.message)
		case err != nil:
			return nil, fmt.Errorf("%s: %w", s.file, err)
		}
		var p residue.Pair
		for _, key := range row.keys() {
			value, _ := row.value(key)
			switch {
			case samplePerson.MatchString(key):
				p.Person = append(p.Person, value)
			case sampleThing.MatchString(key):
				p.Thing = append(p.Thing, value)
			case isColumnName(key) && len(ignored) < 100:
				ignored[key] = true
			}
		}
		if !sample.Add(p) {
			empty++
		}
	}
}

// finish says what of the file was of no use.
func (s *residueSample) finish(cmd *cobra.Command, sample *residue.Sample, ignored map[string]bool, empty int) error {
	if sample.Len() == 0 {
		return fmt.Errorf("%s: no row names both a borrower and an item, loan, record or title", s.file)
	}
	if len(ignored) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "carrel: %s: columns that are not looked for: %s\n", oneLine(s.file), oneLine(strings.Join(slices.Sorted(maps.Keys(ignored)), ", ")))
	}
	if empty > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "carrel: %s: %s without a borrower or without a thing are left out\n", oneLine(s.file), plural(empty, "row"))
	}
	return nil
}

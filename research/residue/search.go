package residue

import (
	"context"
	"errors"
	"time"
)

// Config says how to search. The zero value searches everything.
type Config struct {
	// Progress, if set, is told from time to time how far the search is.
	Progress func(Progress)
	// Schemas restricts a search of PostgreSQL to these. What is left out is reported as not looked at.
	Schemas []string
	// Near is how many bytes may lie between a person and a thing in bytes that belong to no row; 0 means 512.
	Near int
}

// A Progress says how far a search is.
type Progress struct {
	Round int    // 1: the sample itself; 2: what joins lead to
	Table string // that is read
	Bytes int64  // read so far, of both rounds
	Total int64  // of both rounds, as far as it is known
}

// A Search looks for a sample in databases.
type Search struct {
	sample *Sample
	cfg    Config
}

// New returns a search for a sample.
func New(s *Sample, cfg Config) *Search {
	if cfg.Near <= 0 {
		cfg.Near = 512
	}
	return &Search{s, cfg}
}

// ErrNoSample means that there is nobody to look for.
var ErrNoSample = errors.New("residue: the sample is empty")

// A scan is one run of a search.
type scan struct {
	cfg      Config
	sample   *Sample
	people   *people
	index    *index
	origins  []origin
	stride   uint64 // how many slots a column has: one for itself, and one for each origin
	joins    *joins
	findings []Finding
	report   *Report

	collecting bool // the first round
	cut        bool // there were more keys than are followed
	round      int
	total      int64
	told       int64
	found      []occurrence
}

// A source is a database, as rows and bytes.
type source interface {
	// each reads all of it once: rows into tallies, bytes that are of no row into raw ones.
	each(ctx context.Context, s *scan) error
}

func (se *Search) run(ctx context.Context, database string, src source) (*Report, error) {
	if se.sample.Len() == 0 {
		return nil, ErrNoSample
	}
	began := time.Now()
	s := &scan{cfg: se.cfg, sample: se.sample, people: newPeople(se.sample), collecting: true, round: 1, stride: 1, joins: &joins{}}
	s.report = &Report{Database: database, Pairs: se.sample.Len(), Given: se.sample.Given(), Persons: int(s.people.persons), Things: int(s.people.nodes - s.people.persons)}
	s.index = newIndex(s.people)
	s.index.build()
	if err := src.each(ctx, s); err != nil {
		return nil, err
	}
	if s.follow() {
		s.collecting, s.round, s.stride = false, 2, uint64(len(s.origins)+1)
		if err := src.each(ctx, s); err != nil {
			return nil, err
		}
	}
	if s.cut {
		s.gap("some joins", "more rows hold somebody or something of the sample than keys are kept of; search again with a smaller sample", true)
	}
	s.report.Findings = s.settled()
	s.report.tidy()
	s.report.Seconds = time.Since(began).Seconds()
	return s.report, nil
}

// settled leaves out joins over a column that turned out not to tell rows apart when its own table was read, which may have been after.
func (s *scan) settled() (all []Finding) {
	for _, f := range s.findings {
		if (f.by[0] == nil || selective(f.by[0])) && (f.by[1] == nil || selective(f.by[1])) {
			all = append(all, f)
		}
	}
	return all
}

func (s *scan) gap(what, why string, warning bool) {
	for _, g := range s.report.Gaps {
		if g.What == what && g.Why == why {
			return
		}
	}
	s.report.Gaps = append(s.report.Gaps, Gap{what, why, warning})
}

// read counts bytes.
func (s *scan) read(table string, n int) {
	s.report.Bytes += int64(n)
	if s.cfg.Progress != nil && s.report.Bytes-s.told > 4<<20 {
		s.told = s.report.Bytes
		s.cfg.Progress(Progress{s.round, table, s.report.Bytes, 2 * s.total})
	}
}

// looked counts a table, once.
func (s *scan) looked(t *tally, bytes int64) {
	if s.collecting {
		s.report.Tables = append(s.report.Tables, Looked{Name: t.t.name, Rows: t.rows, Bytes: bytes})
	}
}

package synth

import (
	"fmt"
	"iter"
	"slices"

	"github.com/carrel-project/carrel/circulation"
)

// A Library is a library that never was. It is immutable and safe for concurrent use.
type Library struct {
	seed        uint64
	from, until int64 // seconds since 1970
	popularity  popularity
	patrons     []patron
	keys        []key    // one a loan, in time order
	copies      []uint32 // which copy of its title each loan is of
	has         []has    // which further records each loan gives rise to
}

// A key is a loan in eight bytes: seconds since the first day (30 bits), patron (22), the how-manieth of
// the patron it was drawn (12). Everything else about it follows.
type key uint64

func (k key) patron() uint64  { return uint64(k) >> 12 & (maxPatrons - 1) }
func (k key) ordinal() uint64 { return uint64(k) & (1<<12 - 1) }
func (k key) seconds() int64  { return int64(k >> 34) }

type has uint8

const (
	hasRequest has = 1 << iota // that the loan filled
	hasUnfilled
	hasBorrowed
	hasLent
	hasFee
	hasOverdue
)

// Generate makes up a library.
func Generate(p Params) (*Library, error) {
	p, err := p.withDefaults()
	if err != nil {
		return nil, err
	}
	from, until := p.Until.AddDate(-p.Years, 0, 0).Unix(), p.Until.Unix()
	l := &Library{seed: p.Seed, from: from, until: until, popularity: newPopularity()}
	days := newCalendar(int32(from/day), int32(until/day))
	for total := 0; len(l.patrons) < p.Patrons || total < p.Loans; {
		if len(l.patrons) == maxPatrons {
			return nil, fmt.Errorf("synth: Loans is %d, which takes more than %d patrons", p.Loans, maxPatrons)
		}
		n := newPatron(p.Seed, len(l.patrons), days.first, int32(until/day))
		if p.Loans > 0 {
			n.loans = min(n.loans, p.Loans-total)
		}
		total += n.loans
		l.patrons = append(l.patrons, n)
	}
	l.lend(&days)
	slices.Sort(l.keys)
	l.buy()
	return l, nil
}

// lend draws when everybody borrows.
func (l *Library) lend(days *calendar) {
	total := 0
	for i := range l.patrons {
		total += l.patrons[i].loans
	}
	l.keys = make([]key, 0, total)
	hours := hourShares()
	var s stream
	for i := range l.patrons {
		p := &l.patrons[i]
		s.reset(l.seed, forTimes, uint64(i), 0)
		at := int64(0)
		for n := range p.loans {
			if next := at + 20 + int64(s.below(71)); n > 0 && s.chance(sameVisit) && next < l.until {
				at = next
			} else {
				at = int64(days.day(&s, p.first, p.end))*day + int64(8+s.pick(hours))*3600 + int64(s.below(3600))
			}
			l.keys = append(l.keys, key(uint64(at-l.from)<<34|uint64(i)<<12|uint64(n)))
		}
	}
}

// buy finds a copy for every loan, in time order: the one that has been back longest or, when all are out, a
// new one. And it notes which loans give rise to further records, so that these are found quickly.
func (l *Library) buy() {
	l.copies, l.has = make([]uint32, len(l.keys)), make([]has, len(l.keys))
	shelves := make([]shelf, titles)
	for i := range l.keys {
		f := l.facts(i)
		l.copies[i] = shelves[f.title].take(f.start, f.back())
		l.has[i] = f.gives(l.seed, l.until)
	}
}

// Accounts returns what rules may know of the patrons.
func (l *Library) Accounts() iter.Seq[circulation.Account] {
	return func(yield func(circulation.Account) bool) {
		for i := range l.patrons {
			if !yield(l.patrons[i].account()) {
				return
			}
		}
	}
}

// Entries returns the records: loans in the order of their time, then requests, resource sharing, fees and
// notices, these in the order of the loans they have to do with. What a record points at came before it.
// Entries are the values of the circulation types, not pointers, and share nothing that can be written to.
func (l *Library) Entries() iter.Seq[circulation.Entry] {
	return func(yield func(circulation.Entry) bool) {
		_ = l.loans(yield) && l.requests(yield) && l.sharing(yield) && l.fees(yield) && l.notices(yield)
	}
}

// Loans returns the number of loans.
func (l *Library) Loans() int { return len(l.keys) }

// Patrons returns the number of patrons.
func (l *Library) Patrons() int { return len(l.patrons) }

// A shelf holds the copies of a title that were lent, as a heap: the one back first on top.
type shelf []struct {
	back int64
	copy uint32
}

func (h *shelf) take(start, back int64) uint32 {
	s := *h
	if len(s) == 0 || s[0].back >= start {
		n := uint32(len(s))
		s = append(s, struct {
			back int64
			copy uint32
		}{back, n})
		for i := len(s) - 1; i > 0 && s[i].back < s[(i-1)/2].back; i = (i - 1) / 2 {
			s[i], s[(i-1)/2] = s[(i-1)/2], s[i]
		}
		*h = s
		return n
	}
	n := s[0].copy
	s[0].back = back
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(s); c++ {
			if s[c].back < s[least].back {
				least = c
			}
		}
		if least == i {
			return n
		}
		s[i], s[least] = s[least], s[i]
		i = least
	}
}

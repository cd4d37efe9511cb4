package synth

// facts is the life of a loan in numbers: times are seconds since 1970, never = not by the end of the records.
type facts struct {
	patron, ordinal uint64
	who             *patron
	title           uint64
	start, due      int64
	returned        int64
	renewals        int
	lost, claimed   bool // still marked so
	withdrawn       bool
	fee             fee
}

// fee is what the loan cost; amount 0: nothing.
type fee struct {
	amount  int64 // hundredths
	lost    bool  // a lost fee, else an overdue fine
	charged int64
	closed  int64
	waived  bool // because the lost item came back
}

// back is when the copy may be lent again.
func (f *facts) back() int64 {
	if f.withdrawn {
		return never
	}
	return f.returned
}

// facts works out the life of loan i. It is a pure function of the key, so nothing needs to be kept.
func (l *Library) facts(i int) facts {
	k := l.keys[i]
	f := facts{patron: k.patron(), ordinal: k.ordinal(), start: l.from + k.seconds(), returned: never}
	f.who = &l.patrons[f.patron]
	t := f.who.group.traits()
	var s stream
	s.reset(l.seed, forLoan, f.patron, f.ordinal)
	f.title = l.popularity.title(s.float())
	hold := int64((exp(s.normal(t.holdMu, t.holdSD)) - 1) * float64(day))
	hold = min(max(hold, 600), longestHold)
	for s.chance(renewalsPerLoan / (1 + renewalsPerLoan)) { // geometric
		f.renewals++
	}
	period := t.period * day
	f.due = endOfDay(f.start + int64(f.renewals+1)*period)
	// What is lost or claimed returned is overdue as well: the group's share holds for all three together.
	switch u := s.float(); {
	case u < shareLost:
		l.lose(&f, &s)
	case u < shareLost+shareClaimed:
		l.claim(&f, &s)
	case u < t.overdue:
		f.returned = f.start + hold
		late := min(int64(s.exponential(lateMeanDays)*float64(day))+1, hold/2)
		f.due = f.returned - late
		if evening := endOfDay(f.due - day); evening > f.start {
			f.due = evening
		}
		days := (f.returned - f.due + day - 1) / day
		rate := fineLeast + int64(s.below(fineMost-fineLeast+1))
		f.fee = fee{amount: min(days*rate, fineCap), charged: f.returned}
		f.fee.closed = payment(&s, f.returned)
	default:
		f.returned = f.start + hold
		if periods := (hold + period - 1) / period; periods > int64(f.renewals+1) {
			f.due = endOfDay(f.start + periods*period)
		}
	}
	return f.asOf(l.until)
}

// lose is the life of a loan that is declared lost.
func (l *Library) lose(f *facts, s *stream) {
	declared := f.due + declaredLost
	if declared >= l.until {
		return
	}
	f.lost = true
	f.fee = fee{amount: lostFeeLeast + int64(s.below(lostFeeMost-lostFeeLeast+1)), lost: true, charged: declared}
	f.fee.closed = payment(s, declared)
	if s.chance(lostComeBack) {
		f.returned = declared + 3600 + int64(s.exponential(60)*float64(day))
		if f.returned < f.fee.closed {
			f.fee.closed, f.fee.waived = f.returned, true
		}
	} else if f.fee.closed < l.until {
		f.returned, f.withdrawn = f.fee.closed, true
	}
	f.lost = f.returned >= l.until
}

// claim is the life of a loan that the borrower says was brought back.
func (l *Library) claim(f *facts, s *stream) {
	claimed := f.due + claimedAfter
	if claimed >= l.until {
		return
	}
	if s.chance(claimedFound) {
		f.returned = claimed + 3600 + int64(s.exponential(90)*float64(day))
	}
	f.claimed = f.returned >= l.until
}

// asOf forgets what had not happened yet.
func (f facts) asOf(until int64) facts {
	if f.returned >= until {
		f.returned, f.withdrawn = never, false
	}
	if f.fee.charged >= until {
		f.fee = fee{}
	}
	if f.fee.closed >= until {
		f.fee.closed, f.fee.waived = never, false
	}
	return f
}

func payment(s *stream, charged int64) int64 {
	wait := 60 + int64(s.exponential(feeMeanDays)*float64(day))
	if s.chance(feeNever) {
		return never
	}
	return charged + wait
}

func (f *facts) gives(seed uint64, until int64) (h has) {
	var s stream
	s.reset(seed, forFurther, f.patron, f.ordinal)
	if s.chance(shareRequest) {
		h |= hasRequest
	}
	if s.chance(shareUnfilled) {
		h |= hasUnfilled
	}
	if s.chance(shareBorrowed) {
		h |= hasBorrowed
	}
	if s.chance(shareLent) {
		h |= hasLent
	}
	if f.fee.amount > 0 {
		h |= hasFee
	}
	if f.due+day < min(f.returned, until) {
		h |= hasOverdue
	}
	return h
}

// A popularity draws titles by their rank: it is the integral of x^-slope over the ranks [1, titles+1).
type popularity float64

func newPopularity() popularity {
	return popularity(exp(float64((1-popularitySlope)*log(titles+1))) - 1)
}

// title is the rank, from 0, up to which lies a share u of all loans.
func (p popularity) title(u float64) uint64 {
	x := exp(log(1+float64(u*float64(p))) / (1 - popularitySlope))
	return min(max(uint64(x), 1)-1, titles-1)
}

func endOfDay(t int64) int64 { return t - t%day + day - 1 }

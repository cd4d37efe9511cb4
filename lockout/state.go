package lockout

import "time"

// MaxCheck is how long a guess may take from Reserve to its conclusion. What takes longer, or never comes, counts as wrong.
const MaxCheck = time.Minute

// A State is what is known under one key. The zero value is what is known of a key that was never seen.
//
// A guess is counted when it is reserved, before anybody knows whether it is right, and taken back if it was. Guesses are counted in two periods of the slot's duration each, this one and the one
// before, and both together may be as many as the slot says: so in no stretch of that length there are more. Those that are not concluded are known in the same way, in two periods of
// MaxCheck: so one that never will be is out of the way after two at most, however busy the account is.
type State struct {
	Start   int64 // of the period, in microseconds since 1970
	Failed  int   // guesses in the period: wrong, or not concluded
	Earlier int   // in the period before
	Lease   int64 // end of the MaxCheck in which the newest open guesses were reserved
	Open    int   // of all guesses, those that are not concluded, and were reserved in that
	Older   int   // and in the MaxCheck before
	Until   int64 // it is locked until then, if none of the open ones turns out right; 0: it is not
}

const maxCheck = int64(MaxCheck / time.Microsecond)

// At returns the state as it is now: what has ended is gone.
func (s State) At(now time.Time, slot Slot) State {
	return s.at(now.UnixMicro(), slot.Duration.Microseconds())
}

func (s State) at(now, period int64) State {
	s.age(now)
	switch {
	case s.Until > now:
		return s // nothing else moves while it is locked
	case s.Until != 0, s.Start+2*period <= now:
		return State{}
	case s.Start+period <= now:
		s.Start, s.Earlier, s.Failed = s.Start+period, s.Failed, 0
	}
	return s
}

// age forgets which guesses are open when they are no more: they stay counted.
func (s *State) age(now int64) {
	switch {
	case s.Lease+maxCheck <= now:
		s.Open, s.Older = 0, 0
	case s.Lease <= now:
		s.Open, s.Older, s.Lease = 0, s.Open, s.Lease+maxCheck
	}
}

func (s *State) pending() int { return s.Open + s.Older }

// Admit decides about one guess that needs all of these slots, whose states these are. If the answer is Admitted it is counted in each of them.
// Otherwise nothing changes, but Open and Older of a slot that turned out to be locked because guesses were never concluded: states are to be written back if the answer is Admitted or a slot was crossed.
func Admit(states []State, slots []Slot, now time.Time) (v Verdict) {
	at := now.UnixMicro()
	for i := range slots {
		slot, before := &slots[i], states[i].pending()
		states[i] = states[i].at(at, slot.Duration.Microseconds())
		s := &states[i]
		switch {
		case s.Until <= at:
			continue
		case s.pending() > 0:
			if v.Answer == Admitted {
				v.Answer, v.Slot = Busy, i
			}
			continue
		case before > 0: // nobody has concluded the last of them
			v.Crossed |= 1 << i
		}
		if wait := time.Duration(s.Until-at) * time.Microsecond; v.Answer != Locked || wait > v.Wait {
			v.Answer, v.Slot, v.Wait = Locked, i, wait
		}
	}
	if v.Answer != Admitted {
		return v
	}
	v.Left = -1
	for i := range slots {
		if slot := &slots[i]; slot.Attempts > 0 {
			left := states[i].take(at, slot)
			if v.Left < 0 || left < v.Left {
				v.Left = left
			}
		}
	}
	return v
}

// take counts a guess, and returns how many are left.
func (s *State) take(now int64, slot *Slot) int {
	if s.Failed+s.Earlier == 0 {
		s.Start = now
	}
	if s.pending() == 0 {
		s.Lease = now + maxCheck
	}
	s.Failed++
	s.Open++
	left := slot.Attempts - s.Failed - s.Earlier
	if left <= 0 {
		s.Until = now + slot.Duration.Microseconds()
	}
	return max(left, 0)
}

// Settle says in the states of a guess how it came out. If the answer is Late nothing changes; otherwise it is Admitted, and the states are to be written back.
func Settle(states []State, slots []Slot, c Conclusion, now time.Time) (v Verdict) {
	at, reserved := now.UnixMicro(), c.Reserved.UnixMicro()
	if at >= reserved+maxCheck {
		return Verdict{Answer: Late}
	}
	for i := range slots {
		slot := &slots[i]
		if slot.Attempts == 0 {
			continue
		}
		s := states[i].at(at, slot.Duration.Microseconds())
		s.close(reserved)
		switch {
		case c.Result == Right && slot.Clears:
			s.Start, s.Failed, s.Earlier, s.Until = at, s.pending(), 0, 0
		case c.Result == Wrong:
			if s.Until > at && s.pending() == 0 {
				s.Until = at + slot.Duration.Microseconds()
				v.Crossed |= 1 << i
			}
		default: // it takes back what it counted
			if s.Earlier > 0 && (reserved < s.Start || s.Failed == 0) {
				s.Earlier--
			} else {
				s.Failed = max(s.Failed-1, 0)
			}
			s.Until = 0
		}
		states[i] = s
	}
	return v
}

// close says that a guess is not open any more.
func (s *State) close(reserved int64) {
	if s.Older > 0 && (reserved < s.Lease-maxCheck || s.Open == 0) {
		s.Older--
	} else {
		s.Open = max(s.Open-1, 0)
	}
}

// Forget returns the state without the failures, as when staff unlocks: guesses that are not concluded stay counted.
func (s State) Forget(now time.Time) State {
	at := now.UnixMicro()
	s.age(at)
	if s.pending() == 0 {
		return State{}
	}
	return State{Start: at, Failed: s.pending(), Lease: s.Lease, Open: s.Open, Older: s.Older}
}

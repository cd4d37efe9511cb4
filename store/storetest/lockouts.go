package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/lockout"
)

// TestLockouts proves a store of guesses. Open returns an empty store each time.
func TestLockouts(t *testing.T, open func(t *testing.T) lockout.Store) {
	keep(t, func(t *testing.T) guesses { return guesses{t, open(t), guessStart} }, []promise[guesses]{
		{"CountsAreThoseOfTheModel", testGuessModel},
		{"AllOrNone", testGuessAllOrNone},
		{"LockEndsByItself", testGuessLockEnds},
		{"AttemptsDuringALockChangeNothing", testGuessWhileLocked},
		{"NeverConcludedCountsAsWrong", testGuessLeaked},
		{"NeverConcludedIsForgottenWhileOthersAre", testGuessDead},
		{"LateConclusionChangesNothing", testGuessLate},
		{"HoldLocks", testGuessHold},
		{"ForgettingKeepsWhatIsOpen", testGuessForget},
		{"OneNameIsForgotten", testGuessForgetsOne},
		{"NoMoreThanTheBudgetInARace", testGuessRace},
		{"OneCallHearsOfTheLock", testGuessCrossed},
		{"ConclusionsInARace", testGuessConcludeRace},
		{"StatesInPages", testGuessPages},
		{"AnyBytesInAKey", testGuessBytes},
		{"CanceledContext", testGuessCanceled},
		{"TimeIsKept", testGuessTime},
		{"GuardOnTop", testGuessGuard},
	})
}

// guesses is a store under test, with a time that its methods go by. They fail the test.
type guesses struct {
	*testing.T
	lockout.Store
	now time.Time
}

var guessStart = time.Date(2026, 3, 1, 8, 0, 0, 123456000, time.UTC)

const guessPeriod = 15 * time.Minute

// guessName makes a name that has bytes of all kinds.
func guessName(n int) (name lockout.Name) {
	copy(name[:], fmt.Sprintf("\x00'%%\xff*%d\xfe", n))
	return name
}

// guessSlots are the limits of a guess at account n from source m: five and a hold, and fifty in all from there.
func guessSlots(n, m int) []lockout.Slot {
	account, _ := guessName(n).Common()
	source := guessName(1000 + m).Source()
	return []lockout.Slot{
		{Key: account, Attempts: 5, Duration: guessPeriod, Clears: true},
		{Key: guessName(n).Hold(), Duration: guessPeriod},
		{Key: source, Attempts: 50, Duration: guessPeriod},
	}
}

func (s *guesses) reserve(slots []lockout.Slot) lockout.Verdict {
	s.Helper()
	v, err := s.Reserve(s.Context(), s.now, slots)
	if err != nil {
		s.Fatalf("Reserve: %v", err)
	}
	return v
}

// take expects that a guess is admitted, and returns when that was.
func (s *guesses) take(slots []lockout.Slot) time.Time {
	s.Helper()
	if v := s.reserve(slots); v.Answer != lockout.Admitted {
		s.Fatalf("Reserve says %+v, want a guess", v)
	}
	return s.now
}

func (s *guesses) conclude(slots []lockout.Slot, reserved time.Time, r lockout.Result) lockout.Verdict {
	s.Helper()
	v, err := s.Conclude(s.Context(), s.now, slots, lockout.Conclusion{Reserved: reserved, Result: r})
	if err != nil {
		s.Fatalf("Conclude: %v", err)
	}
	return v
}

// wrong makes n wrong guesses, and returns the verdict on the last.
func (s *guesses) wrong(slots []lockout.Slot, n int) (v lockout.Verdict) {
	s.Helper()
	for range n {
		at := s.take(slots)
		s.now = s.now.Add(time.Millisecond)
		v = s.conclude(slots, at, lockout.Wrong)
	}
	return v
}

func (s *guesses) hold(name lockout.Name, until time.Time) {
	s.Helper()
	if err := s.Hold(s.Context(), s.now, name, until); err != nil {
		s.Fatalf("Hold: %v", err)
	}
}

// states reads all pages.
func (s *guesses) states(name *lockout.Name, limit int) map[lockout.Key]lockout.State {
	s.Helper()
	all := map[lockout.Key]lockout.State{}
	q := lockout.Query{Name: name, Limit: limit}
	for n := 0; ; n++ {
		page, err := s.States(s.Context(), s.now, q)
		if err != nil {
			s.Fatalf("States: %v", err)
		}
		for _, e := range page.Entries {
			all[e.Key] = e.State
		}
		if q.Cursor = page.Cursor; q.Cursor == "" {
			return all
		}
		if n > 100_000 {
			s.Fatal("States returns pages without end")
		}
	}
}

// wants expects an answer to a guess, without taking it if it is admitted.
func (s *guesses) wants(slots []lockout.Slot, want lockout.Answer, why string) lockout.Verdict {
	s.Helper()
	v := s.reserve(slots)
	if v.Answer != want {
		s.Errorf("%s: Reserve says %+v, want the answer %d", why, v, want)
	}
	if v.Answer == lockout.Admitted {
		s.conclude(slots, s.now, lockout.Abandoned)
	}
	return v
}

func testGuessAllOrNone(t *testing.T, s guesses) {
	s.wrong(guessSlots(1, 1), 5)
	before := s.states(nil, 100)
	s.wants(guessSlots(1, 2), lockout.Locked, "account 1 is locked")
	s.hold(guessName(2), s.now.Add(time.Hour))
	s.wants(guessSlots(2, 2), lockout.Locked, "account 2 is held")
	source := guessName(1002).Source()
	if got, ok := s.states(nil, 100)[source]; ok && got.Failed > 0 {
		t.Errorf("a refused guess is counted for its source: %+v, before %v", got, before)
	}
	shared := []lockout.Slot{guessSlots(3, 3)[2], guessSlots(3, 3)[0]} // the refusing one last
	s.wrong(guessSlots(3, 4), 5)
	s.wants(shared, lockout.Locked, "account 3 is locked")
	if got := s.states(nil, 100)[shared[0].Key]; got.Failed > 0 {
		t.Errorf("a guess that the second slot refuses is counted by the first: %+v", got)
	}
}

func testGuessLockEnds(t *testing.T, s guesses) {
	slots := guessSlots(1, 1)
	if v := s.wrong(slots, 5); v.Crossed != 1 {
		t.Errorf("the conclusion that locks says %+v, want that slot 0 was crossed", v)
	}
	s.now = s.now.Add(guessPeriod - time.Microsecond)
	if v := s.wants(slots, lockout.Locked, "a microsecond before the end"); v.Wait != time.Microsecond || v.Slot != 0 {
		t.Errorf("a microsecond before the end, Reserve says %+v", v)
	}
	s.now = s.now.Add(time.Microsecond)
	if v := s.reserve(slots); v.Answer != lockout.Admitted || v.Left != 4 {
		t.Errorf("at the end of the lock, Reserve says %+v, want a guess and 4 left", v)
	}
}

func testGuessWhileLocked(t *testing.T, s guesses) {
	slots := guessSlots(1, 1)
	s.wrong(slots, 5)
	for range 14 {
		s.now = s.now.Add(time.Minute)
		s.wants(slots, lockout.Locked, "during the lock")
	}
	s.now = s.now.Add(time.Minute)
	s.wants(slots, lockout.Admitted, "after fifteen minutes, with attempts in between")
}

func testGuessLeaked(t *testing.T, s guesses) {
	slots := guessSlots(1, 1)
	s.wrong(slots, 3)
	s.take(slots)
	s.take(slots)
	s.wants(slots, lockout.Busy, "two are being checked")
	s.now = s.now.Add(2 * lockout.MaxCheck)
	if v := s.wants(slots, lockout.Locked, "two were never concluded"); v.Crossed != 1 {
		t.Errorf("the first to see the lock hears %+v, want that slot 0 was crossed", v)
	}
	if v := s.wants(slots, lockout.Locked, "two were never concluded"); v.Crossed != 0 {
		t.Errorf("the second to see the lock hears %+v, want nothing crossed", v)
	}
}

// At an account where somebody logs in all the time, one guess is lost now and then. That must not add up.
func testGuessDead(t *testing.T, s guesses) {
	slots := guessSlots(1, 1)[:2]
	for n := range 120 {
		if n%10 == 0 {
			s.take(slots) // and is never heard of again
		}
		at := s.take(slots)
		s.now = s.now.Add(100 * time.Millisecond)
		s.conclude(slots, at, lockout.Right)
		s.now = s.now.Add(30 * time.Second)
	}
	s.now = s.now.Add(lockout.MaxCheck)
	at := s.take(slots)
	s.conclude(slots, at, lockout.Right)
	if v := s.reserve(slots); v.Left != 4 {
		t.Errorf("after an hour of right logins, with a lost guess every five minutes, %d are left, want 4", v.Left)
	}
}

func testGuessLate(t *testing.T, s guesses) {
	slots := guessSlots(1, 1)
	at := s.take(slots)
	s.now = s.now.Add(lockout.MaxCheck)
	if v := s.conclude(slots, at, lockout.Right); v.Answer != lockout.Late {
		t.Errorf("Conclude after MaxCheck says %+v, want Late", v)
	}
	if v := s.reserve(slots); v.Left != 3 {
		t.Errorf("after a late conclusion there are %d guesses left, want 3", v.Left)
	}
}

func testGuessHold(t *testing.T, s guesses) {
	slots := guessSlots(1, 1)
	s.hold(guessName(1), s.now.Add(time.Hour))
	if v := s.wants(slots, lockout.Locked, "held"); v.Slot != 1 || v.Wait != time.Hour || v.Crossed != 0 {
		t.Errorf("Reserve of a held account says %+v", v)
	}
	s.wants(guessSlots(2, 1), lockout.Admitted, "another account")
	s.hold(guessName(1), s.now.Add(30*time.Minute)) // shorter
	s.now = s.now.Add(30 * time.Minute)
	s.wants(slots, lockout.Admitted, "the hold has ended")
	s.hold(guessName(1), s.now.Add(time.Hour))
	s.hold(guessName(1), time.Time{})
	s.wants(slots, lockout.Admitted, "the hold was lifted")
	s.hold(guessName(77), time.Time{}) // nobody knows it
}

func testGuessForget(t *testing.T, s guesses) {
	slots := guessSlots(1, 1)
	s.wrong(slots, 2)
	s.take(slots)
	open := s.take(slots)
	s.now = s.now.Add(time.Millisecond)
	s.hold(guessName(1), time.Time{})
	if v := s.reserve(slots); v.Answer != lockout.Admitted || v.Left != 2 {
		t.Errorf("two wrong guesses were forgotten, two are being checked: Reserve says %+v, want 2 left", v)
	}
	s.conclude(slots, s.now, lockout.Abandoned)
	s.conclude(slots, open, lockout.Wrong)
	if v := s.reserve(slots); v.Left != 2 {
		t.Errorf("%d left, want 2: what was being checked while it was unlocked counts", v.Left)
	}
}

func testGuessForgetsOne(t *testing.T, s guesses) {
	lane := guessSlots(1, 1)
	lane[0].Key[12] = 7
	s.wrong(lane, 5)
	s.wrong(guessSlots(1, 1), 5)
	s.wrong(guessSlots(2, 1), 5)
	s.hold(guessName(1), time.Time{})
	s.wants(guessSlots(1, 1), lockout.Admitted, "forgotten")
	s.wants(lane, lockout.Admitted, "forgotten on its device")
	s.wants(guessSlots(2, 1), lockout.Locked, "another name")
	if v := s.reserve(guessSlots(9, 1)); v.Answer != lockout.Admitted {
		t.Errorf("the source says %+v", v)
	}
	source := guessName(1001).Source()
	if got := s.states(nil, 100)[source]; got.Failed+got.Earlier != 16 {
		t.Errorf("the source has %+v, want the 15 wrong guesses and one that is open", got)
	}
}

func testGuessRace(t *testing.T, s guesses) {
	const writers = 64
	var admitted, busy atomic.Int64
	for _, err := range race(writers, func(i int) error {
		v, err := s.Reserve(s.Context(), s.now, guessSlots(1, i%3))
		switch {
		case err != nil:
			return err
		case v.Answer == lockout.Admitted:
			admitted.Add(1)
		case v.Answer == lockout.Busy:
			busy.Add(1)
		}
		return nil
	}) {
		if err != nil {
			t.Errorf("Reserve in a race: %v", err)
		}
	}
	if admitted.Load() != 5 || busy.Load() != writers-5 {
		t.Errorf("of %d at once, %d were admitted and %d were told that others are checked, want 5 and %d", writers, admitted.Load(), busy.Load(), writers-5)
	}
	sum := 0
	for m := range 3 {
		source := guessName(1000 + m).Source()
		sum += s.states(nil, 100)[source].Failed
	}
	if sum != 5 {
		t.Errorf("their sources have %d guesses, want 5", sum)
	}
}

func testGuessCrossed(t *testing.T, s guesses) {
	slots := guessSlots(1, 1)
	s.wrong(slots, 1)
	at := s.now
	for range 4 {
		s.take(slots)
	}
	var crossed atomic.Int64
	for _, err := range race(4, func(int) error {
		v, err := s.Conclude(s.Context(), s.now, slots, lockout.Conclusion{Reserved: at, Result: lockout.Wrong})
		if v.Crossed != 0 {
			crossed.Add(1)
		}
		return err
	}) {
		if err != nil {
			t.Errorf("Conclude in a race: %v", err)
		}
	}
	if crossed.Load() != 1 {
		t.Errorf("%d calls heard of the lock, want one", crossed.Load())
	}
	s.wants(slots, lockout.Locked, "all were wrong")
}

func testGuessConcludeRace(t *testing.T, s guesses) {
	const rounds, at = 40, 4
	slots := guessSlots(1, 1)
	for _, err := range race(at, func(i int) error {
		for n := range rounds {
			v, err := s.Reserve(s.Context(), s.now, slots)
			if err != nil || v.Answer != lockout.Admitted {
				return fmt.Errorf("round %d: Reserve says %+v, %v; there are never more than %d at once", n, v, err, at)
			}
			result := []lockout.Result{lockout.Right, lockout.Abandoned}[n%2]
			if _, err = s.Conclude(s.Context(), s.now, slots, lockout.Conclusion{Reserved: s.now, Result: result}); err != nil {
				return err
			}
		}
		return nil
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	for key, state := range s.states(nil, 100) {
		if state.Failed+state.Earlier+state.Open+state.Older != 0 || state.Until != 0 {
			t.Errorf("after right and abandoned guesses only, %x has %+v", key, state)
		}
	}
}

func testGuessPages(t *testing.T, s guesses) {
	want := map[lockout.Key]int{}
	for n := range 137 {
		slots := guessSlots(n, n)[:1]
		if n%5 == 0 {
			slots[0].Key[12] = byte(n)
		}
		s.wrong(slots, n%4+1)
		want[slots[0].Key] = n%4 + 1
	}
	for _, limit := range []int{1, 10, 1000} {
		got := s.states(nil, limit)
		for key, failed := range want {
			if got[key].Failed != failed {
				t.Errorf("in pages of %d, %x has %+v, want %d guesses", limit, key, got[key], failed)
			}
		}
		if len(got) != len(want) {
			t.Errorf("pages of %d have %d keys, want %d", limit, len(got), len(want))
		}
	}
	name := guessName(5)
	if got := s.states(&name, 10); len(got) != 1 {
		t.Errorf("the states of one name are %v, want one", got)
	}
	if _, err := s.States(t.Context(), s.now, lockout.Query{Limit: 10, Cursor: "no cursor of any store"}); err == nil {
		t.Error("a cursor that is none is no error")
	}
}

func testGuessBytes(t *testing.T, s guesses) {
	for n := range 256 {
		slots := guessSlots(0, 0)[:1]
		for i := range slots[0].Key[:15] {
			slots[0].Key[i] = byte(n + i*7)
		}
		s.wrong(slots, 1)
		if got := s.states(nil, 1000)[slots[0].Key]; n%32 == 0 && got.Failed != 1 {
			t.Fatalf("%x has %+v, want one guess", slots[0].Key, got)
		}
	}
	if got := len(s.states(nil, 1000)); got != 256 {
		t.Errorf("there are %d keys, want 256", got)
	}
}

func testGuessCanceled(t *testing.T, s guesses) {
	ctx := canceled(t)
	slots := guessSlots(1, 1)
	_, err1 := s.Reserve(ctx, s.now, slots)
	_, err2 := s.Conclude(ctx, s.now, slots, lockout.Conclusion{Reserved: s.now})
	err3 := s.Hold(ctx, s.now, guessName(1), s.now.Add(time.Hour))
	_, err4 := s.States(ctx, s.now, lockout.Query{Limit: 1})
	for i, err := range []error{err1, err2, err3, err4} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a canceled context: %v", []string{"Reserve", "Conclude", "Hold", "States"}[i], err)
		}
	}
	if got := s.states(nil, 10); len(got) > 0 {
		t.Errorf("calls with a canceled context left %v", got)
	}
}

// testGuessTime is for stores that keep a time.
func testGuessTime(t *testing.T, s guesses) {
	k, ok := s.Store.(lockout.Timekeeper)
	if !ok {
		return
	}
	edition := int64(0)
	sync := func(mine time.Time) time.Time {
		t.Helper()
		now, e, err := k.Sync(t.Context(), mine, edition)
		if err != nil {
			t.Fatalf("Sync: %v", err)
		}
		edition = e
		return now
	}
	near := func(got, want time.Time, why string) {
		t.Helper()
		if got.Sub(want).Abs() > lockout.Apart {
			t.Errorf("%s: the store's time is %v, want %v", why, got, want)
		}
	}
	first := sync(time.Time{})
	sync(first.Add(lockout.Apart / 4))
	near(sync(time.Time{}), first, "a little apart")
	for _, step := range []time.Duration{time.Hour, -time.Hour, -time.Hour} {
		first = first.Add(step)
		before := edition
		near(sync(first), first, "apart by an hour, as it answers")
		if edition == before {
			t.Error("the offset was changed and its edition was not")
		}
		near(sync(time.Time{}), first, "apart by an hour, asked later")
		now, e, err := k.Sync(t.Context(), first.Add(time.Hour), before)
		near(now, first, "somebody who has not heard of the change")
		if err != nil || e != edition {
			t.Errorf("somebody who has not heard of the change is told the edition %d, %v, want %d", e, err, edition)
		}
	}
	seen := edition
	var changed atomic.Int64
	for _, err := range race(8, func(i int) error {
		mine := first.Add(time.Duration(i+1) * time.Hour)
		now, _, err := k.Sync(t.Context(), mine, seen)
		if now.Sub(mine).Abs() <= lockout.Apart {
			changed.Add(1)
		}
		return err
	}) {
		if err != nil {
			t.Errorf("Sync in a race: %v", err)
		}
	}
	if changed.Load() != 1 {
		t.Errorf("%d of eight who set the time at once were told that it is theirs, want one", changed.Load())
	}
	if _, _, err := k.Sync(canceled(t), time.Time{}, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("Sync with a canceled context: %v", err)
	}
}

func testGuessGuard(t *testing.T, s guesses) {
	var raw [32]byte
	for i := range raw {
		raw[i] = byte(rand.Uint32())
	}
	g, err := lockout.New(s.Store, lockout.Config{Key: crypto.NewSecret(string(raw[:]))})
	if err != nil {
		t.Fatal(err)
	}
	var checked, others atomic.Int64
	for _, err := range race(100, func(int) error {
		r, err := g.Reserve(t.Context(), lockout.Attempt{Account: lockout.Account{Login: "somebody"}})
		switch {
		case errors.Is(err, lockout.ErrLocked), errors.Is(err, lockout.ErrBusy):
			others.Add(1)
			return nil
		case err != nil:
			return err
		}
		checked.Add(1)
		time.Sleep(time.Millisecond)
		return r.Failure(t.Context())
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	if checked.Load() != 5 || others.Load() != 95 {
		t.Errorf("of 100 wrong guesses at once, %d were checked and %d refused, want 5 and 95", checked.Load(), others.Load())
	}
}

// testGuessModel goes through random calls, and compares every answer and what is kept with the functions that say what is right.
func testGuessModel(t *testing.T, s guesses) {
	for seed := range uint64(4) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		m := guessModel{guesses: s, rnd: rnd, states: map[lockout.Key]lockout.State{}, periods: map[lockout.Key]time.Duration{}, base: int(seed) * 100}
		m.now = guessStart.Add(time.Duration(seed) * 1000 * time.Hour)
		for step := range 300 {
			m.step(step)
			if t.Failed() {
				t.Fatalf("at step %d of seed %d", step, seed)
			}
		}
	}
}

type guessModel struct {
	guesses
	rnd     *rand.Rand
	states  map[lockout.Key]lockout.State
	periods map[lockout.Key]time.Duration
	open    []openGuess
	base    int
}

type openGuess struct {
	slots []lockout.Slot
	at    time.Time
}

// slots draws the limits of one guess, of few accounts and fewer sources, so that they meet.
func (m *guessModel) slots() []lockout.Slot {
	name := guessName(m.base + m.rnd.IntN(3))
	recent, daily := name.Common()
	if m.rnd.IntN(4) == 0 {
		recent[12], daily[12] = 9, 9 // at a device
	}
	source := guessName(1000 + m.base + m.rnd.IntN(2)).Source()
	list := []lockout.Slot{{Key: recent, Attempts: 3, Duration: 5 * time.Minute, Clears: true}}
	if m.base%200 == 0 {
		list = append(list, lockout.Slot{Key: daily, Attempts: 8, Duration: time.Hour})
	}
	list = append(list, lockout.Slot{Key: name.Hold(), Duration: 5 * time.Minute})
	if m.rnd.IntN(3) > 0 {
		list = append(list, lockout.Slot{Key: source, Attempts: 6, Duration: 5 * time.Minute})
	}
	for _, s := range list {
		m.periods[s.Key] = s.Duration
	}
	return list
}

func (m *guessModel) of(slots []lockout.Slot) (list []lockout.State) {
	for _, s := range slots {
		list = append(list, m.states[s.Key])
	}
	return list
}

func (m *guessModel) keep(slots []lockout.Slot, list []lockout.State) {
	for i, s := range slots {
		m.states[s.Key] = list[i]
	}
}

func (m *guessModel) step(n int) {
	switch r := m.rnd.IntN(100); {
	case r < 60:
		m.now = m.now.Add(time.Duration(m.rnd.IntN(3000)) * time.Millisecond)
	case r < 90:
		m.now = m.now.Add(time.Duration(m.rnd.IntN(200)) * time.Second)
	case r < 92:
		m.now = m.now.Add(time.Duration(m.rnd.IntN(100)) * time.Minute)
	}
	switch r := m.rnd.IntN(100); {
	case r < 50:
		slots := m.slots()
		states := m.of(slots)
		want := lockout.Admit(states, slots, m.now)
		if got := m.reserve(slots); got != want {
			m.Errorf("Reserve says %+v, want %+v", got, want)
		}
		if want.Answer == lockout.Admitted || want.Crossed != 0 {
			m.keep(slots, states)
		}
		if want.Answer == lockout.Admitted {
			m.open = append(m.open, openGuess{slots, m.now})
		}
	case r < 96 && len(m.open) > 0:
		i := m.rnd.IntN(len(m.open))
		o := m.open[i]
		m.open = slices.Delete(m.open, i, i+1)
		result := []lockout.Result{lockout.Wrong, lockout.Wrong, lockout.Right, lockout.Abandoned}[m.rnd.IntN(4)]
		states := m.of(o.slots)
		want := lockout.Settle(states, o.slots, lockout.Conclusion{Reserved: o.at, Result: result}, m.now)
		if got := m.conclude(o.slots, o.at, result); got != want {
			m.Errorf("Conclude says %+v, want %+v", got, want)
		}
		if want.Answer == lockout.Admitted {
			m.keep(o.slots, states)
		}
	case r >= 96:
		name := guessName(m.base + m.rnd.IntN(3))
		if r == 96 {
			until := m.now.Add(time.Duration(m.rnd.IntN(600)+1) * time.Second)
			m.hold(name, until)
			m.states[name.Hold()] = lockout.State{Until: until.UnixMicro()}
			return
		}
		m.hold(name, time.Time{})
		for key, state := range m.states {
			if key.Name() == name {
				m.states[key] = state.Forget(m.now)
			}
		}
	}
	if n%10 == 0 {
		m.compare()
	}
}

// compare looks at what is kept, as it is now.
func (m *guessModel) compare() {
	got := m.guesses.states(nil, 100)
	for key, want := range m.states {
		slot := lockout.Slot{Duration: m.periods[key]}
		if a, b := telling(got[key].At(m.now, slot)), telling(want.At(m.now, slot)); a != b {
			m.Errorf("%x has %+v, want %+v", key, a, b)
		}
	}
}

// telling leaves out of a state what says nothing.
func telling(s lockout.State) lockout.State {
	if s.Open+s.Older == 0 {
		s.Lease = 0
	}
	if s.Failed+s.Earlier == 0 {
		s.Start = 0
	}
	return s
}

package lockout

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/crypto"
)

// A machine has a clock that can be set, and one that cannot.
type machine struct {
	mu   sync.Mutex
	wall time.Time
	mono time.Duration
}

func (m *machine) pass(d time.Duration) {
	m.mu.Lock()
	m.wall, m.mono = m.wall.Add(d), m.mono+d
	m.mu.Unlock()
}
func (m *machine) set(d time.Duration)  { m.mu.Lock(); m.wall = m.wall.Add(d); m.mu.Unlock() }
func (m *machine) now() time.Time       { m.mu.Lock(); defer m.mu.Unlock(); return m.wall }
func (m *machine) since() time.Duration { m.mu.Lock(); defer m.mu.Unlock(); return m.mono }

// A plainStore keeps states in a map, and the time of a server with a clock of its own.
type plainStore struct {
	mu     sync.Mutex
	states map[Key]State
	server *machine
	offset time.Duration
	edit   int64
	down   bool
}

func (s *plainStore) of(slots []Slot) (list []State) {
	for _, slot := range slots {
		list = append(list, s.states[slot.Key])
	}
	return list
}

func (s *plainStore) keep(slots []Slot, list []State) {
	for i, slot := range slots {
		s.states[slot.Key] = list[i]
	}
}

func (s *plainStore) Reserve(_ context.Context, now time.Time, slots []Slot) (Verdict, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := s.of(slots)
	v := Admit(states, slots, now)
	if v.Answer == Admitted || v.Crossed != 0 {
		s.keep(slots, states)
	}
	return v, nil
}

func (s *plainStore) Conclude(_ context.Context, now time.Time, slots []Slot, c Conclusion) (Verdict, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := s.of(slots)
	v := Settle(states, slots, c, now)
	if v.Answer != Late {
		s.keep(slots, states)
	}
	return v, nil
}

func (s *plainStore) Hold(context.Context, time.Time, Name, time.Time) error { return nil }
func (s *plainStore) States(context.Context, time.Time, Query) (Page, error) { return Page{}, nil }

func (s *plainStore) Sync(_ context.Context, mine time.Time, seen int64) (time.Time, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return time.Time{}, 0, errors.New("down")
	}
	now := s.server.now().Add(s.offset)
	if !mine.IsZero() && seen == s.edit && now.Sub(mine).Abs() > Apart {
		s.offset = mine.Sub(s.server.now())
		now = mine
		s.edit++
	}
	return now, s.edit, nil
}

// process makes a Guard as a process that starts now would.
func process(t *testing.T, s *plainStore, m *machine, key crypto.Secret) *Guard {
	t.Helper()
	g, err := New(s, Config{Key: key, Now: m.now})
	require.NoError(t, err)
	begin := m.since()
	g.clock.elapsed = func() time.Duration { return m.since() - begin }
	return g
}

func guessing(t *testing.T, g *Guard) (checked int) {
	for range 20 {
		r, err := g.Reserve(t.Context(), Attempt{Account: Account{Login: "a"}})
		if errors.Is(err, ErrLocked) {
			return checked
		}
		require.NoError(t, err)
		require.NoError(t, r.Failure(t.Context()))
		checked++
	}
	return checked
}

// Somebody sets the clock of the machine, or of the database's, by an hour, while a process runs and before another starts. No lock ends early, and every
// lock ends.
func TestClockIsSet(t *testing.T) {
	for _, step := range []time.Duration{time.Hour, -time.Hour, 20 * time.Minute, -20 * time.Minute} {
		for _, whose := range []string{"machine", "server", "both"} {
			t.Run(step.String()+whose, func(t *testing.T) {
				m := &machine{wall: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}
				server := m
				if whose != "both" {
					server = &machine{wall: m.wall.Add(3 * time.Minute)} // two machines never agree
				}
				pass := func(d time.Duration) {
					m.pass(d)
					if server != m {
						server.pass(d)
					}
				}
				s := &plainStore{states: map[Key]State{}, server: server}
				first := process(t, s, m, drawKey())
				require.Equal(t, 5, guessing(t, first))
				pass(time.Minute)
				if whose == "server" {
					server.set(step)
				} else {
					m.set(step)
				}
				require.Zero(t, guessing(t, first))
				pass(askAgain) // by now it has noticed what it can only ask about
				require.Zero(t, guessing(t, first))
				second := process(t, s, m, first.cfg.Key)
				for range 12 { // 2 minutes of 15 have passed
					require.Zero(t, guessing(t, first))
					require.Zero(t, guessing(t, second))
					pass(time.Minute)
				}
				pass(time.Minute + Apart)
				require.Equal(t, 5, guessing(t, second))
				require.Zero(t, guessing(t, first))
			})
		}
	}
}

// A store in memory goes by the process's own clock alone.
func TestClockIsSetBesideMemory(t *testing.T) {
	m := &machine{wall: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}
	g := process(t, &plainStore{states: map[Key]State{}, server: m}, m, drawKey())
	g.clock.keeper = nil
	require.Equal(t, 5, guessing(t, g))
	for range 14 {
		m.set(time.Hour)
		require.Zero(t, guessing(t, g))
		m.set(-2 * time.Hour)
		require.Zero(t, guessing(t, g))
		m.pass(time.Minute)
	}
	m.pass(time.Minute)
	require.Equal(t, 5, guessing(t, g))
}

// The store's time cannot be had at first, and later not again.
func TestClockCannotBeAsked(t *testing.T) {
	m := &machine{wall: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}
	s := &plainStore{states: map[Key]State{}, server: m, down: true}
	g := process(t, s, m, drawKey())
	_, err := g.Reserve(t.Context(), Attempt{})
	require.ErrorIs(t, err, ErrUnavailable)
	s.down = false
	require.Equal(t, 5, guessing(t, g))
	s.down = true
	m.pass(10 * time.Minute)
	require.Zero(t, guessing(t, g), "it goes by its own")
	m.pass(10 * time.Minute)
	require.Equal(t, 5, guessing(t, g))
}

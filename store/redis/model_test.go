package redis_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/redis"
)

// A model is what the scripts have to do: a map, and the functions of package lockout.
type model map[lockout.Key]lockout.State

func (m model) look(slots []lockout.Slot) []lockout.State {
	states := make([]lockout.State, len(slots))
	for i, s := range slots {
		states[i] = m[s.Key]
	}
	return states
}

// save keeps states, but not those in which nothing counts.
func (m model) save(slots []lockout.Slot, states []lockout.State) {
	for i, s := range slots {
		m.set(s.Key, states[i])
	}
}

func (m model) set(key lockout.Key, s lockout.State) {
	if s.Failed+s.Earlier+s.Open == 0 && s.Until == 0 {
		delete(m, key)
		return
	}
	m[key] = s
}

func (m model) reserve(now time.Time, slots []lockout.Slot) lockout.Verdict {
	states := m.look(slots)
	v := lockout.Admit(states, slots, now)
	if v.Answer == lockout.Admitted || v.Crossed != 0 {
		m.save(slots, states)
	}
	return v
}

func (m model) conclude(now time.Time, slots []lockout.Slot, c lockout.Conclusion) lockout.Verdict {
	states := m.look(slots)
	v := lockout.Settle(states, slots, c, now)
	if v.Answer == lockout.Admitted {
		m.save(slots, states)
	}
	return v
}

func (m model) hold(now time.Time, name lockout.Name, until time.Time) {
	if !until.IsZero() {
		m.set(name.Hold(), lockout.State{Until: until.UnixMicro()})
		return
	}
	for key, s := range m {
		if key.Name() == name {
			m.set(key, s.Forget(now))
		}
	}
}

// edge returns a time at which something ends, or a microsecond before.
func (m model) edge(r *rand.Rand, slots []lockout.Slot, now time.Time) time.Time {
	slot := slots[r.IntN(len(slots))]
	s, ok := m[slot.Key]
	if !ok {
		return now
	}
	period := slot.Duration.Microseconds()
	at := []int64{s.Start + period, s.Start + 2*period, s.Lease, s.Until}[r.IntN(4)] - r.Int64N(2)
	if at < now.UnixMicro() {
		return now
	}
	return time.UnixMicro(at)
}

// A taken guess waits for its conclusion.
type taken struct {
	slots []lockout.Slot
	at    time.Time
}

// pool is all limits of the test: three names with their common lane, two others and a hold each. One duration is shorter than a check may take.
func pool() (names []lockout.Name, slots []lockout.Slot) {
	for n := range 3 {
		name := lockout.Name{byte(n), 0xff, 9: 7}
		names = append(names, name)
		for lane := range byte(3) {
			key := lockout.Key(append(name[:], lane, 0, 0, 0, 0, lane&1))
			slots = append(slots, lockout.Slot{
				Key: key, Attempts: []int{5, 2, 3, 1, 4}[(n+int(lane))%5], Clears: (n+int(lane))%2 == 0,
				Duration: []time.Duration{3 * time.Minute, 15 * time.Minute, 24 * time.Hour, 20 * time.Second}[(2*n+int(lane))%4],
			})
		}
		slots = append(slots, lockout.Slot{Key: name.Hold(), Duration: 3 * time.Minute})
	}
	return names, slots
}

// TestModel does the same at random to the scripts and to the model, and compares every answer and every state.
func TestModel(t *testing.T) {
	store, _, _ := open(t)
	answers := map[string]int{}
	for seed := range uint64(20) {
		runModel(t, store, seed, 800, answers)
	}
	t.Log(answers)
	for _, want := range []string{"Reserve 0", "Reserve 1", "Reserve 2", "Conclude 0", "Conclude 3", "crossed in Reserve", "crossed in Conclude", "Hold", "Unlock"} {
		require.Greater(t, answers[want], 20, want)
	}
}

func runModel(t *testing.T, store *redis.Lockouts, seed uint64, steps int, answers map[string]int) {
	r := rand.New(rand.NewPCG(seed, 1))
	ctx := t.Context()
	m := model{}
	names, all := pool()
	now := time.Date(2026, 3, 29, 1, 59, 0, 123_456_789, time.UTC)
	var open []taken
	for _, name := range names {
		require.NoError(t, store.Hold(ctx, now, name, time.Time{}))
		require.NoError(t, store.Hold(ctx, now.AddDate(10, 0, 0), name, time.Time{}), "no guess is open any more then")
	}
	for step := range steps {
		what := fmt.Sprintf("seed %d, step %d", seed, step)
		switch n := r.IntN(100); {
		case n < 45:
			slots := slices.Clone(all)
			r.Shuffle(len(slots), func(i, j int) { slots[i], slots[j] = slots[j], slots[i] })
			slots = slots[:1+r.IntN(8)]
			if r.IntN(3) > 0 {
				slots = slots[:min(len(slots), 3)]
			}
			want := m.reserve(now, slots)
			got, err := store.Reserve(ctx, now, slots)
			require.NoError(t, err, what)
			require.Equal(t, want, got, what)
			answers[fmt.Sprint("Reserve ", got.Answer)]++
			if got.Crossed != 0 {
				answers["crossed in Reserve"]++
			}
			if got.Answer == lockout.Admitted {
				open = append(open, taken{slots, now})
			}
		case n < 80 && len(open) > 0:
			i := r.IntN(len(open))
			g := open[i]
			if r.IntN(20) > 0 { // else it is concluded again, as no Guard does
				open = slices.Delete(open, i, i+1)
			}
			c := lockout.Conclusion{Reserved: g.at, Result: lockout.Result(r.IntN(5) % 3)}
			want := m.conclude(now, g.slots, c)
			got, err := store.Conclude(ctx, now, g.slots, c)
			require.NoError(t, err, what)
			require.Equal(t, want, got, what)
			answers[fmt.Sprint("Conclude ", got.Answer)]++
			if got.Crossed != 0 {
				answers["crossed in Conclude"]++
			}
		case n >= 80 && n < 82:
			name, until := names[r.IntN(len(names))], now.Add(time.Duration(r.Int64N(int64(10*time.Minute))))
			m.hold(now, name, until)
			require.NoError(t, store.Hold(ctx, now, name, until), what)
			answers["Hold"]++
		case n >= 82 && n < 84:
			name := names[r.IntN(len(names))]
			m.hold(now, name, time.Time{})
			require.NoError(t, store.Hold(ctx, now, name, time.Time{}), what)
			answers["Unlock"]++
		case n >= 96:
			now = m.edge(r, all, now)
		default:
			steps := []time.Duration{time.Microsecond, time.Second, 20 * time.Second, time.Minute, 3 * time.Minute, 15 * time.Minute, 24 * time.Hour}
			now = now.Add(time.Duration(r.Int64N(int64(steps[r.IntN(4+r.IntN(len(steps)-3))]))))
			if r.IntN(10) == 0 {
				now = now.Add(-time.Duration(r.Int64N(int64(time.Second)))) // another process, a little behind
			}
		}
		compare(t, store, m, now, names, what)
	}
}

// compare compares all states, name by name and by pages.
func compare(t *testing.T, store *redis.Lockouts, m model, now time.Time, names []lockout.Name, what string) {
	t.Helper()
	got := model{}
	for _, name := range names {
		page, err := store.States(t.Context(), now, lockout.Query{Name: &name, Limit: 1})
		require.NoError(t, err, what)
		require.Empty(t, page.Cursor, what)
		for _, e := range page.Entries {
			require.Equal(t, name, e.Key.Name(), what)
			got[e.Key] = e.State
		}
	}
	require.Equal(t, m, got, what)
}

// TestPages goes through all states, a few at a time, with others' keys among them.
func TestPages(t *testing.T) {
	store, client, prefix := open(t)
	ctx, now := t.Context(), time.Now()
	other, err := redis.NewLockouts(client, draw(t, client))
	require.NoError(t, err)
	_, _, err = store.Sync(ctx, time.Now().Add(time.Hour), 0)
	require.NoError(t, err)
	want := map[lockout.Key]bool{}
	for i := range 700 {
		name := lockout.Name{byte(i), byte(i >> 8)}
		require.NoError(t, store.Hold(ctx, now, name, now.Add(time.Hour)))
		require.NoError(t, other.Hold(ctx, now, lockout.Name{byte(i), byte(i >> 8), 9: 1}, now.Add(time.Hour)))
		want[name.Hold()] = true
	}
	for _, limit := range []int{1, 50, 1000, 100_000} {
		got, pages, largest := map[lockout.Key]bool{}, 0, 0
		for q := (lockout.Query{Limit: limit}); pages == 0 || q.Cursor != ""; pages++ {
			page, err := store.States(ctx, now, q)
			require.NoError(t, err)
			for _, e := range page.Entries {
				require.Equal(t, lockout.State{Until: now.Add(time.Hour).UnixMicro()}, e.State)
				got[e.Key] = true
			}
			largest = max(largest, len(page.Entries))
			q.Cursor = page.Cursor
		}
		require.Equal(t, want, got, "limit %d", limit)
		t.Logf("limit %d: %d pages, the largest with %d", limit, pages, largest)
	}
	_, err = store.States(ctx, now, lockout.Query{Limit: 1, Cursor: "x"})
	require.EqualError(t, err, "redis: States: the server refused (code ERR)")

	require.NoError(t, client.HSet(ctx, "{"+prefix+"}:"+fmt.Sprintf("%020x", 1), "jdoe", "x").Err())
	_, err = store.States(ctx, now, lockout.Query{Limit: 100_000})
	require.EqualError(t, err, "redis: States: the answer is none of this store's: something else writes under its prefix")
}

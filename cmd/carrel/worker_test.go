package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/research/synth"
	"github.com/carrel-project/carrel/store/postgres"
)

// A nightly is a schema of a test's own on a real server, with records in it.
type nightly struct {
	t      testing.TB
	dsn    string
	db     *sql.DB
	pool   *pgxpool.Pool
	client *jobClient
	policy *anonymize.Policy
	file   string // of the policy
}

func newNightly(t testing.TB, loans int) *nightly {
	t.Helper()
	n := &nightly{t: t, dsn: newSchema(t), file: file(t, "policy.yaml", simplePolicy)}
	var err error
	n.db, err = sql.Open("pgx", n.dsn)
	require.NoError(t, err)
	t.Cleanup(func() { n.db.Close() })
	n.pool, err = pgxpool.New(t.Context(), n.dsn)
	require.NoError(t, err)
	t.Cleanup(n.pool.Close)
	good(t, carrel(t, "migrate", "--db", n.dsn))
	good(t, carrel(t, "keys", "init", "--db", n.dsn))
	n.client, err = newJobClient(n.pool, &river.Config{})
	require.NoError(t, err)
	n.policy, err = anonymize.ParsePolicy([]byte(simplePolicy))
	require.NoError(t, err)
	lib, err := synth.Generate(synth.Params{Seed: 1, Loans: loans, Until: time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)})
	require.NoError(t, err)
	_, err = postgres.New(n.db).SaveAccounts(t.Context(), noErrors(lib.Accounts()))
	require.NoError(t, err)
	_, err = postgres.New(n.db).Save(t.Context(), noErrors(lib.Entries()))
	require.NoError(t, err)
	return n
}

func noErrors[T any](seq func(func(T) bool)) func(func(T, error) bool) {
	return func(yield func(T, error) bool) {
		for v := range seq {
			if !yield(v, nil) {
				return
			}
		}
	}
}

// plan returns how many records of each kind a sweep would unlink now.
func (n *nightly) plan() map[string]int {
	s, err := anonymize.NewSweep(postgres.New(n.db), n.policy, anonymize.Config{})
	require.NoError(n.t, err)
	r, err := s.Plan(n.t.Context(), time.Now())
	require.NoError(n.t, err)
	due := map[string]int{}
	for kind, k := range r.Kinds {
		if k.Unlinked > 0 {
			due[kind] = k.Unlinked
		}
	}
	return due
}

// unlinked sums up the receipts.
func (n *nightly) unlinked() map[string]int {
	receipts, err := postgres.New(n.db).Receipts(n.t.Context())
	require.NoError(n.t, err)
	sum := map[string]int{}
	for _, r := range receipts {
		sum[r.Kind] += r.Unlinked
	}
	return sum
}

func (n *nightly) shards() []*rivertype.JobRow {
	jobs, err := n.client.JobList(n.t.Context(), shardJobs())
	require.NoError(n.t, err)
	return jobs.Jobs
}

// states counts shards by what became of them.
func (n *nightly) states() map[rivertype.JobState]int {
	m := map[rivertype.JobState]int{}
	for _, job := range n.shards() {
		m[job.State]++
	}
	return m
}

func (n *nightly) wait(why string, limit time.Duration, done func() bool) {
	n.t.Helper()
	require.Eventually(n.t, done, limit, 50*time.Millisecond, why)
}

// lock keeps every sweep from ending a page, until the function that it returns is called.
func (n *nightly) lock() (unlock func()) {
	tx, err := n.db.Begin()
	require.NoError(n.t, err)
	_, err = tx.Exec("LOCK TABLE receipts IN SHARE MODE")
	require.NoError(n.t, err)
	var once sync.Once
	unlock = func() { once.Do(func() { tx.Rollback() }) }
	n.t.Cleanup(unlock)
	return unlock
}

// thisMinute is a schedule by which a night is to begin now.
func (n *nightly) thisMinute() string { return time.Now().In(n.policy.Zone()).Format("15:04") }

// A process is a worker in a process of its own.
type process struct {
	*exec.Cmd
	mu  sync.Mutex
	log bytes.Buffer
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func (n *nightly) start(schedule string, args ...string) *process {
	n.t.Helper()
	p := &process{Cmd: command(n.t, append([]string{"worker", "--db", n.dsn, "--policy", n.file, "--schedule", schedule}, args...)...)}
	p.Stderr = p
	require.NoError(n.t, p.Start())
	n.t.Cleanup(func() {
		p.Process.Kill()
		p.Wait()
		for secret := range strings.SplitSeq(n.dsn, "?") {
			assert.NotContains(n.t, p.said(), secret)
		}
		if n.t.Failed() {
			n.t.Log(p.said())
		}
	})
	return p
}

// stop tells a worker to stop, and returns how long it took.
func (n *nightly) stop(p *process) time.Duration {
	n.t.Helper()
	began := time.Now()
	require.NoError(n.t, p.Process.Signal(syscall.SIGTERM))
	p.Wait()
	require.Equal(n.t, exitGood, p.ProcessState.ExitCode(), p.said())
	return time.Since(began)
}

func all(state rivertype.JobState) map[rivertype.JobState]int {
	return map[rivertype.JobState]int{state: 4}
}

func TestWorkerNight(t *testing.T) {
	t.Parallel()
	n := newNightly(t, 5000)
	due := n.plan()
	require.Greater(t, due["loan"], 1000)
	minute := n.thisMinute()
	one, two := n.start(minute), n.start(minute)
	n.wait("the night is over", time.Minute, func() bool { return n.states()[rivertype.JobStateCompleted] == 4 })
	assert.Equal(t, due, n.unlinked())

	// The elected process goes; the one that comes after it begins no second night, and neither does a third that is new.
	figures := filepath.Join(t.TempDir(), "carrel.prom")
	three := n.start(minute, "--metrics", figures)
	n.stop(one)
	n.wait("both say so", time.Minute, func() bool { return strings.Contains(two.said()+three.said(), "worker started") })
	time.Sleep(7 * time.Second) // an election takes place every five
	assert.Equal(t, all(rivertype.JobStateCompleted), n.states())
	nightJobs, err := n.client.JobList(t.Context(), river.NewJobListParams().Kinds(nightArgs{}.Kind()))
	require.NoError(t, err)
	assert.Len(t, nightJobs.Jobs, 1)

	var s struct {
		Nights  []night
		Next    time.Time
		Workers bool
	}
	require.NoError(t, json.Unmarshal([]byte(good(t, carrel(t, "worker", "status", "--db", n.dsn, "--json"))), &s))
	require.Len(t, s.Nights, 1)
	assert.True(t, s.Workers)
	assert.Equal(t, 4, s.Nights[0].Done)
	assert.WithinDuration(t, time.Now().Add(day), s.Next, 10*time.Minute)
	for kind, want := range due {
		assert.Equal(t, want, s.Nights[0].Report.Kinds[kind].Unlinked, kind)
	}
	out := good(t, carrel(t, "worker", "status", "--db", n.dsn))
	assert.Contains(t, out, "The next night begins at ")
	assert.Contains(t, out, thousands(due["loan"]+due["request"]+due["sharing"]+due["fee"]+due["notice"]))
	text, err := os.ReadFile(figures)
	require.NoError(t, err)
	assert.Contains(t, string(text), "carrel_night_finished_seconds 1")
	assert.Contains(t, string(text), "carrel_night_shards{state=\"done\"} 4\n")
	assert.Contains(t, string(text), fmt.Sprintf("carrel_sweep_unlinked{kind=\"loan\"} %d\n", due["loan"]))

	n.stop(two)
	n.stop(three)
	verified := good(t, carrel(t, "log", "verify", "--db", n.dsn))
	assert.Contains(t, verified, "entries", "what was unlinked is in the trail")
	log := one.said() + two.said() + three.said()
	assert.Equal(t, 1, strings.Count(log, "a night begins"), log)
	assert.Equal(t, 4, strings.Count(log, "shard done"), log)
	assert.Contains(t, log, "the night is over")
}

// A worker is killed in the middle of its pages. The others wait for a sign of life from it, and then do its shards.
func TestWorkerKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes about a minute and a half")
	}
	t.Parallel()
	n := newNightly(t, 20_000) // so many that every shard has some
	due := n.plan()
	unlock := n.lock()
	minute := n.thisMinute()
	one := n.start(minute, "--workers", "2")
	n.wait("two shards run", time.Minute, func() bool { return n.states()[rivertype.JobStateRunning] == 2 })
	two := n.start(minute, "--workers", "2")
	n.wait("four shards run", time.Minute, func() bool { return n.states()[rivertype.JobStateRunning] == 4 })
	require.NoError(t, one.Process.Kill())
	one.Wait()
	began := time.Now()
	unlock()
	n.wait("the night is over", 3*time.Minute, func() bool { return n.states()[rivertype.JobStateCompleted] == 4 })
	t.Logf("the night was over %.0f s after a worker was killed", time.Since(began).Seconds())
	assert.Less(t, time.Since(began), 100*time.Second)
	assert.Equal(t, due, n.unlinked())
	assert.Contains(t, two.said(), "a worker is gone; its shard is given to another")
	list, err := lastNights(t.Context(), n.client, 1)
	require.NoError(t, err)
	for kind, want := range due {
		assert.Equal(t, want, list[0].Report.Kinds[kind].Unlinked, kind)
	}
	n.stop(two)
}

// A worker that is told to stop does so soon, also when its pages do not end, and gives back what it had.
func TestWorkerStops(t *testing.T) {
	t.Parallel()
	n := newNightly(t, 20_000) // so many that every shard has some
	due := n.plan()
	unlock := n.lock()
	minute := n.thisMinute()
	one := n.start(minute, "--workers", "4")
	n.wait("four shards run", time.Minute, func() bool { return n.states()[rivertype.JobStateRunning] == 4 })
	time.Sleep(time.Second)
	assert.Less(t, n.stop(one), grace+10*time.Second)
	require.Equal(t, all(rivertype.JobStateAvailable), n.states())
	for _, job := range n.shards() {
		assert.Zero(t, job.Attempt, "no attempt is used up")
		assert.Empty(t, job.Errors)
	}
	assert.Contains(t, one.said(), "shard given back")
	unlock()
	two := n.start(minute, "--workers", "4")
	n.wait("the night is over", time.Minute, func() bool { return n.states()[rivertype.JobStateCompleted] == 4 })
	assert.Equal(t, due, n.unlinked())
	n.stop(two)
}

// Shards of another policy are left to others, and it is said once.
func TestWorkerOtherPolicy(t *testing.T) {
	t.Parallel()
	n := newNightly(t, 100)
	other := nightArgs{"sha256:" + strings.Repeat("0", 64), time.Now().UTC(), 4}
	require.NoError(t, beginNight(t.Context(), n.client, other, manyTries))
	far := time.Now().Add(6 * time.Hour).In(n.policy.Zone()).Format("15:04")
	one := n.start(far)
	n.wait("all were looked at", time.Minute, func() bool { return n.states()[rivertype.JobStateScheduled] == 4 })
	for _, job := range n.shards() {
		assert.Zero(t, job.Attempt)
	}
	assert.Empty(t, n.unlinked())
	n.stop(one)
	assert.Equal(t, 1, strings.Count(one.said(), "shards are waiting for a worker with their policy"), one.said())
}

func TestWorkerRunNow(t *testing.T) {
	t.Parallel()
	n := newNightly(t, 2000)
	due := n.plan()
	old := nightArgs{n.policy.Ref().Digest, time.Now().Add(-time.Hour).UTC(), 4}
	require.NoError(t, beginNight(t.Context(), n.client, old, manyTries))
	var report anonymize.Report
	require.NoError(t, json.Unmarshal([]byte(good(t, carrel(t, "worker", "run-now", "--db", n.dsn, "--policy", n.file, "--json"))), &report))
	assert.Equal(t, due, n.unlinked())
	for kind, want := range due {
		assert.Equal(t, want, report.Kinds[kind].Unlinked, kind)
		assert.Equal(t, report.Kinds[kind].LinkedBefore, report.Kinds[kind].Unlinked+report.Kinds[kind].Kept, kind)
	}
	out := good(t, carrel(t, "worker", "run-now", "--db", n.dsn, "--policy", n.file, "--shards", "3", "--fast"))
	assert.Contains(t, out, "Policy test/simple, revision 3")
	assert.Equal(t, due, n.unlinked(), "nothing is left")
	assert.Equal(t, map[rivertype.JobState]int{rivertype.JobStateCompleted: 7, rivertype.JobStateCancelled: 4}, n.states(), "what the earlier night had left, the later one did")
	assert.Contains(t, good(t, carrel(t, "worker", "status", "--db", n.dsn, "--nights", "1")), "No worker was ever started")
}

// A shard that fails is tried again, and what is written of why names nobody.
func TestWorkerTriesAgain(t *testing.T) {
	t.Parallel()
	n := newNightly(t, 1000)
	due := n.plan()
	_, err := n.db.Exec("ALTER TABLE receipts RENAME TO elsewhere")
	require.NoError(t, err)
	one := n.start(n.thisMinute())
	n.wait("a shard failed", time.Minute, func() bool { return strings.Contains(one.said(), "shard failed") })
	_, err = n.db.Exec("ALTER TABLE elsewhere RENAME TO receipts")
	require.NoError(t, err)
	n.wait("the night is over", time.Minute, func() bool { return n.states()[rivertype.JobStateCompleted] == 4 })
	assert.Equal(t, due, n.unlinked())
	n.stop(one)
	assert.Contains(t, one.said(), "SQLSTATE 42P01")
	assert.NotContains(t, one.said(), "receipts")
}

// What was missed is made up for, but not what never was, nor what another policy did.
func TestWorkerMissedNights(t *testing.T) {
	t.Parallel()
	n := newNightly(t, 1000)
	ago := func(d time.Duration) string { return time.Now().Add(-d).In(n.policy.Zone()).Format("15:04") }
	until := func(schedule, what string) {
		t.Helper()
		p := n.start(schedule)
		n.wait(what, time.Minute, func() bool { return strings.Contains(p.said(), what) })
		n.stop(p)
	}
	until(ago(3*time.Hour), "the first night is the next one")
	assert.Empty(t, n.shards())
	good(t, carrel(t, "worker", "run-now", "--db", n.dsn, "--policy", n.file))
	two := ago(2 * time.Hour)
	until(two, "the night is over")
	assert.Len(t, n.shards(), 8)
	n.file = file(t, "other.yaml", simplePolicy+"# changed\n")
	until(two, "the night is over already, under another policy")
	assert.Len(t, n.shards(), 8)
}

func TestWorkerMisuse(t *testing.T) {
	policy := file(t, "policy.yaml", simplePolicy)
	args := func(more ...string) []string {
		return append([]string{"worker", "--db", "postgres://u:secret@127.0.0.1:1/x?connect_timeout=2", "--policy", policy, "--schedule", "03:30"}, more...)
	}
	refused(t, carrel(t, "worker"), "worker: --db is missing")
	refused(t, carrel(t, "worker", "statsu"), `did you mean "status"?`)
	refused(t, carrel(t, args("--schedule", "3:30")...), `want a time of day like "03:30"`)
	refused(t, carrel(t, args("--every", "7h")...), "--every")
	refused(t, carrel(t, args("--shards", "0")...), "--shards must be from 1")
	refused(t, carrel(t, args("--workers", "0")...), "--workers must be from 1")
	refused(t, carrel(t, args("--db", "library.db")...), "jobs need PostgreSQL")
	refused(t, carrel(t, "worker", "status", "--db", "x.db"), "jobs need PostgreSQL")
	refused(t, carrel(t, "worker", "status", "--db", "postgres://x", "--nights", "0"), "--nights")
	r := carrel(t, args()...)
	refused(t, r)
	assert.NotContains(t, r.stderr, "secret")
	refused(t, carrel(t, args("--db", "postgres://u:sec%zzret@h/x")...), "not an address")
}

func TestWorkerNeedsTables(t *testing.T) {
	dsn, policy := newSchema(t), file(t, "policy.yaml", simplePolicy)
	check := func(want string) {
		t.Helper()
		refused(t, carrel(t, "worker", "--db", dsn, "--policy", policy, "--schedule", "03:30"), want)
		refused(t, carrel(t, "worker", "run-now", "--db", dsn, "--policy", policy), want)
		refused(t, carrel(t, "worker", "status", "--db", dsn), want)
	}
	check("carrel migrate makes them")
	good(t, carrel(t, "migrate", "--db", dsn))
	assert.Contains(t, good(t, carrel(t, "worker", "status", "--db", dsn)), "No night has begun yet")
	// As a carrel without worker left it.
	pool, err := pgxpool.New(t.Context(), dsn)
	require.NoError(t, err)
	defer pool.Close()
	m, err := jobMigrator(pool)
	require.NoError(t, err)
	_, err = m.Migrate(t.Context(), rivermigrate.DirectionDown, &rivermigrate.MigrateOpts{TargetVersion: -1})
	require.NoError(t, err)
	check("run carrel migrate")
	r := carrel(t, "migrate", "--db", dsn, "--status")
	assert.Equal(t, exitFound, r.code)
	assert.Contains(t, r.out, "the worker's job tables are missing")
	assert.Contains(t, good(t, carrel(t, "migrate", "--db", dsn)), "made the worker's job tables")
	assert.Contains(t, good(t, carrel(t, "migrate", "--db", dsn)), "up to date")
}

func TestNightsBegin(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Stockholm")
	require.NoError(t, err)
	at := func(s string) time.Time {
		v, err := time.ParseInLocation("2006-01-02 15:04", s, zone)
		require.NoError(t, err)
		return v
	}
	for _, c := range []struct {
		every           time.Duration
		now, last, next string
	}{
		{day, "2026-11-28 03:29", "2026-11-27 03:30", "2026-11-28 03:30"},
		{day, "2026-11-28 03:30", "2026-11-28 03:30", "2026-11-29 03:30"},
		{day, "2027-01-01 00:00", "2026-12-31 03:30", "2027-01-01 03:30"},
		{day, "2026-03-29 01:00", "2026-03-28 03:30", "2026-03-29 03:30"}, // the clock goes forward
		{day, "2026-10-25 03:00", "2026-10-24 03:30", "2026-10-25 03:30"}, // and back
		{6 * time.Hour, "2026-11-28 03:29", "2026-11-27 21:30", "2026-11-28 03:30"},
		{6 * time.Hour, "2026-11-28 10:00", "2026-11-28 09:30", "2026-11-28 15:30"},
		{6 * time.Hour, "2026-10-25 03:29", "2026-10-24 21:30", "2026-10-25 03:30"},
	} {
		s, err := newSchedule("03:30", c.every, zone)
		require.NoError(t, err)
		assert.Equal(t, at(c.last), s.Last(at(c.now)), "%v", c)
		assert.Equal(t, at(c.next), s.Next(at(c.now)), "%v", c)
	}
	// However long the distance, nights follow each other, and every moment is between two of them.
	for _, every := range []time.Duration{time.Minute, 30 * time.Minute, 12 * time.Hour, day, 2 * day, 7 * day} {
		s, err := newSchedule("02:30", every, zone)
		require.NoError(t, err)
		for now, end := at("2026-03-20 00:00"), at("2026-04-05 00:00"); now.Before(end); now = now.Add(37 * time.Minute) {
			last, next := s.Last(now), s.Next(now)
			require.False(t, last.After(now), "%v %v", every, now)
			require.True(t, next.After(now), "%v %v", every, now)
			require.Equal(t, next, s.Next(last), "%v %v", every, now)
			require.Equal(t, next, s.Last(next), "%v %v", every, now)
		}
	}
	for _, bad := range []string{"", "3:30", "24:00", "03:30:00", "03.30"} {
		_, err := newSchedule(bad, day, zone)
		assert.Error(t, err, bad)
	}
	for _, bad := range []time.Duration{0, -day, time.Second, 7 * time.Hour, 36 * time.Hour, 29 * day} {
		_, err := newSchedule("03:30", bad, zone)
		assert.Error(t, err, bad)
	}
}

func TestSignsOfLife(t *testing.T) {
	var p pulses
	now := time.Now()
	assert.False(t, p.dead(1, "a", now), "seen for the first time")
	assert.False(t, p.dead(1, "a", now.Add(10*time.Second)), "not for long enough")
	assert.False(t, p.dead(1, "b", now.Add(30*time.Second)), "lives")
	assert.True(t, p.dead(1, "b", now.Add(60*time.Second)))
	assert.False(t, p.dead(1, "c", now.Add(61*time.Second)), "its next process begins anew")
	end := p.begin(2)
	assert.False(t, p.dead(2, "", now))
	assert.False(t, p.dead(2, "", now.Add(time.Hour)), "our own")
	end()
	assert.False(t, p.dead(2, "", now.Add(time.Hour)))
	assert.True(t, p.dead(2, "", now.Add(2*time.Hour)))
}

func TestWorkerLogTellsNothing(t *testing.T) {
	var out bytes.Buffer
	own, queue := workerLog(&out, 0)
	own.Info("shard done", "shard", "0/4")
	queue.Info("not heard")
	queue.Warn("Elector: error", "error", "failed to connect to `user=secret database=secret`: ERROR (SQLSTATE 28P01)")
	queue.Error("job failed", "err", fmt.Errorf("secret"), "panic_val", "secret")
	assert.Equal(t, 3, strings.Count(out.String(), "\n"))
	assert.NotContains(t, out.String(), "secret")
	assert.NotContains(t, out.String(), "not heard")
	assert.Contains(t, out.String(), "SQLSTATE 28P01")
	assert.ErrorIs(t, queueProblem(fmt.Errorf("x: %w", context.Canceled)), context.Canceled)
}

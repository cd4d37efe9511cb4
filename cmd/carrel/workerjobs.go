package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// A jobClient is this process's part in the job queue.
type jobClient = river.Client[pgx.Tx]

// The worker's jobs have a queue of their own, so that others may be in the same tables.
const jobQueue = "carrel"

// nightArgs are those of the job that begins a night. One night has one such job under a policy, however many leaders try.
type nightArgs struct {
	Policy string    `json:"policy" river:"unique"` // its digest
	At     time.Time `json:"at" river:"unique"`     // when the night was to begin, as of which all its shards decide
	Shards int       `json:"shards"`
}

func (nightArgs) Kind() string { return "carrel-night" }

func (nightArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: jobQueue, UniqueOpts: river.UniqueOpts{ByArgs: true}}
}

// shardArgs are those of the job that sweeps one shard of a night. They name no person and no secret, for they stay in the database for weeks.
type shardArgs struct {
	Policy string    `json:"policy" river:"unique"`
	At     time.Time `json:"at" river:"unique"`
	Shard  string    `json:"shard" river:"unique"` // as in 0/4
}

func (shardArgs) Kind() string { return "carrel-shard" }

// manyTries outlasts an outage of some hours: a shard is tried again after five seconds, ten, twenty, and in the end every ten minutes.
const (
	manyTries = 40
	slowest   = 10 * time.Minute
)

func (a shardArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: jobQueue, MaxAttempts: manyTries, UniqueOpts: river.UniqueOpts{ByArgs: true}}
}

// nightTag finds the shards of one night, under whatever policy.
func nightTag(at time.Time) string { return fmt.Sprintf("night-%d", at.UnixMicro()) }

// beginNight enqueues the shards of a night, all of them or none; those that are there already stay as they are.
func beginNight(ctx context.Context, client *jobClient, n nightArgs, tries int) error {
	var jobs []river.InsertManyParams
	for i := range n.Shards {
		jobs = append(jobs, river.InsertManyParams{
			Args:       shardArgs{n.Policy, n.At, fmt.Sprintf("%d/%d", i, n.Shards)},
			InsertOpts: &river.InsertOpts{MaxAttempts: tries, Tags: []string{nightTag(n.At)}},
		})
	}
	_, err := client.InsertMany(ctx, jobs)
	return err
}

// A nightWorker begins nights.
type nightWorker struct {
	river.WorkerDefaults[nightArgs]
	log *slog.Logger
}

// late is after how long a night that has not begun was missed: all workers were down, or there was none yet.
const late = 15 * time.Minute

// Work implements river.Worker.
func (w *nightWorker) Work(ctx context.Context, job *river.Job[nightArgs]) error {
	client := river.ClientFromContext[pgx.Tx](ctx)
	n := job.Args
	log := w.log.With("at", stamp(n.At), "policy", shortDigest(n.Policy))
	if time.Since(n.At) > late {
		// What was missed is made up for. But a library that starts its first worker at noon does not want to sweep at noon.
		if earlier, err := client.JobList(ctx, shardJobs().First(1)); err != nil {
			return queueProblem(err)
		} else if len(earlier.Jobs) == 0 {
			log.Info("the first night is the next one")
			return nil
		}
	}
	// A new policy does not do over what the old one did last night.
	jobs, err := client.JobList(ctx, shardJobs().TagsAll(nightTag(n.At)).First(10_000))
	if err != nil {
		return queueProblem(err)
	}
	for _, other := range nights(jobs.Jobs) {
		if other.Policy != n.Policy && other.Done == other.Shards {
			log.Info("the night is over already, under another policy", "under", shortDigest(other.Policy))
			return nil
		}
	}
	if err := beginNight(ctx, client, n, manyTries); err != nil {
		return queueProblem(err)
	}
	log.Info("a night begins", "shards", n.Shards)
	return nil
}

// shardJobs lists shards, the newest first.
func shardJobs() *river.JobListParams {
	return river.NewJobListParams().Kinds(shardArgs{}.Kind()).OrderBy(river.JobListOrderByID, river.SortOrderDesc)
}

// What a shard's job says of itself, while it runs and when it is done. It is the job's output.
type shardOutput struct {
	Beat   string           `json:"beat"` // changes as long as the job's process lives
	Report anonymize.Report `json:"report"`
}

func argsOf(job *rivertype.JobRow) (a shardArgs, err error) {
	return a, json.Unmarshal(job.EncodedArgs, &a)
}

func outputOf(job *rivertype.JobRow) (o shardOutput, ok bool) {
	raw := job.Output()
	return o, raw != nil && json.Unmarshal(raw, &o) == nil
}

// A shardWorker sweeps shards.
type shardWorker struct {
	river.WorkerDefaults[shardArgs]
	nights  *nightDatabase
	policy  *anonymize.Policy
	fast    bool
	log     *slog.Logger
	alive   *pulses
	strange sync.Map // digests of policies that were seen and are not ours
}

// Middleware implements river.Worker. It surrounds all that the queue does with a job in this process, so that Timeout knows which are ours.
func (w *shardWorker) Middleware(*rivertype.JobRow) []rivertype.WorkerMiddleware {
	return []rivertype.WorkerMiddleware{river.WorkerMiddlewareFunc(func(ctx context.Context, job *rivertype.JobRow, do func(context.Context) error) error {
		defer w.alive.begin(job.ID)()
		return do(ctx)
	})}
}

// Timeout implements river.Worker. A shard takes as long as it takes, so none is ever timed out. But the queue, which knows nothing of
// processes, also asks here, in the leader, about each job that has been running for rescueAfter, and runs it again when its time is
// over: that it is when the job's process has stopped to give signs of life.
func (w *shardWorker) Timeout(job *river.Job[shardArgs]) time.Duration {
	out, _ := outputOf(job.JobRow)
	if w.alive.dead(job.ID, out.Beat, time.Now()) {
		w.log.Warn("a worker is gone; its shard is given to another", "shard", job.Args.Shard, "at", stamp(job.Args.At))
		return time.Nanosecond
	}
	return -1
}

// NextRetry implements river.Worker.
func (w *shardWorker) NextRetry(job *river.Job[shardArgs]) time.Time {
	return time.Now().Add(min(slowest, 5*time.Second<<min(len(job.Errors), 10)))
}

const (
	beat      = 5 * time.Second // between two signs of life
	silence   = 3 * beat        // without one, a worker is gone
	grace     = 5 * time.Second // for the pages that are being worked on when the worker is told to stop
	strangest = day             // for how long a shard waits for a worker that has its policy
)

// Work implements river.Worker.
func (w *shardWorker) Work(ctx context.Context, job *river.Job[shardArgs]) error {
	a := job.Args
	log := w.log.With("shard", a.Shard, "at", stamp(a.At))
	shard, err := anonymize.ParseShard(a.Shard)
	if err != nil {
		return river.JobCancel(err)
	}
	if err := w.mayRun(ctx, job); err != nil {
		return err
	}
	before, again := outputOf(job.JobRow)
	report, err := w.sweep(ctx, job, shard, before, log)
	if err == nil && again {
		err = w.settle(ctx, &report, a, shard)
	}
	switch {
	case err == nil:
	case ctx.Err() != nil:
		log.Info("shard given back")
		return context.Canceled // then the queue gives it to another at once, and does not count the attempt
	default:
		log.Warn("shard failed", "error", oneLine(err.Error()), "attempt", job.Attempt)
		return err
	}
	if err := river.RecordOutput(ctx, shardOutput{"done", report}); err != nil {
		return err
	}
	log.Info("shard done", counts(report)...)
	return nil
}

// mayRun refuses shards that are not for this worker, not any more or not yet.
func (w *shardWorker) mayRun(ctx context.Context, job *river.Job[shardArgs]) error {
	a := job.Args
	if a.Policy != w.policy.Ref().Digest {
		if time.Since(a.At) > strangest {
			return river.JobCancel(errors.New("no worker with this policy came within a day"))
		}
		if _, told := w.strange.LoadOrStore(a.Policy, true); !told {
			w.log.Warn("shards are waiting for a worker with their policy; this one has another", "theirs", shortDigest(a.Policy), "ours", shortDigest(w.policy.Ref().Digest))
		}
		return river.JobSnooze(time.Minute)
	}
	if wait := time.Until(a.At); wait > 0 { // the queue is a moment early, or the leader's clock is before ours
		return river.JobSnooze(min(wait, time.Minute))
	}
	newest, err := river.ClientFromContext[pgx.Tx](ctx).JobList(ctx, shardJobs().First(1).Where("args ->> 'policy' = @policy", river.NamedArgs{"policy": a.Policy}))
	if err != nil {
		return queueProblem(err)
	}
	if len(newest.Jobs) == 0 {
		return nil
	}
	if n, err := argsOf(newest.Jobs[0]); err == nil && n.At.After(a.At) {
		return river.JobCancel(errors.New("a later night has begun, which does this one's work"))
	}
	return nil
}

// sweep sweeps the shard, giving signs of life and of progress meanwhile.
func (w *shardWorker) sweep(ctx context.Context, job *river.Job[shardArgs], shard anonymize.Shard, before shardOutput, log *slog.Logger) (report anonymize.Report, err error) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })()

	p := &shardProgress{out: shardOutput{Report: anonymize.Report{Policy: w.policy.Ref(), At: job.Args.At, Kinds: map[string]*anonymize.KindReport{}}}}
	for kind, k := range before.Report.Kinds { // what an earlier attempt did is done
		p.out.Report.Kinds[kind] = &anonymize.KindReport{LinkedBefore: k.Unlinked, Unlinked: k.Unlinked}
	}
	p.before = unlinkedBefore(p.out.Report)
	stopped := p.report(run, river.ClientFromContext[pgx.Tx](ctx), job.ID, log)
	defer stopped()
	err = w.nights.swept(run, func(store sweptStore) error {
		s, err := anonymize.NewSweep(wholePages{store, ctx}, w.policy, anonymize.Config{Shard: shard, Fast: w.fast, Progress: p.set})
		if err != nil {
			return err
		}
		report, err = s.Run(run, job.Args.At)
		return err
	})
	return report, err
}

// settle counts what all attempts at a shard have done together: an earlier one may have been killed after its last sign of life. The receipts
// in the database know.
func (w *shardWorker) settle(ctx context.Context, report *anonymize.Report, a shardArgs, shard anonymize.Shard) error {
	receipts, err := w.nights.d.Receipts(ctx)
	if err != nil {
		return err
	}
	for _, k := range report.Kinds {
		k.Unlinked, k.ByRule = 0, map[string]int{}
	}
	for _, r := range receipts {
		if r.Policy.Digest != a.Policy || !r.At.Equal(a.At) || r.Shard != shard.String() {
			continue
		}
		k := report.Kinds[r.Kind]
		if k == nil {
			k = &anonymize.KindReport{ByRule: map[string]int{}, ByReason: map[string]int{}}
			report.Kinds[r.Kind] = k
		}
		k.Unlinked += r.Unlinked
		for rule, n := range r.ByRule {
			k.ByRule[rule] += n
		}
	}
	for _, k := range report.Kinds {
		k.LinkedBefore = k.Unlinked + k.Kept
	}
	return nil
}

// A shardProgress is what a running shard says of itself.
type shardProgress struct {
	mu     sync.Mutex
	before map[string]int // unlinked by earlier attempts
	out    shardOutput
	now    anonymize.Progress
}

func unlinkedBefore(r anonymize.Report) map[string]int {
	m := map[string]int{}
	for kind, k := range r.Kinds {
		m[kind] = k.Unlinked
	}
	return m
}

// set is a sweep's Progress function.
func (p *shardProgress) set(now anonymize.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	earlier := p.before[now.Kind.String()]
	p.now = now
	p.out.Report.Kinds[now.Kind.String()] = &anonymize.KindReport{LinkedBefore: earlier + now.Read, Unlinked: earlier + now.Unlinked, Kept: now.Read - now.Unlinked}
}

// snapshot returns what is to be written now.
func (p *shardProgress) snapshot() (shardOutput, anonymize.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.out
	out.Beat = time.Now().Format(time.RFC3339Nano)
	out.Report.Kinds = maps.Clone(out.Report.Kinds) // their values are never changed
	return out, p.now
}

// report writes the progress into the job, now and until the function that it returns is called.
func (p *shardProgress) report(ctx context.Context, client *jobClient, id int64, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for n := 0; ; n++ {
			out, now := p.snapshot()
			if _, err := client.JobUpdate(ctx, id, &river.JobUpdateParams{Output: out}); err != nil && ctx.Err() == nil {
				log.Warn("progress cannot be written", "error", queueProblem(err).Error())
			}
			if n%2 == 0 && n > 0 && now.Kind != 0 {
				log.Info("shard running", "kind", now.Kind.String(), "read", now.Read, "unlinked", now.Unlinked)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// counts are the totals of a report, as attributes of a line in the log.
func counts(r anonymize.Report) []any {
	var sum anonymize.KindReport
	for _, k := range r.Kinds {
		sum.LinkedBefore += k.LinkedBefore
		sum.Unlinked += k.Unlinked
		sum.Kept += k.Kept
		sum.Conflicts += k.Conflicts
	}
	return []any{"linked_before", sum.LinkedBefore, "unlinked", sum.Unlinked, "kept", sum.Kept, "conflicts", sum.Conflicts, "seconds", r.Seconds}
}

// add adds the report of one shard to that of its night, which took as long as its longest shard.
func add(sum *anonymize.Report, r anonymize.Report) {
	sum.Policy, sum.At = r.Policy, r.At
	sum.Partial = sum.Partial || r.Partial
	sum.Seconds = max(sum.Seconds, r.Seconds)
	if sum.Kinds == nil {
		sum.Kinds = map[string]*anonymize.KindReport{}
	}
	for kind, k := range r.Kinds {
		s := sum.Kinds[kind]
		if s == nil {
			s = &anonymize.KindReport{ByRule: map[string]int{}, ByReason: map[string]int{}}
			sum.Kinds[kind] = s
		}
		s.LinkedBefore += k.LinkedBefore
		s.Unlinked += k.Unlinked
		s.Kept += k.Kept
		s.Deferred += k.Deferred
		s.Conflicts += k.Conflicts
		for rule, n := range k.ByRule {
			s.ByRule[rule] += n
		}
		for reason, n := range k.ByReason {
			s.ByReason[reason] += n
		}
	}
}

// pulses knows which jobs this process runs, and which sign of life of others it saw last.
type pulses struct {
	mu   sync.Mutex
	own  map[int64]bool
	seen map[int64]sign
}

type sign struct {
	beat  string
	since time.Time
}

// begin says that this process runs a job, until the function that it returns is called.
func (p *pulses) begin(id int64) (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.own == nil {
		p.own, p.seen = map[int64]bool{}, map[int64]sign{}
	}
	p.own[id] = true
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.own, id)
	}
}

// watch looks at the signs of life of all running shards until ctx ends, so that who is elected need not begin to wait then.
func (p *pulses) watch(ctx context.Context, client *jobClient) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		// An error is one of the database, of which others speak.
		if running, err := client.JobList(ctx, shardJobs().States(rivertype.JobStateRunning).First(10_000)); err == nil {
			there := map[int64]bool{}
			for _, job := range running.Jobs {
				out, _ := outputOf(job)
				p.dead(job.ID, out.Beat, time.Now())
				there[job.ID] = true
			}
			p.forget(there)
		}
	}
}

// forget forgets the signs of jobs that are over.
func (p *pulses) forget(running map[int64]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.seen, func(id int64, _ sign) bool { return !running[id] })
}

// dead reports that a job's process shows no sign of life any more: it is not this one, and its sign has not changed for long, by this
// process's clock alone. Clocks of different machines are never compared.
func (p *pulses) dead(id int64, beatNow string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.own[id] {
		return false
	}
	last, known := p.seen[id]
	if !known || last.beat != beatNow {
		if p.seen == nil {
			p.seen = map[int64]sign{}
		}
		p.seen[id] = sign{beatNow, now}
		return false
	}
	return now.Sub(last.since) >= silence
}

// wholePages is a store that begins nothing new when the worker is told to stop, but ends what it has begun: the sweep stops between two pages, and what was
// read and decided is not thrown away.
type wholePages struct {
	store sweptStore
	stop  context.Context // of this one sweep
}

func (w wholePages) Linked(ctx context.Context, q anonymize.Query) (anonymize.Page, error) {
	if err := w.stop.Err(); err != nil {
		return anonymize.Page{}, err
	}
	return w.store.Linked(ctx, q)
}

func (w wholePages) Unlink(ctx context.Context, b anonymize.Batch) ([]string, error) {
	if err := w.stop.Err(); err != nil {
		return nil, err
	}
	return w.store.Unlink(ctx, b)
}

func (w wholePages) Finish(ctx context.Context) error {
	if err := w.stop.Err(); err != nil {
		return err
	}
	return w.store.Finish(ctx)
}

func (w wholePages) Resume(ctx context.Context, plan string, needs anonymize.Needs) error {
	if err := w.stop.Err(); err != nil {
		return err
	}
	return w.store.Resume(ctx, plan, needs)
}

func (w wholePages) Defer(ctx context.Context, d anonymize.Deferral) error {
	return w.store.Defer(ctx, d) // belongs to the page that was just written
}

func (w wholePages) Count(ctx context.Context, kind circulation.Kind, shard anonymize.Shard) (int, error) {
	if err := w.stop.Err(); err != nil {
		return 0, err
	}
	return w.store.Count(ctx, kind, shard)
}

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// maxShards bounds how much is enqueued for a night.
const maxShards = 256

// workerFlags are what all that works on nights has.
type workerFlags struct {
	dsn, policyFile, metrics string
	shards, workers          int
	fast                     bool
	trail                    trailFlags
}

func (f *workerFlags) register(cmd *cobra.Command) {
	addServerFlag(cmd, &f.dsn)
	cmd.Flags().StringVar(&f.policyFile, "policy", "", "the retention policy (a YAML file)")
	cmd.Flags().IntVar(&f.shards, "shards", 4, "into how many parts a night is divided; the worker that begins it decides")
	cmd.Flags().IntVar(&f.workers, "workers", min(2, runtime.NumCPU()), "how many shards this process works on at once")
	cmd.Flags().BoolVar(&f.fast, "fast", false, "do not count what was put off: the report is of what was read")
	addMetricsFlag(cmd, &f.metrics)
	f.trail.register(cmd)
}

func newWorker() *cobra.Command {
	var f workerFlags
	var clock string
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "worker --db DSN --policy FILE --schedule TIME",
		Short: "Run the nightly sweep as jobs, on any number of machines",
		Long: `Runs the nightly sweep as jobs in the PostgreSQL database in which the records are. Start as many of these as you like, on as many
machines, all with the same policy, schedule and number of shards: one of them begins the night, all work on its shards, and when one is killed, the others
take over within about a minute. All shards of a night decide as of the time at which it was to begin. A night that was missed because no worker
was there is made up for when one starts. carrel migrate makes the tables for the jobs.

A worker whose policy is another than a night's leaves that night to the others, so the policy can be changed machine by machine.
SIGTERM or Ctrl-C stops it between two pages, gives its shards to the others and exits with status 0; a second one stops it at once, which harms nothing.`,
		Example: `  carrel worker --db "postgres://carrel@db.example/library?search_path=carrel" --policy policy.yaml --schedule 03:30
  carrel worker --db "postgres://carrel@db.example/library?search_path=carrel" --policy policy.yaml --schedule 03:30 --every 168h --shards 16 --workers 4
  carrel worker run-now --db "postgres://carrel@db.example/library?search_path=carrel" --policy policy.yaml
  carrel worker status --db "postgres://carrel@db.example/library?search_path=carrel"`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return noCommand(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db", "policy", "schedule"); err != nil {
				return err
			}
			policy, err := readPolicy(cmd, f.policyFile)
			if err != nil {
				return err
			}
			nightly, err := newSchedule(clock, every, policy.Zone())
			if err != nil {
				return err
			}
			w, err := openWorker(cmd, &f, policy, slog.LevelInfo)
			if err != nil {
				return err
			}
			return errors.Join(w.work(cmd.Context(), nightly), w.nights.close())
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&clock, "schedule", "", `when a night begins: a time of day in the policy's zone, as in "03:30"`)
	cmd.Flags().DurationVar(&every, "every", day, "from one night to the next: a part of a day, or whole days")
	cmd.AddCommand(newWorkerRunNow(), newWorkerStatus())
	return cmd
}

// A worker is one process's part in the nights.
type worker struct {
	*workerFlags
	policy     *anonymize.Policy
	nights     *nightDatabase
	log, queue *slog.Logger
	alive      pulses
	over       shardArgs // the night, in Policy and At, of which was said last that it is over
}

func openWorker(cmd *cobra.Command, f *workerFlags, policy *anonymize.Policy, level slog.Level) (*worker, error) {
	switch {
	case f.shards < 1 || f.shards > maxShards:
		return nil, fmt.Errorf("%s--shards must be from 1 to %d", place(cmd), maxShards)
	case f.workers < 1 || f.workers > maxShards:
		return nil, fmt.Errorf("%s--workers must be from 1 to %d", place(cmd), maxShards)
	}
	w := &worker{workerFlags: f, policy: policy}
	w.log, w.queue = workerLog(cmd.ErrOrStderr(), level)
	var err error
	if w.nights, err = openNights(cmd, f); err != nil {
		return nil, err
	}
	return w, nil
}

// How the queue is told that the process of a job is gone: see shardWorker.Timeout. It looks every half minute.
const (
	rescueAfter  = 25 * time.Second
	shortTimeout = 20 * time.Second // for the job that begins a night
	remembered   = 35 * day
)

// start begins to work on jobs, until stop.
func (w *worker) start(ctx context.Context, client *jobClient) error {
	if err := client.Start(context.WithoutCancel(ctx)); err != nil {
		return queueProblem(err)
	}
	go w.alive.watch(ctx, client)
	return nil
}

// join makes this process a part of the job queue. Nights are begun by whichever process the queue elects, if they have begun before.
func (w *worker) join(nightly []*river.PeriodicJob) (*jobClient, error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, &nightWorker{log: w.log})
	river.AddWorker(workers, &shardWorker{nights: w.nights, policy: w.policy, fast: w.fast, log: w.log, alive: &w.alive})
	client, err := newJobClient(w.nights.pool, &river.Config{
		Logger:               w.queue,
		Queues:               map[string]river.QueueConfig{jobQueue: {MaxWorkers: w.workers}},
		Workers:              workers,
		PeriodicJobs:         nightly,
		FetchPollInterval:    5 * time.Second, // the server tells when there is a job; this is for when it cannot
		JobTimeout:           shortTimeout,
		RescueStuckJobsAfter: rescueAfter,
		// What is forgotten is no longer unique: a night is remembered for longer than until the next one.
		CompletedJobRetentionPeriod: remembered,
		CancelledJobRetentionPeriod: remembered,
		DiscardedJobRetentionPeriod: remembered,
		ReindexerSchedule:           river.NeverSchedule(), // a few rows a night; and it wants the rights of an owner
	})
	if err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	return client, nil
}

// work works until it is told to stop.
func (w *worker) work(ctx context.Context, nightly schedule) error {
	digest := w.policy.Ref().Digest
	client, err := w.join([]*river.PeriodicJob{river.NewPeriodicJob(nightly, func() (river.JobArgs, *river.InsertOpts) {
		// The queue asks a moment early, and whenever it has elected somebody: then it is about the last night, which nearly always is there already.
		at := nightly.Last(time.Now().Add(time.Second))
		if at.Before(w.policy.Effective()) {
			w.log.Info("no night begins: the policy is not effective yet", "effective", stamp(w.policy.Effective()))
			return nil, nil
		}
		return nightArgs{digest, at.UTC(), w.shards}, nil
	}, &river.PeriodicJobOpts{RunOnStart: true})})
	if err != nil {
		return err
	}
	events, unsubscribe := client.Subscribe(river.EventKindJobCompleted, river.EventKindJobFailed, river.EventKindJobCancelled)
	defer unsubscribe()
	if err := w.start(ctx, client); err != nil {
		return err
	}
	told, err := json.Marshal(plan{nightly.String(), nightly.every.String(), nightly.zone.String()})
	if err != nil {
		return errors.Join(err, w.stop(client))
	}
	if _, err := client.QueueUpdate(ctx, jobQueue, &river.QueueUpdateParams{Metadata: told}); err != nil && ctx.Err() == nil {
		w.log.Warn("the schedule cannot be written, so that status does not know it", "error", queueProblem(err).Error())
	}
	w.log.Info("worker started", "policy", oneLine(w.policy.Ref().ID), "revision", w.policy.Ref().Revision, "digest", shortDigest(digest), "workers", w.workers, "next", stamp(nightly.Next(time.Now())))
	w.figures(ctx, client)
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return w.stop(client)
		case e := <-events:
			if e != nil && e.Job.Kind == (shardArgs{}).Kind() {
				w.tell(ctx, client, e.Job)
				w.figures(ctx, client)
			}
		case <-tick.C: // other processes go on, too
			w.figures(ctx, client)
		}
	}
}

// stop gives running shards back when their pages are done. The queue gets time to say so.
func (w *worker) stop(client *jobClient) error {
	w.log.Info("worker stops")
	ctx, cancel := context.WithTimeout(context.Background(), grace+10*time.Second)
	defer cancel()
	if err := client.StopAndCancel(ctx); err != nil {
		w.log.Warn("the queue did not stop in time; another worker takes over in about a minute")
	}
	return nil
}

// tell says that a night is over when the last of its shards is.
func (w *worker) tell(ctx context.Context, client *jobClient, job *rivertype.JobRow) {
	a, err := argsOf(job)
	if err != nil {
		return
	}
	n, err := findNight(ctx, client, a.At, a.Policy)
	if a.Shard = ""; err != nil || n == nil || !n.over() || a == w.over {
		return
	}
	w.over = a
	w.log.Info("the night is over", append([]any{"at", stamp(n.At), "shards", n.Shards, "failed", n.Failed}, counts(n.Report)...)...)
}

// figures writes the file of --metrics. What is wrong with it stops no night.
func (w *worker) figures(ctx context.Context, client *jobClient) {
	if w.metrics == "" {
		return
	}
	list, err := lastNights(ctx, client, 3)
	if err == nil {
		err = writeMetrics(w.metrics, nightMetrics(list))
	}
	if err != nil && ctx.Err() == nil {
		w.log.Warn("figures cannot be written", "error", oneLine(err.Error()))
	}
}

// fewTries is how often run-now tries a shard: somebody is waiting.
const fewTries = 3

func newWorkerRunNow() *cobra.Command {
	var f workerFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "run-now --db DSN --policy FILE",
		Short: "Begin a night now, work until it is over and print its report",
		Long: `Begins a night now, works on its shards, together with all workers that have the same policy, until it is over, and prints the report of all
shards together. It is for cron, for tests and for people who do not want to wait.`,
		Example: `  carrel worker run-now --db "postgres://carrel@db.example/library?search_path=carrel" --policy policy.yaml
  carrel worker run-now --db "postgres://carrel@db.example/library?search_path=carrel" --policy policy.yaml --shards 8 --workers 8 --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db", "policy"); err != nil {
				return err
			}
			policy, err := readPolicy(cmd, f.policyFile)
			if err != nil {
				return err
			}
			now := time.Now().UTC().Truncate(time.Microsecond)
			if now.Before(policy.Effective()) {
				return fmt.Errorf("worker run-now: the policy is not effective before %s; try it with carrel explain", stamp(policy.Effective()))
			}
			w, err := openWorker(cmd, &f, policy, slog.LevelWarn)
			if err != nil {
				return err
			}
			noFees, err := w.nights.d.knowsNoFees(cmd.Context())
			if err != nil {
				return errors.Join(err, w.nights.close())
			}
			n, err := w.runNow(cmd, now)
			if err = errors.Join(err, w.nights.close()); err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd, n.Report)
			} else {
				err = printSweep(cmd.OutOrStdout(), policy, n.Report, noFees)
			}
			if n.Failed > 0 {
				err = cmp.Or(err, fmt.Errorf("worker run-now: %d of %s failed: %s", n.Failed, plural(n.Shards, "shard"), cmp.Or(n.Problem, "see the worker's log")))
			}
			return err
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// runNow works on a night of its own until that is over.
func (w *worker) runNow(cmd *cobra.Command, at time.Time) (*night, error) {
	ctx := cmd.Context()
	client, err := w.join(nil)
	if err != nil {
		return nil, err
	}
	digest := w.policy.Ref().Digest
	if err := beginNight(ctx, client, nightArgs{digest, at, w.shards}, fewTries); err != nil {
		return nil, queueProblem(err)
	}
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := w.start(watching, client); err != nil {
		return nil, err
	}
	defer w.stop(client)
	p := newProgress(cmd.ErrOrStderr(), "sweep", 0)
	defer p.end()
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		n, err := findNight(ctx, client, at, digest)
		switch {
		case ctx.Err() != nil:
			return nil, interruption("worker run-now: interrupted; nothing is half done: workers go on with it, or simply run it again")
		case err != nil:
			return nil, err
		case n == nil:
			return nil, errors.New("worker run-now: somebody removed the jobs of this night")
		case n.over():
			w.figures(ctx, client)
			return n, nil
		}
		read, unlinked := 0, 0
		for _, k := range circulation.Kinds() {
			if kr := n.Report.Kinds[k.String()]; kr != nil {
				read, unlinked = read+kr.LinkedBefore, unlinked+kr.Unlinked
			}
		}
		p.set(int64(read), fmt.Sprintf("%s read, %s unlinked", thousands(read), thousands(unlinked)))
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

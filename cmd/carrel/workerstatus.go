package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// A night is one run of a policy, by schedule or run-now, as its shards' jobs tell it.
type night struct {
	At       time.Time        `json:"at"`     // as of when it decides
	Policy   string           `json:"policy"` // digest
	Shards   int              `json:"shards"`
	Done     int              `json:"done"`
	Running  int              `json:"running"`
	Waiting  int              `json:"waiting"`           // for a worker, or to be tried again
	Failed   int              `json:"failed"`            // given up
	Finished time.Time        `json:"finished,omitzero"` // when the last shard was, if all are done
	Problem  string           `json:"problem,omitempty"` // why a shard that is not done is not
	Report   anonymize.Report `json:"report"`            // of all shards together; of one that is running, how far it has come
}

// over reports that nobody works on the night any more.
func (n *night) over() bool { return n.Done+n.Failed == n.Shards }

// nights puts shards together to nights, in the order in which they come.
func nights(jobs []*rivertype.JobRow) (list []*night) {
	type key struct {
		at     int64
		policy string
	}
	known := map[key]*night{}
	for _, job := range jobs {
		a, err := argsOf(job)
		if err != nil {
			continue
		}
		k := key{a.At.UnixMicro(), a.Policy}
		n := known[k]
		if n == nil {
			n = &night{At: a.At, Policy: a.Policy}
			known[k] = n
			list = append(list, n)
		}
		n.add(job)
	}
	for _, n := range list {
		if n.Done < n.Shards {
			n.Finished = time.Time{}
		}
	}
	return list
}

func (n *night) add(job *rivertype.JobRow) {
	n.Shards++
	switch job.State {
	case rivertype.JobStateCompleted:
		n.Done++
		if job.FinalizedAt != nil && job.FinalizedAt.After(n.Finished) {
			n.Finished = *job.FinalizedAt
		}
	case rivertype.JobStateRunning:
		n.Running++
	case rivertype.JobStateCancelled, rivertype.JobStateDiscarded:
		n.Failed++
	default:
		n.Waiting++
	}
	if last := len(job.Errors) - 1; job.State != rivertype.JobStateCompleted && last >= 0 {
		n.Problem = cmp.Or(n.Problem, oneLine(job.Errors[last].Error))
	}
	if out, ok := outputOf(job); ok {
		add(&n.Report, out.Report)
	}
}

// findNight returns a night as it is now; nil if there is none.
func findNight(ctx context.Context, client *jobClient, at time.Time, policy string) (*night, error) {
	jobs, err := client.JobList(ctx, shardJobs().TagsAll(nightTag(at)).First(10_000))
	if err != nil {
		return nil, queueProblem(err)
	}
	for _, n := range nights(jobs.Jobs) {
		if n.Policy == policy {
			return n, nil
		}
	}
	return nil, nil
}

// lastNights returns some nights, the newest first.
func lastNights(ctx context.Context, client *jobClient, many int) ([]*night, error) {
	jobs, err := client.JobList(ctx, shardJobs().First(min(10_000, many*maxShards)))
	if err != nil {
		return nil, queueProblem(err)
	}
	list := nights(jobs.Jobs)
	slices.SortStableFunc(list, func(a, b *night) int { return b.At.Compare(a.At) })
	return list[:min(len(list), many)], nil
}

// A plan is what workers write into their queue for status: when nights begin.
type plan struct {
	Schedule string `json:"schedule"`
	Every    string `json:"every"`
	Zone     string `json:"zone"`
}

// quiet is after how long without a word from any worker there is none: the queue writes one every ten minutes.
const quiet = 15 * time.Minute

// nextNight returns when the next night begins, and whether there is a worker to begin it. The time is zero if no worker ever was.
func nextNight(ctx context.Context, client *jobClient, now time.Time) (next time.Time, alive bool, err error) {
	queue, err := client.QueueGet(ctx, jobQueue)
	if errors.Is(err, rivertype.ErrNotFound) {
		return next, false, nil
	}
	if err != nil {
		return next, false, queueProblem(err)
	}
	var p plan
	if json.Unmarshal(queue.Metadata, &p) != nil || p.Schedule == "" {
		return next, false, nil
	}
	zone, err1 := time.LoadLocation(p.Zone)
	every, err2 := time.ParseDuration(p.Every)
	if err := errors.Join(err1, err2); err != nil {
		return next, false, errors.New("worker: what workers wrote of their schedule is damaged")
	}
	s, err := newSchedule(p.Schedule, every, zone)
	if err != nil {
		return next, false, err
	}
	return s.Next(now), now.Sub(queue.UpdatedAt) < quiet, nil
}

func newWorkerStatus() *cobra.Command {
	var dsn string
	var many int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status --db DSN",
		Short: "Show the last nights and when the next one begins",
		Long: `Shows the last nights, the newest first: how many of their shards are done, running, waiting or given up, what they
unlinked, and when the next one begins. Nights are remembered for five weeks; receipts, in the database and the audit trail, for good.

Exit status: 0 good, 1 of the last night a shard was given up, or it is time for a night and there is no worker.`,
		Example: `  carrel worker status --db "postgres://carrel@db.example/library?search_path=carrel"
  carrel worker status --db "postgres://carrel@db.example/library?search_path=carrel" --nights 30 --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db"); err != nil {
				return err
			}
			if many < 1 {
				return errors.New("worker status: --nights must be at least 1")
			}
			ctx := cmd.Context()
			d, pool, err := openJobs(ctx, dsn, readOnly, 1)
			if err != nil {
				return err
			}
			defer d.close()
			defer pool.Close()
			client, err := newJobClient(pool, &river.Config{})
			if err != nil {
				return err
			}
			list, err := lastNights(ctx, client, many)
			if err != nil {
				return err
			}
			next, alive, err := nextNight(ctx, client, time.Now())
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd, struct {
					Nights  []*night  `json:"nights"`
					Next    time.Time `json:"next,omitzero"`
					Workers bool      `json:"workers"` // whether one gave a sign of life in the last quarter of an hour
				}{append([]*night{}, list...), next, alive})
			} else {
				err = printStatus(cmd.OutOrStdout(), list, next, alive)
			}
			if err == nil && (len(list) > 0 && list[0].Failed > 0 || !alive && !next.IsZero()) {
				err = errFound
			}
			return err
		},
	}
	addServerFlag(cmd, &dsn)
	cmd.Flags().IntVar(&many, "nights", 7, "how many nights to show")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printStatus(out io.Writer, list []*night, next time.Time, alive bool) error {
	w := &errWriter{out: out}
	t := table{columns: words("NIGHT POLICY SHARDS DONE RUNNING WAITING FAILED READ UNLINKED KEPT FINISHED")}
	for _, n := range list {
		var sum anonymize.KindReport
		for _, k := range circulation.Kinds() {
			if kr := n.Report.Kinds[k.String()]; kr != nil {
				sum.LinkedBefore += kr.LinkedBefore
				sum.Unlinked += kr.Unlinked
				sum.Kept += kr.Kept
			}
		}
		t.add(stamp(n.At), shortDigest(n.Policy), strconv.Itoa(n.Shards), strconv.Itoa(n.Done), strconv.Itoa(n.Running), strconv.Itoa(n.Waiting), strconv.Itoa(n.Failed),
			thousands(sum.LinkedBefore), thousands(sum.Unlinked), thousands(sum.Kept), stamp(n.Finished))
	}
	if len(list) == 0 {
		w.printf("No night has begun yet.\n")
	} else {
		w.table(t)
	}
	for _, n := range list {
		if n.Problem != "" {
			w.printf("\n%s: %s\n", stamp(n.At), n.Problem)
		}
	}
	switch {
	case next.IsZero():
		w.printf("\nNo worker was ever started with a schedule.\n")
	case !alive:
		w.printf("\nThe next night should begin at %s, but no worker has been heard of for a quarter of an hour.\n", stamp(next))
	default:
		w.printf("\nThe next night begins at %s.\n", stamp(next))
	}
	return w.err
}

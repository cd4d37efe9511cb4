package main

import (
	"slices"

	"github.com/carrel-project/carrel/anonymize"
)

// nightMetrics are the numbers of the last night that is over, under the names that those of a sweep have, and how far the last one is. A night that never
// ends shows as carrel_night_finished_seconds growing old, which is what docs/operations.md has an alarm on.
func nightMetrics(list []*night) (families []metric) {
	if i := slices.IndexFunc(list, func(n *night) bool { return !n.Finished.IsZero() }); i >= 0 {
		families = append(sweepMetrics(list[i].Report, anonymize.Shard{}, list[i].Finished), metric{name: "carrel_night_finished_seconds",
			help: "When the last night of which all shards are done was over.", samples: []sample{{nil, float64(list[i].Finished.Unix())}}})
	}
	if len(list) == 0 {
		return families
	}
	n := list[0]
	shards := metric{name: "carrel_night_shards", help: "Shards of the last night, by what became of them so far."}
	for _, s := range []struct {
		state string
		n     int
	}{{"done", n.Done}, {"running", n.Running}, {"waiting", n.Waiting}, {"failed", n.Failed}} {
		shards.samples = append(shards.samples, sample{[]string{"state", s.state}, float64(s.n)})
	}
	return append(families, shards, metric{name: "carrel_night_timestamp_seconds", help: "As of when the last night decides.", samples: []sample{{nil, float64(n.At.Unix())}}})
}

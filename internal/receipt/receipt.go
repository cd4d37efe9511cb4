// Package receipt writes the receipt of a sweep's batch as an event of the trail: the same in both databases.
package receipt

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/audit"
)

// Event is a receipt as an event. It names the policy, the rules and numbers, and like the receipt no record and no person.
func Event(by audit.Event, r anonymize.Receipt) audit.Event {
	by.Time, by.Action, by.Outcome, by.Count, by.Kind = time.Now(), audit.Sweep, audit.Done, r.Unlinked, r.Kind
	by.Object = fmt.Sprintf("%s, revision %d, %s", r.Policy.ID, r.Policy.Revision, r.Policy.Digest)
	for _, rule := range slices.Sorted(maps.Keys(r.ByRule)) {
		by.Tally = append(by.Tally, audit.Tally{Name: rule, Count: r.ByRule[rule]})
	}
	if r.Conflicts > 0 {
		by.Why = "conflicts " + strconv.Itoa(r.Conflicts)
	}
	return by
}

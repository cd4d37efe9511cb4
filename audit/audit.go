// Package audit says what a trail of personal data records.
//
// A [Recorder] writes events down. Whoever reveals or changes personal data records it first and goes on only if that succeeded:
// no plaintext without a trace. The tamper-evident trail of carrel's own is still to come; until then bring a Recorder.
package audit

import (
	"context"
	"time"

	"github.com/carrel-project/carrel/crypto"
)

// A Recorder writes events down.
type Recorder interface {
	// Record returns nil when the event is durable, so that a crash a moment later does not lose it. With an error
	// it may or may not have been recorded. It is safe for concurrent use.
	Record(ctx context.Context, e Event) error
}

// An Event is one thing that was done, or refused. All of it but Subjects is public to whoever may read the trail and
// of closed vocabularies, references and numbers: it holds no personal data of patrons.
type Event struct {
	Time    time.Time
	Action  Action
	Outcome Outcome
	Why     string // what refused or undid it, as a word: no-right, grant-expired …; empty when it was done

	Actor   string // reference of the member of staff or the program; empty when a patron acted for themself
	Role    string // in which they acted
	Purpose string
	Channel Channel

	Segments  []string // of the patron record that were revealed or changed
	Count     int      // of patrons
	Grant     string   // ID of the break-glass grant that allowed it
	Recipient string   // of an export
	Approval  string   // reference under which an export was approved

	Subjects []Subject // whom it is about; empty when nobody was found
}

// A Subject is one person an event is about. A recorder seals everything but the ID under the subject's key, so that it
// goes when the subject is forgotten.
type Subject struct {
	ID      crypto.Subject
	Version uint64        // of the record after a change: a row that was put back is older than its last event; 0: nothing was written
	Note    crypto.Secret // free text: the reason of a break-glass, say
	Changes []Change
}

// A Change is what happened to one segment. Before and After are the segment's encoding, as package patron specifies it;
// empty means that there was or is nothing.
type Change struct {
	Segment       string
	Before, After crypto.Secret
}

// An Action is what was done.
type Action string

// The actions on patron records.
const (
	View       Action = "view"
	Find       Action = "find"    // look up by identifier
	Resolve    Action = "resolve" // from a borrower token to the patron
	Create     Action = "create"
	Update     Action = "update"
	Import     Action = "import"
	Export     Action = "export"
	Reindex    Action = "reindex"
	BreakGlass Action = "break-glass"
	Review     Action = "review" // of a break-glass
)

// An Outcome is how it ended.
type Outcome string

// The outcomes.
const (
	Done     Outcome = "done"
	Denied   Outcome = "denied"
	NotFound Outcome = "not-found"
	Failed   Outcome = "failed" // recorded before, and then not done after all
)

// A Channel is the way on which a request came.
type Channel string

// The channels.
const (
	UI     Channel = "ui"     // a member of staff at a screen
	SIS    Channel = "sis"    // a student information system
	API    Channel = "api"    // another program
	Linked Channel = "linked" // a linked account
	Job    Channel = "job"    // a scheduled job
	CLI    Channel = "cli"    // the command line
	Self   Channel = "self"   // the patron, for themself
)

// Channels returns all channels: the vocabulary is closed.
func Channels() []Channel { return []Channel{UI, SIS, API, Linked, Job, CLI, Self} }

package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/carrel-project/carrel/crypto"
)

// A Recorder writes events down.
type Recorder interface {
	// Record returns nil when the event is durable, so that a crash a moment later does not lose it. With an error
	// it may or may not have been recorded. It is safe for concurrent use.
	Record(ctx context.Context, e Event) error
}

// An Event is one thing that was done, or refused. All of it but Subjects is public to whoever may read the trail and
// of closed vocabularies, references and numbers: it holds no personal data of patrons. No event says what somebody borrowed: nothing in it
// is an item or a record, and an event about circulation records has no Subjects.
type Event struct {
	Time    time.Time // kept to the microsecond
	Action  Action
	Outcome Outcome
	Why     string // what refused or undid it, as a word: no-right, grant-expired …; empty when it was done

	Actor   string // reference of the member of staff or the program; empty when a patron acted for themself
	Role    string // in which they acted
	Purpose string
	Channel Channel
	Network string // from which a member of staff logged in, as [Login] writes it

	Segments  []string // of the patron record that were revealed or changed
	Count     int      // of patrons; of records in a sweep, of keys in a rotation, of entries in a prune, of rows in a report
	Grant     string   // ID of the break-glass grant that allowed it; a trail keeps a reference made from it under the subject's key
	Recipient string   // of an export
	Approval  string   // reference under which it was approved

	Object string  // what it was about besides people: a report, policy or index by its name, a legal hold by its reference
	Kind   string  // of circulation records in a sweep; the [Class] that was pruned
	Tally  []Tally // how many by which rule, in a sweep

	Covers    time.Duration // for so long the event stands for others that say the same; whole seconds
	Before    time.Time     // entries from before then were pruned
	Ranges    []Range       // of the entries that were pruned, or lost
	Collapsed uint64        // entries before this number are gone with their hashes

	Subjects []Subject // whom it is about; empty when nobody was found
}

// A Subject is one person an event is about. A trail seals everything under the subject's key, so that it
// goes when the subject is forgotten; of the ID it keeps a [crypto.Tag].
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

// A Tally is a number with a name.
type Tally struct {
	Name  string
	Count int
}

// A Range is the entries with the numbers From ≤ n < To.
type Range struct{ From, To uint64 }

// An Action is what was done.
type Action string

// The actions.
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

	LogIn  Action = "login" // see [Login]
	Lock   Action = "lock"  // an account, after failed logins
	Unlock Action = "unlock"

	Sweep    Action = "sweep"    // one page of a sweep: records were unlinked
	Hold     Action = "hold"     // a legal hold begins, on a patron or, with Kind "trail", on the trail
	Release  Action = "release"  // and ends
	Restrict Action = "restrict" // a patron's record is restricted: GDPR article 18
	Lift     Action = "lift"     // and is no more
	Erase    Action = "erase"    // a patron asks to be forgotten, and is
	Shred    Action = "shred"    // a patron's key is destroyed
	Rotate   Action = "rotate"   // of the keyring
	Report   Action = "report"   // on the trail itself

	Prune   Action = "prune"   // of the trail
	Restore Action = "restore" // the trail goes on after a part of it was lost

	NewAnchor Action = "anchor" // checkpoints go to an anchor that has none of the earlier ones
)

// A Class is a group of actions that are kept equally long.
type Class string

// The classes.
const (
	Views    Class = "views"    // view, find, resolve, break-glass, review
	Changes  Class = "changes"  // create, update, import, hold, release, restrict, lift
	Exports  Class = "exports"  // export
	Logins   Class = "logins"   // login, lock, unlock
	Jobs     Class = "jobs"     // sweep, reindex, rotate
	Reports  Class = "reports"  // report
	Erasures Class = "erasures" // shred, erase
	Upkeep   Class = "upkeep"   // of the trail: prune, restore, anchor, holds on the trail; kept as long as what it vouches for
)

// Classes returns all classes.
func Classes() []Class {
	return []Class{Views, Changes, Exports, Logins, Jobs, Reports, Erasures, Upkeep}
}

// actions is the vocabulary. Reaches says that the action reaches people, so that its events have subjects.
var actions = map[Action]struct {
	class   Class
	reaches bool
}{
	View: {Views, true}, Find: {Views, true}, Resolve: {Views, true}, BreakGlass: {Views, true}, Review: {Views, true},
	Create: {Changes, true}, Update: {Changes, true}, Import: {Changes, true}, Hold: {Changes, true}, Release: {Changes, true},
	Restrict: {Changes, true}, Lift: {Changes, true},
	Export: {Exports, true},
	LogIn:  {Logins, true}, Lock: {Logins, true}, Unlock: {Logins, true},
	Sweep: {Jobs, false}, Reindex: {Jobs, true}, Rotate: {Jobs, false},
	Report: {Reports, true},
	Shred:  {Erasures, false}, // whose key it was would lead to all that the month says of them
	Erase:  {Erasures, false}, // the same
	Prune:  {Upkeep, false}, Restore: {Upkeep, false}, NewAnchor: {Upkeep, false},
}

// Actions returns all actions, in alphabetical order: the vocabulary is closed.
func Actions() []Action {
	var list []Action
	for a := range actions {
		list = append(list, a)
	}
	slices.Sort(list)
	return list
}

// Class returns the class of an action; empty for an unknown one.
func (a Action) Class() Class { return actions[a].class }

// An Outcome is how it ended.
type Outcome string

// The outcomes.
const (
	Done     Outcome = "done"
	Denied   Outcome = "denied"
	NotFound Outcome = "not-found"
	Failed   Outcome = "failed" // recorded before, and then not done after all
)

// Outcomes returns all outcomes: the vocabulary is closed.
func Outcomes() []Outcome { return []Outcome{Done, Denied, NotFound, Failed} }

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

// ErrEvent means that something is no event that a trail takes: a word outside the vocabulary, a text that is none, a sweep with people in it.
// The text after it names the field, not what it holds.
var ErrEvent = errors.New("audit: not an event")

const (
	maxText  = 1024    // bytes of a reference
	maxEvent = 4 << 20 // bytes of an entry
	lastYear = 7000    // the month of a tag is 16 bits
)

// check says what is wrong with an event. A channel may be empty or unknown only in an event that says that it was refused:
// that is recorded without it.
func (e *Event) check() error {
	bad := func(field string) error { return fmt.Errorf("%w: %s", ErrEvent, field) }
	known, ok := actions[e.Action]
	switch {
	case !ok:
		return bad("Action is none of Actions()")
	case !slices.Contains(Outcomes(), e.Outcome):
		return bad("Outcome is none of Outcomes()")
	case e.Channel != "" && !slices.Contains(Channels(), e.Channel):
		return bad("Channel is none of Channels()")
	case e.Time.UnixMicro() <= 0 || e.Time.Year() > lastYear:
		return bad("Time is not between 1970 and 7000")
	case !e.Before.IsZero() && (e.Before.UnixMicro() <= 0 || e.Before.Year() > lastYear):
		return bad("Before is not between 1970 and 7000")
	case e.Count < 0:
		return bad("Count is negative")
	case e.Covers < 0 || e.Covers%time.Second != 0:
		return bad("Covers is not a number of whole seconds")
	case !known.reaches && len(e.Subjects) > 0:
		return bad("Subjects of an action that is not about people")
	case (e.Kind != "" || len(e.Tally) > 0) && len(e.Subjects) > 0:
		return bad("Subjects beside a Kind or Tally: nobody and what they borrowed are in one event")
	}
	for _, f := range e.texts() {
		if !isText(*f.text) {
			return bad(f.name + " is not a text of at most 1024 bytes on one line")
		}
	}
	for _, s := range e.Segments {
		if s == "" || !isText(s) {
			return bad("Segments has one that is no word")
		}
	}
	for _, t := range e.Tally {
		if t.Name == "" || !isText(t.Name) || t.Count < 0 {
			return bad("Tally has one without a name, or less than nothing")
		}
	}
	end := uint64(0)
	for i, r := range e.Ranges {
		if r.From >= r.To || i > 0 && r.From <= end {
			return bad("Ranges are empty, out of order or adjacent")
		}
		end = r.To
	}
	return nil
}

// texts returns the fields that hold one reference or word each, in the order of their tags.
func (e *Event) texts() []textField {
	return []textField{
		{tagAction, "Action", (*string)(&e.Action)}, {tagOutcome, "Outcome", (*string)(&e.Outcome)}, {tagWhy, "Why", &e.Why},
		{tagActor, "Actor", &e.Actor}, {tagRole, "Role", &e.Role}, {tagPurpose, "Purpose", &e.Purpose},
		{tagChannel, "Channel", (*string)(&e.Channel)}, {tagNetwork, "Network", &e.Network},
		{tagGrant, "Grant", &e.Grant}, {tagRecipient, "Recipient", &e.Recipient}, {tagApproval, "Approval", &e.Approval},
		{tagObject, "Object", &e.Object}, {tagKind, "Kind", &e.Kind},
	}
}

type textField struct {
	tag  byte
	name string
	text *string
}

func isText(s string) bool {
	if len(s) > maxText {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] >= 0x7f { // nearly never
			return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
		}
	}
	return true
}

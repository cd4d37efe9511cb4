package patron

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// Config is what a directory is made of.
type Config struct {
	Store    Store
	Keys     *crypto.Keyring
	Access   access.Decider
	Recorder audit.Recorder // without one there is no directory: no plaintext without a trace

	Grants Grants // of break-glass; nil: there is none
	// Lookups are indexes beside that of identifiers that [Directory.Reindex] adds. Once they are there, every directory on the same
	// keyring writes and finds by them, whatever its Config.
	Lookups []Lookup

	Now func() time.Time // nil means time.Now
}

// A Directory keeps patrons. It is safe for concurrent use, also by several processes on the same store and keyring.
type Directory struct {
	cfg        Config
	identifier crypto.Index
	borrowers  *crypto.Pseudonyms

	known   atomic.Pointer[known]
	checked atomic.Pointer[crypto.Indexes] // index keys that the store is not too old for
}

// Borrowers is the name of the pseudonyms ([crypto.Keyring.Pseudonyms]) by which circulation records name their borrowers. The
// reference behind one is the patron's ID, or an identifier as [Reference] writes it.
const Borrowers = "borrower"

// Texts is the name of the pseudonyms by which circulation records keep what was written about somebody: comments, notes, messages.
const Texts = "text"

// New returns a directory. It neither creates keys nor tables.
func New(cfg Config) (*Directory, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("patron: Config.Store is nil, want where the patrons are kept")
	case cfg.Keys == nil:
		return nil, errors.New("patron: Config.Keys is nil, want a keyring")
	case cfg.Access == nil:
		return nil, errors.New("patron: Config.Access is nil, want who may see what")
	case cfg.Recorder == nil:
		return nil, errors.New("patron: Config.Recorder is nil; without a trail nothing is revealed")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	seen := map[string]bool{}
	for _, l := range cfg.Lookups {
		name := l.index.Name()
		if name == "" || seen[name] {
			return nil, errors.New("patron: Config.Lookups has a zero lookup, or two of one name")
		}
		seen[name] = true
	}
	cfg.Lookups = slices.Clone(cfg.Lookups)
	d := &Directory{cfg: cfg}
	var err error
	if d.identifier, err = crypto.NewIndex(crypto.IndexIdentifier, crypto.Field{Name: "identifier"}); err != nil {
		return nil, err
	}
	if d.borrowers, err = cfg.Keys.Pseudonyms(Borrowers); err != nil {
		return nil, err
	}
	return d, nil
}

// A Call says who asks, in which role, what for, and on which way.
type Call struct {
	Actor   string // a reference to the member of staff or the program, no name; empty when Self is set
	Role    string
	Purpose string
	Channel audit.Channel

	// Self is the patron who acts for themself. They reach nobody else: they view, find, export and change their own record,
	// and of the facts in it only the wish.
	Self  ID
	Grant string // ID of a break-glass grant, for View
}

// ErrDenied means that access said no. That was recorded.
var ErrDenied = errors.New("patron: not allowed")

// A DeniedError says why, as a word of the trail's: no-right, grant-expired … It is an [ErrDenied], and what access said about a
// break-glass grant.
type DeniedError struct {
	Why   string
	cause error
}

func (e *DeniedError) Error() string {
	if e.cause != nil {
		return fmt.Sprintf("%v: %s: %v", ErrDenied, e.Why, e.cause)
	}
	return fmt.Sprintf("%v: %s", ErrDenied, e.Why)
}
func (e *DeniedError) Is(target error) bool { return target == ErrDenied }
func (e *DeniedError) Unwrap() error        { return e.cause }

// Words for why something was refused.
const (
	whyNoRight  = "no-right"
	whyNotOwn   = "not-own"  // a patron asks for somebody else
	whyNoActor  = "no-actor" // nobody says that they ask
	whyApproval = "no-approval"

	whyRestricted = "restricted" // the patron's record is: see Restrict
	whyErasing    = "erasing"    // the patron is on the way to being forgotten

	whyNoChannel = "no-channel" // not one of audit's
)

// reachesOne reports whether an action reaches one patron only, so that a patron may do it for themself.
func reachesOne(action audit.Action) bool {
	switch action {
	case audit.View, audit.Find, audit.Resolve, audit.Update, audit.Export:
		return true
	}
	return false
}

// An act is one call on its way: who asks for what, and what access says.
type act struct {
	d     *Directory
	call  Call
	at    time.Time
	event audit.Event
	may   access.Decision

	recorded bool // as done
}

// begin asks access. Whatever comes of it is recorded by done, refuse or missing.
func (d *Directory) begin(ctx context.Context, call Call, action audit.Action, id ID) (*act, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a := &act{d: d, call: call, at: d.cfg.Now()}
	a.event = audit.Event{Time: a.at.UTC(), Action: action, Actor: call.Actor, Role: call.Role, Purpose: call.Purpose, Channel: call.Channel}
	a.about(call.Self) // who acts for themself is not an actor, but whom it is about
	a.about(id)
	if (call.Actor == "") == call.Self.IsZero() { // neither or both
		return nil, a.refuse(ctx, whyNoActor)
	}
	if !slices.Contains(audit.Channels(), call.Channel) {
		a.event.Channel = "" // which is none of the trail's words
		return nil, a.refuse(ctx, whyNoChannel)
	}
	if !call.Self.IsZero() && (!id.IsZero() && id != call.Self || !reachesOne(action)) {
		return nil, a.refuse(ctx, whyNotOwn)
	}
	var err error
	a.may, err = d.cfg.Access.Decide(ctx, a.request(id))
	if err != nil { // a decider that cannot decide has not allowed it
		return nil, a.refuseFor(ctx, whyNoRight, fmt.Errorf("patron: access cannot be decided: %w", err))
	}
	return a, nil
}

func (a *act) request(id ID) access.Request {
	r := access.Request{Actor: a.call.Actor, Role: a.call.Role, Purpose: a.call.Purpose}
	if !id.IsZero() {
		r.Subject = id.String()
	}
	if !a.call.Self.IsZero() {
		r.Actor = a.call.Self.String()
	}
	return r
}

// about adds a patron to the event, once.
func (a *act) about(id ID) {
	if id.IsZero() || id == a.call.Self && len(a.event.Subjects) > 0 || a.event.Action == audit.Erase { // see Erase
		return
	}
	a.event.Subjects = append(a.event.Subjects, audit.Subject{ID: id.Subject()})
	a.event.Count = len(a.event.Subjects)
}

// need refuses what the role may not do.
func (a *act) need(ctx context.Context, right access.Act) error {
	if a.may.Acts.Has(right) {
		return nil
	}
	return a.refuse(ctx, whyNoRight)
}

// refuse records a refusal. The caller returns the error.
func (a *act) refuse(ctx context.Context, why string) error { return a.refuseFor(ctx, why, nil) }

// refuseFor says what access said, too.
func (a *act) refuseFor(ctx context.Context, why string, cause error) error {
	a.event.Outcome, a.event.Why = audit.Denied, why
	denied := &DeniedError{why, cause}
	if err := a.record(ctx); err != nil {
		return errors.Join(denied, err)
	}
	return denied
}

// missing records that nobody was found. If it cannot be recorded, not even that is told.
func (a *act) missing(ctx context.Context) error {
	a.event.Outcome, a.event.Subjects, a.event.Count = audit.NotFound, nil, 0
	a.about(a.call.Self)
	if err := a.record(ctx); err != nil {
		return err
	}
	return ErrNotFound
}

// done records what is about to be done. With an error it must not be done.
func (a *act) done(ctx context.Context) error {
	a.event.Outcome = audit.Done
	err := a.record(ctx)
	a.recorded = err == nil
	return err
}

// undone records that what was allowed was not done after all, and returns why. The time for that is bounded: what matters is
// recorded already.
func (a *act) undone(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	a.event.Outcome = audit.Failed
	if failed := a.record(ctx); failed != nil && !a.recorded {
		return failed // then nothing is known of it, and nothing is told
	} else if failed != nil {
		return errors.Join(err, failed)
	}
	return err
}

// ErrNotRecorded means that the trail could not be written, and so nothing was revealed or changed.
var ErrNotRecorded = errors.New("patron: the trail cannot be written")

func (a *act) record(ctx context.Context) error {
	if err := a.d.cfg.Recorder.Record(ctx, a.event); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return ErrNotRecorded // without the recorder's words, which may hold the event
	}
	return nil
}

package audit

import (
	"net/netip"
	"time"

	"github.com/carrel-project/carrel/crypto"
)

// A Login is what whoever authenticates reports: the library system, or an identity provider in front of it.
//
//	err := trail.Record(ctx, audit.Login{Time: now, Staff: "staff-17", Result: audit.Success, Channel: audit.UI}.Event())
type Login struct {
	Time    time.Time
	Staff   string         // reference of the member of staff; empty when it is a patron, or an account that there is not
	Patron  crypto.Subject // empty when it is not a patron
	Role    string
	Result  Result // Success, Restricted or Wrong; anything else is refused, as an Outcome that there is not
	Why     string // of one that failed, as a word: wrong-password, expired …; empty: no more is to be said than that
	Channel Channel

	// Address is where a member of staff logged in from. Only its network is kept: 24 bits of an IPv4 address, 48 of an IPv6 one. Of patrons nothing is.
	Address netip.Addr
}

// A Result is how a login ended.
type Result string

// The results.
const (
	Success    Result = "success"
	Restricted Result = "restricted" // right, but not from this address
	Wrong      Result = "failed"
)

// whyRestricted tells a login that was restricted by address from one that failed.
const whyRestricted = "restricted"

// Event returns the event to record.
func (l Login) Event() Event {
	e := Event{Time: l.Time, Action: LogIn, Actor: l.Staff, Role: l.Role, Channel: l.Channel, Why: l.Why, Outcome: Denied}
	switch l.Result {
	case Success:
		e.Outcome, e.Why = Done, ""
	case Restricted:
		e.Why = whyRestricted
	case Wrong:
		if e.Why == whyRestricted || e.Why == "" {
			e.Why = "wrong"
		}
	default:
		e.Outcome = "" // which no trail takes
	}
	switch {
	case l.Patron != "":
		e.Subjects, e.Count = []Subject{{ID: l.Patron}}, 1
	case l.Staff != "" && l.Address.IsValid():
		e.Network = network(l.Address)
	}
	return e
}

// network returns the network that an address is in, as in 192.0.2.0/24.
func network(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	bits := 24
	if a.Is6() {
		bits = 48
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return ""
	}
	return p.String()
}

// result is the other way round.
func (e *Event) result() Result {
	switch {
	case e.Outcome == Done:
		return Success
	case e.Why == whyRestricted:
		return Restricted
	}
	return Wrong
}

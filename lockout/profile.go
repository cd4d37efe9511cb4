package lockout

import (
	"fmt"
	"time"
)

// A Profile is a set of limits with its bounds: what a [Config] may ask for.
type Profile uint8

// The profiles. No guess comes back before its time in any of them, and every lock ends by itself.
const (
	// Alma is what library systems are used to: 3 to 20 attempts, locked for 3 to 20 minutes, as Ex Libris Alma lets its administrators choose. For passwords.
	Alma Profile = iota

	// NIST follows NIST SP 800-63B-4, section 3.2.2 (before: 800-63B, section 5.2.2): no more than 100 wrong guesses in a row, here in 24 hours, besides
	// 3 to 100 attempts in a shorter time. The publication wants the authenticator disabled after 100 in a row, however long they take; locks
	// here end by themselves, so count the events of the trail if you are bound by that.
	NIST

	// PCI follows PCI DSS v4.0.1, requirement 8.3.4: at most 10 attempts, then locked for at least 30 minutes.
	PCI

	// PIN is for short numbers. Five guesses every 15 minutes are 480 a day, which finds one four-digit PIN in three weeks; so there are at most 20 in 24 hours.
	PIN
)

// Limits are the bounds of a profile, both ends included, and what it takes when a Config says nothing.
type Limits struct {
	Attempts, MinAttempts, MaxAttempts int
	Duration, MinDuration, MaxDuration time.Duration
	Daily, MaxDaily                    int // in 24 hours; 0: not limited, unless the Config says so
}

// No profile goes beyond these.
const (
	leastAttempts, mostAttempts = 3, 100
	leastDuration, mostDuration = 3 * time.Minute, day
	day                         = 24 * time.Hour
)

// Limits returns the bounds; the zero value for what is no profile.
func (p Profile) Limits() Limits {
	switch p {
	case Alma:
		return Limits{5, leastAttempts, 20, 15 * time.Minute, leastDuration, 20 * time.Minute, 0, mostAttempts}
	case NIST:
		return Limits{10, leastAttempts, mostAttempts, 15 * time.Minute, leastDuration, mostDuration, mostAttempts, mostAttempts}
	case PCI:
		return Limits{10, leastAttempts, 10, 30 * time.Minute, 30 * time.Minute, mostDuration, 0, mostAttempts}
	case PIN:
		return Limits{5, leastAttempts, 10, 15 * time.Minute, 15 * time.Minute, mostDuration, 20, 20}
	}
	return Limits{}
}

var profileNames = [...]string{Alma: "alma", NIST: "nist", PCI: "pci", PIN: "pin"}

// Profiles returns all profiles.
func Profiles() []Profile { return []Profile{Alma, NIST, PCI, PIN} }

// String returns the name, as in alma.
func (p Profile) String() string {
	if int(p) < len(profileNames) {
		return profileNames[p]
	}
	return fmt.Sprintf("Profile(%d)", uint8(p))
}

// ParseProfile reads what String writes.
func ParseProfile(name string) (Profile, error) {
	for p, n := range profileNames {
		if n == name {
			return Profile(p), nil
		}
	}
	return 0, fmt.Errorf("lockout: no profile of that name; want one of %v", profileNames)
}

package lockout

import (
	"errors"
	"time"
)

// What a [Guard] answers. No error names an account or a source. Tell whoever tries to log in the same for all of them, and for a wrong password.
var (
	// ErrLocked means that there were too many wrong guesses, or that staff put a hold on the account. The error is a [*LockedError].
	ErrLocked = errors.New("lockout: locked after too many wrong guesses")

	// ErrBusy means that others are logging in to the same account, or from the same source, and used up what may be tried at a time. Nothing was counted.
	ErrBusy = errors.New("lockout: too many attempts at once; nothing was counted")

	// ErrUnavailable means that the store cannot be reached. Nothing may be checked then.
	ErrUnavailable = errors.New("lockout: the store cannot be reached: no guess is allowed")

	// ErrLate means that the password's check took longer than [MaxCheck]. It counted as wrong long ago: refuse the login.
	ErrLate = errors.New("lockout: concluded too late: it counted as a wrong guess")

	// ErrConcluded means that a reservation was concluded before.
	ErrConcluded = errors.New("lockout: the reservation was concluded before")

	// ErrNotAudited means that an account was locked, and is, but the trail did not take the event.
	ErrNotAudited = errors.New("lockout: locked, but not recorded")
)

// A LockedError says until when it is locked.
type LockedError struct {
	Until time.Time     // by this machine's clock
	Wait  time.Duration // from now
}

func (e *LockedError) Error() string { return ErrLocked.Error() }

// Is reports that it is [ErrLocked].
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

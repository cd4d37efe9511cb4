package lockout

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/carrel-project/carrel/audit"
)

// A Reservation is one guess that may be checked. Conclude it once, with Success, Failure or Abandon; what is not concluded within [MaxCheck] counts as
// wrong. It is safe for concurrent use.
type Reservation struct {
	g    *Guard
	list [4]Slot
	n    int
	left int
	done atomic.Bool

	main       bool // the store counts it, since at by its time
	mirrored   bool // the fallback does, since mirroredAt by its
	at         time.Time
	mirroredAt time.Time

	account string // for the trail
	staff   bool
	channel audit.Channel
}

func (r *Reservation) add(s Slot) { r.list[r.n] = s; r.n++ }

func (r *Reservation) slots() []Slot { return r.list[:r.n] }

// Remaining returns how many guesses are left if this one is wrong. Do not show it to whoever guesses, if it is not the same for accounts that do not exist.
func (r *Reservation) Remaining() int { return r.left }

// Success says that the password was right. The account's wrong guesses are forgotten, those of the source are not: otherwise whoever has an account could
// guess at others in between. On an error refuse the login: the guess may count as wrong. It is concluded although ctx has ended.
//
// Errors: [ErrLate], [ErrConcluded], [ErrUnavailable].
func (r *Reservation) Success(ctx context.Context) error { return r.conclude(ctx, Right) }

// Failure says that the password was wrong. The last guess locks. Like Success it does so although ctx has ended.
//
// Errors: those of Success, and [ErrNotAudited]. The guess counts in any case.
func (r *Reservation) Failure(ctx context.Context) error { return r.conclude(ctx, Wrong) }

// Abandon says that nothing was compared, because the directory was down, say. The guess is given back. Never call it when anything
// depended on what was typed.
//
// Errors: those of Success.
func (r *Reservation) Abandon(ctx context.Context) error { return r.conclude(ctx, Abandoned) }

func (r *Reservation) conclude(ctx context.Context, result Result) error {
	if !r.done.CompareAndSwap(false, true) {
		return ErrConcluded
	}
	v, err := r.g.settle(ctx, r, result)
	r.g.lines.wake(r.slots())
	switch {
	case err != nil:
		return err
	case v.Answer == Late:
		return ErrLate
	case v.Crossed != 0:
		return r.g.crossed(ctx, r, v.Crossed)
	}
	return nil
}

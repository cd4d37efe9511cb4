package lockout_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
)

var errRefused = errors.New("the number or the PIN is wrong, or there were too many tries")

// checkPIN is what stands between a form and an account. The answer is the same for everybody who is not let in.
func checkPIN(ctx context.Context, guard *lockout.Guard, a lockout.Attempt, right func() bool) error {
	r, err := guard.Reserve(ctx, a) // counted before it is checked
	if err != nil {
		return errRefused
	}
	if !right() { // compares some PIN even if there is no account
		_ = r.Failure(ctx) // counts, whatever it says
		return errRefused
	}
	if err := r.Success(ctx); err != nil {
		return errRefused
	}
	return nil
}

func Example() {
	guard, err := lockout.New(memory.NewLockouts(), lockout.Config{Profile: lockout.PIN})
	if err != nil {
		log.Fatal(err)
	}
	a := lockout.Attempt{
		Account: lockout.Account{Login: "29000000000077", ID: "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"},
		Source:  netip.MustParseAddr("192.0.2.17"),
	}
	for n := range 6 {
		pin := fmt.Sprintf("%04d", n)
		fmt.Println(pin, checkPIN(context.Background(), guard, a, func() bool { return pin == "0005" }))
	}
	// Output:
	// 0000 the number or the PIN is wrong, or there were too many tries
	// 0001 the number or the PIN is wrong, or there were too many tries
	// 0002 the number or the PIN is wrong, or there were too many tries
	// 0003 the number or the PIN is wrong, or there were too many tries
	// 0004 the number or the PIN is wrong, or there were too many tries
	// 0005 the number or the PIN is wrong, or there were too many tries
}

func ExampleGuard_Remember() {
	guard, err := lockout.New(memory.NewLockouts(), lockout.Config{})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	account := lockout.Account{Login: "jdoe", ID: "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"}
	cookie := guard.Remember(account) // after a right login
	for range 5 {                     // somebody else, somewhere else
		if r, err := guard.Reserve(ctx, lockout.Attempt{Account: account}); err == nil {
			_ = r.Failure(ctx)
		}
	}
	_, err = guard.Reserve(ctx, lockout.Attempt{Account: account})
	fmt.Println(errors.Is(err, lockout.ErrLocked))
	r, err := guard.Reserve(ctx, lockout.Attempt{Account: account, Device: cookie})
	fmt.Println(r.Remaining(), err)
	// Output:
	// true
	// 4 <nil>
}

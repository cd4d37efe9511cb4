package lockout_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/store/memory"
)

// A tracingStore writes down what it was asked, without the keys.
type tracingStore struct {
	*memory.Lockouts
	calls string
}

func (s *tracingStore) Reserve(ctx context.Context, now time.Time, slots []lockout.Slot) (lockout.Verdict, error) {
	v, err := s.Lockouts.Reserve(ctx, now, slots)
	s.calls += fmt.Sprintln("reserve", now, limits(slots), v, err)
	return v, err
}

func (s *tracingStore) Conclude(ctx context.Context, now time.Time, slots []lockout.Slot, c lockout.Conclusion) (lockout.Verdict, error) {
	v, err := s.Lockouts.Conclude(ctx, now, slots, c)
	s.calls += fmt.Sprintln("conclude", now, limits(slots), c, v, err)
	return v, err
}

func limits(slots []lockout.Slot) (list []lockout.Slot) {
	for _, s := range slots {
		s.Key = lockout.Key{}
		list = append(list, s)
	}
	return list
}

// A failingStore is one that other processes share, and that can be down in several ways.
type failingStore struct {
	*hidden
	mode  atomic.Int32
	calls atomic.Int32
}

// hidden keeps the methods of a memory store that a Guard must not see.
type hidden struct{ s *memory.Lockouts }

const (
	up int32 = iota
	down
	hangs // until the context ends
	deaf  // longer than that
	panics
)

func newFailingStore() *failingStore { return &failingStore{hidden: &hidden{memory.NewLockouts()}} }

var errDown = errors.New("the store is down")

func (s *failingStore) trouble(ctx context.Context) error {
	s.calls.Add(1)
	switch s.mode.Load() {
	case down:
		return errDown
	case hangs:
		<-ctx.Done()
		return ctx.Err()
	case deaf:
		time.Sleep(time.Minute)
		return errDown
	case panics:
		panic("row of a patron")
	}
	return nil
}

func (s *failingStore) Reserve(ctx context.Context, now time.Time, slots []lockout.Slot) (lockout.Verdict, error) {
	if err := s.trouble(ctx); err != nil {
		return lockout.Verdict{}, err
	}
	return s.s.Reserve(ctx, now, slots)
}

func (s *failingStore) Conclude(ctx context.Context, now time.Time, slots []lockout.Slot, c lockout.Conclusion) (lockout.Verdict, error) {
	if err := s.trouble(ctx); err != nil {
		return lockout.Verdict{}, err
	}
	return s.s.Conclude(ctx, now, slots, c)
}

func (s *failingStore) Hold(ctx context.Context, now time.Time, name lockout.Name, until time.Time) error {
	if err := s.trouble(ctx); err != nil {
		return err
	}
	return s.s.Hold(ctx, now, name, until)
}

func (s *failingStore) States(ctx context.Context, now time.Time, q lockout.Query) (lockout.Page, error) {
	if err := s.trouble(ctx); err != nil {
		return lockout.Page{}, err
	}
	return s.s.States(ctx, now, q)
}

package storetest

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// A promise is a testcase of a store that needs no hands.
type promise[S any] struct {
	name string
	run  func(t *testing.T, s S)
}

// keep runs each promise with an empty store of its own.
func keep[S any](t *testing.T, open func(t *testing.T) S, promises []promise[S]) {
	for _, p := range promises {
		t.Run(p.name, func(t *testing.T) { p.run(t, open(t)) })
	}
}

// race calls do n times at once and returns what each said.
func race(n int, do func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			errs[i] = do(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// oneWins fails unless one of them succeeded and all others got the error. It returns the winner, or -1.
func oneWins(t *testing.T, what string, errs []error, want error) int {
	t.Helper()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Errorf("%s: more than one succeeded", what)
			return -1
		case err == nil:
			winner = i
		case !errors.Is(err, want):
			t.Fatalf("%s: error %q, want %q", what, err, want)
		}
	}
	if winner < 0 {
		t.Errorf("%s: none succeeded", what)
	}
	return winner
}

// is fails unless the error is the one.
func is(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// flip changes all bytes.
func flip(b []byte) {
	for i := range b {
		b[i] ^= 0xff
	}
}

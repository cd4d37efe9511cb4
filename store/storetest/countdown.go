package storetest

import (
	"context"
	"sync"
)

// A countdown is a context that is canceled when it has been looked at so many times, so that a test
// can cut a call off at every moment at which it can be cut off.
type countdown struct {
	context.Context
	mu   sync.Mutex
	left int
	done chan struct{}
}

func (c *countdown) Done() <-chan struct{} {
	c.look()
	return c.done
}

func (c *countdown) Err() error {
	if c.look() {
		return context.Canceled
	}
	return nil
}

// look counts and reports whether the context is canceled.
func (c *countdown) look() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 {
		close(c.done)
	}
	if c.left >= 0 {
		c.left--
	}
	return c.left < 0
}

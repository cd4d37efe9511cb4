// Command carrel applies a library's retention policy to exports and to its own embedded store.
//
// Exit status: 0 good, 1 found something (a policy with warnings), 2 misuse, bad input or failure,
// 130 interrupted. Messages about what went wrong are one line each on standard error. Nothing that
// identifies a person is ever printed, unless --show-borrowers asks for it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	_ "time/tzdata" // policies name time zones, and small containers have none

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C is not waited upon
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

const (
	exitGood        = 0
	exitFound       = 1
	exitFailed      = 2
	exitInterrupted = 130 // what shells report for Ctrl-C
)

// errFound makes a command that did its work end with exit status 1.
var errFound = errors.New("found something")

// run is carrel without the process around it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	out := &watchedWriter{w: stdout}
	root := newRoot()
	root.SetArgs(args)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		// Of a misspelt command the group does not know the flags: what is wrong is the command.
		if cmd.HasSubCommands() {
			if _, rest, ferr := root.Find(args); ferr == nil && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
				return noCommand(cmd, rest[0])
			}
		}
		return flagError(cmd, err)
	})
	root.SetIn(interruptible{ctx, stdin})
	root.SetOut(out)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if out.err != nil && (err == nil || errors.Is(err, errFound) || errors.Is(err, out.err)) {
		err = fmt.Errorf("standard output: %v; what it was to say is lost", reason(out.err))
	}
	switch {
	case err == nil:
		return exitGood
	case errors.Is(err, errFound):
		return exitFound
	}
	fmt.Fprintln(stderr, "carrel: "+oneLine(err.Error()))
	if errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	return exitFailed
}

// A watchedWriter remembers that writing failed, so that a report on a full disk is not a success.
type watchedWriter struct {
	w   io.Writer
	err error
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.w.Write(p)
	w.err = err
	return n, err
}

// An interruptible reader returns when the context ends, also when nothing comes from a terminal or a pipe.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i interruptible) Read(p []byte) (n int, err error) {
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := i.r.Read(p)
		done <- result{n, err}
	}()
	select {
	case r := <-done:
		return r.n, r.err
	case <-i.ctx.Done():
		return 0, interruption("interrupted")
	}
}

// openFile opens a file to read it. A pipe with a name, whose other end may never come, does not outlive
// the context.
func openFile(ctx context.Context, name string) (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result, 1)
	go func() {
		f, err := os.Open(name)
		done <- result{f, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("%s: %w", name, reason(r.err))
		}
		return r.f, nil
	case <-ctx.Done():
		return nil, interruption(name + ": interrupted")
	}
}

// An interruption says what state Ctrl-C left things in. It is a context.Canceled.
type interruption string

func (i interruption) Error() string { return string(i) }

func (interruption) Is(target error) bool { return target == context.Canceled }

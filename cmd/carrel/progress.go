package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// A progress shows how far a long job has come: a bar on a terminal, and elsewhere a plain line every
// ten seconds, so that a short job in a nightly log says nothing.
type progress struct {
	out  io.Writer
	what string
	bar  *progressbar.ProgressBar // nil when out is not a terminal
	last time.Time
}

// newProgress begins to show a job of a known size, or of an unknown one: max 0.
func newProgress(out io.Writer, what string, max int64) *progress {
	p := &progress{out: out, what: what, last: time.Now()}
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return p
	}
	if max == 0 {
		max = -1
	}
	p.bar = progressbar.NewOptions64(max, progressbar.OptionSetWriter(out), progressbar.OptionSetDescription(what),
		progressbar.OptionSetSpinnerChangeInterval(0), // else a goroutine goes on drawing when the job is over
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish(),
		progressbar.OptionSetElapsedTime(false), progressbar.OptionSetPredictTime(max > 0))
	return p
}

// set says how much of the job is done and, in words, what that means.
func (p *progress) set(done int64, words string) {
	if p.bar != nil {
		p.bar.Describe(p.what + ": " + words)
		p.bar.Set64(done)
		return
	}
	if time.Since(p.last) >= 10*time.Second {
		p.last = time.Now()
		fmt.Fprintf(p.out, "%s: %s\n", p.what, words)
	}
}

// end clears the bar.
func (p *progress) end() {
	if p.bar != nil {
		p.bar.Clear()
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

// An explainer decides on records as fast as they can be read: one goroutine cuts the input into
// blocks of whole lines, several decide, and one writes in the order of the input. How much is in memory
// depends on the number of processors, never on the length of the file.
type explainer struct {
	policy *anonymize.Policy
	at     time.Time
	why    bool
	name   string // of the input, for messages
}

const (
	blockSize = 256 << 10
	maxLine   = 16 << 20 // a longer line is not a record
)

// A block is a number of whole lines on their way from the reader to the writer.
type block struct {
	in    []byte
	first int // the number of its first line
	out   []byte
	err   error         // the first bad line; out holds the decisions before it
	done  chan struct{} // closed when out and err are final
}

// run writes a decision for every record. At the first bad line it stops, when everything before it was written.
func (e *explainer) run(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	workers := runtime.GOMAXPROCS(0)
	work := make(chan *block, workers)
	ordered := make(chan *block, 2*workers)
	for range workers {
		go e.worker(work)
	}
	go func() {
		defer close(ordered)
		defer close(work)
		e.read(in, func(b *block) bool {
			select {
			case ordered <- b:
			case <-ctx.Done():
				return false
			}
			if b.err != nil {
				close(b.done)
				return false
			}
			select {
			case work <- b:
				return true
			case <-ctx.Done():
				return false
			}
		})
	}()
	for {
		select {
		case <-ctx.Done():
			return interruption("explain: interrupted")
		case b, ok := <-ordered:
			if !ok {
				return nil
			}
			select {
			case <-ctx.Done():
				return interruption("explain: interrupted")
			case <-b.done:
			}
			if _, err := out.Write(b.out); err != nil {
				return err
			}
			if b.err != nil {
				return b.err
			}
		}
	}
}

// read cuts in into blocks of whole lines and hands them on until hand says stop. What goes wrong with
// the input itself is the error of a last block.
func (e *explainer) read(in io.Reader, hand func(*block) bool) {
	line := 1
	var rest []byte // of a line that began in the block before
	for {
		buf := make([]byte, max(blockSize, 2*len(rest)))
		n := copy(buf, rest)
		m, err := io.ReadFull(in, buf[n:])
		n += m
		end := n
		if err == nil {
			end = bytes.LastIndexByte(buf[:n], '\n') + 1
		}
		if end > 0 {
			b := &block{in: buf[:end], first: line, done: make(chan struct{})}
			line += bytes.Count(b.in, []byte{'\n'})
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				// What was read of the line at which reading failed is not a line.
				b.in = b.in[:bytes.LastIndexByte(b.in, '\n')+1]
			}
			if !hand(b) {
				return
			}
		}
		rest = buf[end:n]
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return
		case err != nil:
			hand(&block{err: fmt.Errorf("%s:%d: %w", e.name, line, reason(err)), done: make(chan struct{})})
			return
		case len(rest) > maxLine:
			hand(&block{err: fmt.Errorf("%s:%d: a line of more than %d MiB is not a record", e.name, line, maxLine>>20), done: make(chan struct{})})
			return
		}
	}
}

func (e *explainer) worker(work <-chan *block) {
	parser := circulation.NewRecordParser(e.policy.Zone())
	var r circulation.Record
	for b := range work {
		b.out = make([]byte, 0, len(b.in)/2)
		line := b.first
		for in := b.in; len(in) > 0 && b.err == nil; line++ {
			var text []byte
			text, in, _ = bytes.Cut(in, []byte{'\n'})
			if line == 1 {
				text = bytes.TrimPrefix(text, []byte("\ufeff"))
			}
			if len(bytes.TrimSpace(text)) == 0 {
				continue
			}
			if err := parser.Parse(text, &r); err != nil {
				b.err = fmt.Errorf("%s:%d: %w", e.name, line, err)
				break
			}
			b.out = e.decide(b.out, &r)
		}
		close(b.done)
	}
}

// appendText appends s as a JSON string.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			var text strings.Builder
			enc := json.NewEncoder(&text)
			enc.SetEscapeHTML(false)
			enc.Encode(s) // a string always encodes
			return append(b, strings.TrimSuffix(text.String(), "\n")...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

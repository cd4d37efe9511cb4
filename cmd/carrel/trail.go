package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// A trail appends events to a file, one JSON object a line, and returns when the line is on the disk. What an event says
// about a person is sealed under that person's key, so that it goes when they are forgotten.
type trail struct {
	path string
	keys *crypto.Keyring
	mu   sync.Mutex
}

func addTrailFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "audit", "", "file to which every look and change is appended (default the path of the database and .audit.jsonl)")
}

// A trailLine is an event in the file. docs/formats.md describes it.
type trailLine struct {
	Time      string         `json:"time"`
	Action    audit.Action   `json:"action"`
	Outcome   audit.Outcome  `json:"outcome"`
	Why       string         `json:"why,omitempty"`
	Actor     string         `json:"actor,omitempty"`
	Role      string         `json:"role"`
	Purpose   string         `json:"purpose"`
	Channel   audit.Channel  `json:"channel"`
	Segments  []string       `json:"segments,omitempty"`
	Count     int            `json:"count"`
	Grant     string         `json:"grant,omitempty"`
	Recipient string         `json:"recipient,omitempty"`
	Approval  string         `json:"approval,omitempty"`
	Subjects  []trailSubject `json:"subjects,omitempty"`
}

type trailSubject struct {
	ID      string `json:"id"`
	Version uint64 `json:"version,omitempty"` // of the record after the change
	Sealed  []byte `json:"sealed,omitempty"`  // what they were before, and the note
}

// A trailDetail is what is sealed.
type trailDetail struct {
	Note   string            `json:"note,omitempty"`
	Before map[string][]byte `json:"before,omitempty"` // segment: its encoding
}

const trailLabel = "audit"

// Record implements audit.Recorder.
func (t *trail) Record(ctx context.Context, e audit.Event) error {
	line := trailLine{Time: e.Time.UTC().Format(time.RFC3339Nano), Action: e.Action, Outcome: e.Outcome, Why: e.Why, Actor: e.Actor, Role: e.Role,
		Purpose: e.Purpose, Channel: e.Channel, Segments: e.Segments, Count: e.Count, Grant: e.Grant, Recipient: e.Recipient, Approval: e.Approval}
	for _, s := range e.Subjects {
		sealed, err := t.seal(ctx, s)
		if err != nil {
			return err
		}
		line.Subjects = append(line.Subjects, trailSubject{ID: string(s.ID), Version: s.Version, Sealed: sealed})
	}
	data, err := json.Marshal(line)
	if err != nil {
		return errors.New("an event cannot be encoded")
	}
	return t.append(append(data, '\n'))
}

// seal returns what an event says about a person beyond that it is about them; nothing when there is nothing. What somebody's record
// became is in the record itself.
func (t *trail) seal(ctx context.Context, s audit.Subject) ([]byte, error) {
	d := trailDetail{Note: s.Note.Reveal(), Before: map[string][]byte{}}
	for _, c := range s.Changes {
		if !c.Before.IsEmpty() {
			d.Before[c.Segment] = []byte(c.Before.Reveal())
		}
	}
	if d.Note == "" && len(d.Before) == 0 {
		return nil, nil
	}
	plain, err := json.Marshal(d)
	if err != nil {
		return nil, errors.New("an event cannot be encoded")
	}
	sealed, err := t.keys.Seal(ctx, s.ID, crypto.Plain{Label: trailLabel, Value: crypto.NewSecret(string(plain))})
	if errors.Is(err, crypto.ErrShredded) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return sealed[0], nil
}

// append writes a line in one piece and syncs it. The file is opened each time: somebody may have moved it away.
func (t *trail) append(line []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if info, err := os.Stat(t.path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s: is no regular file", t.path) // a pipe would be waited for
	}
	f, err := os.OpenFile(t.path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("%s: %w", t.path, reason(err))
	}
	err = writeLine(f, line)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("%s: %w", t.path, reason(err))
	}
	return nil
}

const trailStart = `{"time":"` // of every line

// writeLine keeps lines apart: after a crash or on a full disk the file may end in half of one.
func writeLine(f *os.File, line []byte) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if size := info.Size(); size > 0 {
		first, last := make([]byte, min(size, int64(len(trailStart)))), make([]byte, 1)
		if _, err := f.ReadAt(first, 0); err != nil {
			return err
		}
		if string(first) != trailStart[:len(first)] {
			return errors.New("is something else than an audit file, and was left alone")
		}
		if _, err := f.ReadAt(last, size-1); err != nil {
			return err
		}
		if last[0] != '\n' {
			line = append([]byte{'\n'}, line...)
		}
	}
	if _, err := f.Write(line); err != nil {
		return err
	}
	return f.Sync()
}

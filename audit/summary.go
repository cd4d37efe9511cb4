package audit

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// A Summary says how a trail is doing. There is nothing of anybody in it, so that it may go to the log of operations and into a chart.
type Summary struct {
	Entries map[Action]map[Outcome]int `json:"entries"` // events by action and outcome
	Oldest  time.Time                  `json:"oldest,omitzero"`
	Newest  time.Time                  `json:"newest,omitzero"`
	Skipped int                        `json:"skipped"` // entries that are damaged or forged

	Size    uint64 `json:"size"`    // of the tree
	Pending uint64 `json:"pending"` // entries that wait for a checkpoint
	Spooled int64  `json:"spooled"` // bytes that wait for the store
	Aside   int    `json:"aside"`   // files in the spool that are damaged or forged
}

// Summary counts events of a period, and what waits; spool is the trail's spool directory, empty without one. It is the one thing that a
// reporter tells without recording it: it is about nobody.
func (r *Reporter) Summary(ctx context.Context, period Period, spool string) (Summary, error) {
	s := Summary{Entries: map[Action]map[Outcome]int{}}
	p := &report{r: r}
	var err error
	if p.key, err = r.keys.TrailKey(ctx); err != nil {
		return s, err
	}
	if spool != "" {
		if s.Spooled, s.Aside, err = Spooled(spool); err != nil {
			return s, err
		}
	}
	tree, err := r.store.Tree(ctx)
	if err != nil {
		return s, err
	}
	s.Size, s.Pending = tree.Size, tree.Next-min(tree.Next, tree.Size)
	err = p.each(ctx, selection{since: period.Since, until: period.Until}, func(i item) error {
		e := &i.event
		if s.Entries[e.Action] == nil {
			s.Entries[e.Action] = map[Outcome]int{}
		}
		s.Entries[e.Action][e.Outcome]++
		if s.Oldest.IsZero() || e.Time.Before(s.Oldest) {
			s.Oldest = e.Time
		}
		if e.Time.After(s.Newest) {
			s.Newest = e.Time
		}
		return nil
	})
	s.Skipped = p.skipped
	return s, err
}

// LogValue implements [slog.LogValuer].
func (s Summary) LogValue() slog.Value {
	var entries []slog.Attr
	for _, a := range sortedKeys(s.Entries) {
		var outcomes []any
		for _, o := range sortedKeys(s.Entries[a]) {
			outcomes = append(outcomes, slog.Int(string(o), s.Entries[a][o]))
		}
		entries = append(entries, slog.Group(string(a), outcomes...))
	}
	return slog.GroupValue(
		slog.Attr{Key: "entries", Value: slog.GroupValue(entries...)},
		slog.Time("oldest", s.Oldest), slog.Time("newest", s.Newest), slog.Int("skipped", s.Skipped),
		slog.Uint64("size", s.Size), slog.Uint64("pending", s.Pending), slog.Int64("spooled", s.Spooled), slog.Int("aside", s.Aside))
}

// LogValue implements [slog.LogValuer] with the words of the event that name nobody: neither whom it is about nor who did it.
func (e Event) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("action", string(e.Action)), slog.String("outcome", string(e.Outcome))}
	for _, f := range []struct{ name, text string }{{"why", e.Why}, {"role", e.Role}, {"purpose", e.Purpose}, {"channel", string(e.Channel)}} {
		if f.text != "" {
			attrs = append(attrs, slog.String(f.name, f.text))
		}
	}
	if len(e.Segments) > 0 {
		attrs = append(attrs, slog.Any("segments", e.Segments))
	}
	if e.Count > 0 {
		attrs = append(attrs, slog.Int("count", e.Count))
	}
	return slog.GroupValue(attrs...)
}

const noSubject = "[subject]"

// Format prints "[subject]" for every verb: who it is does not belong in a log.
func (Subject) Format(f fmt.State, _ rune) { io.WriteString(f, noSubject) }

// LogValue returns "[subject]".
func (Subject) LogValue() slog.Value { return slog.StringValue(noSubject) }

package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"slices"
	"time"

	"github.com/carrel-project/carrel/crypto"
)

// LogFilter says what of the trail to write. Zero fields ask for all.
type LogFilter struct {
	Period
	Actions []Action

	// Name writes the IDs of the living people that events are about, in place of their tags. It needs an Approval.
	Name bool
}

// Written is what was written.
type Written struct {
	Events  int `json:"events"`
	Skipped int `json:"skipped"` // entries that are damaged or forged, and so are left out
}

// A logLine is an event as WriteJSONL writes it. The words are those of the fields of Event.
type logLine struct {
	Number    uint64       `json:"number"`
	Time      time.Time    `json:"time"`
	Action    Action       `json:"action"`
	Outcome   Outcome      `json:"outcome"`
	Why       string       `json:"why,omitempty"`
	Actor     string       `json:"actor,omitempty"`
	Role      string       `json:"role,omitempty"`
	Purpose   string       `json:"purpose,omitempty"`
	Channel   Channel      `json:"channel,omitempty"`
	Network   string       `json:"network,omitempty"`
	Segments  []string     `json:"segments,omitempty"`
	Count     int          `json:"count,omitempty"`
	Grant     string       `json:"grant,omitempty"`
	Recipient string       `json:"recipient,omitempty"`
	Approval  string       `json:"approval,omitempty"`
	Object    string       `json:"object,omitempty"`
	Kind      string       `json:"kind,omitempty"`
	Tally     []tallyLine  `json:"tally,omitempty"`
	Covers    int64        `json:"covers_seconds,omitempty"`
	Before    time.Time    `json:"before,omitzero"`
	Ranges    []rangeLine  `json:"ranges,omitempty"`
	Collapsed uint64       `json:"collapsed,omitempty"`
	Subjects  []personLine `json:"subjects,omitempty"`
}

type tallyLine struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

type rangeLine struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// A personLine is somebody an event is about: the ID, or the tag and what is sealed, in base 64.
type personLine struct {
	ID     crypto.Subject `json:"id,omitempty"`
	Tag    []byte         `json:"tag,omitempty"`
	Sealed []byte         `json:"sealed,omitempty"`
}

// WriteJSONL writes the trail as JSON Lines, one event a line, in the order of the numbers: every public field, and of the people the tags
// and what is sealed, or their IDs. Up to where the trail reached when it began. What it writes is recorded page by page before it is
// written.
func (r *Reporter) WriteJSONL(ctx context.Context, by By, w io.Writer, f LogFilter) (Written, error) {
	return r.write(ctx, by, "log-jsonl", w, f, func(out *json.Encoder, i *item, names []crypto.Subject) error {
		return out.Encode(lineOf(i, names))
	})
}

func lineOf(i *item, names []crypto.Subject) logLine {
	e := &i.event
	l := logLine{Number: i.number, Time: e.Time, Action: e.Action, Outcome: e.Outcome, Why: e.Why, Actor: e.Actor, Role: e.Role, Purpose: e.Purpose,
		Channel: e.Channel, Network: e.Network, Segments: e.Segments, Count: e.Count, Grant: e.Grant, Recipient: e.Recipient, Approval: e.Approval,
		Object: e.Object, Kind: e.Kind, Covers: int64(e.Covers / time.Second), Before: e.Before, Collapsed: e.Collapsed}
	for _, t := range e.Tally {
		l.Tally = append(l.Tally, tallyLine(t))
	}
	for _, r := range e.Ranges {
		l.Ranges = append(l.Ranges, rangeLine(r))
	}
	for n := range i.tags {
		one := personLine{ID: names[n]}
		if one.ID == "" {
			one.Tag, one.Sealed = i.tags[n][:], i.sealed[n]
		}
		l.Subjects = append(l.Subjects, one)
	}
	return l
}

// write reads the trail in the order of the numbers and hands each event to line, with the ID of everybody it is about, or "" for those
// who are not to be named or are forgotten.
func (r *Reporter) write(ctx context.Context, by By, name string, w io.Writer, f LogFilter,
	line func(*json.Encoder, *item, []crypto.Subject) error) (Written, error) {
	var done Written
	p, err := r.begin(ctx, by, name, "")
	if err != nil {
		return done, err
	}
	if f.Name && by.Approval == "" {
		return done, p.refuse(ctx, whyNoApproval, "")
	}
	tree, err := r.store.Tree(ctx)
	if err != nil {
		return done, err
	}
	if err := p.record(ctx, 0); err != nil {
		return done, err
	}
	buffer := bufio.NewWriter(w)
	out := json.NewEncoder(buffer)
	out.SetEscapeHTML(false)
	names := directory{r: r}
	var page []item
	flush := func() error {
		var whom []crypto.Subject
		if f.Name {
			for _, i := range page {
				for _, tag := range i.tags {
					id, err := names.of(ctx, tag)
					if err != nil {
						return err
					}
					if id != "" {
						whom = append(whom, id)
					}
				}
			}
			slices.Sort(whom)
			whom = slices.Compact(whom)
		}
		if err := p.record(ctx, len(page), whom...); err != nil {
			return err
		}
		for n := range page {
			i := &page[n]
			ids := make([]crypto.Subject, len(i.tags))
			for at, tag := range i.tags {
				if !f.Name {
					break
				}
				var err error
				if ids[at], err = names.of(ctx, tag); err != nil {
					return err
				}
			}
			i.arrange(ids)
			if err := line(out, i, ids); err != nil {
				return err
			}
			done.Events++
		}
		page = page[:0]
		return buffer.Flush()
	}
	if tree.Next > 0 {
		// Without conditions the store's order is that of the numbers, and its index decides nothing.
		s := selection{actions: f.Actions, since: f.Since, until: f.Until, whole: true, copies: true, to: tree.Next}
		err = p.each(ctx, s, func(i item) error {
			if page = append(page, i); len(page) < scanPage {
				return nil
			}
			return flush()
		})
		if err == nil && len(page) > 0 {
			err = flush()
		}
	}
	done.Skipped = p.skipped
	return done, err
}

// A directory leads from tags to people, a month at a time: entries are nearly in the order of time, so that a few months are enough.
type directory struct {
	r      *Reporter
	months map[uint16]map[Tag]crypto.Subject
	order  []uint16 // in which they were asked for
}

const directoryMonths = 4

// of returns whose tag it is; "" for nobody who lives.
func (d *directory) of(ctx context.Context, tag Tag) (crypto.Subject, error) {
	month := tag.month()
	if d.months[month] == nil {
		people := map[Tag]crypto.Subject{}
		err := d.r.eachTag(ctx, []uint16{month}, func(subject crypto.Subject, tag Tag) { people[tag] = subject })
		if err != nil {
			return "", err
		}
		if d.months == nil {
			d.months = map[uint16]map[Tag]crypto.Subject{}
		}
		if len(d.order) == directoryMonths {
			delete(d.months, d.order[0])
			d.order = d.order[1:]
		}
		d.months[month], d.order = people, append(d.order, month)
	}
	return d.months[month][tag], nil
}

// arrange puts the people of an entry into the order of their IDs, and those whom nobody knows after them in the order of their tags.
func (i *item) arrange(ids []crypto.Subject) {
	order := make([]int, len(ids))
	for n := range order {
		order[n] = n
	}
	slices.SortFunc(order, func(a, b int) int {
		switch {
		case ids[a] == "" && ids[b] != "":
			return 1
		case ids[a] != "" && ids[b] == "":
			return -1
		}
		return cmp.Or(cmp.Compare(ids[a], ids[b]), bytes.Compare(i.tags[a][:], i.tags[b][:]))
	})
	was, tags, sealed := slices.Clone(ids), slices.Clone(i.tags), slices.Clone(i.sealed)
	for n, from := range order {
		ids[n], i.tags[n], i.sealed[n] = was[from], tags[from], sealed[from]
	}
}

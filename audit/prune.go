package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/carrel-project/carrel/crypto"
)

// Retention says what of the trail has expired.
type Retention struct {
	// Before is, for each class, the time before which entries go. A class that is not in it is kept; [Upkeep] goes with what it
	// vouches for.
	Before map[Class]time.Time
	// Held are subjects under a legal hold: entries about them stay.
	Held []crypto.Subject
}

// A Pruned is what a prune did, or would do.
type Pruned struct {
	Removed   map[Class]int `json:"removed"`   // entries
	Held      int           `json:"held"`      // that have expired and stay because of a hold on somebody
	Collapsed uint64        `json:"collapsed"` // entries before this number are gone with their hashes
}

// ErrHeld means that a legal hold is on the trail: nothing of it may go.
var ErrHeld = errors.New("audit: a legal hold is on the trail")

// TrailItself is the Kind of a [Hold] and [Release] that are about the trail and not about a patron.
const TrailItself = "trail"

// Holds returns the references of the legal holds on the trail: those that an event of [Hold] with the Kind [TrailItself] has set, by its Object, and none of
// [Release] has ended.
func (t *Trail) Holds(ctx context.Context) ([]string, error) {
	u, err := t.upkeep(ctx)
	return u.holds(), err
}

// class returns the class of an event. Holds on the trail are its upkeep.
func (e *Event) class() Class {
	if e.Kind == TrailItself {
		return Upkeep
	}
	return e.Action.Class()
}

// Prune removes what has expired, for good. What goes is the content: the hash of each leaf stays, so that the tree can still be
// verified, until everything before it has gone as well; then what was there is one hash or a few at the edge of the tree. The events that say what
// goes are made durable, anchored and only then carried out; a prune that was interrupted is finished by the next one. The Actor, Role, Channel
// and Approval of by say who prunes.
//
// Entries that were tampered with are evidence and stay. Errors: [ErrHeld], with the references of the holds; [ErrTampered], [ErrBehind]; those of
// the store and the anchors.
func (t *Trail) Prune(ctx context.Context, r Retention, by Event) (Pruned, error) {
	var p Pruned
	if _, err := t.Sequence(ctx); err != nil {
		return p, err
	}
	past, err := t.upkeep(ctx)
	if err != nil {
		return p, err
	}
	if holds := past.holds(); len(holds) > 0 {
		return p, fmt.Errorf("%w: %s", ErrHeld, strings.Join(holds, ", "))
	}
	if err := t.finish(ctx, past); err != nil {
		return p, err
	}
	expired, held, err := t.expired(ctx, r)
	if err != nil {
		return p, err
	}
	p = Pruned{Removed: map[Class]int{}, Held: held, Collapsed: past.collapsed}
	by.Time, by.Action, by.Outcome = t.now(), Prune, Done
	var remove []Range
	for _, class := range Classes() {
		all := ranges(expired[class])
		for part := range slices.Chunk(all, maxRanges) {
			e := by
			e.Kind, e.Before, e.Ranges, e.Count = string(class), r.Before[class], part, count(part)
			if err := t.write(ctx, e); err != nil {
				return p, err
			}
		}
		p.Removed[class] = count(all)
		remove = append(remove, all...)
	}
	if len(remove) > 0 {
		if _, err := t.Sequence(ctx); err != nil {
			return p, err
		}
		if err := t.carryOut(ctx, remove); err != nil {
			return p, err
		}
	}
	n, left, err := t.collapsible(ctx, past)
	if err != nil || n <= past.collapsed {
		return p, err
	}
	by.Collapsed, by.Ranges, by.Count = n, []Range{{past.collapsed, n}}, left
	if err := t.write(ctx, by); err != nil {
		return p, err
	}
	if _, err := t.Sequence(ctx); err != nil {
		return p, err
	}
	p.Collapsed = n
	return p, t.collapse(ctx, past.collapsed, n)
}

// Expired counts what Prune would remove now.
func (t *Trail) Expired(ctx context.Context, r Retention) (Pruned, error) {
	past, err := t.upkeep(ctx)
	if err != nil {
		return Pruned{}, err
	}
	expired, held, err := t.expired(ctx, r)
	if err != nil {
		return Pruned{}, err
	}
	p := Pruned{Removed: map[Class]int{}, Held: held, Collapsed: past.collapsed}
	for class, numbers := range expired {
		p.Removed[class] = len(numbers)
	}
	return p, nil
}

const maxRanges = 4096 // in one event

func count(list []Range) (n int) {
	for _, r := range list {
		n += int(r.To - r.From)
	}
	return n
}

// ranges turns numbers into ranges.
func ranges(numbers []uint64) (list []Range) {
	slices.Sort(numbers)
	for _, n := range numbers {
		if last := len(list) - 1; last >= 0 && list[last].To == n {
			list[last].To++
		} else if last < 0 || list[last].To < n {
			list = append(list, Range{n, n + 1})
		}
	}
	return list
}

// An upkeep is what the trail says of itself.
type upkeep struct {
	held      map[string]bool // legal holds on the trail, by reference
	prunes    []Event
	collapsed uint64
	restores  []Range
}

// upkeep reads the events by which the trail is kept.
func (t *Trail) upkeep(ctx context.Context) (u upkeep, err error) {
	u.held = map[string]bool{}
	type held struct {
		number uint64
		opened
	}
	var holds []held // a store may hand them out in any order
	err = t.each(ctx, Query{Actions: []Action{Prune, Restore, Hold, Release}}, func(number uint64, o *opened) error {
		switch e := o.event; {
		case e.Action == Prune:
			u.prunes = append(u.prunes, e)
			u.collapsed = max(u.collapsed, e.Collapsed)
		case e.Action == Restore:
			u.restores = append(u.restores, e.Ranges...)
		case e.Kind == TrailItself && e.Outcome == Done:
			holds = append(holds, held{number, *o})
		}
		return nil
	})
	slices.SortFunc(holds, func(a, b held) int { return int(int64(a.number) - int64(b.number)) })
	copies := map[[nonceSize]byte]bool{} // somebody may have put an old release there again
	for _, h := range holds {
		if copies[h.nonce] {
			continue
		}
		copies[h.nonce] = true
		if h.event.Action == Hold {
			u.held[h.event.Object] = true
		} else {
			delete(u.held, h.event.Object)
		}
	}
	return u, err
}

// holds returns the references of the legal holds on the trail.
func (u *upkeep) holds() (list []string) {
	for ref := range u.held {
		list = append(list, ref)
	}
	slices.Sort(list)
	return list
}

// finish does what the last prune may have left undone. Earlier ones were finished by it.
func (t *Trail) finish(ctx context.Context, past upkeep) error {
	var latest time.Time
	for _, e := range past.prunes {
		if e.Time.After(latest) {
			latest = e.Time
		}
	}
	for _, e := range past.prunes {
		switch {
		case latest.Sub(e.Time) > 24*time.Hour:
			continue
		case e.Collapsed == 0:
			if err := t.carryOut(ctx, e.Ranges); err != nil {
				return err
			}
		case e.Collapsed == past.collapsed && len(e.Ranges) == 1:
			from := e.Ranges[0].From
			tree, err := t.store.Tree(ctx, TileID{0, from / tileWidth})
			if err != nil {
				return err
			}
			if tree.Tiles[0] != nil {
				if err := t.collapse(ctx, from, e.Collapsed); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// each calls f with the authentic entries that a query asks for.
func (t *Trail) each(ctx context.Context, q Query, f func(number uint64, o *opened) error) error {
	q.Limit = sequencePage
	for {
		page, err := t.store.Entries(ctx, q)
		if err != nil {
			return err
		}
		for _, e := range page.Entries {
			if o, err := t.trusted(e.Body); err == nil {
				if err := f(e.Number, &o); err != nil {
					return err
				}
			}
		}
		if page.Cursor == "" {
			return nil
		}
		q.Cursor = page.Cursor
	}
}

// expired returns the numbers of what has expired, and how many more have but are held.
func (t *Trail) expired(ctx context.Context, r Retention) (numbers map[Class][]uint64, held int, err error) {
	tree, err := t.store.Tree(ctx)
	if err != nil || tree.Size == 0 {
		return nil, 0, err
	}
	now := t.now()
	heldTags := t.heldTags(r.Held)
	numbers = map[Class][]uint64{}
	for _, class := range Classes() {
		before := r.Before[class]
		if before.IsZero() || class == Upkeep {
			continue
		}
		if before.After(now) {
			return nil, 0, fmt.Errorf("audit: %s would be pruned from before %s, which is yet to come", class, before.UTC().Format(time.RFC3339))
		}
		var of []Action
		for _, a := range Actions() {
			if a.Class() == class {
				of = append(of, a)
			}
		}
		err := t.each(ctx, Query{Actions: of, Until: before, To: tree.Size}, func(number uint64, o *opened) error {
			if o.event.class() != class || !o.event.Time.Before(before) {
				return nil
			}
			is, err := heldTags(ctx, o)
			if is {
				held++
			} else if err == nil {
				numbers[class] = append(numbers[class], number)
			}
			return err
		})
		if err != nil {
			return nil, 0, err
		}
	}
	return numbers, held, nil
}

// heldTags returns a function that says whether an entry is about one of the subjects.
func (t *Trail) heldTags(subjects []crypto.Subject) func(context.Context, *opened) (bool, error) {
	months := map[uint16]map[Tag]bool{}
	return func(ctx context.Context, o *opened) (bool, error) {
		if len(subjects) == 0 || len(o.tags) == 0 {
			return false, nil
		}
		month := monthOf(o.event.Time)
		tags := months[month]
		if tags == nil {
			tags = map[Tag]bool{}
			for _, s := range subjects {
				secret, err := t.keys.Tag(ctx, s, monthLabel(month))
				switch {
				case errors.Is(err, crypto.ErrNoKey), errors.Is(err, crypto.ErrShredded):
					continue
				case err != nil:
					return false, err
				}
				tags[makeTag(month, secret)] = true
			}
			months[month] = tags
		}
		return slices.ContainsFunc(o.tags, func(tag Tag) bool { return tags[tag] }), nil
	}
}

// collapsible returns up to which number nothing is left but the trail's own upkeep, and how much of that.
func (t *Trail) collapsible(ctx context.Context, past upkeep) (n uint64, left int, err error) {
	tree, err := t.store.Tree(ctx)
	if err != nil {
		return 0, 0, err
	}
	n = tree.Size
	for _, r := range past.restores { // without it, what it explains would look like a fork
		if r.To > past.collapsed {
			n = min(n, r.From)
		}
	}
	if n <= past.collapsed {
		return 0, 0, nil
	}
	kept, found := []uint64{}, false
	for q := (Query{From: past.collapsed, To: n, Limit: tileWidth}); !found; {
		page, err := t.store.Entries(ctx, q)
		if err != nil {
			return 0, 0, err
		}
		for _, e := range page.Entries {
			if o, err := t.trusted(e.Body); err != nil || o.event.class() != Upkeep {
				n, found = e.Number, true
				break
			}
			kept = append(kept, e.Number)
		}
		if q.Cursor = page.Cursor; q.Cursor == "" {
			break
		}
	}
	n -= n % tileWidth
	for _, k := range kept {
		if k < n {
			left++
		}
	}
	return n, left, nil
}

// trusted takes apart a body that was made with the trail's key.
func (t *Trail) trusted(body []byte) (opened, error) {
	leaf, err := leafOf(nil, body)
	if err != nil || !authentic(t.key, leaf) {
		return opened{}, errEncoding
	}
	return open(body)
}

// maxRemove is how many entries go in one transaction: whoever records waits for it.
const maxRemove = 2000

// carryOut removes entries.
func (t *Trail) carryOut(ctx context.Context, remove []Range) error {
	var part []Range
	size := uint64(0)
	flush := func() error {
		if len(part) == 0 {
			return nil
		}
		err := t.remove(ctx, part, nil)
		part, size = nil, 0
		return err
	}
	for _, r := range remove {
		for r.From < r.To {
			to := min(r.To, r.From+maxRemove-size)
			part, size = append(part, Range{r.From, to}), size+to-r.From
			r.From = to
			if size == maxRemove {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

// collapse removes what is left of the entries from one number to another, and then the hashes. The first tile goes last: as long as it is there, there is
// something to do.
func (t *Trail) collapse(ctx context.Context, from, to uint64) error {
	if err := t.carryOut(ctx, []Range{{from, to}}); err != nil {
		return err
	}
	var drop []TileID
	for level := 0; to>>(tileHeight*(level+1)) > 0; level++ {
		for n := from >> (tileHeight * (level + 1)); n < to>>(tileHeight*(level+1)); n++ {
			drop = append(drop, TileID{level, n})
		}
	}
	slices.Reverse(drop)
	for part := range slices.Chunk(drop, maxRemove) {
		if err := t.remove(ctx, nil, part); err != nil {
			return err
		}
	}
	return nil
}

func (t *Trail) remove(ctx context.Context, entries []Range, tiles []TileID) error {
	for {
		tree, err := t.store.Tree(ctx)
		if err != nil {
			return err
		}
		err = t.store.Advance(ctx, Advance{From: tree.Size, Size: tree.Size, Checkpoint: tree.Checkpoint, Remove: entries, Drop: tiles})
		if !errors.Is(err, ErrConflict) {
			return err
		}
	}
}

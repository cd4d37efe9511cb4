package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/carrel-project/carrel/crypto"
)

// Retention says what of the trail has expired.
type Retention struct {
	// Before is, for each class, the time before which entries go. A class that is not in it is kept; [Upkeep] goes with what it
	// vouches for.
	Before map[Class]time.Time
	// Held are subjects under a legal hold: entries about them stay.
	Held []crypto.Subject
	// Known are findings of [Verify] that were looked into, by the numbers of their entries. With any other finding nothing is pruned: what was
	// tampered with is evidence, and a hold may be among what is gone.
	Known []Range
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
	u, err := t.settled(ctx)
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
// Errors: [ErrHeld], with the references of the holds; [ErrTampered] when the trail does not verify; [ErrBehind]; those of the store and the anchors.
func (t *Trail) Prune(ctx context.Context, r Retention, by Event) (Pruned, error) {
	var p Pruned
	past, err := t.settled(ctx)
	if err != nil {
		return p, err
	}
	if holds := past.holds(); len(holds) > 0 {
		return p, fmt.Errorf("%w: %s", ErrHeld, strings.Join(holds, ", "))
	}
	if err := t.intact(ctx, r.Known); err != nil {
		return p, err
	}
	if err := t.finish(ctx, past, r.Held); err != nil {
		return p, err
	}
	expired, held, err := t.expired(ctx, r)
	if err != nil {
		return p, err
	}
	p = Pruned{Removed: map[Class]int{}, Held: held, Collapsed: past.collapsed}
	by.Time, by.Action, by.Outcome = t.now(), Prune, Done
	var remove []Range
	var claims []Event
	for _, class := range Classes() {
		all := ranges(expired[class])
		for part := range slices.Chunk(all, maxRanges) {
			e := by
			e.Kind, e.Before, e.Ranges, e.Count = string(class), r.Before[class], part, count(part)
			claims = append(claims, e)
		}
		p.Removed[class] = count(all)
		remove = append(remove, all...)
	}
	if len(remove) > 0 {
		if err := t.claim(ctx, claims...); err != nil {
			return p, err
		}
		if err := t.carryOut(ctx, remove); err != nil {
			return p, err
		}
	}
	if past, err = t.upkeep(ctx); err != nil {
		return p, err
	}
	n, left, err := t.collapsible(ctx, past)
	if err != nil || n <= past.collapsed {
		return p, err
	}
	by.Collapsed, by.Ranges, by.Count = n, []Range{{past.collapsed, n}}, left
	if err := t.claim(ctx, by); err != nil {
		return p, err
	}
	p.Collapsed = n
	return p, t.collapse(ctx, past.collapsed, n)
}

// settled makes leaves of all that is there, what waits in the spool included, and returns what the trail says of itself.
func (t *Trail) settled(ctx context.Context) (upkeep, error) {
	if t.spool != nil && t.spool.filled() {
		t.drained(ctx)
		if t.spool.filled() {
			return upkeep{}, errors.New("audit: events wait in the spool, among which may be a legal hold: nothing is pruned before the store takes them")
		}
	}
	if _, err := t.Sequence(ctx); err != nil {
		return upkeep{}, err
	}
	return t.upkeep(ctx)
}

// intact returns an error if the trail does not verify against those of its anchors that can be read back, but for what is known.
func (t *Trail) intact(ctx context.Context, known []Range) error {
	cfg := VerifyConfig{Store: t.store, Verifier: t.verifier, Key: t.key}
	for _, a := range t.anchors {
		if a, ok := a.(interface{ Checkpoints() ([][]byte, error) }); ok {
			list, err := a.Checkpoints()
			if err != nil {
				return err
			}
			cfg.Anchored = append(cfg.Anchored, list)
		}
	}
	v, err := Verify(ctx, cfg)
	if err != nil {
		return err
	}
	for _, f := range v.Findings {
		in := func(r Range) bool { return f.To > 0 && r.From <= f.From && f.To <= r.To }
		if f.Kind != Declared && !slices.ContainsFunc(known, in) {
			return fmt.Errorf("%w: entries %d to %d are %s; nothing is pruned before that was looked into", ErrTampered, f.From, f.To, f.Kind)
		}
	}
	return nil
}

// claim puts into the store, and not into the spool, what is going to be done, and returns when it is under an anchored checkpoint.
func (t *Trail) claim(ctx context.Context, events ...Event) error {
	before, err := t.store.Tree(ctx)
	if err != nil {
		return err
	}
	missing := map[string]bool{}
	for _, e := range events {
		entry, err := t.prepare(ctx, e)
		if err != nil {
			return err
		}
		if err := t.toStore([]Entry{entry}); err != nil {
			return ErrUnavailable
		}
		missing[string(entry.Body)] = true
	}
	if _, err := t.Sequence(ctx); err != nil {
		return err
	}
	tree, err := t.signedTree(ctx)
	if err != nil {
		return err
	}
	hashes := tlog.TileHashReader(tree, &tileReader{ctx, t.store})
	for q := (Query{From: before.Next, To: uint64(tree.N), Limit: sequencePage}); ; {
		page, err := t.store.Entries(ctx, q)
		if err != nil {
			return err
		}
		good, err := t.inTree(hashes, page.Entries)
		if err != nil {
			return err
		}
		for _, e := range good {
			delete(missing, string(e.Body))
		}
		if q.Cursor = page.Cursor; q.Cursor == "" {
			break
		}
	}
	if len(missing) > 0 {
		return ErrLost
	}
	return nil
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
	held      map[string]time.Time // legal holds on the trail, by reference, since when
	prunes    []Event
	collapsed uint64
	restores  []Range
}

// upkeep reads the events by which the trail is kept.
func (t *Trail) upkeep(ctx context.Context) (u upkeep, err error) {
	u.held = map[string]time.Time{}
	type held struct {
		number uint64
		opened
	}
	var holds []held // a store may hand them out in any order
	// All of it: the store's index is not signed, and a hold that is not in it would not hold.
	err = t.each(ctx, Query{}, func(number uint64, o *opened) error {
		switch e := o.event; {
		case e.Action == Prune:
			if number >= e.Collapsed && (len(e.Ranges) == 0 || e.Ranges[len(e.Ranges)-1].To <= number) {
				u.prunes = append(u.prunes, e)
				u.collapsed = max(u.collapsed, e.Collapsed)
			}
		case e.Action == Restore:
			u.restores = append(u.restores, e.Ranges...)
		case e.Kind == TrailItself && e.Outcome == Done && (e.Action == Hold || e.Action == Release):
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
			u.held[h.event.Object] = h.event.Time
		} else if !h.event.Time.Before(u.held[h.event.Object]) { // an older one was put there again
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

// finish does what the last prune may have left undone, but for what is held by now. Earlier ones were finished by it.
func (t *Trail) finish(ctx context.Context, past upkeep, held []crypto.Subject) error {
	var latest time.Time
	for _, e := range past.prunes {
		if e.Time.After(latest) {
			latest = e.Time
		}
	}
	heldTags := t.heldTags(held)
	for _, e := range past.prunes {
		switch {
		case latest.Sub(e.Time) > 24*time.Hour:
			continue
		case e.Collapsed == 0:
			for _, r := range e.Ranges {
				var numbers []uint64
				err := t.each(ctx, Query{From: r.From, To: r.To}, func(number uint64, o *opened) error {
					is, err := heldTags(ctx, o)
					if err == nil && !is && string(o.event.class()) == e.Kind && o.event.Time.Before(e.Before) {
						numbers = append(numbers, number)
					}
					return err
				})
				if err == nil {
					err = t.carryOut(ctx, ranges(numbers))
				}
				if err != nil {
					return err
				}
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

// each calls f with the entries that a query asks for, of those that stand in the signed tree at their numbers. What is not, was changed after it
// was signed, or put there: it is evidence, and nothing follows from it.
func (t *Trail) each(ctx context.Context, q Query, f func(number uint64, o *opened) error) error {
	q.Limit = sequencePage
	tree, err := t.signedTree(ctx)
	if err != nil || tree.N == 0 {
		return err
	}
	if q.To == 0 || q.To > uint64(tree.N) {
		q.To = uint64(tree.N)
	}
	hashes := tlog.TileHashReader(tree, &tileReader{ctx, t.store})
	for {
		page, err := t.store.Entries(ctx, q)
		if err != nil {
			return err
		}
		good, err := t.inTree(hashes, page.Entries)
		if err != nil {
			return err
		}
		for _, e := range good {
			if o, err := open(e.Body); err == nil {
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

// signedTree returns the tree of the checkpoint in the store, if it is ours.
func (t *Trail) signedTree(ctx context.Context) (tlog.Tree, error) {
	tree, err := t.store.Tree(ctx)
	if err != nil || tree.Size == 0 {
		return tlog.Tree{}, err
	}
	signed, err := OpenCheckpoint(tree.Checkpoint, t.verifier)
	if err != nil || uint64(signed.N) != tree.Size {
		return tlog.Tree{}, ErrTampered
	}
	return signed, nil
}

// inTree returns the entries that are authentic and stand in the tree at their numbers.
func (t *Trail) inTree(hashes tlog.HashReader, entries []Entry) (good []Entry, err error) {
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Number, b.Number) })
	indexes := make([]int64, len(entries))
	for i, e := range entries {
		indexes[i] = tlog.StoredHashIndex(0, int64(e.Number))
	}
	if len(entries) == 0 {
		return nil, nil
	}
	leaves, err := hashes.ReadHashes(indexes)
	if err != nil {
		// One tile that does not fit the signed root spoils all: ask for each by itself.
		if len(entries) == 1 {
			return nil, nil
		}
		for part := range slices.Chunk(entries, (len(entries)+1)/2) {
			some, err := t.inTree(hashes, part)
			if err != nil {
				return nil, err
			}
			good = append(good, some...)
		}
		return good, nil
	}
	var leaf []byte
	for i, e := range entries {
		var h tlog.Hash
		var ours bool
		if h, leaf, ours = leafHash(t.key, leaf, e.Body); ours && h == leaves[i] {
			good = append(good, e)
		}
	}
	return good, nil
}

// expired returns the numbers of what has expired, and how many more have but are held.
func (t *Trail) expired(ctx context.Context, r Retention) (numbers map[Class][]uint64, held int, err error) {
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
		err := t.each(ctx, Query{Actions: of, Until: before}, func(number uint64, o *opened) error {
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
	return t.leftOver(ctx, past, n)
}

// leftOver goes on from where the collapsed prefix ends for as long as what is missing was pruned and what is there is the trail's own. What was deleted stays
// a gap for everybody to see.
func (t *Trail) leftOver(ctx context.Context, past upkeep, end uint64) (n uint64, left int, err error) {
	gone := []Range{{0, past.collapsed}}
	for _, e := range past.prunes {
		gone = append(gone, e.Ranges...)
	}
	slices.SortFunc(gone, func(a, b Range) int { return cmp.Compare(a.From, b.From) })
	gone = joinRanges(gone)
	// covered returns up to where what is missing from a number on was pruned.
	covered := func(from, to uint64) uint64 {
		for _, r := range gone {
			if r.From <= from && from < r.To {
				return min(to, r.To)
			}
		}
		return from
	}
	var own []uint64
	at, stopped := past.collapsed, false
	err = t.each(ctx, Query{From: at, To: end}, func(number uint64, o *opened) error {
		if stopped {
			return nil
		}
		if at = covered(at, number); at < number || o.event.class() != Upkeep {
			stopped = true
			return nil
		}
		own, at = append(own, number), number+1
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	if !stopped {
		at = covered(at, end)
	}
	n = at - at%tileWidth
	for _, k := range own {
		if k < n {
			left++
		}
	}
	return n, left, nil
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
	for range maxConflicts {
		tree, err := t.store.Tree(ctx)
		if err != nil {
			return err
		}
		err = t.store.Advance(ctx, Advance{From: tree.Size, Size: tree.Size, Checkpoint: tree.Checkpoint, Remove: entries, Drop: tiles})
		if !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return ErrTampered
}

package memory

import (
	"cmp"
	"slices"
)

// A line counts the loans of one borrower, or of one item, in the order in which they started, so that
// the number of newer ones is known after those have lost their names. Only loans that still name
// a borrower have a step to find them by: of an unlinked one the line knows that it was, not when.
type line struct {
	Total   int // loans, unlinked ones included
	Steps   []step
	Changes uint64 // how often a loan joined or left, since the line was empty
}

// A step is all linked loans that started at one instant.
type step struct {
	Start  int64
	UpTo   int // loans of the line that started then or earlier, unlinked ones included
	Linked int // linked ones that started then
}

// change does something to the line. Without linked loans nobody asks it anything, and it starts again.
func (l *line) change(do func(l *line, start int64), start int64) {
	if do(l, start); len(l.Steps) == 0 {
		*l = line{}
	}
}

func (l *line) changed(int64) { l.Changes++ }

func (l *line) find(start int64) (int, bool) {
	return slices.BinarySearchFunc(l.Steps, start, func(s step, start int64) int { return cmp.Compare(s.Start, start) })
}

// newer returns how many loans started later than a linked one that started then.
func (l *line) newer(start int64) int {
	if i, ok := l.find(start); ok {
		return l.Total - l.Steps[i].UpTo
	}
	return 0
}

// add counts a linked loan. It may arrive late: unlinked loans between its neighbours count as older,
// for nobody knows any more, and too few newer loans keep a record while too many would lose it.
func (l *line) add(start int64) {
	i, found := l.find(start)
	if !found {
		upTo := l.Total
		if i < len(l.Steps) {
			upTo = l.Steps[i].UpTo - l.Steps[i].Linked
		}
		l.Steps = slices.Insert(l.Steps, i, step{Start: start, UpTo: upTo})
	}
	l.Steps[i].Linked++
	l.shift(i, +1)
}

// part takes the name from a loan; it counts as before.
func (l *line) part(start int64) {
	i, found := l.find(start)
	if !found {
		return
	}
	if l.Steps[i].Linked--; l.Steps[i].Linked == 0 {
		l.Steps = slices.Delete(l.Steps, i, i+1)
	}
}

// drop stops counting a loan that was parted.
func (l *line) drop(start int64) {
	i, _ := l.find(start)
	l.shift(i, -1)
}

func (l *line) shift(from, by int) {
	l.Total += by
	for i := range l.Steps[from:] {
		l.Steps[from+i].UpTo += by
	}
}

package anonymize

import (
	"slices"
	"time"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/internal/civil"
)

// Keep says what stays on the unlinked records of one kind, and how coarse. Fields that identify
// always go; a quasi-identifying field that Keep does not name goes too. It is immutable.
type Keep struct {
	dates  map[string]grain // by word: returned, due, …
	group  string           // "", keep or set
	stays  map[string]bool  // item, library, location, type, statistics
	groups []groupSet
	zone   *civil.Zone
}

// A groupSet is a named set of groups, in the order of the policy file.
type groupSet struct {
	name  string
	codes []string
}

type grain uint8

const (
	grainGone grain = iota
	grainKeep
	grainDay
	grainMonth
	grainQuarter
	grainYear
)

// Apply takes from the facts of an unlinked record what does not stay. Dates become the first instant
// of their day, month, quarter or year in the policy's zone. A nil Keep takes nothing.
func (k *Keep) Apply(f *circulation.Facts) {
	if k == nil {
		return
	}
	for _, field := range circulation.Fields(f.Kind) {
		if field.Class != circulation.Quasi {
			continue
		}
		switch field.Name {
		case "Group":
			f.Group = k.coarseGroup(f.Group)
		case "Categories":
			if !k.stays["statistics"] {
				f.Categories = nil
			}
		case "Library":
			f.Library = k.text(field.Keep, f.Library)
		case "Location":
			f.Location = k.text(field.Keep, f.Location)
		case "Type":
			f.Type = k.text(field.Keep, f.Type)
		case "Item":
			f.Item = k.text(field.Keep, f.Item)
		case "Loaned", "Requested", "Charged", "Created":
			f.Started = k.date(field.Keep, f.Started)
		case "Due":
			f.Due = k.date(field.Keep, f.Due)
		case "Returned", "Closed", "Sent":
			f.Ended = k.date(field.Keep, f.Ended)
		}
	}
}

func (k *Keep) text(word, value string) string {
	if k.stays[word] {
		return value
	}
	return ""
}

func (k *Keep) coarseGroup(code string) string {
	switch k.group {
	case "keep":
		return code
	case "set":
		for _, set := range k.groups {
			if slices.Contains(set.codes, code) {
				return set.name
			}
		}
	}
	return ""
}

func (k *Keep) date(word string, t time.Time) time.Time {
	g := k.dates[word]
	if t.IsZero() || g == grainKeep {
		return t
	}
	if g == grainGone {
		return time.Time{}
	}
	day, _ := k.zone.Local(t.UnixMicro())
	year, month, _ := civil.Date(day)
	switch g {
	case grainMonth:
		day = civil.DayOf(year, month, 1)
	case grainQuarter:
		day = civil.DayOf(year, (month-1)/3*3+1, 1)
	case grainYear:
		day = civil.DayOf(year, 1, 1)
	}
	return time.UnixMicro(k.zone.Instant(day, 0)).UTC()
}

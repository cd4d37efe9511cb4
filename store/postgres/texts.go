package postgres

import (
	"errors"
	"strings"
	"time"
	"unicode/utf8"
)

var errText = errors.New("a text has a NUL byte in it or is not UTF-8: PostgreSQL keeps no such text")

// storable reports that PostgreSQL can keep these texts. It refuses others; and what cannot be kept is not there.
func storable(texts ...string) bool {
	for _, s := range texts {
		if strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s) {
			return false
		}
	}
	return true
}

// Times are UTC microseconds in the database; NULL is the zero time, not known.

func micros(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	us := t.UnixMicro()
	return &us
}

func instant(us *int64) time.Time {
	if us == nil {
		return time.Time{}
	}
	return time.UnixMicro(*us).UTC()
}

// moment is instant for a number of which none is NULL.
func moment(us int64) time.Time {
	if us == none {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// stamp is micros for a number of which none is NULL.
func stamp(t time.Time) int64 {
	if t.IsZero() {
		return none
	}
	return t.UnixMicro()
}

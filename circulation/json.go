package circulation

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/carrel-project/carrel/internal/civil"
	"github.com/carrel-project/carrel/internal/nearest"
)

// The keys of a record as JSON, in the order in which AppendJSON writes them. The vocabulary is
// closed: a misspelt "claimed_returned" that is skipped would lose its record's protection silently.
const (
	keyKind = iota
	keyID
	keyVersion
	keyBorrower
	keyProxy
	keyGroup
	keyGroupNow
	keyCategories
	keyLibrary
	keyLocation
	keyType
	keyItem
	keyStarted
	keyEnded
	keyStatus
	keyLost
	keyClaimedReturned
	keyFees
	keyNewerByBorrower
	keyNewerOfItem
	keyBorrowerExpires
	keyWish
	keyWishSince
	keyHold
)

var recordKeys = [...]string{
	keyKind: "kind", keyID: "id", keyVersion: "version", keyBorrower: "borrower", keyProxy: "proxy",
	keyGroup: "group", keyGroupNow: "group_now", keyCategories: "categories", keyLibrary: "library",
	keyLocation: "location", keyType: "type", keyItem: "item", keyStarted: "started", keyEnded: "ended",
	keyStatus: "status", keyLost: "lost", keyClaimedReturned: "claimed_returned", keyFees: "fees",
	keyNewerByBorrower: "newer_by_borrower", keyNewerOfItem: "newer_of_item",
	keyBorrowerExpires: "borrower_expires", keyWish: "wish", keyWishSince: "wish_since", keyHold: "hold",
}

const (
	feeKeyStatus = iota
	feeKeyClosed
	feeKeyMethod
)

var feeKeys = [...]string{feeKeyStatus: "status", feeKeyClosed: "closed", feeKeyMethod: "method"}

// RecordKeys returns the keys that a record may have as JSON, in the order in which
// [Record.AppendJSON] writes them.
func RecordKeys() []string { return append([]string(nil), recordKeys[:]...) }

// A RecordParser reads records from JSON, one object each. It is safe for concurrent use.
//
// It is stricter than encoding/json, because what it reads decides whether something is destroyed:
// an unknown or repeated key is an error, and so is text that is not valid Unicode, which would
// otherwise make two borrowers one. A hyphen in a key stands for an underscore. A key that is absent
// or null means the zero value; kind and id must be there.
type RecordParser struct{ zone *civil.Zone }

// NewRecordParser returns a parser that reads times as [Times] does: those that name no zone are in loc;
// nil means UTC.
func NewRecordParser(loc *time.Location) *RecordParser { return &RecordParser{civil.In(loc)} }

// Parse resets *r and reads one JSON object into it. The strings of r share one copy of line. After
// an error *r is the zero Record. Errors name the key that is wrong and never a value: a line whose
// columns are mixed up has a borrower where nobody expects one.
func (p *RecordParser) Parse(line []byte, r *Record) error {
	*r = Record{}
	if !utf8.Valid(line) {
		return errors.New("not valid UTF-8")
	}
	s := jsonScanner{s: string(line), zone: p.zone}
	s.record(r)
	switch {
	case s.err != nil:
	case r.Kind == 0:
		s.err = errors.New("kind is missing")
	case r.ID == "":
		s.err = errors.New("id is missing")
	default:
		return nil
	}
	*r = Record{}
	return s.err
}

// A jsonScanner goes over one line once. After the first error every method does nothing.
type jsonScanner struct {
	s    string
	i    int // the next byte
	err  error
	zone *civil.Zone
}

func (s *jsonScanner) record(r *Record) {
	var seen uint32
	k := -1
	for first := true; s.next(first, '{', '}'); first = false {
		if k = s.key(recordKeys[:], k, &seen); s.err != nil {
			return
		}
		if s.null() {
			continue
		}
		switch k {
		case keyKind:
			if v := s.text(); v != "" {
				var err error
				if r.Kind, err = ParseKind(v); err != nil {
					s.want(v, kindNames[1:])
				}
			}
		case keyID:
			r.ID = s.text()
		case keyVersion:
			r.Version = s.text()
		case keyBorrower:
			r.Borrower = Borrower(s.text())
		case keyProxy:
			r.Proxy = Borrower(s.text())
		case keyGroup:
			r.Group = s.text()
		case keyGroupNow:
			r.GroupNow = s.text()
		case keyCategories:
			r.Categories = s.texts()
		case keyLibrary:
			r.Library = s.text()
		case keyLocation:
			r.Location = s.text()
		case keyType:
			r.Type = s.text()
		case keyItem:
			r.Item = s.text()
		case keyStarted:
			r.Started = s.time()
		case keyEnded:
			r.Ended = s.time()
		case keyStatus:
			v := s.text()
			var err error
			if r.Status, err = ParseStatus(v); err != nil {
				s.want(v, []string{"open", "ended"})
			}
		case keyLost:
			r.Lost = s.bool()
		case keyClaimedReturned:
			r.ClaimedReturned = s.bool()
		case keyFees:
			r.Fees = s.fees()
		case keyNewerByBorrower:
			r.NewerByBorrower = s.count()
		case keyNewerOfItem:
			r.NewerOfItem = s.count()
		case keyBorrowerExpires:
			r.BorrowerExpires = s.time()
		case keyWish:
			v := s.text()
			var err error
			if r.Wish, err = ParseWish(v); err != nil {
				s.want(v, []string{"keep", "forget"})
			}
		case keyWishSince:
			r.WishSince = s.time()
		case keyHold:
			r.Hold = s.bool()
		}
		if s.err != nil {
			s.err = fmt.Errorf("%s: %w", recordKeys[k], s.err)
			return
		}
	}
	if s.space(); s.err == nil && s.i < len(s.s) {
		s.syntax("something follows the object")
	}
}

func (s *jsonScanner) fees() (fees []FeeSummary) {
	for first := true; s.next(first, '[', ']'); first = false {
		var fee FeeSummary
		if s.fee(&fee); s.err != nil {
			s.err = fmt.Errorf("fee %d: %w", len(fees)+1, s.err)
			return nil
		}
		fees = append(fees, fee)
	}
	return fees
}

func (s *jsonScanner) fee(fee *FeeSummary) {
	var seen uint32
	k, known := -1, false
	for first := true; s.next(first, '{', '}'); first = false {
		if k = s.key(feeKeys[:], k, &seen); s.err != nil {
			return
		}
		if s.null() {
			continue
		}
		switch k {
		case feeKeyStatus:
			v := s.text()
			var err error
			if fee.Status, err = ParseFeeStatus(v); err != nil {
				s.want(v, []string{"open", "in-process", "closed"})
			}
			known = true
		case feeKeyClosed:
			fee.Closed = s.time()
		case feeKeyMethod:
			fee.Method = s.text()
		}
		if s.err != nil {
			s.err = fmt.Errorf("%s: %w", feeKeys[k], s.err)
			return
		}
	}
	if s.err == nil && !known {
		s.err = errors.New("status is missing")
	}
}

// key reads a key and its colon and returns its place among the known ones. Files keep to one order of
// keys, so the search begins after the key before.
func (s *jsonScanner) key(known []string, before int, seen *uint32) int {
	key := s.text()
	if s.space(); s.err == nil && (s.i == len(s.s) || s.s[s.i] != ':') {
		s.syntax("want a colon")
	}
	if s.err != nil {
		return -1
	}
	s.i++
	s.space()
	k := find(known, key, before)
	if k < 0 && strings.IndexByte(key, '-') >= 0 {
		k = find(known, strings.ReplaceAll(key, "-", "_"), before)
	}
	switch {
	case k >= 0 && *seen&(1<<k) != 0:
		s.err = fmt.Errorf("key %q appears twice", known[k])
	case k >= 0:
		*seen |= 1 << k
	case len(key) > 64:
		s.err = fmt.Errorf("unknown key of %d bytes", len(key))
	default:
		s.err = fmt.Errorf("unknown key %q%s", key, nearest.Hint(strings.ReplaceAll(key, "-", "_"), known))
	}
	return k
}

func find(known []string, key string, before int) int {
	k := before
	for range known {
		if k++; k == len(known) {
			k = 0
		}
		if known[k] == key {
			return k
		}
	}
	return -1
}

// next goes to the next member or element of an object or array and says whether there is one.
func (s *jsonScanner) next(first bool, open, end byte) bool {
	s.space()
	switch {
	case s.err != nil:
		return false
	case first:
		if !s.eat(open) {
			if open == '{' {
				s.fail("want an object")
			} else {
				s.fail("want an array")
			}
			return false
		}
		s.space()
		return !s.eat(end)
	case s.eat(end):
		return false
	case !s.eat(','):
		s.syntax("want a comma or the end")
		return false
	}
	s.space()
	return true
}

func (s *jsonScanner) space() {
	for s.i < len(s.s) {
		switch s.s[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

func (s *jsonScanner) eat(c byte) bool {
	if s.i < len(s.s) && s.s[s.i] == c {
		s.i++
		return true
	}
	return false
}

// word reads true, false or null. What may follow is for next to say.
func (s *jsonScanner) word(w string) bool {
	if strings.HasPrefix(s.s[s.i:], w) {
		s.i += len(w)
		return true
	}
	return false
}

func (s *jsonScanner) null() bool { return s.word("null") }

func (s *jsonScanner) bool() bool {
	switch {
	case s.word("true"):
		return true
	case !s.word("false"):
		s.fail("want true or false")
	}
	return false
}

func (s *jsonScanner) time() time.Time {
	v := s.text()
	if s.err != nil {
		return time.Time{}
	}
	t, err := parseTime(v, s.zone)
	if err != nil {
		s.err = err
	}
	return t
}

// count reads a whole number that is not negative.
func (s *jsonScanner) count() (n int) {
	start := s.i
	for ; s.i < len(s.s) && s.s[s.i]-'0' <= 9; s.i++ {
		digit := int(s.s[s.i] - '0')
		if n > (math.MaxInt-digit)/10 {
			s.fail("number too large")
			return 0
		}
		n = n*10 + digit
	}
	switch {
	case s.i == start && s.eat('-'):
		s.fail("must not be negative")
	case s.i == start, s.i-start > 1 && s.s[start] == '0',
		s.i < len(s.s) && (s.s[s.i] == '.' || s.s[s.i] == 'e' || s.s[s.i] == 'E'):
		s.fail("want a whole number")
	default:
		return n
	}
	return 0
}

func (s *jsonScanner) texts() (all []string) {
	for first := true; s.next(first, '[', ']'); first = false {
		all = append(all, s.text())
	}
	return all
}

// text reads a string; without escapes it is a part of the line.
func (s *jsonScanner) text() string {
	if s.err != nil {
		return ""
	}
	if !s.eat('"') {
		s.fail("want a string")
		return ""
	}
	for i := s.i; i < len(s.s); i++ {
		switch c := s.s[i]; {
		case c == '"':
			v := s.s[s.i:i]
			s.i = i + 1
			return v
		case c == '\\':
			return s.escaped(i)
		case c < ' ':
			s.i = i
			s.syntax("control character in a string")
			return ""
		}
	}
	s.i = len(s.s)
	s.syntax("a string does not end")
	return ""
}

// escaped reads the rest of a string whose first backslash is at i.
func (s *jsonScanner) escaped(i int) string {
	b := append(make([]byte, 0, i-s.i+32), s.s[s.i:i]...)
	for s.i = i; s.i < len(s.s); {
		c := s.s[s.i]
		s.i++
		switch {
		case c == '"':
			return string(b)
		case c < ' ':
			s.syntax("control character in a string")
			return ""
		case c != '\\':
			b = append(b, c)
			continue
		}
		c = 0
		if s.i < len(s.s) {
			c = s.s[s.i]
			s.i++
		}
		switch c {
		case '"', '\\', '/':
			b = append(b, c)
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			r := s.hex4()
			if utf16.IsSurrogate(r) {
				var low rune
				if s.word(`\u`) {
					low = s.hex4()
				}
				// encoding/json would put U+FFFD here, and two ids could become one.
				if r = utf16.DecodeRune(r, low); r == utf8.RuneError && s.err == nil {
					s.syntax("half of a surrogate pair")
				}
			}
			b = utf8.AppendRune(b, r)
		default:
			s.syntax("unknown escape")
		}
		if s.err != nil {
			return ""
		}
	}
	s.syntax("a string does not end")
	return ""
}

func (s *jsonScanner) hex4() (r rune) {
	for range 4 {
		var c byte
		if s.i < len(s.s) {
			c = s.s[s.i]
		}
		switch {
		case c-'0' <= 9:
			c -= '0'
		case c-'a' <= 5:
			c -= 'a' - 10
		case c-'A' <= 5:
			c -= 'A' - 10
		default:
			s.syntax(`want four hexadecimal digits after \u`)
			return 0
		}
		s.i++
		r = r<<4 | rune(c)
	}
	return r
}

func (s *jsonScanner) fail(what string) {
	if s.err == nil {
		s.err = errors.New(what)
	}
}

func (s *jsonScanner) syntax(what string) {
	if s.err == nil {
		s.err = fmt.Errorf("not JSON at byte %d: %s", s.i+1, what)
	}
}

// want complains about a word without repeating it.
func (s *jsonScanner) want(v string, words []string) {
	if s.err == nil {
		last := len(words) - 1
		s.err = fmt.Errorf("want %s or %s%s", strings.Join(words[:last], ", "), words[last], nearest.Hint(v, words))
	}
}

// AppendJSON appends the record as one JSON object without a line end: keys in the order of [RecordKeys],
// zero values left out, times in UTC to the microsecond. [RecordParser.Parse] gives the same record back if
// its kind, words and counts are valid, its text is Unicode and its times are instants of the years 1 to 9999.
func (r *Record) AppendJSON(b []byte) []byte {
	w := jsonWriter{append(b, '{'), len(b) + 1}
	if r.Kind != 0 {
		w.text(keyKind, r.Kind.String())
	}
	w.text(keyID, r.ID)
	w.text(keyVersion, r.Version)
	w.text(keyBorrower, string(r.Borrower))
	w.text(keyProxy, string(r.Proxy))
	w.text(keyGroup, r.Group)
	w.text(keyGroupNow, r.GroupNow)
	if len(r.Categories) > 0 {
		w.key(keyCategories)
		for i, c := range r.Categories {
			w.b = appendText(append(w.b, separator(i, '[')), c)
		}
		w.b = append(w.b, ']')
	}
	w.text(keyLibrary, r.Library)
	w.text(keyLocation, r.Location)
	w.text(keyType, r.Type)
	w.text(keyItem, r.Item)
	w.time(keyStarted, r.Started)
	w.time(keyEnded, r.Ended)
	if r.Status != Open {
		w.text(keyStatus, r.Status.String())
	}
	w.bool(keyLost, r.Lost)
	w.bool(keyClaimedReturned, r.ClaimedReturned)
	if len(r.Fees) > 0 {
		w.key(keyFees)
		for i, f := range r.Fees {
			w.b = appendFee(append(w.b, separator(i, '[')), f)
		}
		w.b = append(w.b, ']')
	}
	w.count(keyNewerByBorrower, r.NewerByBorrower)
	w.count(keyNewerOfItem, r.NewerOfItem)
	w.time(keyBorrowerExpires, r.BorrowerExpires)
	w.text(keyWish, r.Wish.String())
	w.time(keyWishSince, r.WishSince)
	w.bool(keyHold, r.Hold)
	return append(w.b, '}')
}

func separator(i int, open byte) byte {
	if i > 0 {
		return ','
	}
	return open
}

func appendFee(b []byte, f FeeSummary) []byte {
	b = appendText(append(b, `{"status":`...), f.Status.String())
	if !f.Closed.IsZero() {
		b = appendTime(append(b, `,"closed":`...), f.Closed)
	}
	if f.Method != "" {
		b = appendText(append(b, `,"method":`...), f.Method)
	}
	return append(b, '}')
}

// A jsonWriter writes the members of one object and leaves out what is zero.
type jsonWriter struct {
	b     []byte
	start int // where the first member begins
}

func (w *jsonWriter) key(k int) {
	if len(w.b) > w.start {
		w.b = append(w.b, ',')
	}
	w.b = append(append(append(w.b, '"'), recordKeys[k]...), '"', ':')
}

func (w *jsonWriter) text(k int, v string) {
	if v != "" {
		w.key(k)
		w.b = appendText(w.b, v)
	}
}

func (w *jsonWriter) time(k int, t time.Time) {
	if !t.IsZero() {
		w.key(k)
		w.b = appendTime(w.b, t)
	}
}

func (w *jsonWriter) bool(k int, v bool) {
	if v {
		w.key(k)
		w.b = append(w.b, "true"...)
	}
}

func (w *jsonWriter) count(k, n int) {
	if n != 0 {
		w.key(k)
		w.b = strconv.AppendInt(w.b, int64(n), 10)
	}
}

func appendTime(b []byte, t time.Time) []byte {
	return append(t.UTC().Truncate(time.Microsecond).AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
}

// appendText escapes what JSON demands and nothing else.
func appendText(b []byte, v string) []byte {
	b = append(b, '"')
	from := 0 // what is written up to here
	for i := 0; i < len(v); {
		c := v[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		size := 1
		if c >= utf8.RuneSelf {
			var r rune
			if r, size = utf8.DecodeRuneInString(v[i:]); r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		b = append(b, v[from:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			if c < ' ' {
				const digits = "0123456789abcdef"
				b = append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
			} else {
				b = append(b, "\ufffd"...)
			}
		}
		i += size
		from = i
	}
	return append(append(b, v[from:]...), '"')
}

package circulation_test

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"
	_ "time/tzdata" // the tests name zones

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/carrel-project/carrel/circulation"
)

const wholeRecord = `{"kind":"loan","id":"l1","version":"7","borrower":"p-77","proxy":"q-1","group":"graduate","group_now":"alumni",` +
	`"categories":["dept-math","b"],"library":"main","location":"stacks","type":"book","item":"i9",` +
	`"started":"2026-09-01T10:00:00Z","ended":"2026-10-01T09:30:00.25Z","status":"ended",` +
	`"lost":true,"claimed_returned":true,` +
	`"fees":[{"status":"closed","closed":"2026-10-02T00:00:00Z","method":"cash"},{"status":"in-process"}],` +
	`"newer_by_borrower":5,"newer_of_item":1,` +
	`"borrower_expires":"2027-06-30T00:00:00Z","wish":"keep","wish_since":"2026-01-01T00:00:00Z","hold":true}`

func whole() circulation.Record {
	return circulation.Record{
		Kind: circulation.KindLoan, ID: "l1", Version: "7", Borrower: "p-77", Proxy: "q-1",
		Group: "graduate", GroupNow: "alumni", Categories: []string{"dept-math", "b"},
		Library: "main", Location: "stacks", Type: "book", Item: "i9",
		Started: time.Date(2026, 9, 1, 10, 0, 0, 0, time.UTC),
		Ended:   time.Date(2026, 10, 1, 9, 30, 0, 250e6, time.UTC), Status: circulation.Ended,
		Lost: true, ClaimedReturned: true,
		Fees: []circulation.FeeSummary{
			{Status: circulation.FeeClosed, Closed: time.Date(2026, 10, 2, 0, 0, 0, 0, time.UTC), Method: "cash"},
			{Status: circulation.FeeInProcess},
		},
		NewerByBorrower: 5, NewerOfItem: 1,
		BorrowerExpires: time.Date(2027, 6, 30, 0, 0, 0, 0, time.UTC),
		Wish:            circulation.WishKeep, WishSince: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Hold: true,
	}
}

func parse(t *testing.T, line string) circulation.Record {
	t.Helper()
	var r circulation.Record
	require.NoError(t, circulation.NewRecordParser(nil).Parse([]byte(line), &r))
	return r
}

func TestParseReadsEveryKey(t *testing.T) {
	require.Equal(t, whole(), parse(t, wholeRecord))
	want := whole()
	require.Equal(t, wholeRecord, string(want.AppendJSON(nil)))
	require.Equal(t, "x"+wholeRecord, string(want.AppendJSON([]byte("x"))), "appends")
}

// The list of keys, what Parse takes and what AppendJSON writes are one vocabulary.
func TestRecordKeysAreWhatIsWritten(t *testing.T) {
	var written map[string]any
	require.NoError(t, json.Unmarshal([]byte(wholeRecord), &written))
	require.Len(t, circulation.RecordKeys(), len(written))
	at := 0
	for _, k := range circulation.RecordKeys() {
		require.Contains(t, written, k)
		i := strings.Index(wholeRecord[at:], `"`+k+`":`)
		require.GreaterOrEqual(t, i, 0, "%s is out of order", k)
		at += i
	}
	circulation.RecordKeys()[0] = "changed"
	require.Equal(t, "kind", circulation.RecordKeys()[0])
}

func TestParseAbsentNullAndEmptyAreZero(t *testing.T) {
	zero := circulation.Record{Kind: circulation.KindFee, ID: "f"}
	require.Equal(t, zero, parse(t, `{"id":"f","kind":"fee"}`))
	require.Equal(t, `{"kind":"fee","id":"f"}`, string(zero.AppendJSON(nil)))
	var nulls strings.Builder
	nulls.WriteString(`{"kind":"fee","id":"f"`)
	for _, k := range circulation.RecordKeys()[2:] {
		fmt.Fprintf(&nulls, ",%q:null", k)
	}
	require.Equal(t, zero, parse(t, nulls.String()+"}"))
	require.Equal(t, zero, parse(t, `{"kind":"fee","id":"f","proxy":"","categories":[],"status":"","lost":false,`+
		`"fees":[],"newer_by_borrower":0,"started":"","wish":"","wish_since":"","hold":false}`))
}

func TestParseForgivesSpaceAndHyphens(t *testing.T) {
	r := parse(t, "\t{ \"kind\" : \"loan\" ,\r\n\"id\":\"a\", \"newer-by-borrower\" : 3 , "+
		"\"categories\" : [ \"x\" , \"y\" ] , \"fees\":[ { \"status\" : \"open\" } ] } \r\n")
	require.Equal(t, 3, r.NewerByBorrower)
	require.Equal(t, []string{"x", "y"}, r.Categories)
	require.Equal(t, []circulation.FeeSummary{{}}, r.Fees)
}

func TestParseTimesWithoutZoneAreInTheParsersZone(t *testing.T) {
	stockholm, err := time.LoadLocation("Europe/Stockholm")
	require.NoError(t, err)
	var r circulation.Record
	require.NoError(t, circulation.NewRecordParser(stockholm).Parse([]byte(
		`{"kind":"loan","id":"a","started":"2026-07-01","ended":"2026-07-01T12:00:00Z"}`), &r))
	require.Equal(t, time.Date(2026, 6, 30, 22, 0, 0, 0, time.UTC), r.Started)
	require.Equal(t, time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC), r.Ended)
}

func TestParseStrings(t *testing.T) {
	for in, want := range map[string]string{
		`"\u0041\/\"\\\b\f\n\r\t"`: "A/\"\\\b\f\n\r\t",
		`"\ud83d\uDE00x"`:          "😀x",
		`"å\u00e5😀"`:               "åå😀",
		"\"a\u2028\x7f\"":          "a\u2028\x7f",
		`"\u0000"`:                 "\x00",
		`"\ufffd\uFFFF"`:           "\ufffd\uffff",
		`"a\u002db"`:               "a-b",
	} {
		require.Equal(t, want, parse(t, `{"kind":"loan","id":"a","type":`+in+`}`).Type, in)
		require.Equal(t, want, parse(t, `{"kind":"loan","id":"a","\u0074ype":`+in+`}`).Type, in)
	}
	r := circulation.Record{Kind: circulation.KindLoan, ID: "a", Type: "x\xff\xe2\x80y"}
	require.Equal(t, `{"kind":"loan","id":"a","type":"x`+"\ufffd\ufffd\ufffd"+`y"}`, string(r.AppendJSON(nil)),
		"bytes that are not Unicode are replaced as encoding/json does")
}

func TestParseErrors(t *testing.T) {
	const secret = "CANARY-4711"
	for in, want := range map[string]string{
		``:                                   "want an object",
		`[]`:                                 "want an object",
		`null`:                               "want an object",
		`{}`:                                 "kind is missing",
		`{"kind":"","id":"a"}`:               "kind is missing",
		`{"kind":null,"id":"CANARY-4711"}`:   "kind is missing",
		`{"kind":"loan"}`:                    "id is missing",
		`{"kind":"loan","id":""}`:            "id is missing",
		`{"kind":"laon","id":"CANARY-4711"}`: `kind: want loan, request, sharing, fee or notice; did you mean "loan"?`,
		`{"kind":"CANARY-4711"}`:             `kind: want loan, request, sharing, fee or notice`,
		`{"kind":7}`:                         "kind: want a string",

		`{"id":7}`:                                     "id: want a string",
		`{"borrower":4711}`:                            "borrower: want a string",
		`{"borrower":"CANARY-4711}`:                    "borrower: not JSON at byte 26: a string does not end",
		`{"borrower":"CANARY-4711\` + `x"}`:            `borrower: not JSON at byte 27: unknown escape`,
		`{"borrower":"CANARY-4711` + "\n" + `"}`:       `borrower: not JSON at byte 25: control character in a string`,
		`{"borrower":"\nCANARY-4711` + "\x00" + `"}`:   `borrower: not JSON at byte 28: control character in a string`,
		`{"borrower":"CANARY-4711\ud800"}`:             `borrower: not JSON at byte 31: half of a surrogate pair`,
		`{"borrower":"CANARY-4711\ud800\u0041"}`:       `borrower: not JSON at byte 37: half of a surrogate pair`,
		`{"borrower":"CANARY-4711\udc00"}`:             `borrower: not JSON at byte 31: half of a surrogate pair`,
		`{"borrower":"CANARY-4711\u00g0"}`:             `borrower: not JSON at byte 29: want four hexadecimal digits after \u`,
		`{"borrower":"CANARY-4711\`:                    `borrower: not JSON at byte 26: unknown escape`,
		`{"proxy":"CANARY-4711","proxy":"x"}`:          `key "proxy" appears twice`,
		`{"newer_of_item":1,"newer-of-item":1}`:        `key "newer_of_item" appears twice`,
		`{"lost":null,"lost":true}`:                    `key "lost" appears twice`,
		`{"borrower":"CANARY-4711` + "\xff" + `"}`:     "not valid UTF-8",
		`{"claimed_retuned":true}`:                     `unknown key "claimed_retuned"; did you mean "claimed_returned"?`,
		`{"claimed-retuned":true}`:                     `unknown key "claimed-retuned"; did you mean "claimed_returned"?`,
		`{"Kind":"loan"}`:                              `unknown key "Kind"; did you mean "kind"?`,
		`{"xyzzy-plugh":1}`:                            `unknown key "xyzzy-plugh"`,
		`{"":1}`:                                       `unknown key ""`,
		`{"` + strings.Repeat("x", 1000) + `":1}`:      `unknown key of 1000 bytes`,
		`{"kind":"loan","id":"CANARY-4711"} x`:         "not JSON at byte 36: something follows the object",
		`{"kind":"loan","id":"CANARY-4711"}{}`:         "not JSON at byte 35: something follows the object",
		`{"kind":"loan","id":"CANARY-4711",}`:          "want a string",
		`{"kind":"loan" "id":"CANARY-4711"}`:           "not JSON at byte 16: want a comma or the end",
		`{"kind":"loan","id":"CANARY-4711"`:            "not JSON at byte 34: want a comma or the end",
		`{"kind","loan"}`:                              "not JSON at byte 8: want a colon",
		`{kind:"loan"}`:                                "want a string",
		`{"lost":"true"}`:                              "lost: want true or false",
		`{"lost":1}`:                                   "lost: want true or false",
		`{"lost":}`:                                    "lost: want true or false",
		`{"lost":truee}`:                               "not JSON at byte 13: want a comma or the end",
		`{"lost":nullx}`:                               "not JSON at byte 13: want a comma or the end",
		`{"hold":True}`:                                "hold: want true or false",
		`{"newer_by_borrower":-1}`:                     "newer_by_borrower: must not be negative",
		`{"newer_by_borrower":1.0}`:                    "newer_by_borrower: want a whole number",
		`{"newer_by_borrower":1e3}`:                    "newer_by_borrower: want a whole number",
		`{"newer_by_borrower":01}`:                     "newer_by_borrower: want a whole number",
		`{"newer_by_borrower":"5"}`:                    "newer_by_borrower: want a whole number",
		`{"newer_by_borrower":+5}`:                     "newer_by_borrower: want a whole number",
		`{"newer_by_borrower":99999999999999999999}`:   "newer_by_borrower: number too large",
		`{"ended":"yesterday"}`:                        "ended: not a time: want 2026-10-01, 2026-10-01T09:30:00Z or 2026-10-01 09:30:00+02",
		`{"ended":"2026-02-29"}`:                       "ended: not a time: want 2026-10-01, 2026-10-01T09:30:00Z or 2026-10-01 09:30:00+02",
		`{"ended":1790000000}`:                         "ended: want a string",
		`{"status":"closed"}`:                          `status: want open or ended`,
		`{"status":"endet"}`:                           `status: want open or ended; did you mean "ended"?`,
		`{"wish":"forgett"}`:                           `wish: want keep or forget; did you mean "forget"?`,
		`{"categories":"a"}`:                           "categories: want an array",
		`{"categories":["a",1]}`:                       "categories: want a string",
		`{"categories":["a",null]}`:                    "categories: want a string",
		`{"categories":["a",]}`:                        "categories: want a string",
		`{"categories":["a"`:                           "categories: not JSON at byte 19: want a comma or the end",
		`{"fees":{}}`:                                  "fees: want an array",
		`{"fees":[null]}`:                              "fees: fee 1: want an object",
		`{"fees":[{"status":"open"},{}]}`:              "fees: fee 2: status is missing",
		`{"fees":[{"status":null}]}`:                   "fees: fee 1: status is missing",
		`{"fees":[{"status":""}]}`:                     "fees: fee 1: status: want open, in-process or closed",
		`{"fees":[{"status":"paid"}]}`:                 "fees: fee 1: status: want open, in-process or closed",
		`{"fees":[{"state":"open"}]}`:                  `fees: fee 1: unknown key "state"; did you mean "status"?`,
		`{"fees":[{"status":"open","status":"open"}]}`: `fees: fee 1: key "status" appears twice`,
		`{"fees":[{"closed":"soon"}]}`:                 `fees: fee 1: closed: not a time: want 2026-10-01, 2026-10-01T09:30:00Z or 2026-10-01 09:30:00+02`,
	} {
		t.Run(in[:min(len(in), 40)], func(t *testing.T) {
			r := whole()
			err := circulation.NewRecordParser(nil).Parse([]byte(in), &r)
			require.EqualError(t, err, want)
			require.NotContains(t, err.Error(), secret)
			require.NotContains(t, err.Error(), "\n")
			require.Zero(t, r, "after an error the record is zero")
		})
	}
}

// Every prefix of a good line is refused, and whatever the defect, no value of a person is repeated.
func TestParseNeverEchoesAPerson(t *testing.T) {
	r := whole()
	r.ID, r.Borrower, r.Proxy = "CANARY-1-id", "CANARY-2-borrower", "CANARY-3-proxy"
	line := r.AppendJSON(nil)
	p := circulation.NewRecordParser(nil)
	for i := range line {
		require.Error(t, p.Parse(line[:i], &r))
		for _, c := range []byte("\"\\{}[]:, \x00\xff7x") {
			mangled := append([]byte(nil), line...)
			mangled[i] = c
			if err := p.Parse(mangled, &r); err != nil {
				require.NotContains(t, err.Error(), "CANARY", "byte %d = %q", i, c)
			}
		}
	}
}

func TestParseIsSafeForConcurrentUse(t *testing.T) {
	p := circulation.NewRecordParser(nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			line := []byte(wholeRecord)
			for range 200 {
				var r circulation.Record
				if err := p.Parse(line, &r); err != nil || r.Borrower != "p-77" {
					t.Error(err, r.Borrower)
				}
			}
		})
	}
	wg.Wait()
}

// The parsed record does not change when the caller reuses its buffer.
func TestParseKeepsNothingOfTheLine(t *testing.T) {
	line := []byte(wholeRecord)
	var r circulation.Record
	require.NoError(t, circulation.NewRecordParser(nil).Parse(line, &r))
	clear(line)
	require.Equal(t, whole(), r)
}

func TestAppendJSONThenParseIsTheSame(t *testing.T) {
	p := circulation.NewRecordParser(time.FixedZone("odd", 12345)) // what is written names its zone
	rapid.Check(t, func(t *rapid.T) {
		r := anyRecord().Draw(t, "record")
		line := r.AppendJSON(nil)
		require.True(t, json.Valid(line), "%s", line)
		var got circulation.Record
		require.NoError(t, p.Parse(line, &got), "%s", line)
		require.Equal(t, r, got)
		require.Equal(t, string(line), string(got.AppendJSON(nil)))
	})
}

func anyRecord() *rapid.Generator[circulation.Record] {
	word := rapid.OneOf(rapid.Just(""), rapid.String(), rapid.SampledFrom([]string{`"\`, "\x00\x1f\x7f", "😀\u2028", "null"}))
	person := rapid.Map(word, func(s string) circulation.Borrower { return circulation.Borrower(s) })
	micros := rapid.Int64Range(time.Date(1, 1, 1, 0, 0, 0, 1000, time.UTC).UnixMicro(), time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC).UnixMicro())
	when := rapid.OneOf(rapid.Just(time.Time{}), rapid.Map(micros, func(m int64) time.Time { return time.UnixMicro(m).UTC() }))
	fee := rapid.Custom(func(t *rapid.T) circulation.FeeSummary {
		return circulation.FeeSummary{
			Status: circulation.FeeStatus(rapid.IntRange(0, 2).Draw(t, "fee status")),
			Closed: when.Draw(t, "closed"), Method: word.Draw(t, "method"),
		}
	})
	count := rapid.IntRange(0, math.MaxInt)
	return rapid.Custom(func(t *rapid.T) circulation.Record {
		return circulation.Record{
			Kind: rapid.SampledFrom(circulation.Kinds()).Draw(t, "kind"), ID: "i" + word.Draw(t, "id"), Version: word.Draw(t, "version"),
			Borrower: person.Draw(t, "borrower"), Proxy: person.Draw(t, "proxy"),
			Group: word.Draw(t, "group"), GroupNow: word.Draw(t, "group now"),
			Categories: noEmpty(rapid.SliceOf(word).Draw(t, "categories")),
			Library:    word.Draw(t, "library"), Location: word.Draw(t, "location"), Type: word.Draw(t, "type"), Item: word.Draw(t, "item"),
			Started: when.Draw(t, "started"), Ended: when.Draw(t, "ended"), Status: circulation.Status(rapid.IntRange(0, 1).Draw(t, "status")),
			Lost: rapid.Bool().Draw(t, "lost"), ClaimedReturned: rapid.Bool().Draw(t, "claimed"),
			Fees:            noEmpty(rapid.SliceOf(fee).Draw(t, "fees")),
			NewerByBorrower: count.Draw(t, "by borrower"), NewerOfItem: count.Draw(t, "of item"),
			BorrowerExpires: when.Draw(t, "expires"), Wish: circulation.Wish(rapid.IntRange(0, 2).Draw(t, "wish")),
			WishSince: when.Draw(t, "since"), Hold: rapid.Bool().Draw(t, "hold"),
		}
	})
}

func noEmpty[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return s
}

func BenchmarkParse(b *testing.B) {
	p := circulation.NewRecordParser(nil)
	line := []byte(`{"kind":"loan","id":"l1234567","version":"7","borrower":"k7Qm2ZpX9aBc","proxy":"","group":"graduate","group_now":"alumni",` +
		`"categories":["dept-math"],"library":"main","location":"stacks","type":"book","item":"i9123456",` +
		`"started":"2026-09-01T10:00:00Z","ended":"2026-10-01T09:30:00Z","status":"ended","lost":false,"claimed_returned":false,"fees":[],` +
		`"newer_by_borrower":5,"newer_of_item":1,"borrower_expires":"2027-06-30","wish":"","wish_since":"","hold":false}`)
	var r circulation.Record
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Parse(line, &r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	r := whole()
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = r.AppendJSON(buf[:0])
	}
}

func ExampleRecordParser() {
	parser := circulation.NewRecordParser(time.UTC)
	var r circulation.Record
	fmt.Println(parser.Parse([]byte(`{"kind":"loan","id":"l1","borrower":"p-77","claimed_retuned":true}`), &r))
	fmt.Println(parser.Parse([]byte(`{"kind":"loan","id":"l1","borrower":"p-77","claimed-returned":true}`), &r))
	fmt.Println(string(r.AppendJSON(nil)))
	// Output:
	// unknown key "claimed_retuned"; did you mean "claimed_returned"?
	// <nil>
	// {"kind":"loan","id":"l1","borrower":"p-77","claimed_returned":true}
}

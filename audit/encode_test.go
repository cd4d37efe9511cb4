package audit

import (
	"encoding/hex"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestWorkedExample runs the example of the package comment.
func TestWorkedExample(t *testing.T) {
	e := Login{Time: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC), Staff: "staff-17", Role: "desk", Result: Success, Channel: UI}.Event()
	require.NoError(t, e.check())
	public := e.encode()
	body := append([]byte{bodyVersion, 1, 2, 3, 4, 5, 6, 7, 8, byte(len(public))}, public...)
	body = append(append(body, 0), make([]byte, macSize)...)
	hash, leaf, ok := leafHash(nil, nil, body)
	require.True(t, ok)
	require.Equal(t, body, leaf)

	source, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	compact := strings.ReplaceAll(string(source), " ", "")
	for _, want := range []string{hex.EncodeToString(public), hex.EncodeToString(hash[:])} {
		require.True(t, strings.Contains(compact, "//\t"+want+"\n"), "the package comment lacks %s", want)
	}
}

// text returns references and words, and some that only look so.
func text() *rapid.Generator[string] {
	return rapid.OneOf(rapid.Just(""), rapid.StringMatching(`[a-z0-9 -]{1,40}`), rapid.StringMatching(`[äß漢]{1,3}`))
}

func events() *rapid.Generator[Event] {
	return rapid.Custom(func(t *rapid.T) Event {
		e := Event{
			Time:    time.UnixMicro(rapid.Int64Range(1, 1<<52).Draw(t, "time")).UTC(),
			Action:  rapid.SampledFrom(Actions()).Draw(t, "action"),
			Outcome: rapid.SampledFrom(Outcomes()).Draw(t, "outcome"),
			Channel: rapid.SampledFrom(append(Channels(), "")).Draw(t, "channel"),
			Count:   rapid.IntRange(0, 1<<40).Draw(t, "count"),
			Covers:  time.Duration(rapid.IntRange(0, 4000).Draw(t, "covers")) * time.Second,
		}
		for _, f := range e.texts() {
			if *f.text == "" && f.tag != tagChannel {
				*f.text = text().Draw(t, f.name)
			}
		}
		e.Segments = slices.Sorted(slices.Values(rapid.SliceOfDistinct(rapid.StringMatching(`[a-z]{1,9}`), rapid.ID[string]).Draw(t, "segments")))
		for range rapid.IntRange(0, 3).Draw(t, "tallies") {
			e.Tally = append(e.Tally, Tally{rapid.StringMatching(`[a-z]{1,9}`).Draw(t, "name"), rapid.IntRange(0, 1<<40).Draw(t, "n")})
		}
		if rapid.Bool().Draw(t, "before") {
			e.Before = time.UnixMicro(rapid.Int64Range(1, 1<<52).Draw(t, "before")).UTC()
		}
		at := uint64(0)
		for i := range rapid.IntRange(0, 5).Draw(t, "ranges") {
			gap := rapid.Uint64Range(1, 1<<40).Draw(t, "gap")
			if i == 0 {
				gap--
			}
			r := Range{From: at + gap, To: at + gap + rapid.Uint64Range(1, 1<<40).Draw(t, "length")}
			e.Ranges, at = append(e.Ranges, r), r.To
		}
		e.Collapsed = rapid.Uint64Range(0, 1<<50).Draw(t, "collapsed")
		return e
	})
}

func TestWhatIsEncodedIsDecoded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := events().Draw(t, "event")
		require.NoError(t, e.check())
		got, err := decode(e.encode())
		require.NoError(t, err)
		require.Equal(t, e, got)
	})
}

// FuzzDecode shows that there is one encoding of each event: what is accepted is what encode writes.
func FuzzDecode(f *testing.F) {
	e := Login{Time: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC), Staff: "staff-17", Role: "desk", Result: Success, Channel: UI}.Event()
	f.Add(e.encode())
	e = Event{Time: time.UnixMicro(1), Action: Prune, Outcome: Done, Kind: "views", Before: time.UnixMicro(2), Ranges: []Range{{0, 2}, {5, 6}}, Collapsed: 256,
		Segments: []string{"a", "b"}, Tally: []Tally{{"rule", 3}}, Covers: time.Second}
	f.Add(e.encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := decode(data)
		if err != nil {
			return
		}
		require.Equal(t, data, e.encode())
	})
}

// FuzzOpen shows that a body that is taken apart has one leaf, and that nothing panics.
func FuzzOpen(f *testing.F) {
	e := Event{Time: time.UnixMicro(1), Action: View, Outcome: Done}
	public := e.encode()
	body := append([]byte{bodyVersion, 1, 2, 3, 4, 5, 6, 7, 8, byte(len(public))}, public...)
	with := append(append(append([]byte{}, body...), 1), make([]byte, tagSize)...)
	f.Add(append(append([]byte{}, append(body, 0)...), make([]byte, macSize)...))
	f.Add(append(append(with, 3, 1, 2, 3), make([]byte, macSize)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := open(data)
		_, _, ok := leafHash(nil, nil, data)
		if err == nil && !ok {
			t.Fatal("a body that can be opened has no leaf")
		}
	})
}

func TestWhatIsNoEventIsRefused(t *testing.T) {
	good := Event{Time: time.UnixMicro(1), Action: View, Outcome: Done}
	require.NoError(t, good.check())
	for name, change := range map[string]func(*Event){
		"no action":      func(e *Event) { e.Action = "" },
		"unknown action": func(e *Event) { e.Action = "look" },
		"no outcome":     func(e *Event) { e.Outcome = "" },
		"channel":        func(e *Event) { e.Channel = "fax" },
		"no time":        func(e *Event) { e.Time = time.Time{} },
		"far time":       func(e *Event) { e.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"count":          func(e *Event) { e.Count = -1 },
		"covers":         func(e *Event) { e.Covers = time.Millisecond },
		"two lines":      func(e *Event) { e.Actor = "staff\n17" },
		"no UTF-8":       func(e *Event) { e.Actor = "\xff" },
		"long":           func(e *Event) { e.Approval = strings.Repeat("x", maxText+1) },
		"empty segment":  func(e *Event) { e.Segments = []string{""} },
		"tally":          func(e *Event) { e.Tally = []Tally{{"", 1}} },
		"empty range":    func(e *Event) { e.Ranges = []Range{{1, 1}} },
		"joined ranges":  func(e *Event) { e.Ranges = []Range{{1, 2}, {2, 3}} },
		"person and kind": func(e *Event) {
			e.Subjects, e.Kind = []Subject{{ID: "p1"}}, "loan"
		},
		"person in a sweep": func(e *Event) {
			e.Subjects, e.Action = []Subject{{ID: "p1"}}, Sweep
		},
	} {
		e := good
		change(&e)
		require.ErrorIs(t, e.check(), ErrEvent, name)
	}
}

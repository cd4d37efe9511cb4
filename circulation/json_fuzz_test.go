package circulation_test

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/carrel-project/carrel/circulation"
)

// FuzzParse: whatever we accept, encoding/json accepts, and says the same.
func FuzzParse(f *testing.F) {
	f.Add([]byte(wholeRecord))
	f.Add([]byte(`{"kind":"loan","id":"a"}`))
	f.Add([]byte(` { "k\u0069nd" : "fee" , "id":"\ud83d\ude00\"\\\/\b\f\n\r\t" ,"fees":[{"status":"open","closed":null}],"newer-of-item":12 } `))
	f.Add([]byte(`{"kind":"notice","id":"x","categories":["å","\u00e5"],"started":"2020-10-27 09:26:51-05","lost":true}`))
	p := circulation.NewRecordParser(nil)
	times := circulation.Times(nil)
	f.Fuzz(func(t *testing.T, line []byte) {
		var r circulation.Record
		if err := p.Parse(line, &r); err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("error of two lines: %q", err)
			}
			return
		}
		// The values as encoding/json reads them, under our keys.
		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		var raw map[string]any
		if err := d.Decode(&raw); err != nil {
			t.Fatalf("encoding/json refuses %q: %v", line, err)
		}
		if !json.Valid(line) {
			t.Fatalf("encoding/json says %q is not valid", line)
		}
		want := make(map[string]any, len(raw))
		for k, v := range raw {
			want[strings.ReplaceAll(k, "-", "_")] = v
		}
		text := func(m map[string]any, k string) string { v, _ := m[k].(string); return v }
		flag := func(k string) bool { v, _ := want[k].(bool); return v }
		when := func(m map[string]any, k string) time.Time {
			v, err := times(text(m, k))
			if err != nil {
				t.Errorf("%s: accepted %q", k, text(m, k))
			}
			return v
		}
		count := func(k string) int {
			n, _ := want[k].(json.Number)
			v, _ := strconv.Atoi(string(n))
			return v
		}
		same := func(k string, got, want any) {
			if got != want {
				t.Errorf("%s of %q: %v, want %v", k, line, got, want)
			}
		}
		same("kind", r.Kind.String(), text(want, "kind"))
		same("id", r.ID, text(want, "id"))
		same("version", r.Version, text(want, "version"))
		same("borrower", string(r.Borrower), text(want, "borrower"))
		same("proxy", string(r.Proxy), text(want, "proxy"))
		same("group", r.Group, text(want, "group"))
		same("group_now", r.GroupNow, text(want, "group_now"))
		same("library", r.Library, text(want, "library"))
		same("location", r.Location, text(want, "location"))
		same("type", r.Type, text(want, "type"))
		same("item", r.Item, text(want, "item"))
		same("started", r.Started, when(want, "started"))
		same("ended", r.Ended, when(want, "ended"))
		same("status", r.Status == circulation.Ended, text(want, "status") == "ended")
		same("lost", r.Lost, flag("lost"))
		same("claimed_returned", r.ClaimedReturned, flag("claimed_returned"))
		same("newer_by_borrower", r.NewerByBorrower, count("newer_by_borrower"))
		same("newer_of_item", r.NewerOfItem, count("newer_of_item"))
		same("borrower_expires", r.BorrowerExpires, when(want, "borrower_expires"))
		same("wish", r.Wish.String(), text(want, "wish"))
		same("wish_since", r.WishSince, when(want, "wish_since"))
		same("hold", r.Hold, flag("hold"))

		categories, _ := want["categories"].([]any)
		same("categories", len(r.Categories), len(categories))
		for i, c := range categories {
			same("categories", r.Categories[i], c.(string))
		}
		fees, _ := want["fees"].([]any)
		same("fees", len(r.Fees), len(fees))
		for i := range fees {
			fee := fees[i].(map[string]any)
			same("fee status", r.Fees[i].Status.String(), text(fee, "status"))
			same("fee closed", r.Fees[i].Closed, when(fee, "closed"))
			same("fee method", r.Fees[i].Method, text(fee, "method"))
		}

		var again circulation.Record
		canonical := r.AppendJSON(nil)
		if err := p.Parse(canonical, &again); err != nil {
			t.Fatalf("does not read what it wrote, %q: %v", canonical, err)
		}
		if !bytes.Equal(again.AppendJSON(nil), canonical) {
			t.Errorf("two canonical forms of %q", line)
		}
	})
}

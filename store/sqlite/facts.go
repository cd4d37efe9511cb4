package sqlite

import (
	"encoding/json"
	"strings"

	"github.com/carrel-project/carrel/circulation"
)

// factColumns are the columns of records that hold circulation.Facts, in the order of valuesOf and factsOf.
var factColumns = [...]string{
	"ended", "status", "lost", "claimed_returned", "grp", "library", "location", "type", "item", "categories",
	"started", "due", "renewals", "fee_status", "method", "amount", "outcome",
}

// Where the facts are that other code looks at.
const (
	columnEnded     = 0
	columnStatus    = 1
	columnItem      = 8
	columnStarted   = 10
	columnFeeStatus = 13
	columnMethod    = 14
	columnOutcome   = 16
)

// settled are the facts that change when a fee is settled or opened again.
var settled = [...]int{columnEnded, columnStatus, columnFeeStatus, columnMethod, columnOutcome}

var (
	factList = strings.Join(factColumns[:], ", ")
	factSet  = strings.Join(factColumns[:], " = ?, ") + " = ?"
)

// valuesOf returns facts as the database keeps them: int64, string or nil, comparable with what it returns.
func valuesOf(f circulation.Facts) []any {
	categories := ""
	if len(f.Categories) > 0 {
		b, _ := json.Marshal(f.Categories) // strings always marshal
		categories = string(b)
	}
	var feeStatus any
	if f.Kind == circulation.KindFee {
		feeStatus = int64(f.FeeStatus)
	}
	return []any{
		micros(f.Ended), int64(f.Status), bit(f.Lost), bit(f.ClaimedReturned),
		f.Group, f.Library, f.Location, f.Type, f.Item, categories,
		micros(f.Started), micros(f.Due), int64(f.Renewals), feeStatus, f.Method, int64(f.Amount), f.Outcome,
	}
}

// factsOf is the reverse of valuesOf. ID and Version are not among the columns.
func factsOf(k circulation.Kind, v []any) circulation.Facts {
	f := circulation.Facts{
		Kind: k, Ended: instant(v[0]), Status: circulation.Status(integer(v[1])), Lost: integer(v[2]) != 0, ClaimedReturned: integer(v[3]) != 0,
		Group: text(v[4]), Library: text(v[5]), Location: text(v[6]), Type: text(v[7]), Item: text(v[8]),
		Started: instant(v[10]), Due: instant(v[11]), Renewals: int(integer(v[12])),
		FeeStatus: circulation.FeeStatus(integer(v[13])), Method: text(v[14]), Amount: circulation.Amount(integer(v[15])), Outcome: text(v[16]),
	}
	if s := text(v[9]); s != "" {
		_ = json.Unmarshal([]byte(s), &f.Categories) // not our JSON: as good as unknown
	}
	return f
}

func (t *tx) update(n int64, values []any) error {
	_, err := t.exec("UPDATE records SET "+factSet+" WHERE n = ?", append(values[:len(values):len(values)], n)...)
	return err
}

func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

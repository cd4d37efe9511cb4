package circulation_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/circulation"
)

// entryOf returns a pointer to a new entry of a kind.
func entryOf(k circulation.Kind) any {
	return map[circulation.Kind]any{
		circulation.KindLoan: new(circulation.Loan), circulation.KindRequest: new(circulation.Request),
		circulation.KindSharing: new(circulation.Sharing), circulation.KindFee: new(circulation.Fee),
		circulation.KindNotice: new(circulation.Notice),
	}[k]
}

// A field added to a type must be declared, or it would never be unlinked.
func TestFieldsAreTheFieldsOfTheTypes(t *testing.T) {
	for _, k := range circulation.Kinds() {
		var declared, real []string
		for _, f := range circulation.Fields(k) {
			declared = append(declared, f.Name)
		}
		for f := range reflect.TypeOf(entryOf(k)).Elem().Fields() {
			real = append(real, f.Name)
		}
		require.Equal(t, real, declared, "%s", k)
	}
	require.Nil(t, circulation.Fields(0))
	require.Nil(t, circulation.Fields(99))
}

func TestFieldsClasses(t *testing.T) {
	keep := map[string]bool{"group": true, "statistics": true, "library": true, "location": true, "type": true, "item": true,
		"loaned": true, "due": true, "returned": true, "requested": true, "closed": true, "charged": true}
	for _, k := range circulation.Kinds() {
		for _, f := range circulation.Fields(k) {
			if f.Class != circulation.Quasi || k == circulation.KindNotice {
				require.Empty(t, f.Keep, "%s.%s: only what may identify can be kept or dropped", k, f.Name)
				continue
			}
			require.True(t, keep[f.Keep], "%s.%s: %q", k, f.Name, f.Keep)
		}
	}
}

// Whatever identifies comes out of Parts apart from what happened, each field once and in its place,
// and nothing else does.
func TestPartsPutsEveryIdentifyingFieldApart(t *testing.T) {
	for _, k := range circulation.Kinds() {
		entry := entryOf(k)
		v := reflect.ValueOf(entry).Elem()
		var persons, texts, points, plain []string
		for _, f := range circulation.Fields(k) {
			field, canary := v.FieldByName(f.Name), "canary-"+f.Name+"-"
			switch {
			case f.Class != circulation.Identifying:
				plain = append(plain, canary)
			case field.Type() == reflect.TypeFor[circulation.Borrower]():
				persons = append(persons, canary)
			case f.Name == "Loan" || f.Name == "Request" || f.Name == "Fee":
				points = append(points, canary)
			default:
				texts = append(texts, canary)
			}
			switch field.Interface().(type) {
			case []string:
				field.Set(reflect.ValueOf([]string{canary}))
			case time.Time:
				field.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)))
			case bool:
				field.SetBool(true)
			case int, circulation.Amount:
				field.SetInt(4711)
			case circulation.FeeStatus:
				field.SetUint(uint64(circulation.FeeClosed))
			default:
				field.SetString(canary)
			}
		}
		parts, err := v.Interface().(circulation.Entry).Parts()
		require.NoError(t, err)
		require.Equal(t, k, parts.Facts.Kind)

		var links, textsGot, pointsGot []string
		for _, l := range parts.Links {
			links = append(links, string(l.Person))
			require.Equal(t, "canary-"+strings.ToUpper(l.Role.String()[:1])+l.Role.String()[1:]+"-", string(l.Person), "the role is the field's")
		}
		for _, x := range parts.Texts {
			textsGot = append(textsGot, x.Value)
			require.Equal(t, "canary-"+strings.ToUpper(x.Field.String()[:1])+x.Field.String()[1:]+"-", x.Value)
		}
		for _, p := range parts.Points {
			pointsGot = append(pointsGot, p.ID)
			require.Equal(t, "canary-"+strings.ToUpper(p.Kind.String()[:1])+p.Kind.String()[1:]+"-", p.ID)
		}
		require.ElementsMatch(t, persons, links, "%s: persons", k)
		require.ElementsMatch(t, texts, textsGot, "%s: texts", k)
		require.ElementsMatch(t, points, pointsGot, "%s: pointers", k)

		facts := fmt.Sprintf("%+v", parts.Facts)
		apart := fmt.Sprintf("%+v %+v %+v", parts.Links, parts.Texts, parts.Points)
		for _, canary := range append(append(persons, texts...), points...) {
			require.NotContains(t, facts, canary, "%s", k)
		}
		for _, canary := range plain {
			require.NotContains(t, apart, canary, "%s", k)
		}
	}
}

// What happened is complete: every plain and quasi-identifying field reaches Facts.
func TestPartsKeepsWhatHappened(t *testing.T) {
	one, two, three := time.Unix(1, 0).UTC(), time.Unix(2, 0).UTC(), time.Unix(3, 0).UTC()
	common := func(k circulation.Kind) circulation.Facts {
		return circulation.Facts{Kind: k, ID: "id", Version: "v", Group: "g", Categories: []string{"c"}, Library: "lib", Type: "t"}
	}
	facts := func(e circulation.Entry) circulation.Facts {
		p, err := e.Parts()
		require.NoError(t, err)
		return p.Facts
	}

	loan := common(circulation.KindLoan)
	loan.Location, loan.Item, loan.Started, loan.Due, loan.Ended = "loc", "i", one, two, three
	loan.Status, loan.Outcome, loan.Renewals, loan.Lost, loan.ClaimedReturned = circulation.Ended, "returned", 4, true, true
	require.Equal(t, loan, facts(circulation.Loan{ID: "id", Version: "v", Group: "g", Categories: []string{"c"}, Library: "lib", Location: "loc",
		Type: "t", Item: "i", Loaned: one, Due: two, Returned: three, Renewals: 4, Lost: true, ClaimedReturned: true}))

	request := common(circulation.KindRequest)
	request.Location, request.Item, request.Started, request.Ended, request.Status, request.Outcome = "loc", "i", one, two, circulation.Ended, "filled"
	require.Equal(t, request, facts(circulation.Request{ID: "id", Version: "v", Group: "g", Categories: []string{"c"}, Library: "lib", Location: "loc",
		Type: "t", Item: "i", Requested: one, Closed: two, Outcome: circulation.RequestFilled}))

	sharing := common(circulation.KindSharing)
	sharing.Location, sharing.Item, sharing.Started, sharing.Ended, sharing.Status, sharing.Outcome = "loc", "i", one, two, circulation.Ended, "completed"
	require.Equal(t, sharing, facts(circulation.Sharing{ID: "id", Version: "v", Group: "g", Categories: []string{"c"}, Library: "lib", Location: "loc",
		Type: "t", Item: "i", Requested: one, Closed: two, State: circulation.SharingCompleted}))

	fee := common(circulation.KindFee)
	fee.Started, fee.Ended, fee.Status, fee.FeeStatus, fee.Method, fee.Amount, fee.Outcome = one, two, circulation.Ended, circulation.FeeClosed, "cash", 1250, "paid"
	require.Equal(t, fee, facts(circulation.Fee{ID: "id", Version: "v", Group: "g", Categories: []string{"c"}, Library: "lib", Type: "t",
		Charged: one, Closed: two, Status: circulation.FeeClosed, Method: "cash", Amount: 1250, Outcome: circulation.FeePaid}))

	notice := common(circulation.KindNotice)
	notice.Started, notice.Ended, notice.Status, notice.Outcome = one, two, circulation.Ended, "sent"
	require.Equal(t, notice, facts(circulation.Notice{ID: "id", Version: "v", Group: "g", Categories: []string{"c"}, Library: "lib", Type: "t",
		Created: one, Sent: two, Outcome: circulation.NoticeSent}))
}

func TestPartsRefuses(t *testing.T) {
	_, err := circulation.Loan{Borrower: "b"}.Parts()
	require.EqualError(t, err, "circulation: a loan needs an ID")
	_, err = circulation.Loan{ID: "l", Proxy: "CANARY"}.Parts()
	require.EqualError(t, err, "circulation: a loan names a proxy but no borrower")
	p, err := circulation.Loan{ID: "l"}.Parts()
	require.NoError(t, err)
	require.Empty(t, p.Links)
	require.Empty(t, p.Texts)
	require.Empty(t, p.Points)
	require.Equal(t, circulation.Open, p.Facts.Status)
}

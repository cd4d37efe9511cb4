package rights_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/rights"
	"github.com/carrel-project/carrel/store/memory"
)

// A drawn is a record of a random history, and what an erasure of patron 0 may do with it, worked out from how it was made.
type drawn struct {
	entry     circulation.Entry
	key       string
	owner     int // whose record it is; -1: somebody's who is no patron
	protected bool
}

// whose maps the tokens of the patrons back to them.
type whose map[circulation.Borrower]int

// Whatever the history: of the one who is erased what may go goes, what is protected stays and is told, and nobody else loses anything.
func TestEraseOfRandomHistories(t *testing.T) {
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		run++
		base := filepath.Join(dir, fmt.Sprint(run))
		require.NoError(t, crypto.CreateKEK(base+".kek"))
		kek, err := crypto.OpenKEK(base + ".kek")
		require.NoError(t, err)
		require.NoError(t, crypto.CreateKeyring(base+".keys", kek))
		keys, err := crypto.OpenKeyring(ctx, crypto.Config{Path: base + ".keys", KEK: kek, Store: memory.NewKeys()})
		require.NoError(t, err)
		trail, err := audit.New(ctx, audit.Config{Store: memory.NewLog(), Keys: keys, Anchors: []audit.Anchor{audit.NewFileAnchor(base + ".anchor")}, Interval: time.Hour})
		require.NoError(t, err)
		defer trail.Close(ctx)
		matrix, err := access.ParseMatrix([]byte(rules))
		require.NoError(t, err)
		directory, err := patron.New(patron.Config{Store: memory.NewPatrons(), Keys: keys, Access: matrix, Recorder: trail})
		require.NoError(t, err)
		store := memory.NewCirculation()
		office, err := rights.New(rights.Config{Directory: directory, Circulation: store, Keys: keys, Trail: trail})
		require.NoError(t, err)

		pseudonyms, err := keys.Pseudonyms(patron.Borrowers)
		require.NoError(t, err)
		const people = 3
		known, tokens := whose{}, make([][]circulation.Borrower, people+1)
		var ids []patron.ID
		for n := range people {
			p := profile(n)
			id, err := directory.Create(ctx, officer, p)
			require.NoError(t, err)
			ids = append(ids, id)
			for _, r := range patron.References(id, p) {
				token, err := pseudonyms.Token(r.Reveal())
				require.NoError(t, err)
				tokens[n] = append(tokens[n], circulation.Borrower(token))
				known[circulation.Borrower(token)] = n
			}
		}
		stranger, err := pseudonyms.Token("patron:999")
		require.NoError(t, err)
		tokens[people] = []circulation.Borrower{circulation.Borrower(stranger)}
		known[circulation.Borrower(stranger)] = people

		who := func(name string) circulation.Borrower {
			return rapid.SampledFrom(tokens[rapid.IntRange(0, people).Draw(t, name)]).Draw(t, name+" by")
		}
		var all []drawn
		for i := range rapid.IntRange(0, 12).Draw(t, "records") {
			all = append(all, draw(t, i, who, known, all))
		}
		for _, d := range all {
			_, err := store.Save(ctx, one(d.entry))
			require.NoError(t, err)
		}
		var held circulation.Borrower
		if rapid.IntRange(0, 4).Draw(t, "held") == 0 {
			held = rapid.SampledFrom(tokens[0]).Draw(t, "held by")
			require.NoError(t, store.AddHold(ctx, circulation.Hold{Borrower: held, Ref: "case"}))
		}
		keeps := func(d drawn) bool { return d.protected || held != "" && parts(t, d.entry).Links[0].Person == held }
		owed := held != ""
		for _, d := range all {
			owed = owed || d.owner == 0 && keeps(d)
		}

		partial := rapid.Bool().Draw(t, "partial")
		c, err := office.Erase(ctx, officer, ids[0], rights.Request{Partial: partial})
		after := links(t, store, tokens)
		if owed && !partial {
			var refused *rights.ObligationsError
			require.ErrorAs(t, err, &refused)
			for _, d := range all {
				require.ElementsMatch(t, parts(t, d.entry).Links, after[d.key], "nothing was to be done: %s", d.key)
			}
			return
		}
		require.NoError(t, err)
		require.Equal(t, !owed, c.Erased.Key)
		kept := map[string]bool{}
		for _, k := range c.Kept {
			kept[k.Kind+" "+k.ID] = true
		}
		for _, d := range all {
			var want []circulation.Link
			if d.owner != 0 || keeps(d) {
				for _, l := range parts(t, d.entry).Links {
					if l.Role == circulation.RoleBorrower || known[l.Person] != 0 {
						want = append(want, l)
					}
				}
			}
			require.ElementsMatch(t, want, after[d.key], d.key)
			require.Equal(t, d.owner == 0 && keeps(d), kept[d.key], "told as kept: %s", d.key)
		}
		if c.Erased.Key {
			dump, err := store.Dump(ctx)
			require.NoError(t, err)
			for _, token := range tokens[0] {
				require.NotContains(t, dump, string(token))
			}
		}
	})
}

func parts(t require.TestingT, e circulation.Entry) circulation.Parts {
	p, err := e.Parts()
	require.NoError(t, err)
	return p
}

// draw makes a record.
func draw(t *rapid.T, i int, who func(string) circulation.Borrower, known whose, before []drawn) drawn {
	id := fmt.Sprint(i)
	b := who("borrower")
	companion := func() circulation.Borrower {
		if rapid.Bool().Draw(t, "companion") {
			return who("companion")
		}
		return ""
	}
	state := rapid.IntRange(0, 3).Draw(t, "state")
	d := drawn{protected: state == 1}
	kinds := circulation.Kinds()
	switch rapid.SampledFrom(append(kinds[:], circulation.KindLoan, circulation.KindLoan, circulation.KindFee, circulation.KindFee)).Draw(t, "kind") {
	case circulation.KindLoan:
		x := loan(id, b)
		x.Proxy, x.Sponsor = companion(), companion()
		switch state {
		case 1:
			x.Returned = time.Time{}
		case 2:
			x.Lost, d.protected = true, true
		case 3:
			x.ClaimedReturned, d.protected = true, true
		}
		d.entry = x
	case circulation.KindRequest:
		x := circulation.Request{ID: id, Borrower: b, Proxy: companion(), Recipient: companion(), Requested: began, Closed: over, Outcome: circulation.RequestFilled}
		if state == 1 {
			x.Closed, x.Outcome = time.Time{}, circulation.RequestOpen
		}
		d.entry = x
	case circulation.KindSharing:
		x := circulation.Sharing{ID: id, Borrower: b, Sponsor: companion(), Requested: began, Closed: over, State: circulation.SharingCompleted}
		if state == 1 {
			x.Closed, x.State = time.Time{}, circulation.SharingShipped
		}
		d.entry = x
	case circulation.KindFee:
		x := circulation.Fee{ID: id, Borrower: b, Sponsor: companion(), Charged: began, Closed: over, Status: circulation.FeeClosed, Outcome: circulation.FeePaid, Method: "cash"}
		if state == 1 {
			x.Closed, x.Status, x.Outcome, x.Method = time.Time{}, circulation.FeeOpen, "", ""
		}
		loans := slices.DeleteFunc(slices.Clone(before), func(d drawn) bool { return d.key[:4] != "loan" })
		if len(loans) > 0 && rapid.Bool().Draw(t, "of a loan") {
			of := rapid.SampledFrom(loans).Draw(t, "loan")
			x.Loan = parts(t, of.entry).Facts.ID
			if state == 1 { // which protects the loan, whoever owes it
				for i := range before {
					before[i].protected = before[i].protected || before[i].key == of.key
				}
			}
		}
		d.entry = x
	default:
		x := circulation.Notice{ID: id, Borrower: b, Recipient: companion(), Created: began, Sent: over, Outcome: circulation.NoticeSent, Body: "x"}
		if state == 1 {
			x.Sent, x.Outcome = time.Time{}, circulation.NoticeWaiting
		}
		d.entry = x
	}
	p := parts(t, d.entry)
	d.key, d.owner = p.Facts.Kind.String()+" "+p.Facts.ID, known[p.Links[0].Person]
	return d
}

// links reads whom the records name.
func links(t require.TestingT, store *memory.Circulation, tokens [][]circulation.Borrower) map[string][]circulation.Link {
	all := map[string][]circulation.Link{}
	for _, list := range tokens {
		for _, token := range list {
			page, err := store.Named(context.Background(), rights.Query{Persons: []circulation.Borrower{token}, Limit: 1000})
			require.NoError(t, err)
			for _, n := range page.Records {
				for _, r := range n.Roles {
					key := n.Facts.Kind.String() + " " + n.Facts.ID
					all[key] = append(all[key], circulation.Link{Role: r, Person: token})
				}
			}
		}
	}
	return all
}

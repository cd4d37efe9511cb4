package rights_test

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	_ "filippo.io/age/agessh" // these two so that go.sum has what the tool of buildAge is made of
	_ "filippo.io/age/tag"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/rights"
)

// unzip returns the files in a copy.
func unzip(t *testing.T, data []byte) map[string][]byte {
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	require.NoError(t, err)
	files := map[string][]byte{}
	for _, f := range z.File {
		r, err := f.Open()
		require.NoError(t, err)
		files[f.Name], err = io.ReadAll(r)
		require.NoError(t, err)
	}
	return files
}

// The copy has everything of the patron and nothing of others, the manifest matches, and the ordinary age tool opens it.
func TestExport(t *testing.T) {
	tool := buildAge(t)
	eachDatabase(t, func(t *testing.T, l *library) {
		id := l.join(1)
		l.join(2)
		records := l.history(1)
		l.history(2)
		_, err := l.dir.View(t.Context(), desk, id, 0)
		require.NoError(t, err)
		identity, err := age.GenerateX25519Identity()
		require.NoError(t, err)
		var sealed bytes.Buffer
		m, err := l.Export(t.Context(), officer, id, demand, &sealed, identity.Recipient())
		require.NoError(t, err)
		require.NotContains(t, sealed.String(), canary(1))

		dir := t.TempDir()
		key, in := filepath.Join(dir, "key"), filepath.Join(dir, "copy.age")
		require.NoError(t, os.WriteFile(key, []byte(identity.String()+"\n"), 0o600))
		require.NoError(t, os.WriteFile(in, sealed.Bytes(), 0o600))
		plain, err := exec.Command(tool, "-d", "-i", key, in).Output()
		require.NoError(t, err)
		files := unzip(t, plain)

		var got rights.Manifest
		require.NoError(t, json.Unmarshal(files["manifest.json"], &got))
		require.Equal(t, m, got)
		require.Equal(t, id, got.Patron)
		require.Equal(t, "demand 31", got.Approval)
		require.Len(t, files, len(got.Files)+1)
		rows := map[string]int{}
		for _, f := range got.Files {
			sum := sha256.Sum256(files[f.Name])
			require.Equal(t, hex.EncodeToString(sum[:]), f.SHA256, f.Name)
			require.Equal(t, int64(len(files[f.Name])), f.Bytes)
			rows[f.Name] = f.Rows
		}
		require.Equal(t, map[string]int{"profile.json": 6, "circulation.jsonl": records + 1, "seen.json": rows["seen.json"]}, rows)
		require.Positive(t, rows["seen.json"])

		var profile struct {
			ID       patron.ID
			Segments map[string][]map[string]string
		}
		require.NoError(t, json.Unmarshal(files["profile.json"], &profile))
		require.Equal(t, id, profile.ID)
		require.Equal(t, "note on "+canary(1), profile.Segments["notes"][0]["text"])
		require.Equal(t, "1984-02-29", profile.Segments["birth"][0]["date"])
		lines := strings.Split(strings.TrimSpace(string(files["circulation.jsonl"])), "\n")
		require.Len(t, lines, records+1)
		all := string(files["circulation.jsonl"])
		for _, text := range []string{"Dear " + canary(1), "street of " + canary(1), "spoke with " + canary(1), `"kind":"fee"`, `"amount_hundredths":1250`, `"points_at":["loan noted1"]`, `"roles":["proxy"]`} {
			require.Contains(t, all, text)
		}
		for name, data := range files {
			require.NotContains(t, string(data), canary(2), name)
			require.NotContains(t, string(data), "staff-17", "who it was is not the patron's to know: %s", name)
		}
		require.Contains(t, string(files["seen.json"]), `"role": "desk"`)
		// It is in the trail that it was given out, and no item is.
		events := l.events()
		require.Contains(t, events, `"action":"export"`)
		require.NotContains(t, events, "item-")
	})
}

// buildAge builds the tool from the module that the tests are built with.
func buildAge(t *testing.T) string {
	tool := filepath.Join(t.TempDir(), "age")
	if runtime.GOOS == "windows" {
		tool += ".exe"
	}
	out, err := exec.Command("go", "build", "-o", tool, "filippo.io/age/cmd/age").CombinedOutput()
	require.NoError(t, err, string(out))
	return tool
}

func TestExportToPassphraseAndToOneself(t *testing.T) {
	l := newLibrary(t)
	id, other := l.join(1), l.join(2)
	l.history(1)
	r, err := age.NewScryptRecipient("correct horse battery staple")
	require.NoError(t, err)
	r.SetWorkFactor(10)
	var sealed bytes.Buffer
	self := patron.Call{Self: id, Role: "self", Purpose: "legal", Channel: audit.Self}
	_, err = l.Export(t.Context(), self, id, demand, &sealed, r)
	require.NoError(t, err)
	i, err := age.NewScryptIdentity("correct horse battery staple")
	require.NoError(t, err)
	plain, err := age.Decrypt(&sealed, i)
	require.NoError(t, err)
	data, err := io.ReadAll(plain)
	require.NoError(t, err)
	require.Contains(t, string(unzip(t, data)["profile.json"]), canary(1))

	_, err = l.Export(t.Context(), self, other, demand, io.Discard, r)
	require.ErrorIs(t, err, patron.ErrDenied, "somebody else's")
	_, err = l.Export(t.Context(), desk, id, demand, io.Discard, r)
	require.ErrorIs(t, err, patron.ErrDenied, "the desk sees not all of it")
	_, err = l.Export(t.Context(), officer, id, demand, io.Discard)
	require.ErrorContains(t, err, "recipient")
	_, err = l.Export(t.Context(), officer, patron.NewID(), demand, io.Discard, r)
	require.ErrorIs(t, err, patron.ErrNotFound)
	l.erase(id)
	_, err = l.Export(t.Context(), officer, id, demand, io.Discard, r)
	require.ErrorIs(t, err, patron.ErrNotFound)
}

// A restricted record is stored and not used: not by those who look, not by exports and imports, not by the sweep, not by an erasure.
func TestRestrict(t *testing.T) {
	eachDatabase(t, func(t *testing.T, l *library) {
		id, other := l.join(1), l.join(2)
		l.history(1)
		for range 2 {
			require.NoError(t, l.Restrict(t.Context(), officer, id, demand))
		}
		_, err := l.dir.View(t.Context(), desk, id, 0)
		require.ErrorIs(t, err, patron.ErrDenied)
		require.ErrorContains(t, err, "restricted")
		_, err = l.dir.View(t.Context(), desk, other, 0)
		require.NoError(t, err)
		names := patron.Profile{Names: profile(1).Names}
		err = l.dir.Update(t.Context(), desk, id, patron.Update{Segments: names.Segments(), Profile: names})
		require.ErrorIs(t, err, patron.ErrDenied)
		exported := 0
		for _, err := range l.dir.Export(t.Context(), desk, patron.Export{}) {
			require.NoError(t, err)
			exported++
		}
		require.Equal(t, 1, exported)
		done, err := l.dir.Import(t.Context(), officer, patron.Source{}, one(profile(1)), nil)
		require.NoError(t, err)
		require.Len(t, done.Refused, 1)
		// Those who may restrict, and the patron, go on.
		view, err := l.dir.View(t.Context(), officer, id, 0)
		require.NoError(t, err)
		require.Equal(t, canary(1), view.Profile.Names[0].Last.Reveal())
		_, err = l.dir.View(t.Context(), patron.Call{Self: id, Role: "self", Purpose: "legal", Channel: audit.Self}, id, 0)
		require.NoError(t, err)
		// Nothing is erased meanwhile.
		page, err := l.store.Named(t.Context(), rights.Query{Persons: []circulation.Borrower{l.borrower(1)}, Limit: 100})
		require.NoError(t, err)
		require.True(t, page.Hold)
		for _, partial := range []bool{false, true} {
			_, err = l.Erase(t.Context(), officer, id, rights.Request{Partial: partial})
			require.ErrorIs(t, err, patron.ErrDenied)
		}
		p, err := l.Purge(t.Context(), officer, rights.Purge{Patrons: []patron.ID{id}, Request: rights.Request{Partial: true}})
		require.NoError(t, err)
		require.Equal(t, rights.Purged{Looked: 1, Refused: 1, Reasons: map[string]int{"restricted": 1}}, p)

		require.NoError(t, l.Lift(t.Context(), officer, id, demand))
		_, err = l.dir.View(t.Context(), desk, id, 0)
		require.NoError(t, err)
		require.True(t, l.erase(id).Erased.Key)
		require.ErrorIs(t, l.Restrict(t.Context(), officer, id, demand), patron.ErrNotFound)
		events := l.events()
		require.Equal(t, 2, strings.Count(events, `"action":"restrict","outcome":"done"`))
		require.Equal(t, 1, strings.Count(events, `"action":"lift","outcome":"done"`))
	})
}

// Expired accounts go, those who owe something stay with a reason, and a run that is repeated finds nothing new.
func TestPurge(t *testing.T) {
	eachDatabase(t, func(t *testing.T, l *library) {
		const n = 40 // the nth expired n+1 days ago
		ids := make([]patron.ID, n)
		for i := range n {
			ids[i] = l.join(i)
			l.save(loan(circulationID(i), l.borrower(i)))
			if i%10 == 9 {
				l.save(circulation.Fee{ID: circulationID(i), Borrower: l.borrower(i), Charged: began})
			}
		}
		before := time.Now().AddDate(0, 0, -20).Add(-time.Hour) // the first 20 have not been gone for so long
		var refused []patron.ID
		p, err := l.Purge(t.Context(), officer, rights.Purge{Request: demand, ExpiredBefore: before, Patrons: []patron.ID{ids[0], ids[30], patron.NewID()}, Done: func(id patron.ID, c rights.Certificate, err error) error {
			if err != nil {
				refused = append(refused, id)
			}
			return nil
		}})
		require.NoError(t, err)
		require.Equal(t, rights.Purged{Looked: 22, Erased: 19, Refused: 2, Missing: 1, Reasons: map[string]int{"open-fee": 2, "unfinished": 2}}, p)
		require.Len(t, refused, 3)
		for i, id := range ids {
			_, err := l.dir.View(t.Context(), officer, id, 0)
			if i == 0 || i >= 20 && i%10 != 9 {
				require.ErrorIs(t, err, patron.ErrNotFound, i)
				require.Zero(t, l.named(id, i))
			} else {
				require.NoError(t, err, i)
				require.NotZero(t, l.named(id, i))
			}
		}
		p, err = l.Purge(t.Context(), officer, rights.Purge{Request: demand, ExpiredBefore: before})
		require.NoError(t, err)
		require.Equal(t, 0, p.Erased)
		require.Equal(t, 2, p.Refused)
	})
}

func circulationID(i int) string { return "r" + strings.Repeat("i", i) }

// A database that was restored, or an export that came late, names who is forgotten: they are erased again, and nobody else; not even who has the number now.
func TestEraseAgain(t *testing.T) {
	eachDatabase(t, func(t *testing.T, l *library) {
		for n := range 4 {
			l.join(n)
			l.history(n)
		}
		reused, gone := l.id(1), l.id(2)
		l.erase(reused)
		l.erase(gone)
		next := l.join(1)                    // the number of the first is given to somebody else
		newer := loan("next", l.borrower(1)) // lent after the first was forgotten
		newer.Loaned, newer.Due, newer.Returned = time.Now().Add(time.Minute), time.Now().Add(2*time.Minute), time.Now().Add(3*time.Minute)
		undated := loan("undated", l.borrower(1))
		undated.Loaned = time.Time{}
		l.save(newer, undated, loan("late-of-the-first", l.borrower(1)), loan("late", l.borrower(2)), loan("late-by-id", l.token(gone.String())), loan("late-reused-by-id", l.token(reused.String())), loan("unknown", l.borrower(77)))
		open := loan("late-open", l.borrower(2))
		open.Returned = time.Time{}
		l.save(open)
		require.Equal(t, 3, l.named(next, 1), "one of them is that of somebody else, and of one nobody knows")

		a, err := l.EraseAgain(t.Context(), officer)
		require.NoError(t, err)
		require.Equal(t, 4, a.Persons)
		require.Equal(t, map[string]int{"loan": 4}, a.Records)
		require.ElementsMatch(t, []rights.Kept{{Kind: "loan", ID: "late-open", Reasons: []string{"unfinished"}}, {Kind: "loan", ID: "undated", Reasons: []string{"no-start-date"}}}, a.Kept)
		require.Equal(t, 2, l.named(next, 1), "what they have borrowed stays theirs, and what may be")
		require.Equal(t, 1, l.named(gone, 2), "the loan that is out: somebody has to decide")
		require.NotZero(t, l.named(l.id(0), 0))
		require.Equal(t, 1, l.named(patron.NewID(), 77), "nobody says that this one is forgotten")
		_, err = l.EraseAgain(t.Context(), desk)
		require.ErrorIs(t, err, patron.ErrDenied)
	})
}

// Texts of an epoch that has ended are said to be, and not written as tokens.
func TestExportOfUnreadableTexts(t *testing.T) {
	l := newLibrary(t)
	id := l.join(1)
	l.history(1)
	_, err := l.db.Exec("UPDATE personal SET value = ?", "cpATIxMjM0NTY3ODkwMTIzNDU2Nzg5MDEyMzQ1Njc4OTA")
	require.NoError(t, err)
	_, isToken := crypto.TokenEpoch("cpATIxMjM0NTY3ODkwMTIzNDU2Nzg5MDEyMzQ1Njc4OTA")
	require.True(t, isToken)
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	var sealed bytes.Buffer
	_, err = l.Export(t.Context(), officer, id, demand, &sealed, identity.Recipient())
	require.NoError(t, err)
	plain, err := age.Decrypt(&sealed, identity)
	require.NoError(t, err)
	data, err := io.ReadAll(plain)
	require.NoError(t, err)
	text := string(unzip(t, data)["circulation.jsonl"])
	require.NotContains(t, text, "cpATI")
	require.Contains(t, text, "can no longer be read")
}

package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

func found(kind audit.FindingKind, from, to uint64) []expectation {
	return []expectation{{kind, from, to}}
}

// exactly checks that the findings are of these kinds and numbers.
func exactly(t testing.TB, v audit.Verification, want ...expectation) {
	t.Helper()
	var got []expectation
	for _, f := range v.Findings {
		got = append(got, expectation{f.Kind, f.From, f.To})
	}
	require.Equal(t, want, got, show(v.Findings))
}

func TestVerifyEmpty(t *testing.T) {
	y := newYard(t)
	v := y.verify(t, y.rows, y.key)
	require.Equal(t, audit.Verification{}, audit.Verification{Size: v.Size, Entries: v.Entries, Anchored: v.Anchored})
	require.True(t, v.OK())
	require.NoError(t, y.rows.Append(t.Context(), []audit.Entry{y.prepare(t, something(1))}))
	v = y.verify(t, y.rows, y.key)
	require.True(t, v.OK())
	require.Equal(t, uint64(1), v.Pending)
}

func (y *yard) prepare(t testing.TB, e audit.Event) audit.Entry {
	t.Helper()
	entry, err := y.PrepareClaim(t.Context(), e)
	require.NoError(t, err)
	return entry
}

// Whoever cuts the tail and sets the tree back to a checkpoint that was signed once is found out by one anchor.
func TestVerifyFindsCuts(t *testing.T) {
	y := newYard(t)
	y.fill(t, 0, 1100, 1100)
	before := y.rows.clone()
	for cut := 1; cut <= 1000; cut++ {
		if cut > 20 && cut%37 != 0 && cut != 1000 {
			continue
		}
		end := 1100 - cut
		r := before.clone()
		r.entries = r.entries[:end]
		exactly(t, y.verify(t, r, nil), expectation{audit.Cut, uint64(end), 1100}) // the tree stays
		r.rebuild(t, y, true)                                                      // signed by somebody with the keyring, or an old state
		v := y.verify(t, r, y.key)
		exactly(t, v, expectation{audit.Cut, uint64(end), 1100})
		require.Equal(t, uint64(1100), v.Anchored)
	}
	require.True(t, y.verify(t, before, y.key).OK())
}

func TestVerifyFindsLoss(t *testing.T) {
	y := newYard(t)
	y.fill(t, 0, 600, 250)
	exactly(t, y.verify(t, newRows(), nil), expectation{audit.Lost, 0, 600})
	r := y.rows.clone()
	r.entries = nil
	exactly(t, y.verify(t, r, nil), expectation{audit.Lost, 0, 600})

	// The tree is gone, the entries are there.
	r = y.rows.clone()
	r.size, r.checkpoint, r.tiles = 0, nil, nil
	exactly(t, y.verify(t, r, nil), expectation{audit.Tampered, 0, 600})

	// Another installation's.
	other := newYard(t)
	other.fill(t, 0, 700, 250)
	v := y.verify(t, other.rows, y.key)
	exactly(t, v, expectation{audit.Unsigned, 0, 0}, expectation{audit.Forged, 0, 700}, expectation{audit.Forked, 0, 250})
}

// Whoever rewrites history, tree and all, is found between two anchored checkpoints.
func TestVerifyFindsForks(t *testing.T) {
	y := newYard(t)
	y.fill(t, 0, 3000, 500)
	for _, signed := range []bool{false, true} {
		r := y.rows.clone()
		r.entries[1234] = y.prepare(t, something(99_999)) // with a MAC that is right
		r.rebuild(t, y, signed)
		v := y.verify(t, r, y.key)
		require.Contains(t, v.Findings, audit.Finding{Kind: audit.Forked, From: 1000, To: 1500, Detail: v.Findings[0].Detail}, show(v.Findings))
		require.Equal(t, 2, v.Checkpoints)
		require.Len(t, v.Findings, 1)
	}
	// A longer history that shares only the beginning.
	r := y.rows.clone()
	r.entries = r.entries[:700]
	for i := range 4000 {
		r.entries = append(r.entries, y.prepare(t, something(50_000+i)))
	}
	r.rebuild(t, y, true)
	exactly(t, y.verify(t, r, y.key), expectation{audit.Forked, 500, 1000})
}

// Upper tiles, the edge, and tiles that are gone.
func TestVerifyFindsTiles(t *testing.T) {
	y := newYard(t)
	y.bulk(t, 66_000)
	for id, data := range y.rows.tiles {
		width := 256
		if at := uint64(66_000) >> (8 * id.Level); id.N == at/256 {
			width = int(at % 256)
		}
		require.Equal(t, width, min(width, len(data)/32))
		if id.Level == 0 && id.N > 0 && id.N < 256 {
			continue
		}
		i := uint64(width / 2)
		r := y.rows.clone()
		var h [32]byte
		r.putHash(id, int(i), h)
		from := (id.N*256 + i) << (8 * id.Level)
		exactly(t, y.verify(t, r, nil), expectation{audit.Tampered, from, from + 1<<(8*id.Level)})
		r = y.rows.clone()
		delete(r.tiles, id)
		from = id.N * 256 << (8 * id.Level)
		exactly(t, y.verify(t, r, nil), expectation{audit.Tampered, from, from + uint64(width)<<(8*id.Level)})
	}
	// Entry and leaf hash at the edge.
	r := y.rows.clone()
	r.flip(65_900, 99)
	r.fix(65_900)
	v := y.verify(t, r, nil)
	exactly(t, v, expectation{audit.Forked, 60_000, 66_000})
}

func TestVerifyFindsCheckpoints(t *testing.T) {
	y := newYard(t)
	y.fill(t, 0, 1000, 300)
	older := y.anchored[1]
	for name, stored := range map[string][]byte{"gone": nil, "garbage": []byte("x"), "older": older, "half": y.rows.checkpoint[:50],
		"altered": bytes.Replace(y.rows.checkpoint, []byte("\n1000\n"), []byte("\n1001\n"), 1)} {
		r := y.rows.clone()
		r.checkpoint = stored
		exactly(t, y.verify(t, r, nil), expectation{audit.Unsigned, 0, 0})
		r.flip(999, 77+64) // in the edge: another checkpoint does as well
		v := y.verify(t, r, nil)
		require.Len(t, v.Findings, 2, name)
		require.Equal(t, expectation{audit.Edited, 999, 1000}, expectation{v.Findings[1].Kind, v.Findings[1].From, v.Findings[1].To})
	}
	// An anchor that was cut while it was written, and then written on.
	file := bytes.Join(y.anchored[:2], nil)
	file = append(file, y.anchored[2][:40]...)
	file = append(append(file, "\n\n"...), y.anchored[3]...)
	y.anchored = audit.SplitCheckpoints(file)
	v := y.verify(t, y.rows, nil)
	exactly(t, v)
	require.Equal(t, 1, v.Torn)
	require.Equal(t, 3, v.Checkpoints, "the ones before it and the one after it")
	require.Equal(t, uint64(1000), v.Anchored)
}

func TestVerifyTakesAnchorsInAnyOrder(t *testing.T) {
	y := newYard(t)
	y.fill(t, 0, 1000, 100)
	y.anchored[3], y.anchored[7] = y.anchored[7], y.anchored[3]
	y.anchored = append(y.anchored, y.anchored[2], y.anchored[5])
	v := y.verify(t, y.rows, y.key)
	require.True(t, v.OK(), show(v.Findings))
	require.Equal(t, 12, v.Checkpoints)
}

// The owner of the database adds an entry before the tree is made of it: a holder of the keyring sees that it is forged.
func TestVerifyFindsForged(t *testing.T) {
	y := newYard(t)
	y.fill(t, 0, 100, 100)
	other := newYard(t)
	require.NoError(t, y.rows.Append(t.Context(), []audit.Entry{other.prepare(t, something(3)), y.prepare(t, something(4)), {Body: []byte("what?")}}))
	exactly(t, y.verify(t, y.rows, y.key), expectation{audit.Forged, 100, 101}, expectation{audit.Forged, 102, 103})
	_, err := y.Sequence(t.Context())
	require.NoError(t, err)
	exactly(t, y.verify(t, y.rows, y.key), expectation{audit.Forged, 100, 101}, expectation{audit.Forged, 102, 103})
	// Without the key it does not fit the leaf that it was given.
	exactly(t, y.verify(t, y.rows, nil), expectation{audit.Edited, 100, 101}, expectation{audit.Forged, 102, 103})
}

// Whoever owns the database has authentic entries enough, to put there again.
func TestVerifyFindsCopies(t *testing.T) {
	y := newYard(t)
	y.fill(t, 0, 1000, 100)
	old := bytes.Clone(y.rows.entries[17].Body)
	require.NoError(t, y.rows.Append(t.Context(), []audit.Entry{{Body: bytes.Clone(y.rows.entries[999].Body)}}))
	y.fill(t, 1000, 1010, 10)
	// Of an entry that was pruned as well, and before it is signed.
	y.prune(t, pruned(something(17).Action.Class(), at(900), audit.Range{From: 17, To: 18}))
	require.NoError(t, y.rows.Append(t.Context(), []audit.Entry{{Body: old}}))
	for _, key := range []*crypto.TrailKey{y.key, nil} {
		exactly(t, y.verify(t, y.rows, key), expectation{audit.Repeated, 1000, 1001}, expectation{audit.Repeated, 1012, 1013})
	}
}

// prune does what a prune does: an event, a checkpoint, and then the entries and tiles go.
func (y *yard) prune(t testing.TB, e audit.Event) {
	t.Helper()
	require.NoError(t, y.claim(t, e))
	y.drop(t, e)
}

func (y *yard) claim(t testing.TB, e audit.Event) error {
	t.Helper()
	if err := y.Claim(t.Context(), e); err != nil {
		return err
	}
	_, err := y.Sequence(t.Context())
	return err
}

func (y *yard) drop(t testing.TB, e audit.Event) {
	t.Helper()
	tree, err := y.rows.Tree(t.Context())
	require.NoError(t, err)
	a := audit.Advance{From: tree.Size, Size: tree.Size, Checkpoint: tree.Checkpoint, Remove: slices.Clone(e.Ranges)}
	if e.Collapsed > 0 {
		a.Remove = append(a.Remove, audit.Range{From: 0, To: e.Collapsed})
		for l := 0; tree.Size>>(8*(l+1)) > 0; l++ {
			for n := uint64(0); (n+1)<<(8*(l+1)) <= e.Collapsed; n++ {
				a.Drop = append(a.Drop, audit.TileID{Level: l, N: n})
			}
		}
	}
	require.NoError(t, y.rows.Advance(t.Context(), a))
}

func pruned(class audit.Class, before time.Time, ranges ...audit.Range) audit.Event {
	return audit.Event{Time: day.Add(24 * time.Hour), Action: audit.Prune, Outcome: audit.Done, Channel: audit.Job, Kind: string(class), Before: before, Ranges: ranges}
}

func collapsed(from, to uint64) audit.Event {
	e := pruned("", time.Time{}, audit.Range{From: from, To: to})
	e.Collapsed = to
	return e
}

// ofClass returns the numbers up to n whose entries are of a class in something.
func ofClass(class audit.Class, from, to int) (list []audit.Range) {
	for n := from; n < to; n++ {
		if something(n).Action.Class() != class {
			continue
		}
		if last := len(list) - 1; last >= 0 && list[last].To == uint64(n) {
			list[last].To++
		} else {
			list = append(list, audit.Range{From: uint64(n), To: uint64(n) + 1})
		}
	}
	return list
}

func at(n int) time.Time { return day.Add(time.Duration(n) * time.Second) }

func TestVerifyPruned(t *testing.T) {
	y := newYard(t)
	y.fill(t, 0, 3000, 100)
	views := pruned(audit.Views, at(2000), ofClass(audit.Views, 0, 2000)...)
	y.prune(t, views)
	check := func(n, gone uint64) {
		for _, key := range []*crypto.TrailKey{y.key, nil} {
			v := y.verify(t, y.rows, key)
			require.True(t, v.OK(), show(v.Findings))
			require.Equal(t, n, v.Pruned)
			require.Equal(t, gone, v.Collapsed)
			require.Equal(t, v.Size, v.Entries+v.Pruned)
			require.Equal(t, len(y.anchored), v.Checkpoints+v.Unchecked)
		}
	}
	check(1250, 0)

	// Tampering with what is left, and renumbering over the gaps.
	r := y.rows.clone()
	r.flip(1201, 77)
	agree(t, found(audit.Edited, 1201, 1202), y.verify(t, r, y.key).Findings)
	r = y.rows.clone()
	r.remove(1201)
	agree(t, found(audit.Missing, 1201, 1202), y.verify(t, r, y.key).Findings)
	r = y.rows.clone()
	r.insert(1001, bytes.Clone(r.entries[2].Body))
	agree(t, found(audit.Inserted, 1001, 1002), y.verify(t, r, y.key).Findings)
	r = y.rows.clone()
	r.close(1201)
	agree(t, found(audit.Missing, 1201, 1202), y.verify(t, r, y.key).Findings)

	// An entry is put back where one was pruned.
	r = y.rows.clone()
	r.entries[1203] = y.prepare(t, something(7))
	agree(t, found(audit.Edited, 1203, 1204), y.verify(t, r, y.key).Findings)

	// All classes, and the prefix goes.
	jobs := pruned(audit.Jobs, at(1500), ofClass(audit.Jobs, 0, 1500)...)
	y.prune(t, jobs)
	y.prune(t, pruned(audit.Changes, at(1500), ofClass(audit.Changes, 0, 1500)...))
	logins := pruned(audit.Logins, at(1500), ofClass(audit.Logins, 0, 1500)...)
	y.prune(t, logins)
	whole := collapsed(0, 1280)
	require.NoError(t, y.claim(t, whole))
	check(1250+188+188+188, 1280) // killed before it did anything
	y.drop(t, whole)
	check(1250+188+188+188, 1280)
	y.fill(t, 5000, 6000, 300)
	check(1250+188+188+188, 1280)
	r = y.rows.clone()
	delete(r.tiles, audit.TileID{N: 5})
	v := y.verify(t, r, y.key)
	require.Contains(t, v.Findings, audit.Finding{Kind: audit.Tampered, From: 1280, To: 1536, Detail: v.Findings[0].Detail})
}

func TestVerifyCollapsesLevels(t *testing.T) {
	y := newYard(t)
	y.bulk(t, 132_000)
	before := uint64(0)
	for i, n := range []uint64{256, 65_280, 65_536, 65_792, 131_072} {
		y.prune(t, collapsed(before, n))
		before = n
		v := y.verify(t, y.rows, y.key)
		require.True(t, v.OK(), "%d %s", n, show(v.Findings))
		require.Equal(t, n, v.Pruned)
		y.reopen(t)
		y.fill(t, 200_000+i, 200_001+i, 1)
	}
}

// What no prune may claim.
func TestVerifyFindsFalseClaims(t *testing.T) {
	y := newYard(t)
	y.fill(t, 0, 1000, 100)
	clean := y.rows.clone()
	all := audit.Range{From: 0, To: 500}
	for name, c := range map[string]struct {
		event audit.Event
		want  []expectation
	}{
		"later entries":    {pruned(audit.Views, at(900), audit.Range{From: 990, To: 1001}), found(audit.FalseClaim, 1000, 1001)},
		"itself collapsed": {collapsed(0, 1024), found(audit.FalseClaim, 1000, 1001)},
		"part of a tile":   {collapsed(0, 100), found(audit.FalseClaim, 1000, 1001)},
		"upkeep":           {pruned(audit.Upkeep, at(900), all), found(audit.FalseClaim, 1000, 1001)},
		"no class":         {pruned("", at(900), all), found(audit.FalseClaim, 1000, 1001)},
		"any age":          {pruned(audit.Views, time.Time{}, all), found(audit.FalseClaim, 1000, 1001)},
		"the future":       {pruned(audit.Views, day.Add(48*time.Hour), all), found(audit.FalseClaim, 1000, 1001)},
		"another class":    {pruned(audit.Views, at(900), audit.Range{From: 1, To: 2}), found(audit.FalseClaim, 1, 2)},
		"not old enough":   {pruned(audit.Views, at(4), audit.Range{From: 3, To: 5}), found(audit.FalseClaim, 4, 5)},
	} {
		y.rows = clean.clone()
		anchored := y.anchored
		y.reopen(t)
		require.NoError(t, y.claim(t, c.event), name)
		agree(t, c.want, y.verify(t, y.rows, y.key).Findings)
		agree(t, c.want, y.verify(t, y.rows, nil).Findings)
		y.anchored = anchored
	}

	// A claim does not reach what comes after it, whoever makes it.
	y.rows = clean.clone()
	y.reopen(t)
	anchored := y.anchored
	require.NoError(t, y.claim(t, pruned(audit.Views, at(3000), audit.Range{From: 1003, To: 1008})))
	y.fill(t, 1001, 1100, 100)
	for n := 1003; n < 1008; n++ {
		y.rows.remove(n)
	}
	for _, key := range []*crypto.TrailKey{y.key, nil} {
		agree(t, []expectation{{audit.FalseClaim, 1000, 1001}, {audit.Missing, 1003, 1008}}, y.verify(t, y.rows, key).Findings)
	}
	y.anchored = anchored

	// Somebody without the keyring who removes entries and says that it was a prune.
	claim := pruned(audit.Views, at(900), audit.Range{From: 3, To: 8})
	other := newYard(t)
	forged := other.prepare(t, claim)
	gone := []expectation{{audit.Missing, 3, 8}, {audit.Forged, 1000, 1001}}
	for _, sequenced := range []bool{false, true} {
		y.rows = clean.clone()
		y.reopen(t)
		require.NoError(t, y.rows.Append(t.Context(), []audit.Entry{forged}))
		if sequenced {
			_, err := y.Sequence(t.Context())
			require.NoError(t, err)
		}
		for n := 3; n < 8; n++ {
			y.rows.remove(n)
		}
		agree(t, gone, y.verify(t, y.rows, y.key).Findings)
		if !sequenced { // nothing that is not signed counts for those who cannot check the MAC
			agree(t, gone[:1], y.verify(t, y.rows, nil).Findings)
		}
		y.anchored = y.anchored[:10]
	}
	// A real claim that is not in the tree: of a branch that was lost, say.
	y.rows = clean.clone()
	y.rows.entries[999] = y.prepare(t, claim)
	for n := 3; n < 8; n++ {
		y.rows.remove(n)
	}
	for _, key := range []*crypto.TrailKey{y.key, nil} {
		agree(t, []expectation{{audit.Edited, 999, 1000}, {audit.Missing, 3, 8}}, y.verify(t, y.rows, key).Findings)
	}
	// In place of a real entry.
	y.rows = clean.clone()
	y.rows.entries[999].Body = forged.Body
	y.rows.fix(999)
	for n := 3; n < 8; n++ {
		y.rows.remove(n)
	}
	v := y.verify(t, y.rows, nil)
	require.Contains(t, show(v.Findings), "{Kind:missing From:3 To:8")
	// The ranges of a real claim are widened.
	y.rows = clean.clone()
	y.reopen(t)
	y.prune(t, claim)
	body := y.rows.entries[1000].Body
	at := bytes.Index(body, []byte{20, 2, 3, 5}) // ranges: from 3, 5 of them
	require.Positive(t, at)
	body = bytes.Clone(body)
	body[at+3] = 40
	y.rows.entries[1000].Body = body
	v = y.verify(t, y.rows, y.key)
	require.Contains(t, show(v.Findings), "{Kind:missing From:3 To:8")
	require.Contains(t, show(v.Findings), "{Kind:edited From:1000 To:1001")
}

// A store that was restored from a backup, declared and undeclared.
func TestVerifyRestored(t *testing.T) {
	y := newYard(t)
	d := newDesk(t) // for a file as anchor
	open := func() {
		trail, err := audit.New(t.Context(), audit.Config{Store: y.rows, Keys: y.keys, Anchors: []audit.Anchor{d.anchor}, Interval: time.Hour})
		require.NoError(t, err)
		y.Trail = trail
	}
	verify := func() audit.Verification {
		var err error
		y.anchored, err = d.anchor.Checkpoints()
		require.NoError(t, err)
		return y.verify(t, y.rows, y.key)
	}
	open()
	y.fill(t, 0, 1000, 100)
	backup := y.rows.clone()
	y.fill(t, 1000, 1500, 100)
	y.rows = backup
	open()
	exactly(t, verify(), expectation{audit.Cut, 1000, 1500})
	_, err := y.Sequence(t.Context())
	require.ErrorIs(t, err, audit.ErrBehind)
	lost, err := y.Restore(t.Context(), audit.Event{Time: at(2000), Actor: "admin-1", Approval: "ticket-5", Channel: audit.CLI})
	require.NoError(t, err)
	require.Equal(t, audit.Range{From: 1000, To: 1500}, lost)
	v := verify()
	exactly(t, v, expectation{audit.Declared, 1000, 1500})
	require.False(t, v.OK())
	require.True(t, v.Intact())
	y.fill(t, 1500, 3000, 100)
	exactly(t, verify(), expectation{audit.Declared, 1000, 1500})

	// The declaration explains that loss and no other: what came after it is not to be rewritten.
	y.rows.entries[1200] = y.prepare(t, something(9999))
	y.rows.rebuild(t, y, true)
	v = verify()
	require.Len(t, v.Findings, 2)
	require.Equal(t, expectation{audit.Forked, 1101, 1201}, expectation{v.Findings[1].Kind, v.Findings[1].From, v.Findings[1].To}, show(v.Findings))
}

// A store that was restored from the same backup again and again, with the first trails that went on lost as well: shorter than the first loss, and longer. Whoever puts
// an old checkpoint into the anchor once more does not stop it.
func TestVerifyRestoredAgain(t *testing.T) {
	for name, more := range map[string][]int{"shorter": {10, 20}, "at once": {0, 0}, "longer": {900, 30}} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t)
			d := newDesk(t)
			open := func() {
				trail, err := audit.New(t.Context(), audit.Config{Store: y.rows, Keys: y.keys, Anchors: []audit.Anchor{d.anchor}, Interval: time.Hour})
				require.NoError(t, err)
				y.Trail = trail
			}
			verify := func() audit.Verification {
				var err error
				y.anchored, err = d.anchor.Checkpoints()
				require.NoError(t, err)
				return y.verify(t, y.rows, y.key)
			}
			open()
			y.fill(t, 0, 1000, 100)
			backup := y.rows.clone()
			y.fill(t, 1000, 1500, 100)
			old, err := d.anchor.Recent()
			require.NoError(t, err)
			at0 := 2000
			for round, n := range append(more, 50) {
				if round == 1 {
					f, err := os.OpenFile(d.path, os.O_APPEND|os.O_WRONLY, 0)
					require.NoError(t, err)
					_, err = f.Write(old[0])
					require.NoError(t, err)
					require.NoError(t, f.Close())
				}
				y.rows = backup.clone()
				open()
				_, err := y.Sequence(t.Context())
				require.ErrorIs(t, err, audit.ErrBehind)
				lost, err := y.Restore(t.Context(), audit.Event{Time: at(at0), Actor: "admin-1", Approval: "ticket-5", Channel: audit.CLI})
				require.NoError(t, err)
				y.fill(t, at0+1, at0+1+n, 7)
				v := verify()
				exactly(t, v, expectation{audit.Declared, lost.From, lost.To})
				require.EqualValues(t, 1000, lost.From)
				require.Zero(t, v.Unanchored)
				at0 += 3000
			}
		})
	}
}

func TestVerifyWhileWriting(t *testing.T) {
	y := newYard(t)
	y.fill(t, 0, 5000, 500)
	anchored := slices.Clone(y.anchored)
	done := make(chan error, 1)
	go func() {
		for i := range 20 {
			if err := y.claimAndDrop(t, i); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		v, err := audit.Verify(t.Context(), audit.VerifyConfig{Store: y.rows, Verifier: y.verifier, Key: y.key, Anchored: [][][]byte{anchored}})
		require.NoError(t, err)
		require.True(t, v.OK(), show(v.Findings))
		select {
		case err := <-done:
			require.NoError(t, err)
			return
		default:
		}
	}
}

func (y *yard) claimAndDrop(t testing.TB, i int) error {
	e := pruned(audit.Views, at(4000), ofClass(audit.Views, 100*i, 100*i+100)...)
	if err := y.claim(t, e); err != nil {
		return err
	}
	y.drop(t, e)
	return nil
}

// A broken store is an error, and nothing else.
type broken struct {
	audit.Store
	after int
}

var errBroken = errors.New("broken")

func (b *broken) Entries(ctx context.Context, q audit.Query) (audit.Page, error) {
	if q.From >= uint64(b.after) {
		return audit.Page{}, errBroken
	}
	return b.Store.Entries(ctx, q)
}

func TestVerifyErrors(t *testing.T) {
	y := newYard(t)
	y.fill(t, 0, 10_000, 5000)
	cfg := audit.VerifyConfig{Store: &broken{y.rows, 5000}, Verifier: y.verifier}
	_, err := audit.Verify(t.Context(), cfg)
	require.ErrorIs(t, err, errBroken)
	ctx, cancel := context.WithCancel(t.Context())
	last := uint64(0)
	cfg.Store = y.rows
	cfg.Progress = func(done, all uint64) {
		require.Less(t, last, done+1)
		require.LessOrEqual(t, done, all)
		last = done
	}
	_, err = audit.Verify(ctx, cfg)
	require.NoError(t, err)
	require.Equal(t, uint64(10_000), last)
	cancel()
	cfg.Progress = nil
	_, err = audit.Verify(ctx, cfg)
	require.ErrorIs(t, err, context.Canceled)
	_, err = audit.Verify(t.Context(), audit.VerifyConfig{})
	require.Error(t, err)
}

// Whatever honest people do, nothing is found.
func TestVerifyNoFalseAlarm(t *testing.T) {
	y := newYard(t)
	rapid.Check(t, func(rt *rapid.T) {
		y.rows, y.anchored = newRows(), nil
		y.reopen(t)
		first := y.Trail
		y.reopen(t)
		trails := []*audit.Trail{first, y.Trail}
		next, gone := 0, uint64(0)
		classes := map[uint64]audit.Class{}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			y.Trail = trails[rapid.IntRange(0, 1).Draw(rt, "trail")]
			switch rapid.IntRange(0, 6).Draw(rt, "step") {
			case 0, 1:
				n := rapid.IntRange(1, 600).Draw(rt, "events")
				for i := range n {
					classes[uint64(len(y.rows.entries)+i)] = something(next + i).Action.Class()
				}
				var list []audit.Entry
				for range n {
					list = append(list, y.prepare(t, something(next)))
					next++
				}
				require.NoError(rt, y.rows.Append(t.Context(), list))
			case 2, 3:
				_, err := y.Sequence(t.Context())
				require.NoError(rt, err)
			case 4:
				class := rapid.SampledFrom([]audit.Class{audit.Views, audit.Jobs, audit.Logins, audit.Changes}).Draw(rt, "class")
				tree, _ := y.rows.Tree(t.Context())
				to := rapid.Uint64Range(0, tree.Size).Draw(rt, "to")
				e := pruned(class, day.Add(20*time.Hour))
				for n := uint64(0); n < to; n++ {
					if classes[n] != class || y.rows.entries[n].Body == nil && rapid.Bool().Draw(rt, "again") {
						continue
					}
					if last := len(e.Ranges) - 1; last >= 0 && e.Ranges[last].To == n {
						e.Ranges[last].To++
					} else {
						e.Ranges = append(e.Ranges, audit.Range{From: n, To: n + 1})
					}
				}
				require.NoError(rt, y.claim(t, e))
				if rapid.Bool().Draw(rt, "killed") {
					e.Ranges = e.Ranges[:len(e.Ranges)/2]
				}
				y.drop(t, e)
			case 5:
				tree, _ := y.rows.Tree(t.Context())
				to := rapid.Uint64Range(0, tree.Size).Draw(rt, "collapsed") / 256 * 256
				if to <= gone {
					continue
				}
				e := collapsed(gone, to)
				gone = to
				require.NoError(rt, y.claim(t, e))
				if !rapid.Bool().Draw(rt, "killed") {
					y.drop(t, e)
				}
			case 6:
				y.reopen(t)
				trails[rapid.IntRange(0, 1).Draw(rt, "which")] = y.Trail
			}
			for _, key := range []*crypto.TrailKey{y.key, nil} {
				v := y.verify(t, y.rows, key)
				require.True(rt, v.OK(), show(v.Findings))
				require.Equal(rt, len(y.anchored), v.Checkpoints+v.Unchecked)
			}
		}
	})
}

// A hundred thousand checkpoints are read in reasonable time.
func TestVerifyManyCheckpoints(t *testing.T) {
	if os.Getenv("CARREL_TEST_LONG") == "" {
		t.Skip("set CARREL_TEST_LONG=1 for a hundred thousand checkpoints")
	}
	y := newYard(t)
	y.fill(t, 0, 200_000, 2)
	require.Len(t, y.anchored, 100_000)
	begin := time.Now()
	v := y.verify(t, y.rows, nil)
	require.True(t, v.OK())
	require.Equal(t, 100_000, v.Checkpoints)
	t.Log(fmt.Sprint(time.Since(begin)))
}

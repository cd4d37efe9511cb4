package storetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
)

func unlinkCases() []testcase {
	return []testcase{
		{name: "UnlinkErasesEveryIdentifyingField", run: testErases},
		{name: "UnlinkLeavesTheRest", run: testLeavesTheRest},
		{name: "KeepFieldsCoarsen", run: testKeepFields},
		{name: "NoticesAreRemovedWhole", kinds: []circulation.Kind{circulation.KindNotice}, run: testNotices},
		{name: "UnlinkTwiceIsNotAnError", run: testTwice},
		{name: "StaleWriteCannotRelink", run: testStaleWrite},
		{name: "ReceiptAndUnlinkAreOne", run: testReceipt},
		{name: "DuplicateTargetsCountOnce", run: testDuplicates},
		{name: "CanceledContext", run: testCanceled},
		{name: "FinishForgetsBorrowers", run: testFinish},
		{name: "FinishKeepsAccounts", accounts: true, run: testFinishKeepsAccounts},
		{name: "FinishKeepsHolds", holds: true, run: testFinishKeepsHolds},
	}
}

// canary returns a word that is found nowhere else.
func canary(k circulation.Kind, name string) string { return fmt.Sprintf("canary-%s-%s-7f3a", k, name) }

func testErases(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		e := entry(k, f.id(0), person(1))
		var canaries []string
		for _, fd := range circulation.Fields(k) {
			if fd.Class != circulation.Identifying || pointsAt(fd) != 0 {
				continue // pointers are tested by NothingLinksBack
			}
			e = with(e, fd.Name, canary(k, fd.Name))
			canaries = append(canaries, canary(k, fd.Name))
		}
		f.save(e)
		f.contains(f.dump(), "the ID of a record", f.id(0))
		f.unlink(k, f.id(0))
		f.lacks(f.dump(), fmt.Sprintf("which identifies, after the %s was unlinked", k), canaries...)
	})
}

func testLeavesTheRest(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		e := entry(k, f.id(0), person(1))
		var stays []string
		for _, name := range []string{"Group", "Library", "Location", "Type", "Item", "Method"} {
			if has(k, name) {
				e = with(e, name, canary(k, name))
				stays = append(stays, canary(k, name))
			}
		}
		f.save(e, entry(k, f.id(1), person(1)), entry(k, f.id(2), person(2)))
		f.contains(f.dump(), "a fact of a linked record", stays...)
		same, other := f.get(k, f.id(1)), f.get(k, f.id(2))
		f.unlink(k, f.id(0))
		if k != circulation.KindNotice {
			f.contains(f.dump(), "a fact that does not identify, after the record was unlinked", stays...)
		}
		for _, before := range []circulation.Record{same, other} {
			after, ok := f.linked(k)[before.ID]
			if !ok {
				f.Errorf("another %s, which nobody asked to unlink, was", k)
				continue
			}
			// The version may say when it was read, but the old one must do: the sweep has a whole page of them.
			version := before.Version
			before.Version = after.Version
			if fmt.Sprint(after) != fmt.Sprint(before) {
				f.Errorf("another %s was changed from %+v to %+v", k, before, after)
			}
			before.Version = version
			if conflicts := f.try(before); len(conflicts) > 0 {
				f.Errorf("Unlink of a %s made the version of another one stale", k)
			}
		}
	})
}

// The suite needs a *Keep, which only a policy makes, so a policy and a sweep it is.
const coarse = `carrel-retention: 1
id: storetest/coarse
revision: 1
groups: {members: [canary-group-code]}
records:
  %[1]s: [{name: everything, after: at once}]
keep-fields:
  %[1]s: {group: set, library: keep, %[2]s: month}
`

func testKeepFields(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		plural := map[circulation.Kind]string{circulation.KindLoan: "loans", circulation.KindRequest: "requests",
			circulation.KindSharing: "sharing", circulation.KindFee: "fees"}[k]
		if plural == "" {
			return // nothing of a notice stays
		}
		end := "closed"
		if k == circulation.KindLoan {
			end = "returned"
		}
		policy, err := anonymize.ParsePolicy(fmt.Appendf(nil, coarse, plural, end))
		f.must(err)
		e := with(entry(k, f.id(0), person(1)), "Group", "canary-group-code")
		stays := []string{canary(k, "Library")}
		goes := []string{"canary-group-code"}
		for _, name := range []string{"Location", "Type", "Item"} {
			if has(k, name) {
				goes = append(goes, canary(k, name))
			}
		}
		for _, name := range []string{"Library", "Location", "Type", "Item"} {
			if has(k, name) {
				e = with(e, name, canary(k, name))
			}
		}
		f.save(e)
		dump := f.dump()
		f.contains(dump, "a fact of a linked record", append(goes, stays...)...)
		for _, at := range []time.Time{began, ended} {
			if !shows(dump, at) {
				f.Errorf("Dump does not show the time %v, neither as a number since 1970 nor with a clock", at)
			}
		}

		sweep, err := anonymize.NewSweep(f.Store, policy, anonymize.Config{Now: func() time.Time { return now }})
		f.must(err)
		if _, err := sweep.Run(f.Context(), now); err != nil {
			f.Fatalf("Sweep: %v", err)
		}
		if f.isLinked(k, f.id(0)) {
			f.Fatal("the sweep did not unlink a record that was due at once")
		}
		before := dump
		dump = f.dump()
		f.contains(dump, "which keep-fields keeps", append(stays, "members")...)
		for _, word := range goes { // a catalogue of items or groups may go on showing it
			if strings.Count(dump, word) >= strings.Count(before, word) {
				f.Errorf("Dump still shows %q as often as before, which keep-fields takes", word)
			}
		}
		for _, at := range []time.Time{began, ended} {
			if shows(dump, at) {
				f.Errorf("Dump still shows the exact time %v, which keep-fields takes", at)
			}
		}
		if month := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC); !shows(dump, month) {
			f.Errorf("Dump does not show %v, the month that keep-fields keeps", month)
		}
	})
}

// shows reports whether a text shows a time: as seconds since 1970, perhaps with a fraction of digits
// following, or by its clock.
func shows(dump string, at time.Time) bool {
	return strings.Contains(dump, fmt.Sprint(at.Unix())) || strings.Contains(dump, at.Format("15:04:05"))
}

func testNotices(f *fixture) {
	e := circulation.Entry(notice(f.id(0), person(1)))
	var canaries []string
	for _, fd := range circulation.Fields(circulation.KindNotice) {
		if _, text := field(e, fd.Name).(string); text && fd.Name != "ID" && fd.Name != "Version" && pointsAt(fd) == 0 {
			e = with(e, fd.Name, canary(circulation.KindNotice, fd.Name))
			canaries = append(canaries, canary(circulation.KindNotice, fd.Name))
		}
	}
	f.save(e)
	f.unlink(circulation.KindNotice, f.id(0))
	dump := f.dump()
	f.lacks(dump, "though the notice was removed", canaries...)
	for _, at := range []time.Time{began, ended} {
		if shows(dump, at) {
			f.Errorf("Dump still shows a time of a removed notice, %v", at)
		}
	}
}

func testTwice(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		f.save(entry(k, f.id(0), person(1)))
		r := f.get(k, f.id(0))
		if conflicts := f.try(r); len(conflicts) > 0 {
			f.Fatalf("Unlink: conflicts %q, want none", conflicts)
		}
		if conflicts := f.try(r); !slices.Equal(conflicts, []string{r.ID}) {
			f.Errorf("Unlink for the second time: conflicts %q, want %q", conflicts, r.ID)
		}
		var unlinked []int
		for _, receipt := range f.receipts() {
			unlinked = append(unlinked, receipt.Unlinked)
		}
		if !slices.Equal(unlinked, []int{1, 0}) {
			f.Errorf("the receipts of unlinking twice count %v, want [1 0]", unlinked)
		}
	})
}

// A worker that read a record before it was unlinked, or an export that was, must not bring the
// borrower back. Of a notice nothing need be left to tell; a store fed from exports should know it by its ID.
func testStaleWrite(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		if k == circulation.KindNotice {
			return
		}
		e := with(entry(k, f.id(0), person(1)), "Note", canary(k, "Note"))
		f.save(e)
		version := f.get(k, f.id(0)).Version
		f.unlink(k, f.id(0))
		for what, write := range map[string]circulation.Entry{
			"the old value":                 e,
			"the old value and its version": with(e, "Version", version),
			"another borrower":              entry(k, f.id(0), person(2)),
			"an unfinished record":          unfinished(k, f.id(0), person(1)),
		} {
			if err := f.Save(f.Context(), write); err != nil {
				f.Logf("saving %s: %v", what, err)
			}
			if f.isLinked(k, f.id(0)) {
				f.Fatalf("saving %s of an unlinked %s brought the borrower back", what, k)
			}
		}
		f.lacks(f.dump(), "written after the record was unlinked", canary(k, "Note"))
	})
}

func testReceipt(f *fixture) {
	k := f.kinds()[0]
	f.sub("Contents", func(f *fixture) {
		f.fill(k, 4)
		stale := f.get(k, f.id(3))
		f.save(with(entry(k, f.id(3), person(0)), "Library", "changed"))
		b := batch(f.get(k, f.id(0)), f.get(k, f.id(1)), f.get(k, f.id(2)), stale)
		b.Targets[2].Rule = "another"
		b.Shard = anonymize.Shard{Of: 1}
		b.At = now.In(time.FixedZone("", -5*60*60))
		if conflicts, err := f.Store.Unlink(f.Context(), b); err != nil || !slices.Equal(conflicts, []string{stale.ID}) {
			f.Fatalf("Unlink: conflicts %q, error %v; want %q and none", conflicts, err, stale.ID)
		}
		receipts := f.receipts()
		if len(receipts) != 1 {
			f.Fatalf("there are %d receipts after one Unlink", len(receipts))
		}
		got, want := receipts[0], b.Receipt([]string{stale.ID})
		f.instant("the receipt's time", got.At, want.At)
		f.same("the receipt's policy", got.Policy, want.Policy)
		f.same("the receipt's kind", got.Kind, want.Kind)
		f.same("the receipt's shard", got.Shard, want.Shard)
		f.same("the receipt's number of unlinked records", got.Unlinked, 3)
		f.same("the receipt's number of conflicts", got.Conflicts, 1)
		if !maps.Equal(got.ByRule, want.ByRule) {
			f.Errorf("the receipt counts %v by rule, want %v", got.ByRule, want.ByRule)
		}
	})
	// Cut off at any moment, both are there or neither.
	f.sub("CutOff", func(f *fixture) {
		const records = 3
		f.fill(k, records)
		for n := range 500 {
			var due []circulation.Record
			for _, r := range f.linked(k) {
				due = append(due, r)
			}
			ctx := &countdown{Context: f.Context(), left: n, done: make(chan struct{})}
			_, err := f.Store.Unlink(ctx, batch(due...))
			gone := records - len(f.linked(k))
			receipts := 0
			for _, r := range f.receipts() {
				receipts += r.Unlinked
			}
			switch {
			case gone != receipts:
				f.Fatalf("cut off after looking at its context %d times (error: %v), Unlink left %d records unlinked and receipts of %d", n, err, gone, receipts)
			case gone != 0 && gone != records:
				f.Fatalf("cut off after looking at its context %d times (error: %v), Unlink left %d of %d records unlinked", n, err, gone, records)
			case err == nil && gone != records:
				f.Fatalf("Unlink returned no error and left %d of %d records unlinked", gone, records)
			case gone == records:
				return
			}
		}
		f.Fatal("Unlink never came to its end in 500 attempts, each cut off a little later")
	})
}

func testDuplicates(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		f.save(entry(k, f.id(0), person(1)), unfinished(k, f.id(1), person(1)))
		r, open := f.get(k, f.id(0)), f.get(k, f.id(1))
		conflicts := f.try(r, open, r, open, r)
		if !slices.Equal(conflicts, []string{open.ID}) {
			f.Errorf("Unlink of the same targets several times: conflicts %q, want %q", conflicts, open.ID)
		}
		for _, receipt := range f.receipts() {
			if receipt.Unlinked != 1 || receipt.Conflicts != 1 || receipt.ByRule["everything"] != 1 {
				f.Errorf("the receipt of targets named several times is %+v, want 1 unlinked, 1 conflict, 1 by rule", receipt)
			}
		}
	})
}

func testCanceled(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		f.save(entry(k, f.id(0), person(1)))
		r := f.get(k, f.id(0))
		ctx, cancel := context.WithCancel(f.Context())
		cancel()
		if page, err := f.Store.Linked(ctx, query(k)); err == nil {
			f.Errorf("Linked with a canceled context returned %d records and no error", len(page.Records))
		}
		if conflicts, err := f.Store.Unlink(ctx, batch(r)); err == nil {
			f.Errorf("Unlink with a canceled context returned %d conflicts and no error", len(conflicts))
		}
		if s, ok := f.Store.(anonymize.Finisher); ok && s.Finish(ctx) == nil {
			f.Error("Finish with a canceled context returned no error")
		}
		if !f.isLinked(k, r.ID) {
			f.Errorf("Unlink with a canceled context unlinked a %s", k)
		}
		if n := len(f.receipts()); n != 0 {
			f.Errorf("Unlink with a canceled context left %d receipts", n)
		}
	})
}

func testFinish(f *fixture) {
	f.eachKind(func(f *fixture, k circulation.Kind) {
		const gone, here = "canary-gone-51d0", "canary-here-51d0"
		f.save(entry(k, f.id(0), gone), entry(k, f.id(1), gone), entry(k, f.id(2), here))
		f.unlink(k, f.id(0))
		f.finish() // something still names the borrower
		if !f.isLinked(k, f.id(1)) {
			f.Fatal("Finish unlinked a record")
		}
		f.unlink(k, f.id(1))
		f.finish()
		f.finish() // must be safe to repeat
		f.lacks(f.dump(), "a borrower whom nothing names any more", gone)
		if !f.isLinked(k, f.id(2)) {
			f.Error("Finish forgot a borrower whom a record names")
		}
	})
}

func testFinishKeepsAccounts(f *fixture) {
	k := f.kinds()[0]
	f.must(f.SaveAccount(f.Context(), circulation.Account{Borrower: person(1), Group: "alumni"}))
	f.save(entry(k, f.id(0), person(1)))
	f.unlink(k, f.id(0))
	f.finish()
	f.save(entry(k, f.id(1), person(1)))
	f.same("the group of a listed borrower, who had no record for a while,", f.get(k, f.id(1)).GroupNow, "alumni")
}

func testFinishKeepsHolds(f *fixture) {
	k := f.kinds()[0]
	f.save(entry(k, f.id(0), person(1)))
	f.unlink(k, f.id(0))
	f.must(f.AddHold(f.Context(), circulation.Hold{Borrower: person(1), Ref: "case 1"}))
	f.finish()
	f.save(entry(k, f.id(1), person(1)))
	f.refused(f.get(k, f.id(1)), "is under a legal hold of which Finish knew")
}

package audit_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/store/memory"
)

// exampleKeys makes a keyring in a temporary directory.
func exampleKeys(dir string, store crypto.KeyStore) (*crypto.Keyring, error) {
	if err := crypto.CreateKEK(filepath.Join(dir, "kek")); err != nil {
		return nil, err
	}
	kek, err := crypto.OpenKEK(filepath.Join(dir, "kek"))
	if err != nil {
		return nil, err
	}
	if err := crypto.CreateKeyring(filepath.Join(dir, "keys"), kek); err != nil {
		return nil, err
	}
	return crypto.OpenKeyring(context.Background(), crypto.Config{Path: filepath.Join(dir, "keys"), KEK: kek, Store: store})
}

// A trail from the first event to a report, and how an auditor verifies it.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "")
	check(err)
	defer os.RemoveAll(dir)
	keys, err := exampleKeys(dir, memory.NewKeys())
	check(err)
	const patron crypto.Subject = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff" // patron.ID.Subject()
	check(keys.CreateKeys(ctx, patron))

	store, anchor := memory.NewLog(), audit.NewFileAnchor(filepath.Join(dir, "anchor")) // or sqlite.NewLog(db)
	trail, err := audit.New(ctx, audit.Config{Store: store, Keys: keys, Anchors: []audit.Anchor{anchor}})
	check(err)

	now := time.Now()
	check(trail.Record(ctx, audit.Login{Time: now, Staff: "staff-17", Result: audit.Success, Channel: audit.UI, Address: netip.MustParseAddr("192.0.2.17")}.Event()))
	check(trail.Record(ctx, audit.Event{Time: now, Action: audit.View, Outcome: audit.Done, Actor: "staff-17", Role: "circulation", Purpose: "checkout", Channel: audit.UI,
		Segments: []string{"addresses"}, Count: 1, Subjects: []audit.Subject{{ID: patron}}}))

	// In the same transaction as what it is about: entry, then store.Append with the store on that transaction.
	entry, err := trail.Prepare(ctx, audit.Event{Time: now, Action: audit.Update, Outcome: audit.Done, Actor: "staff-3", Role: "patron-services", Channel: audit.UI,
		Segments: []string{"addresses"}, Count: 1, Subjects: []audit.Subject{{ID: patron, Version: 2}}})
	check(err)
	check(store.Append(ctx, []audit.Entry{entry})) // sqlite.NewLog(tx).Append

	r, err := audit.NewReporter(audit.ReporterConfig{Store: store, Keys: keys, Recorder: trail})
	check(err)
	views, err := r.Views(ctx, audit.By{Actor: "dpo", Role: "reviewer", Purpose: "review", Channel: audit.UI}, patron, audit.ViewFilter{Segments: []string{"addresses"}})
	check(err)
	for _, v := range views.Rows {
		fmt.Println(v.Actor, v.Purpose, v.Segments)
	}
	check(trail.Close(ctx)) // and with it the last checkpoint

	// An auditor has the store, what the anchor has, and the public key; whoever has the keyring gives Key as well.
	public, err := audit.VerifierKey(ctx, keys)
	check(err)
	verifier, err := note.NewVerifier(public)
	check(err)
	anchored, err := anchor.Checkpoints()
	check(err)
	v, err := audit.Verify(ctx, audit.VerifyConfig{Store: store, Verifier: verifier, Anchored: [][][]byte{anchored}})
	check(err)
	fmt.Println(v.Size, "entries,", len(v.Findings), "findings")
	// Output:
	// staff-17 checkout [addresses]
	// 4 entries, 0 findings
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

package patron_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/memory"
)

// printer stands for a trail: it prints what it is to write down.
type printer struct{}

func (printer) Record(_ context.Context, e audit.Event) error {
	fmt.Printf("%s for %s: %s %v %s%s\n", e.Actor, e.Purpose, e.Action, e.Segments, e.Outcome, strings.TrimSuffix(" "+e.Why, " "))
	return nil
}

func ExampleDirectory() {
	dir, err := os.MkdirTemp("", "carrel")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	d, err := open(ctx, dir)
	if err != nil {
		log.Fatal(err)
	}

	registration := patron.Call{Actor: "staff-17", Role: "patron-services", Purpose: "registration", Channel: audit.UI}
	_, err = d.Create(ctx, registration, patron.Profile{
		Facts:       patron.Facts{Group: "students"},
		Names:       []patron.Name{{Use: "legal", First: crypto.NewSecret("Anna"), Last: crypto.NewSecret("Svensson")}},
		Phones:      []patron.Phone{{Use: "mobile", Number: crypto.NewSecret("+46701234567")}},
		Identifiers: []patron.Identifier{{Use: "barcode", Value: crypto.NewSecret("99999395390")}},
	})
	if err != nil {
		log.Fatal(err)
	}

	desk := patron.Call{Actor: "staff-3", Role: "circulation", Purpose: "checkout", Channel: audit.UI}
	id, err := d.Find(ctx, desk, crypto.NewSecret("9999 9395 390"))
	if err != nil {
		log.Fatal(err)
	}
	v, err := d.View(ctx, desk, id, access.SetOf(access.Names, access.Photo))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(v.Profile.Names[0], v.Profile.Names[0].Last.Reveal())

	_, err = d.View(ctx, desk, id, access.SetOf(access.Phones))
	fmt.Println(err)

	overdue := patron.Call{Actor: "staff-3", Role: "circulation", Purpose: "overdue", Channel: audit.UI}
	v, err = d.View(ctx, overdue, id, access.SetOf(access.Phones))
	fmt.Println(v.Profile.Phones[0].Number.Reveal(), err)
	// Output:
	// staff-17 for registration: create [names phones identifiers] done
	// staff-3 for checkout: find [] done
	// staff-3 for checkout: view [names] done
	// {legal [redacted] [redacted] [redacted] [redacted] [redacted]} Svensson
	// staff-3 for checkout: view [] denied no-right
	// patron: not allowed: no-right
	// staff-3 for overdue: view [phones] done
	// …4567 <nil>
}

// open makes a directory on keys of its own and a store in memory.
func open(ctx context.Context, dir string) (*patron.Directory, error) {
	path := filepath.Join(dir, "kek")
	if err := crypto.CreateKEK(path); err != nil {
		return nil, err
	}
	kek, err := crypto.OpenKEK(path)
	if err != nil {
		return nil, err
	}
	path = filepath.Join(dir, "keys")
	if err := crypto.CreateKeyring(path, kek); err != nil {
		return nil, err
	}
	keys, err := crypto.OpenKeyring(ctx, crypto.Config{Path: path, KEK: kek, Store: memory.NewKeys()})
	if err != nil {
		return nil, err
	}
	preset, err := access.Preset("default")
	if err != nil {
		return nil, err
	}
	matrix, err := access.ParseMatrix(preset)
	if err != nil {
		return nil, err
	}
	return patron.New(patron.Config{Store: memory.NewPatrons(), Keys: keys, Access: matrix, Recorder: printer{}, Grants: memory.NewGrants()})
}

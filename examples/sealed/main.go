// Command sealed keeps a patron whose record is sealed, shows the desk what the desk may see, and forgets them.
//
//	go run ./examples/sealed
//
// It makes everything in a temporary directory: a SQLite file, in which the audit trail is, too, a key-encryption key, a keyring and an anchor.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/sqlite"
)

func main() {
	dir, err := os.MkdirTemp("", "carrel-sealed-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := run(context.Background(), dir, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// README: begin
// lastName is what the desk does when somebody puts down a card.
func lastName(ctx context.Context, d *patron.Directory, barcode crypto.Secret) (crypto.Secret, error) {
	desk := patron.Call{Actor: "staff-17", Role: "circulation", Purpose: "checkout", Channel: audit.UI}
	id, err := d.Find(ctx, desk, barcode) // through a blind index
	if err != nil {
		return crypto.Secret{}, err
	}
	v, err := d.View(ctx, desk, id, access.SetOf(access.Names)) // decided, recorded, and then opened
	if err != nil || len(v.Profile.Names) == 0 {
		return crypto.Secret{}, err
	}
	return v.Profile.Names[0].Last, nil // prints as [redacted]; its Reveal is the one way to the text
}

// README: end

func run(ctx context.Context, dir string, out io.Writer) error {
	trail, d, err := open(ctx, dir)
	if err != nil {
		return err
	}
	defer trail.Close(ctx)
	registration := patron.Call{Actor: "staff-3", Role: "patron-services", Purpose: "registration", Channel: audit.UI}
	barcode := crypto.NewSecret("29000000000077")
	id, err := d.Create(ctx, registration, patron.Profile{
		Facts:       patron.Facts{Group: "students"},
		Names:       []patron.Name{{Use: "legal", First: crypto.NewSecret("Fola"), Last: crypto.NewSecret("Tunda")}},
		Emails:      []patron.Email{{Use: "school", Address: crypto.NewSecret("fola@example.org")}},
		Identifiers: []patron.Identifier{{Use: "barcode", Value: barcode}},
	})
	if err != nil {
		return err
	}
	name, err := lastName(ctx, d, barcode)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "printed: ", name)
	fmt.Fprintln(out, "revealed:", name.Reveal())

	_, err = d.View(ctx, patron.Call{Actor: "staff-17", Role: "circulation", Purpose: "checkout", Channel: audit.UI}, id, access.SetOf(access.Birth))
	fmt.Fprintln(out, "the desk and a birth date:", err)

	// Forgetting is destroying one key, of which the trail says only that it was done.
	if err := trail.Shred(ctx, audit.Event{Actor: "dpo", Channel: audit.UI, Approval: "erasure 2026-31"}, id.Subject()); err != nil {
		return err
	}
	_, err = lastName(ctx, d, barcode)
	fmt.Fprintln(out, "after that:", err)
	return nil
}

// open makes keys and tables on the first start and opens them. The keys belong apart from the database and its backups.
func open(ctx context.Context, dir string) (*audit.Trail, *patron.Directory, error) {
	db, err := sql.Open("sqlite", sqlite.DSN(filepath.Join(dir, "library.db")))
	if err != nil {
		return nil, nil, err
	}
	migrations, err := goose.NewProvider(goose.DialectSQLite3, db, sqlite.Migrations(), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return nil, nil, err
	}
	if _, err := migrations.Up(ctx); err != nil {
		return nil, nil, err
	}
	kekFile, ring := filepath.Join(dir, "kek"), filepath.Join(dir, "keys")
	if err := crypto.CreateKEK(kekFile); err != nil && !errors.Is(err, crypto.ErrExists) {
		return nil, nil, err
	}
	kek, err := crypto.OpenKEK(kekFile)
	if err != nil {
		return nil, nil, err
	}
	if err := crypto.CreateKeyring(ring, kek); err != nil && !errors.Is(err, crypto.ErrExists) {
		return nil, nil, err
	}
	keys, err := crypto.OpenKeyring(ctx, crypto.Config{Path: ring, KEK: kek, Store: sqlite.NewKeys(db)})
	if err != nil {
		return nil, nil, err
	}
	preset, err := access.Preset("default") // or a file of your own
	if err != nil {
		return nil, nil, err
	}
	matrix, err := access.ParseMatrix(preset)
	if err != nil {
		return nil, nil, err
	}
	// The anchor belongs where the database's owner can append and not overwrite.
	trail, err := audit.New(ctx, audit.Config{Store: sqlite.NewLog(db), Keys: keys, Anchors: []audit.Anchor{audit.NewFileAnchor(filepath.Join(dir, "anchor"))}})
	if err != nil {
		return nil, nil, err
	}
	d, err := patron.New(patron.Config{Store: sqlite.NewPatrons(db), Keys: keys, Access: matrix, Grants: sqlite.NewGrants(db), Recorder: trail})
	return trail, d, err
}

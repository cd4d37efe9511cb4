package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/sqlite"
)

// directory returns the patrons of a database. The trail is beside it when no file is named. A nil matrix means the built-in one.
func (d *database) directory(keys *crypto.Keyring, trailFile string, matrix *access.Matrix) (*patron.Directory, error) {
	return directoryOn(d.db, keys, cmp.Or(trailFile, d.path+".audit.jsonl"), matrix)
}

// directoryOn returns the patrons in a database or in a transaction on it.
func directoryOn(db sqlite.DB, keys *crypto.Keyring, trailFile string, matrix *access.Matrix) (*patron.Directory, error) {
	if matrix == nil {
		data, err := access.Preset("default")
		if err != nil {
			return nil, err
		}
		if matrix, err = access.ParseMatrix(data); err != nil {
			return nil, err
		}
	}
	return patron.New(patron.Config{Store: sqlite.NewPatrons(db), Keys: keys, Access: matrix, Grants: sqlite.NewGrants(db),
		Recorder: &trail{path: trailFile, keys: keys}})
}

// jobCall is how the command itself asks, not on behalf of a person.
func jobCall(role, purpose string) patron.Call {
	return patron.Call{Actor: "carrel", Role: role, Purpose: purpose, Channel: audit.CLI}
}

// patronProblem says what to do about an error of the directory.
func patronProblem(err error) error {
	var denied *patron.DeniedError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, patron.ErrNotRecorded):
		return rewordedError{"the audit file cannot be written, and so nothing was shown or changed; see --audit", err}
	case errors.As(err, &denied) && denied.Why == "no-approval":
		return rewordedError{"a recipient outside needs --approval, the reference under which it was approved; the attempt was recorded", err}
	case errors.As(err, &denied):
		return rewordedError{"not allowed in this role for this purpose, and recorded (" + denied.Why + "); see carrel access check", err}
	case errors.Is(err, patron.ErrNotFound):
		return rewordedError{"no such patron", err}
	case errors.Is(err, patron.ErrOldDatabase):
		return rewordedError{"the database is older than the keyring, as after a restore: carrel keys rotate --index identifier writes its index anew", err}
	case errors.Is(err, crypto.ErrShredded):
		return rewordedError{"this patron was forgotten: the key is destroyed", err}
	}
	message := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "patron: "), "crypto: ")
	return rewordedError{message, err}
}

// patronFlags are what every command has that looks at people.
type patronFlags struct {
	dsn, keys, audit, access string
	actor, role, purpose     string
}

func (p *patronFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.dsn, "db", "", "the database: the path of a SQLite file")
	addKeysFlag(cmd, &p.keys)
	addTrailFlag(cmd, &p.audit)
	f.StringVar(&p.access, "access", "", "who may see what: an access file (default the built-in one; see carrel access init)")
	f.StringVar(&p.actor, "actor", "", "who asks: the reference of a member of staff, no name")
	f.StringVar(&p.role, "role", "", "in which role, as the access file calls it")
	f.StringVar(&p.purpose, "purpose", "", "what for, as the access file calls it")
}

func (p *patronFlags) call() patron.Call {
	return patron.Call{Actor: p.actor, Role: p.role, Purpose: p.purpose, Channel: audit.CLI}
}

// with opens the directory that the flags name.
func (p *patronFlags) with(cmd *cobra.Command, do func(*patron.Directory) error) error {
	if err := needed(cmd, "db", "actor", "role", "purpose"); err != nil {
		return err
	}
	rules, err := readAccess(cmd, p.access)
	if err != nil {
		return err
	}
	return withDatabase(cmd.Context(), p.dsn, readWrite, func(d *database) error {
		f, err := findKeys(p.keys, p.dsn)
		if err != nil {
			return err
		}
		k, err := f.open(cmd.Context(), sqlite.NewKeys(d.db))
		if err != nil {
			return err
		}
		dir, err := d.directory(k, p.audit, rules.matrix)
		if err != nil {
			return err
		}
		if err := do(dir); err != nil {
			if cmd.Context().Err() != nil {
				return interruption(strings.TrimSuffix(place(cmd), ": ") + ": interrupted")
			}
			return patronProblem(err)
		}
		return nil
	})
}

// createPrivate makes a file that only its owner may read, and that must not exist yet.
func createPrivate(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("%s: is there already; it is not overwritten", name)
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", name, reason(err))
	}
	return f, nil
}

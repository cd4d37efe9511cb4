package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

// directory returns the patrons in the database, or in a transaction on it. A nil matrix means the built-in one.
func (d *database) directory(h handle, keys *crypto.Keyring, trail audit.Recorder, matrix *access.Matrix) (*patron.Directory, error) {
	if matrix == nil {
		data, err := access.Preset("default")
		if err != nil {
			return nil, err
		}
		if matrix, err = access.ParseMatrix(data); err != nil {
			return nil, err
		}
	}
	return patron.New(patron.Config{Store: d.patrons(h), Keys: keys, Access: matrix, Grants: d.grants(h),
		Recorder: trail})
}

// jobCall is how the command itself asks, for whoever runs it.
func jobCall(actor, role, purpose string) patron.Call {
	return patron.Call{Actor: actorOf(actor), Role: role, Purpose: purpose, Channel: audit.CLI}
}

// patronProblem says what to do about an error of the directory.
func patronProblem(err error) error {
	var denied *patron.DeniedError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, patron.ErrNotRecorded):
		return rewordedError{"the audit trail cannot be written, and so nothing was shown or changed", err}
	case errors.As(err, &denied) && denied.Why == "no-approval":
		return rewordedError{"a recipient outside needs --approval, the reference under which it was approved; the attempt was recorded", err}
	case errors.As(err, &denied) && denied.Why == "restricted":
		return rewordedError{"the record is restricted (carrel rights restrict): only those who may restrict work with it; the attempt was recorded", err}
	case errors.As(err, &denied) && denied.Why == "erasing":
		return rewordedError{"the patron's erasure was asked for and waits: the record is not changed any more (carrel rights withdraw takes that back); the attempt was recorded", err}
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
	dsn, keys, access    string
	anchors              []string
	actor, role, purpose string
}

func (p *patronFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	addDBFlag(cmd, &p.dsn)
	addKeysFlag(cmd, &p.keys)
	addAnchorFlag(cmd, &p.anchors)
	f.StringVar(&p.access, "access", "", "who may see what: an access file (default the built-in one; see carrel access init)")
	f.StringVar(&p.actor, "actor", "", "who asks: the reference of a member of staff, no name")
	f.StringVar(&p.role, "role", "", "in which role, as the access file calls it")
	f.StringVar(&p.purpose, "purpose", "", "what for, as the access file calls it")
}

func (p *patronFlags) call() patron.Call {
	return patron.Call{Actor: p.actor, Role: p.role, Purpose: p.purpose, Channel: audit.CLI}
}

// openedPatrons is what the flags of a command on people name, opened.
type openedPatrons struct {
	db     *database
	keys   *crypto.Keyring
	trail  *audit.Trail
	matrix *access.Matrix
	dir    *patron.Directory
}

// open opens what the flags name, and closes it after do.
func (p *patronFlags) open(cmd *cobra.Command, do func(*openedPatrons) error) error {
	if err := needed(cmd, "db", "actor", "role", "purpose"); err != nil {
		return err
	}
	rules, err := readAccess(cmd, p.access)
	if err != nil {
		return err
	}
	return withDatabase(cmd.Context(), p.dsn, readWrite, func(d *database) error {
		k, err := d.openKeys(cmd.Context(), p.keys)
		if err != nil {
			return err
		}
		return d.withTrail(cmd.Context(), k, p.anchors, func(t *audit.Trail) error {
			dir, err := d.directory(d.db, k, t, rules.matrix)
			if err == nil {
				err = do(&openedPatrons{d, k, t, rules.matrix, dir})
			}
			if err != nil && cmd.Context().Err() != nil {
				return interruption(strings.TrimSuffix(place(cmd), ": ") + ": interrupted")
			}
			return unknownWords(err, rules.matrix, p.role, p.purpose)
		})
	})
}

// unknownWords adds to a refusal that the access file does not have the role or the purpose at all.
func unknownWords(err error, m *access.Matrix, role, purpose string) error {
	if !errors.Is(err, patron.ErrDenied) {
		return err
	}
	for _, u := range unknownIn(m, role, purpose) {
		err = rewordedError{err.Error() + "; " + u.String(), err}
	}
	return err
}

// with opens the directory that the flags name.
func (p *patronFlags) with(cmd *cobra.Command, do func(*patron.Directory) error) error {
	return p.open(cmd, func(o *openedPatrons) error { return patronProblem(do(o.dir)) })
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

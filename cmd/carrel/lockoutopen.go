package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/redis"
	"github.com/carrel-project/carrel/store/sqlite"
)

// lockoutFlags are what commands have that look at locks or change them.
type lockoutFlags struct {
	patronFlags
	whom   lockedFlags
	store  string
	prefix string
}

func (f *lockoutFlags) register(cmd *cobra.Command, sources bool) {
	f.patronFlags.register(cmd)
	f.whom.register(cmd, sources)
	cmd.Flags().StringVar(&f.store, "store", "", "where guesses are counted, when that is not the database: redis://HOST:PORT/DB, or rediss:// with TLS (default $CARREL_LOCKOUT, which keeps a password out of the list of processes)")
	cmd.Flags().StringVar(&f.prefix, "prefix", "", "of the keys in Redis (default carrel)")
}

// An openedLockout is the guard on the store that the flags name, and whom they name.
type openedLockout struct {
	*lockout.Guard
	locked
	store  string // its name, for messages
	writes bool
}

// open opens what the flags name. Without writing, only the look-up of a patron is recorded.
func (f *lockoutFlags) open(cmd *cobra.Command, who locked, cfg lockout.Config, writes bool, do func(*openedLockout) error) error {
	want := []string{"db"}
	if writes {
		want = append(want, "actor")
	}
	if who.identifier {
		want = []string{"db", "actor", "role", "purpose"}
	}
	if err := needed(cmd, want...); err != nil {
		return err
	}
	rules, err := readAccess(cmd, f.access)
	if err != nil {
		return err
	}
	mode := readOnly
	if writes || who.identifier {
		mode = readWrite
	}
	return withDatabase(cmd.Context(), f.dsn, mode, func(d *database) error {
		err := f.openOn(cmd, d, who, cfg, writes, rules, do)
		if err != nil && cmd.Context().Err() != nil {
			return interruption(place(cmd) + "interrupted")
		}
		return placed(cmd, err)
	})
}

func (f *lockoutFlags) openOn(cmd *cobra.Command, d *database, who locked, cfg lockout.Config, writes bool, rules accessFile, do func(*openedLockout) error) error {
	ctx := cmd.Context()
	keys, err := d.openKeys(ctx, f.keys)
	if err != nil {
		return err
	}
	if cfg.Key, err = keys.LockoutKey(ctx); err != nil {
		return keyProblem(err)
	}
	o := &openedLockout{locked: who, store: d.path, writes: writes}
	store, end, err := f.counts(d, o)
	if err != nil {
		return err
	}
	defer end()
	guarded := func() error {
		if o.Guard, err = lockout.New(store, cfg); err != nil {
			return errors.New(asFlags(err))
		}
		return lockoutProblem(ctx, d, o, do(o))
	}
	if !writes && !who.identifier {
		return guarded()
	}
	return d.withTrail(ctx, keys, f.anchors, func(t *audit.Trail) error {
		cfg.Audit = t
		if who.identifier {
			if o.account, err = f.look(cmd, d, keys, t, rules); err != nil {
				return err
			}
		}
		return guarded()
	})
}

// look finds the patron who has the identifier. That is recorded.
func (f *lockoutFlags) look(cmd *cobra.Command, d *database, keys *crypto.Keyring, t *audit.Trail, rules accessFile) (a lockout.Account, err error) {
	dir, err := directoryOn(d.db, keys, t, rules.matrix)
	if err != nil {
		return a, err
	}
	who := whoFlags{file: f.whom.identifierFile}
	id, err := who.find(cmd, &f.patronFlags, dir)
	if errors.Is(err, patron.ErrNotFound) && !errors.Is(err, patron.ErrNotRecorded) {
		return a, rewordedError{"nobody has this identifier; a login that leads to no account is named with --login-file", err}
	}
	return accountOf(id), unknownWords(patronProblem(err), rules.matrix, f.role, f.purpose)
}

// counts returns the store in which guesses are counted: the database, or a server. Its errors do not repeat an address that may hold a password.
func (f *lockoutFlags) counts(d *database, o *openedLockout) (lockout.Store, func() error, error) {
	at := cmp.Or(f.store, os.Getenv("CARREL_LOCKOUT"))
	if at == "" {
		if f.prefix != "" {
			return nil, nil, errors.New("--prefix: goes with --store redis://…")
		}
		return sqlite.NewLockouts(d.db), func() error { return nil }, nil
	}
	scheme, _, _ := strings.Cut(at, "://")
	if scheme != "redis" && scheme != "rediss" {
		return nil, nil, errors.New("--store: want redis://HOST:PORT/DB or rediss://HOST:PORT/DB; leave it out when guesses are counted in the database")
	}
	options, err := goredis.ParseURL(at)
	if err != nil {
		return nil, nil, errors.New("--store: not an address that can be read; want redis://USER:PASSWORD@HOST:PORT/DB")
	}
	options.ContextTimeoutEnabled = true
	logging.Disable() // its words are not ours: what failed is said once
	o.store = scheme + "://" + options.Addr
	client := goredis.NewClient(options)
	store, err := redis.NewLockouts(client, f.prefix)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("--prefix: %s", strings.TrimPrefix(err.Error(), "redis: ")), client.Close())
	}
	return store, client.Close, nil
}

// lockoutProblem says what to do about an error of a guard. What a driver says is not repeated: there may be a row in it.
func lockoutProblem(ctx context.Context, d *database, o *openedLockout, err error) error {
	if err == nil || errors.Is(err, errFound) {
		return err
	}
	if !errors.Is(err, lockout.ErrUnavailable) {
		return trailProblem(err)
	}
	why := o.store + ": the server does not answer"
	var answer *redis.Error
	switch {
	case o.store == d.path:
		why = d.refused(ctx, err).Error()
	case errors.As(err, &answer):
		why = o.store + ": " + strings.TrimPrefix(answer.Error(), "redis: "+answer.Op+": ")
	}
	if o.writes { // that comes first
		why += "; it was recorded and then not done: run it again"
	}
	return rewordedError{why, err}
}

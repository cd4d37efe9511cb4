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
)

// lockoutFlags are what commands have that look at locks or change them.
type lockoutFlags struct {
	patronFlags
	whom   lockedFlags
	store  string
	prefix string
}

// register adds the flags. Others is for commands that take also what has no account: a login, a source.
func (f *lockoutFlags) register(cmd *cobra.Command, others bool) {
	f.patronFlags.register(cmd)
	f.whom.register(cmd, others)
	cmd.SetFlagErrorFunc(lockoutFlagError)
	cmd.Flags().StringVar(&f.store, "store", "", "where guesses are counted, when that is not the database: redis://HOST:PORT/DB, or rediss:// with TLS (default $CARREL_LOCKOUT, which keeps a password out of the list of processes)")
	cmd.Flags().StringVar(&f.prefix, "prefix", "", "of the keys in Redis (default carrel)")
}

// An openedLockout is the guard on the store that the flags name, and whom they name.
type openedLockout struct {
	*lockout.Guard
	locked
	store    string // its name, for messages
	recorded bool   // a change, which comes before it is done
}

// status returns how things stand for whom the flags name.
func (o *openedLockout) status(ctx context.Context) (lockout.Status, error) {
	if o.source.IsValid() {
		return o.SourceStatus(ctx, o.source)
	}
	return o.Status(ctx, o.account)
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
	if !who.identifier {
		if err := f.words(rules); err != nil {
			return placed(cmd, err)
		}
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

// words refuses a role or a purpose that the access file does not have. Where it does not decide, they are for the trail, but what they mean it says.
func (f *lockoutFlags) words(rules accessFile) error {
	for _, u := range unknownIn(rules.matrix, f.role, f.purpose) {
		if u.Word != "" {
			return errors.New(u.String())
		}
	}
	return nil
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
	if !who.patron.IsZero() {
		if err := d.hasPatron(ctx, who.patron); err != nil {
			return err
		}
	}
	o := &openedLockout{locked: who, store: d.path}
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

// hasPatron refuses an ID that no patron has. Nothing is opened for that.
func (d *database) hasPatron(ctx context.Context, id patron.ID) error {
	_, err := d.patrons(d.db).Get(ctx, id)
	switch {
	case errors.Is(err, patron.ErrNotFound):
		return rewordedError{"--id: no such patron in " + d.path + "; of a member of staff it goes with --staff", err}
	case err != nil:
		return d.refused(ctx, err)
	}
	return nil
}

// look finds the patron who has the identifier. That is recorded.
func (f *lockoutFlags) look(cmd *cobra.Command, d *database, keys *crypto.Keyring, t *audit.Trail, rules accessFile) (a lockout.Account, err error) {
	dir, err := d.directory(d.db, keys, t, rules.matrix)
	if err != nil {
		return a, err
	}
	who := whoFlags{file: f.whom.identifierFile}
	id, err := who.find(cmd, &f.patronFlags, dir)
	if errors.Is(err, patron.ErrNotFound) && !errors.Is(err, patron.ErrNotRecorded) {
		hint := ""
		if cmd.Flags().Lookup("login-file") != nil {
			hint = "; a login that leads to no account is named with --login-file"
		}
		return a, rewordedError{"nobody has this identifier" + hint, err}
	}
	return accountOf(id), unknownWords(patronProblem(err), rules.matrix, f.role, f.purpose)
}

// at returns the address of the server that counts, or "".
func (f *lockoutFlags) at() string { return cmp.Or(f.store, os.Getenv("CARREL_LOCKOUT")) }

// counts returns the store in which guesses are counted: the database, or a server. Its errors do not repeat an address that may hold a password.
func (f *lockoutFlags) counts(d *database, o *openedLockout) (lockout.Store, func() error, error) {
	at := f.at()
	if at == "" {
		if f.prefix != "" {
			return nil, nil, errors.New("--prefix: goes with --store redis://…")
		}
		return d.lockouts(d.db), func() error { return nil }, nil
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
	if o.recorded { // that comes first
		why += "; it was recorded and then not done: run it again"
	}
	return rewordedError{why, err}
}

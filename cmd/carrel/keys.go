package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/tink-crypto/tink-go/v2/core/registry"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// errNoKeys says that nobody said where the keys of a database on a server are.
var errNoKeys = errors.New("--keys is missing: a database on a server has no place beside it, so say where its keyring is, with --keys or CARREL_KEYS")

// keyFiles are where the keys of a database are.
type keyFiles struct {
	keyring string
	kek     string // a path, or the URI of a key in a KMS
	beside  bool   // the keyring is beside the database, because nobody said where else
}

func addKeysFlag(cmd *cobra.Command, keys *string) {
	cmd.Flags().StringVar(keys, "keys", "", "the keyring (default $CARREL_KEYS, or the path of the SQLite file and .keys); $CARREL_KEK names the key-encryption key")
}

// findKeys works out where the keys are: the flag, the environment, or beside the database.
func findKeys(flag, dsn string) (f keyFiles, err error) {
	if flag != "" || os.Getenv("CARREL_KEYS") != "" || onServer(dsn) {
		return keysBeside(flag, "")
	}
	path, err := databasePath(dsn)
	if err != nil {
		return f, err
	}
	return keysBeside(flag, path)
}

// findKeys does so for a database that is open. Beside one on a server nothing is, so that other files go beside its keyring.
func (d *database) findKeys(flag string) (keyFiles, error) {
	f, err := keysBeside(flag, d.beside)
	if err == nil && d.beside == "" {
		d.beside = f.keyring
	}
	return f, err
}

// besideKeyring is for what does not open the keyring, and may even do without: it only asks where that is.
func (d *database) besideKeyring(flag string) error {
	if d.beside != "" || flag == "" && os.Getenv("CARREL_KEYS") == "" {
		return nil
	}
	_, err := d.findKeys(flag)
	return err
}

func keysBeside(flag, database string) (f keyFiles, err error) {
	f.keyring = flag
	if f.keyring == "" {
		f.keyring = os.Getenv("CARREL_KEYS")
	}
	if f.keyring == "" {
		if database == "" {
			return f, errNoKeys
		}
		f.keyring, f.beside = database+".keys", true
	}
	switch kek := os.Getenv("CARREL_KEK"); {
	case kek == "":
		f.kek = f.keyring + ".kek"
	case strings.HasPrefix(kek, "file:"):
		f.kek = strings.TrimPrefix(kek, "file:")
		if f.kek == "" {
			return f, errors.New("CARREL_KEK: names no file; want file:PATH or the URI of a key in a KMS")
		}
	case strings.Contains(kek, "://"):
		f.kek = kek
	default: // it may be the key itself, so it is not repeated
		return f, errors.New("CARREL_KEK: want file:PATH, or the URI of a key in a KMS such as aws-kms://…")
	}
	return f, nil
}

func (f keyFiles) inKMS() bool { return strings.Contains(f.kek, "://") }

// openKEK opens the key-encryption key.
func (f keyFiles) openKEK() (tink.AEAD, error) {
	if f.inKMS() {
		scheme, _, _ := strings.Cut(f.kek, "://")
		client, err := registry.GetKMSClient(f.kek)
		if err != nil {
			return nil, fmt.Errorf("CARREL_KEK: this carrel was built without a client for %s; docs/keys.md shows the lines that add one", scheme)
		}
		kek, err := client.GetAEAD(f.kek)
		if err != nil {
			return nil, fmt.Errorf("CARREL_KEK: the client for %s does not open the key; check its URI and your credentials", scheme)
		}
		return kek, nil
	}
	kek, err := crypto.OpenKEK(f.kek)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: there is no key-encryption key; bring it back, or say where it is with CARREL_KEK=file:PATH", f.kek)
	}
	return kek, keyProblem(err)
}

// keyProblem drops the name of the package from a message: the command says its own.
func keyProblem(err error) error {
	if err == nil {
		return nil
	}
	return rewordedError{strings.TrimPrefix(err.Error(), "crypto: "), err}
}

// A rewordedError says something in other words and is the same error.
type rewordedError struct {
	message string
	err     error
}

func (e rewordedError) Error() string { return e.message }
func (e rewordedError) Unwrap() error { return e.err }

// open opens the keyring with the store of subject keys in a database.
func (f keyFiles) open(ctx context.Context, store crypto.KeyStore, tokens crypto.TokenStore) (*crypto.Keyring, error) {
	if !f.exists() {
		return nil, fmt.Errorf("%s: there is no keyring; say where it is with --keys or CARREL_KEYS, or make one for a new database with carrel keys init", f.keyring)
	}
	kek, err := f.openKEK()
	if err != nil {
		return nil, err
	}
	k, err := crypto.OpenKeyring(ctx, crypto.Config{Path: f.keyring, KEK: kek, Store: store, Tokens: tokens})
	switch {
	case errors.Is(err, crypto.ErrForeignStore):
		return nil, fmt.Errorf("%s: is not the keyring of this database; say which is with --keys or CARREL_KEYS", f.keyring)
	case errors.Is(err, crypto.ErrOldKeyring):
		return nil, fmt.Errorf("%s: is an old copy of this database's keyring; find the newest", f.keyring)
	case errors.Is(err, crypto.ErrEnded):
		return nil, errors.New("the database is older than the backup horizon: the keys that opened it have been destroyed, and nobody in it can be read any more; restore a younger backup")
	}
	return k, keyProblem(err)
}

// open opens a keyring with what of its own there is in the database.
func (d *database) open(ctx context.Context, f keyFiles) (*crypto.Keyring, error) {
	return f.open(ctx, d.keys(d.db), d.circulationStore)
}

// exists reports whether the keyring is there.
func (f keyFiles) exists() bool {
	_, err := os.Lstat(f.keyring)
	return err == nil
}

// create makes the keyring, and the key-encryption key if that is a file that is not there, and tells where they are.
func (f keyFiles) create(stderr io.Writer) error {
	made := ""
	if !f.inKMS() {
		switch err := crypto.CreateKEK(f.kek); {
		case err == nil:
			made = " and a key-encryption key " + f.kek
		case !errors.Is(err, crypto.ErrExists):
			return keyProblem(err)
		}
	}
	kek, err := f.openKEK()
	if err != nil {
		return err
	}
	if err := crypto.CreateKeyring(f.keyring, kek); err != nil {
		return keyProblem(err)
	}
	where := "keep both apart from the database and its backups, and from each other"
	if f.beside {
		where = "they belong elsewhere, apart from the database and its backups, and from each other: move them and name them with --keys and CARREL_KEK"
	}
	_, err = fmt.Fprintf(stderr, "carrel: made a keyring %s%s; %s. Without them nothing that is sealed can be opened again.\n", oneLine(f.keyring), oneLine(made), where)
	return err
}

// openKeysFor opens the keys of a database that is written to, and makes them when it is a new one.
func openKeysFor(ctx context.Context, d *database, flag string, stderr io.Writer) (*crypto.Keyring, error) {
	f, err := d.findKeys(flag)
	if err != nil {
		return nil, err
	}
	empty, err := d.sealsNothing(ctx)
	if err != nil {
		return nil, err
	}
	if !f.exists() {
		if !empty {
			return nil, fmt.Errorf("%s: there is no keyring, but %s holds what one has sealed; say where it is with --keys or CARREL_KEYS", f.keyring, d.path)
		}
		if err := f.create(stderr); err != nil {
			return nil, err
		}
	}
	k, err := d.open(ctx, f)
	if err != nil || !empty {
		return k, err
	}
	_, err = k.RenewTokens(ctx) // there are none, but from now on it is known of which epoch they are
	return k, keyProblem(err)
}

func newKeys() *cobra.Command {
	return group(&cobra.Command{
		Use:   "keys",
		Short: "Make, show and rotate the keys that patrons' data is sealed under",
		Long: `The keyring is a small file that holds the keys of epochs, indexes and pseudonyms, encrypted under the key-encryption
key (KEK). The KEK is a file that only its owner may read, or a key in a KMS: CARREL_KEK=file:PATH, or a URI.
Both belong apart from the database and its backups. docs/keys.md has the whole of it.`,
		Example: `  carrel keys init --keys /etc/carrel/keys
  carrel keys status --db library.db --keys /etc/carrel/keys
  carrel keys rotate --db library.db --keys /etc/carrel/keys`,
	}, newKeysInit(), newKeysStatus(), newKeysRotate(), newKeysSchedule(), newKeysShred())
}

func newKeysInit() *cobra.Command {
	var keys, dsn string
	cmd := &cobra.Command{
		Use:   "init --keys FILE",
		Short: "Make a keyring, its erasure ledger, and a key-encryption key if there is none",
		Long: `Makes a keyring with new keys, the erasure ledger beside it, and, when CARREL_KEK names no key in a KMS and the file is not
there yet, a key-encryption key. Nothing that exists is overwritten.`,
		Example: `  carrel keys init --keys /etc/carrel/keys
  CARREL_KEK=file:/mnt/token/kek carrel keys init --keys /etc/carrel/keys
  carrel keys init --db library.db`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if keys == "" && dsn == "" && os.Getenv("CARREL_KEYS") == "" {
				return fmt.Errorf("%s--keys is missing: where the keyring should go", place(cmd))
			}
			f, err := findKeys(keys, dsn)
			if err != nil {
				return err
			}
			return f.create(cmd.ErrOrStderr())
		},
	}
	addKeysFlag(cmd, &keys)
	cmd.Flags().StringVar(&dsn, "db", "", "the database, beside which they go when --keys is not given")
	return cmd
}

// A keysReport is what `keys status --json` says.
type keysReport struct {
	Keyring    string        `json:"keyring"`
	ID         string        `json:"id"`
	Generation uint64        `json:"generation"`
	Rotating   bool          `json:"rotating"`
	Every      float64       `json:"every_days"`
	Horizon    float64       `json:"horizon_days"` // 0: none
	Due        string        `json:"due"`
	Shredded   uint64        `json:"shredded"`
	Epochs     []epochReport `json:"epochs"`
	Indexes    []indexReport `json:"indexes"`

	schedule crypto.Schedule
}

type epochReport struct {
	Epoch   uint32 `json:"epoch"`
	Created string `json:"created"`
	Current bool   `json:"current"`
	Ended   string `json:"ended"` // when nothing was wrapped in it any more; "": not yet
	Ends    string `json:"ends"`  // when its keys are to be destroyed; "": not known yet, or never
	Keys    int    `json:"keys"`  // subject keys wrapped in it
}

type indexReport struct {
	Index   string `json:"index"`
	Version uint32 `json:"version"`
	State   string `json:"state"`
}

func newKeysStatus() *cobra.Command {
	var dsn, keys string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status --db DSN",
		Short: "Show what a keyring holds: epochs, indexes, tombstones; never a key",
		Example: `  carrel keys status --db library.db
  carrel keys status --db library.db --keys /etc/carrel/keys --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "db"); err != nil {
				return err
			}
			return withDatabase(cmd.Context(), dsn, readOnly, func(d *database) error {
				f, err := d.findKeys(keys)
				if err != nil {
					return err
				}
				k, err := d.open(cmd.Context(), f)
				if err != nil {
					return err
				}
				r, err := d.keysReport(cmd.Context(), f, k)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd, r)
				}
				return r.print(cmd.OutOrStdout())
			})
		},
	}
	addDBFlag(cmd, &dsn)
	addKeysFlag(cmd, &keys)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (d *database) keysReport(ctx context.Context, f keyFiles, k *crypto.Keyring) (r keysReport, err error) {
	s, err := k.Status()
	if err != nil {
		return r, keyProblem(err)
	}
	r = keysReport{Keyring: f.keyring, ID: s.ID, Generation: s.Generation, Rotating: s.Rotating, Shredded: s.Shredded, Due: stamp(s.Due), schedule: s.Schedule}
	r.Every, r.Horizon = s.Due.Sub(s.Epochs[len(s.Epochs)-1].Created).Hours()/24, s.Schedule.Horizon.Hours()/24
	for _, e := range s.Epochs {
		one := epochReport{Epoch: e.Number, Created: e.Created.UTC().Format(time.RFC3339), Current: e.Current, Ended: stamp(e.Ended), Ends: stamp(e.Ends)}
		// Patrons' IDs: the keyring keeps a key of its own there, too.
		if err := d.db.QueryRowContext(ctx, "SELECT count(*) FROM subject_keys WHERE epoch = $1 AND length(subject) = 36", int64(e.Number)).Scan(&one.Keys); err != nil {
			return r, d.refused(ctx, err)
		}
		r.Epochs = append(r.Epochs, one)
	}
	for _, x := range s.Indexes {
		r.Indexes = append(r.Indexes, indexReport{x.Name, x.Version, x.State})
	}
	return r, nil
}

func (r keysReport) print(out io.Writer) error {
	state := ""
	if r.Rotating {
		state = "; a rotation was begun and not finished: carrel keys rotate goes on with it"
	}
	if _, err := fmt.Fprintf(out, "keyring %s of installation %s, change %d; %s forgotten%s\n\n", oneLine(r.Keyring), r.ID, r.Generation, plural(int(r.Shredded), "patron"), state); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "%s; the next begins %s\n\n", scheduled(r.schedule), r.Due); err != nil {
		return err
	}
	t := table{columns: words("EPOCH CREATED ENDED DESTROYED KEYS")}
	for _, e := range r.Epochs {
		name := fmt.Sprint(e.Epoch)
		if e.Current {
			name += " (current)"
		}
		t.add(name, e.Created, e.Ended, e.Ends, thousands(e.Keys))
	}
	if err := t.print(out); err != nil {
		return err
	}
	if _, err := io.WriteString(out, "\n"); err != nil {
		return err
	}
	t = table{columns: words("INDEX VERSION STATE")}
	for _, x := range r.Indexes {
		t.add(x.Index, fmt.Sprint(x.Version), x.State)
	}
	return t.print(out)
}

func rotateIndex(cmd *cobra.Command, d *database, k *crypto.Keyring, t *audit.Trail, actor, index string, asJSON bool) error {
	dir, err := d.directory(d.db, k, t, nil)
	if err != nil {
		return err
	}
	if err := k.RotateIndex(cmd.Context(), index); errors.Is(err, crypto.ErrNoIndex) {
		return fmt.Errorf("%s--index: the keyring has no such index; see carrel keys status", place(cmd))
	} else if err != nil {
		return keyProblem(err)
	}
	p := newProgress(cmd.ErrOrStderr(), "rewriting tokens", 0)
	rows := 0
	err = dir.Reindex(cmd.Context(), jobCall(actor, "systems", "maintenance"), func(n int) {
		rows = n
		p.set(int64(n), thousands(n)+" rows")
	})
	p.end()
	if errors.Is(err, context.Canceled) {
		return interruption("keys rotate: interrupted; run it again and it goes on")
	}
	if err != nil {
		return patronProblem(err)
	}
	if asJSON {
		return printJSON(cmd, struct {
			Index string `json:"index"`
			Rows  int    `json:"rows"`
		}{index, rows})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "index %s: a new key, %s written\n", oneLine(index), plural(rows, "row"))
	return err
}

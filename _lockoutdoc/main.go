package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/pressly/goose/v3"
	goredis "github.com/redis/go-redis/v9"
	_ "modernc.org/sqlite"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/lockout"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/memory"
	"github.com/carrel-project/carrel/store/redis"
	"github.com/carrel-project/carrel/store/sqlite"
)

// SNIP memory
func inMemory() (*lockout.Guard, error) {
	return lockout.New(memory.NewLockouts(), lockout.Config{Profile: lockout.PIN, Logger: slog.Default()})
}

// SNIP sqlite
func inSQLite(ctx context.Context) (*lockout.Guard, *audit.Trail, error) {
	db, err := sql.Open("sqlite", sqlite.DSN("/tmp/tmp.ZPmdAVuV3X/library.db")) // the driver: import _ "modernc.org/sqlite"
	if err != nil {
		return nil, nil, err
	}
	tables, err := goose.NewProvider(goose.DialectSQLite3, db, sqlite.Migrations())
	if err != nil {
		return nil, nil, err
	}
	if _, err := tables.Up(ctx); err != nil {
		return nil, nil, err
	}
	kek, err := crypto.OpenKEK("/tmp/tmp.ZPmdAVuV3X/kek")
	if err != nil {
		return nil, nil, err
	}
	keys, err := crypto.OpenKeyring(ctx, crypto.Config{Path: "/tmp/tmp.ZPmdAVuV3X/keys", KEK: kek, Store: sqlite.NewKeys(db)})
	if err != nil {
		return nil, nil, err
	}
	key, err := keys.LockoutKey(ctx)
	if err != nil {
		return nil, nil, err
	}
	trail, err := audit.New(ctx, audit.Config{Store: sqlite.NewLog(db), Keys: keys, Anchors: []audit.Anchor{audit.NewFileAnchor("/tmp/tmp.ZPmdAVuV3X/anchor")}})
	if err != nil {
		return nil, nil, err
	}
	guard, err := lockout.New(sqlite.NewLockouts(db), lockout.Config{
		Profile:  lockout.PIN,
		Key:      key,
		Audit:    trail,
		Fallback: memory.NewLockouts(), // without it every guess is refused while the database is down
		Logger:   slog.Default(),
	})
	return guard, trail, err
}

// SNIP redis
func inRedis(key crypto.Secret, trail *audit.Trail) (*lockout.Guard, error) {
	client := goredis.NewClient(&goredis.Options{ // github.com/redis/go-redis/v9
		Addr:                  "localhost:6379",
		ContextTimeoutEnabled: true, // otherwise the client waits its own timeouts out
		DialerRetries:         1,    // otherwise it tries five times to reach a server that is not there
		MaxRetries:            -1,   // and all of that four times
	})
	store, err := redis.NewLockouts(client, "carrel")
	if err != nil {
		return nil, err
	}
	return lockout.New(store, lockout.Config{Profile: lockout.PIN, Key: key, Audit: trail, Fallback: memory.NewLockouts(), Logger: slog.Default()})
}

// SNIP login
// A Login puts a guard around what the library system has already.
type Login struct {
	Guard   *lockout.Guard
	Find    func(ctx context.Context, login string) (id string, err error)        // "" when there is no such account
	Verify  func(ctx context.Context, id, password string) (right bool, err error) // compares something for "", too
	Trusted []netip.Prefix                                                         // your own proxies
}

// Check returns the account's ID if the password is right. Answer everything else with the same page.
func (l *Login) Check(r *http.Request, typed, password string) (id string, ok bool) {
	ctx := r.Context()
	if len(typed) > 256 || len(password) > 256 { // first of all, whoever it is
		return "", false
	}
	id, err := l.Find(ctx, typed)
	if err != nil {
		return "", false
	}
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	a := lockout.Attempt{
		Account: lockout.Account{Login: typed, ID: id},
		Source:  lockout.Source(peer.Addr(), r.Header.Values("X-Forwarded-For"), l.Trusted),
		Channel: audit.Self,
	}
	if c, err := r.Cookie("device"); err == nil {
		a.Device = c.Value
	}
	guess, err := l.Guard.Reserve(ctx, a) // counted, before the password is looked at
	if err != nil {
		return "", false // locked, busy or down
	}
	switch right, err := l.Verify(ctx, id, password); {
	case err != nil:
		guess.Abandon(ctx) // nothing was compared
		return "", false
	case !right:
		if err := guess.Failure(ctx); err != nil {
			slog.Error("a wrong guess", "error", err) // it counts all the same
		}
		return "", false
	}
	return id, guess.Success(ctx) == nil
}

// SNIP cookie
// Remember gives the device of somebody who has just logged in guesses of its own.
func (l *Login) Remember(w http.ResponseWriter, id string) {
	http.SetCookie(w, &http.Cookie{
		Name:     "device",
		Value:    l.Guard.Remember(lockout.Account{ID: id}),
		Path:     "/login", // nothing else reads it
		MaxAge:   int(lockout.DeviceLife / time.Second),
		Secure:   true,
		HttpOnly: true,
		SameSite: http.SameSiteLaxMode,
	})
}

// SNIP unlock
func unlock(ctx context.Context, guard *lockout.Guard, id string) error {
	by := audit.Event{Actor: "staff-17", Role: "circulation", Purpose: "checkout", Channel: audit.UI}
	return guard.Unlock(ctx, by, lockout.Account{ID: id}, "showed her card")
}

// SNIP find
func find(ctx context.Context, db *sql.DB, login string) (id string, err error) {
	err = db.QueryRowContext(ctx, "SELECT account FROM logins WHERE folded = ?", patron.Normalize(login)).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return id, err
}

// SNIP end
func main() {
	ctx := context.Background()
	if _, err := inMemory(); err != nil {
		log.Fatal(err)
	}
	g, trail, err := inSQLite(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer trail.Close(ctx)
	if len(os.Args) > 1 {
		g, err = inRedis(crypto.NewSecret(os.Args[1]), trail)
		fmt.Println(err)
		if err != nil {
			return
		}
	}
	for _, a := range []lockout.Account{{Login: "a", ID: "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"}, {Login: "x"}, {Login: "s", ID: "staff-9", Staff: true}} {
		for range 5 {
			r, err := g.Reserve(ctx, lockout.Attempt{Account: a})
			if err != nil {
				fmt.Println(err)
				continue
			}
			if err := r.Failure(ctx); err != nil {
				fmt.Println(err)
			}
		}
	}
	fmt.Println(unlock(ctx, g, "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"))
	fmt.Println(g.Lock(ctx, audit.Event{Actor: "staff-17", Channel: audit.UI}, lockout.Account{ID: "staff-9", Staff: true}, "case 7", time.Hour))
	l := &Login{Guard: g}
	_, _ = l.Check, l.Remember
	_ = find
}

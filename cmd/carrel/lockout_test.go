package main

import (
	"crypto/rand"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/lockout"
)

const (
	barcode77   = "29000000000077"
	nobodysID   = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
	lostLogin   = "nobody@example.org"
	roomAddress = "192.0.2.17"
)

// withGuard opens the guard of a login program on a database.
func withGuard(t testing.TB, db string, cfg lockout.Config, do func(*lockout.Guard)) {
	t.Helper()
	require.NoError(t, withDatabase(t.Context(), db, readWrite, func(d *database) error {
		k, err := d.openKeys(t.Context(), keysOf(db))
		require.NoError(t, err)
		cfg.Key, err = k.LockoutKey(t.Context())
		require.NoError(t, err)
		return d.withTrail(t.Context(), k, []string{besideOf(db) + ".anchor"}, func(trail *audit.Trail) error {
			cfg.Audit = trail
			g, err := lockout.New(d.lockouts(d.db), cfg)
			require.NoError(t, err)
			do(g)
			return nil
		})
	}))
}

// mistype guesses wrongly, so often.
func mistype(t testing.TB, g *lockout.Guard, a lockout.Attempt, times int) {
	t.Helper()
	a.Channel = audit.UI
	for range times {
		r, err := g.Reserve(t.Context(), a)
		require.NoError(t, err)
		require.NoError(t, r.Failure(t.Context()))
	}
}

func lockedOut(t testing.TB, r result) string {
	t.Helper()
	require.Equal(t, result{exitFound, r.out, ""}, r)
	return r.out
}

// events returns what the trail has of locks.
func lockEvents(t testing.TB, db string) (lines []string) {
	t.Helper()
	for line := range strings.Lines(good(t, carrel(t, reviewing(db, "log", "export")...))) {
		if strings.Contains(line, `"action":"lock"`) || strings.Contains(line, `"action":"unlock"`) {
			_, line, _ = strings.Cut(line, `"action"`)
			lines = append(lines, line)
		}
	}
	return lines
}

func TestLockoutOfAPatron(t *testing.T) { onBoth(t, testLockoutOfAPatron) }

func testLockoutOfAPatron(t *testing.T) {
	db, id := trailDB(t)
	status := []string{"lockout", "status", "--db", db}
	of := append(status, "--id", id)
	assert.Equal(t, "not locked, 5 guesses left\ncounted: no wrong guesses\n", good(t, carrel(t, of...)))
	assert.Contains(t, good(t, carrel(t, status...)), "locked                                           0\n")
	assert.Equal(t, `{"names":0,"sources":0,"locked":0,"holds":0}`+"\n", good(t, carrel(t, append(status, "--json")...)))

	account := lockout.Account{Login: barcode77, ID: id}
	withGuard(t, db, lockout.Config{}, func(g *lockout.Guard) {
		mistype(t, g, lockout.Attempt{Account: account}, 4)
		assert.Equal(t, "not locked, 1 guess left\ncounted: 4 wrong guesses\n", good(t, carrel(t, of...)))
		assert.Equal(t, "not locked, 3 guesses left\ncounted: 4 wrong guesses\n", good(t, carrel(t, append(of, "--attempts", "7")...)), "by the limits it is told")
		mistype(t, g, lockout.Attempt{Account: account}, 1)
		mistype(t, g, lockout.Attempt{Account: account, Device: g.Remember(account)}, 2)

		out := lockedOut(t, carrel(t, of...))
		assert.Regexp(t, `^locked until \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \(in 1[45]m[\ds]*\)\ncounted: 5 wrong guesses\napart from that: wrong guesses in 1 place of its own \(.*\), 0 locked\n$`, out)
		out = lockedOut(t, carrel(t, append(of, "--json")...))
		assert.Regexp(t, `^\{"locked":true,"locked_until":"[^"]+Z","hold":false,"failed":5,"left":0,"lanes":1,"locked_lanes":0\}\n$`, out)
		out = lockedOut(t, carrel(t, append(status, "--json")...))
		assert.Regexp(t, `^\{"names":1,"sources":0,"locked":1,"holds":0,"last_lock_ends":"[^"]+Z"\}\n$`, out)
		assert.Contains(t, lockedOut(t, carrel(t, status...)), "\nThe last lock ends at ")
		assert.Contains(t, lockedOut(t, carrelIn(t, barcode77+"\n", atDesk(db, "lockout", "status", "--identifier-file", "-")...)), "locked until ")

		out = good(t, carrelIn(t, barcode77+"\n", atDesk(db, "lockout", "unlock", "--identifier-file", "-", "--reason", "showed the card")...))
		assert.Equal(t, "unlocked: 5 wrong guesses forgotten, those in 1 place of its own forgotten\n", out)
		assert.Equal(t, "not locked, 5 guesses left\ncounted: no wrong guesses\n", good(t, carrel(t, of...)))
		mistype(t, g, lockout.Attempt{Account: account}, 1)
	})

	assert.Equal(t, "locked\n", good(t, carrel(t, "lockout", "lock", "--db", db, "--id", id, "--for", "2h", "--actor", "staff-18", "--reason", "card stolen")))
	assert.Regexp(t, `^locked by staff until .* \(in 2h\)|\(in 1h59m\d+s\)\ncounted: 1 wrong guess\n$`, lockedOut(t, carrel(t, of...)))
	assert.Contains(t, lockedOut(t, carrel(t, append(of, "--json")...)), `"hold":true,"failed":1,"left":0,`)
	withGuard(t, db, lockout.Config{}, func(g *lockout.Guard) {
		_, err := g.Reserve(t.Context(), lockout.Attempt{Account: account})
		require.ErrorIs(t, err, lockout.ErrLocked)
		assert.Equal(t, "unlocked: the lock by staff ended, 1 wrong guess forgotten\n",
			good(t, carrel(t, "lockout", "unlock", "--db", db, "--id", id, "--actor", "staff-18", "--reason", "found again")))
		require.Eventually(t, func() bool { // the login program has refused somebody, and remembers that for a second
			r, err := g.Reserve(t.Context(), lockout.Attempt{Account: account})
			return err == nil && r.Failure(t.Context()) == nil
		}, 20*time.Second, 50*time.Millisecond)
	})

	events := lockEvents(t, db)
	require.Len(t, events, 4)
	for i, want := range []string{
		`:"lock","outcome":"done","actor":"lockout","channel":"ui","count":1,"object":"account","subjects":[`,
		`:"unlock","outcome":"done","actor":"staff-17","role":"circulation","purpose":"checkout","channel":"cli","count":1,"object":"account","subjects":[`,
		`:"lock","outcome":"done","actor":"staff-18","channel":"cli","count":1,"object":"hold","subjects":[`,
		`:"unlock","outcome":"done","actor":"staff-18","channel":"cli","count":1,"object":"account","subjects":[`,
	} {
		assert.True(t, strings.HasPrefix(events[i], want), events[i])
		for _, secret := range []string{id, barcode77, "card", "found"} {
			assert.NotContains(t, events[i], secret, "it is sealed")
		}
	}
	_, code := verify(t, db)
	assert.Equal(t, exitGood, code)
}

func TestLockoutOfOthers(t *testing.T) { onBoth(t, testLockoutOfOthers) }

func testLockoutOfOthers(t *testing.T) {
	db, _ := trailDB(t)
	login := file(t, "login", lostLogin+"\n")
	withGuard(t, db, lockout.Config{Profile: lockout.PIN, Sources: 6}, func(g *lockout.Guard) {
		mistype(t, g, lockout.Attempt{Account: lockout.Account{Login: lostLogin}, Source: netip.MustParseAddr(roomAddress)}, 5)
		mistype(t, g, lockout.Attempt{Account: lockout.Account{Login: "carla", ID: "staff-9", Staff: true}, Source: netip.MustParseAddr(roomAddress)}, 1)
		mistype(t, g, lockout.Attempt{Account: lockout.Account{Login: "carla", ID: "staff-9", Staff: true}}, 4)
	})
	limits := []string{"--profile", "pin", "--sources", "6"}
	all := "" // that is printed
	for _, whom := range [][]string{{"--login-file", login}, {"--id", "staff-9", "--staff"}, {"--source", roomAddress}} {
		status := append(append([]string{"lockout", "status", "--db", db}, whom...), limits...)
		out := lockedOut(t, carrel(t, status...))
		assert.Contains(t, out, "locked until ", whom)
		if whom[0] != "--source" {
			assert.Contains(t, out, "counted: 5 wrong guesses, in 24 hours 5\n")
			assert.Contains(t, lockedOut(t, carrel(t, append(status, "--json")...)), `"failed":5,"left":0,"daily":5,"lanes":0,`)
		}
		r := carrel(t, append([]string{"lockout", "unlock", "--db", db, "--actor", "staff-17", "--reason", "case 7"}, whom...)...)
		forgotten := "5 wrong guesses"
		if whom[0] == "--source" {
			forgotten = "6 wrong guesses"
		}
		assert.Equal(t, result{exitGood, "unlocked: " + forgotten + " forgotten\n", ""}, r)
		all += out + good(t, carrel(t, status...))
	}
	assert.Contains(t, good(t, carrel(t, "lockout", "status", "--db", db, "--login-file", login)), "counted: no wrong guesses\nif it leads to an account, ask for that, with --identifier-file\n")
	staff9 := []string{"--db", db, "--id", "staff-9", "--staff"}
	assert.Equal(t, "locked\n", good(t, carrel(t, append([]string{"lockout", "lock", "--for", "3m", "--actor", "staff-17", "--reason", "case 8"}, staff9...)...)))
	assert.Contains(t, lockedOut(t, carrel(t, append([]string{"lockout", "status"}, staff9...)...)), "locked by staff until ")
	assert.Contains(t, lockedOut(t, carrel(t, "lockout", "status", "--db", db)), "of these by staff                                1\n")

	events := strings.Join(lockEvents(t, db), "")
	for _, want := range []string{
		`:"lock","outcome":"done","actor":"lockout","channel":"ui","object":"login"`, `:"lock","outcome":"done","actor":"lockout","channel":"ui","object":"source"`, `:"lock","outcome":"done","actor":"lockout","channel":"ui","object":"account staff-9"`,
		`:"unlock","outcome":"done","actor":"staff-17","channel":"cli","approval":"case 7","object":"login"`,
		`:"unlock","outcome":"done","actor":"staff-17","channel":"cli","approval":"case 7","object":"account staff-9"`,
		`:"unlock","outcome":"done","actor":"staff-17","channel":"cli","approval":"case 7","object":"source"`,
		`:"lock","outcome":"done","actor":"staff-17","channel":"cli","approval":"case 8","object":"hold staff-9"`,
	} {
		assert.Equal(t, 1, strings.Count(events, want), "%s in %s", want, events)
	}
	for _, secret := range []string{lostLogin, roomAddress} {
		assert.NotContains(t, events+all, secret)
	}
}

func TestLockoutRefuses(t *testing.T) {
	db, id := trailDB(t)
	login := file(t, "login", lostLogin+"\n")
	by := []string{"--actor", "staff-17", "--reason", "r"}
	for _, c := range []struct{ args, want string }{
		{"status", "lockout status: --db is missing"},
		{"status --db DB --id " + barcode77, "--id: not a patron's ID, as in 6f9619ff"},
		{"status --db DB --id a@example.org --source " + roomAddress, "want one of --id, --identifier-file, --login-file, --source, got --id and --source"},
		{"status --db DB --login-file LOGIN --identifier-file LOGIN", "got --identifier-file and --login-file"},
		{"status --db DB --source 192.0.2", "lockout status: --source: not an IP address, as in 192.0.2.17 or"},
		{"status --db DB --source 192.0.2.0/24", "not an IP address"},
		{"status --db DB --id=", "lockout status: --id is empty"},
		{"status --db DB --staff", "--staff goes with --id"},
		{"status --db DB --staff --source " + roomAddress, "--staff goes with --id"},
		{"status --db DB --identifier-file LOGIN", "--actor is missing"},
		{"status --db DB --identifier-file LOGIN --actor s --role circulation", "--purpose is missing"},
		{"status --db DB --identifier-file LOGIN --actor s --role circulation --purpose checkout", "nobody has this identifier; a login that leads to no account is named with --login-file"},
		{"status --db DB --identifier-file LOGIN --actor s --role circulaton --purpose checkout", `recorded (no-right); see carrel access check; role "circulaton" is not in the file; did you mean "circulation"?`},
		{"status --db DB --login-file NONE", "no such file"},
		{"status --db DB --profile pim", `--profile pim: want one of alma, nist, pci, pin; did you mean "pin"?`},
		{"status --db DB --keys NONE", "there is no keyring"},
		{"status --db NONE", "there is no such database"},
		{"status --db DB " + barcode77, "takes no argument besides its flags"},
		{"stats --db DB", `lockout: no command "stats"; did you mean "status"?`},
		{"unlock --db DB BY", "lockout unlock: whose? Name one with --id, --identifier-file, --login-file or --source"},
		{"unlock --db DB --id ID --actor s", "lockout unlock: --reason is missing: why, for the audit trail"},
		{"unlock --db DB --id ID --actor s --reason=", "--reason is missing"},
		{"unlock --db DB --id ID --reason r", "--actor is missing"},
		{"unlock --db DB --id ID --actor s --reason=a\tb", "--reason: want a text of one line"},
		{"unlock --db DB --id ID --actor s --reason " + strings.Repeat("a", 1025), "at most 1024 bytes"},
		{"unlock --db DB --id ID BY --profile pin", "lockout unlock: --profile: limits make no difference here; they are those of the login program"},
		{"lock --db DB --id ID BY", "lockout lock: --for: want 3m to 24h, as in 2h"},
		{"lock --db DB --id ID BY --for 2m59s", "--for: want 3m to 24h"},
		{"lock --db DB --id ID BY --for 25h", "--for: want 3m to 24h"},
		{"lock --db DB --id ID BY --for day", "--for: want a number and a unit, as in 2h"},
		{"lock --db DB BY --for 2h", "whose? Name one with --id or --identifier-file\n"},
		{"lock --db DB BY --for 2h --source " + roomAddress, "lockout lock: --source: a source cannot be locked"},
		{"lock --db DB BY --for 2h --login-file LOGIN", "lockout lock: --login-file: a login without an account cannot be locked; name a patron's account with --identifier-file"},
		{"lock --db DB BY --for 2h --identifier-file LOGIN --role circulation --purpose checkout", "nobody has this identifier\n"},
		{"lock --db DB BY --for 2h --profile " + barcode77, "lockout lock: --profile: limits make no difference here"},
		{"lock --db DB BY --for 2 --id ID", "lockout lock: --for: want a number and a unit, as in 2h\n"},
		{"lock --db DB BY --for 2h --id " + nobodysID, "lockout lock: --id: no such patron in DB; of a member of staff it goes with --staff"},
		{"unlock --db DB BY --id " + nobodysID, "lockout unlock: --id: no such patron in DB"},
		{"status --db DB --id " + nobodysID, "lockout status: --id: no such patron in DB"},
		{"lock --db DB BY --for 2h --id ID --role circulaton", `lockout lock: role "circulaton" is not in the file; did you mean "circulation"?`},
		{"unlock --db DB BY --id ID --role circulation --purpose chekout", `lockout unlock: purpose "chekout" is not in the file; did you mean "checkout"?`},
		{"unlock --db DB BY --login-file LOGIN --purpose chekout", `purpose "chekout" is not in the file`},
		{"status --db DB --id staff-9 --staff --role circulaton", `role "circulaton" is not in the file`},
		{"status --db DB --id ID --duration " + barcode77, "lockout status: --duration: want a number and a unit, as in 15m\n"},
		{"status --db DB --id ID --attempts " + barcode77 + "x", "lockout status: --attempts: want a whole number\n"},
		{"unlock --db DB BY --id ID --reson x", "lockout unlock: no flag --reson; did you mean \"--reason\"?"},
		{"unlock --db DB BY --id ID -b" + barcode77, "lockout unlock: no flag -b"},
		{"status --db DB --store mysql://root:geheim@host/db", "--store: want redis://HOST:PORT/DB"},
		{"status --db DB --store redis://root:geheim@host:port/db", "--store: not an address that can be read"},
		{"status --db DB --store redis://127.0.0.1:1 --prefix {a}", "--prefix: the prefix "},
		{"status --db DB --prefix a", "--prefix: goes with --store"},
	} {
		var args []string
		for _, a := range strings.Split(c.args, " ") {
			switch a {
			case "BY":
				args = append(args, by...)
			case "DB":
				args = append(args, db)
			case "ID":
				args = append(args, id)
			case "LOGIN":
				args = append(args, login)
			case "NONE":
				args = append(args, filepath.Join(t.TempDir(), "none"))
			default:
				args = append(args, a)
			}
		}
		r := carrel(t, append([]string{"lockout"}, args...)...)
		refused(t, r, strings.ReplaceAll(c.want, "in DB", "in "+db))
		for _, secret := range []string{barcode77, lostLogin, "a@example.org", "geheim"} {
			assert.NotContains(t, r.stderr, secret, c.args)
		}
	}
	assert.Empty(t, lockEvents(t, db))
	assert.JSONEq(t, `{"names":0,"sources":0,"locked":0,"holds":0}`, good(t, carrel(t, "lockout", "status", "--db", db, "--json")))
}

// Looking leaves nothing behind, unless somebody's identifier was looked up.
func TestLockoutStatusIsNotRecorded(t *testing.T) { onBoth(t, testLockoutStatusIsNotRecorded) }

func testLockoutStatusIsNotRecorded(t *testing.T) {
	db, id := trailDB(t)
	before, _ := verify(t, db)
	good(t, carrel(t, "lockout", "status", "--db", db, "--id", id))
	good(t, carrel(t, "lockout", "status", "--db", db))
	after, _ := verify(t, db)
	assert.Equal(t, before, after)
	good(t, carrelIn(t, barcode77+"\n", atDesk(db, "lockout", "status", "--identifier-file", "-")...))
	after, _ = verify(t, db)
	assert.Equal(t, before.Entries+1, after.Entries)
}

// Who unlocks nothing is told so, and where else to look.
func TestLockoutUnlocksNothing(t *testing.T) { onBoth(t, testLockoutUnlocksNothing) }

func testLockoutUnlocksNothing(t *testing.T) {
	db, id := trailDB(t)
	by := []string{"lockout", "unlock", "--db", db, "--actor", "staff-17", "--reason", "r"}
	const none = "nothing was counted or locked there; "
	const redis = "if guesses are counted in Redis, name it with --store and --prefix"
	for _, c := range []struct {
		whom []string
		want string
	}{
		{[]string{"--id", id}, none + redis + "; for the account of a member of staff add --staff\n"},
		{[]string{"--id", "staff-9", "--staff"}, none + redis + "\n"},
		{[]string{"--source", roomAddress}, none + redis + "\n"},
		{[]string{"--login-file", file(t, "login", barcode77)}, none + "of a login that leads to an account, unlock the account, with --identifier-file; " + redis + "\n"},
	} {
		assert.Equal(t, c.want, lockedOut(t, carrel(t, append(by, c.whom...)...)))
	}
	out := lockedOut(t, carrelIn(t, barcode77, append(by, "--identifier-file", "-", "--role", "circulation", "--purpose", "checkout")...))
	assert.Equal(t, none+redis+"\n", out)
	assert.Empty(t, lockEvents(t, db))
}

// Whatever the limits of the login program are, what it counted is found: also what no other limits count, and what is only at one device.
func TestLockoutUnlocksByAnyLimits(t *testing.T) { onBoth(t, testLockoutUnlocksByAnyLimits) }

func testLockoutUnlocksByAnyLimits(t *testing.T) {
	db, id := trailDB(t)
	account := lockout.Account{Login: barcode77, ID: id}
	unlock := []string{"lockout", "unlock", "--db", db, "--id", id, "--actor", "staff-17", "--reason", "r"}
	for _, p := range lockout.Profiles() {
		l := p.Limits()
		for _, cfg := range []lockout.Config{{Profile: p, Duration: l.MinDuration}, {Profile: p, Duration: l.MaxDuration}, {Profile: p, Attempts: l.MaxAttempts, Daily: l.MaxDaily}} {
			now := time.Now().Add(-l.MinDuration - time.Minute)
			if cfg.Duration == l.MaxDuration {
				now = time.Now().Add(-cfg.Duration + time.Minute)
			}
			cfg.Now = func() time.Time { return now }
			withGuard(t, db, cfg, func(g *lockout.Guard) {
				mistype(t, g, lockout.Attempt{Account: account}, 2)
			})
			assert.Equal(t, "unlocked: 2 wrong guesses forgotten\n", good(t, carrel(t, unlock...)), cfg)
			cfg.Now = nil
			withGuard(t, db, cfg, func(g *lockout.Guard) {
				mistype(t, g, lockout.Attempt{Account: account, Device: g.Remember(account)}, 1)
			})
			assert.Equal(t, "unlocked: those in 1 place of its own forgotten\n", good(t, carrel(t, unlock...)), cfg)
			lockedOut(t, carrel(t, unlock...))
		}
	}
}

// Without a look-up the access file does not decide, but its words are those that go to the trail.
func TestLockoutByIDTakesWordsOfTheAccessFile(t *testing.T) {
	onBoth(t, testLockoutByIDTakesWordsOfTheAccessFile)
}

func testLockoutByIDTakesWordsOfTheAccessFile(t *testing.T) {
	db, id := trailDB(t)
	lock := []string{"lockout", "lock", "--db", db, "--id", id, "--for", "3m", "--actor", "staff-17", "--reason", "r"}
	good(t, carrel(t, append(lock, "--role", "circulation", "--purpose", "checkout")...))
	good(t, carrel(t, append(lock, "--role", "cataloguing")...)) // which may not see any patron
	assert.Contains(t, lockEvents(t, db)[0], `"role":"circulation","purpose":"checkout"`)
	for _, name := range []string{"status", "unlock", "lock"} {
		help := strings.Join(strings.Fields(good(t, carrel(t, "lockout", name, "--help"))), " ")
		assert.Contains(t, help, "access file decides about the look-up of an identifier, and not about --id")
	}
	assert.Contains(t, good(t, carrel(t, "lockout", "status", "--help")), "The limits must be those of the login program")
}

// A server that counts instead of the database; the keys and the trail are still the database's.
func TestLockoutInRedis(t *testing.T) {
	db, id := trailDB(t)
	whom := []string{"--db", db, "--id", id}
	none := []string{"--store", "redis://:geheim@127.0.0.1:1/0"}
	for _, args := range [][]string{{"status"}, {"unlock", "--actor", "staff-17", "--reason", "r"}, {"lock", "--for", "3m", "--actor", "staff-17", "--reason", "r"}} {
		r := carrel(t, slices.Concat([]string{"lockout"}, args, whom, none)...)
		refused(t, r, "lockout "+args[0]+": redis://127.0.0.1:1: the connection failed")
		assert.NotContains(t, r.stderr, "geheim")
		assert.Equal(t, args[0] == "lock", strings.Contains(r.stderr, "; it was recorded and then not done: run it again\n"), r.stderr)
	}

	server := os.Getenv("CARREL_TEST_REDIS")
	if server == "" || strings.HasPrefix(server, "cluster://") {
		t.Skip("SKIPPED, NOTHING WAS TESTED: set CARREL_TEST_REDIS to a Redis server that may be written to, as in redis://127.0.0.1:6379/0")
	}
	there := []string{"--store", server, "--prefix", "test-" + strings.ToLower(rand.Text())}
	good(t, carrel(t, slices.Concat([]string{"lockout", "lock", "--for", "3m", "--actor", "staff-17", "--reason", "r"}, whom, there)...))
	assert.Contains(t, lockedOut(t, carrel(t, slices.Concat([]string{"lockout", "status"}, whom, there)...)), "locked by staff until ")
	good(t, carrel(t, slices.Concat([]string{"lockout", "status"}, whom)...))
	cmd := command(t, slices.Concat([]string{"lockout", "status", "--prefix", there[3]}, whom)...)
	cmd.Env = append(cmd.Env, "CARREL_LOCKOUT="+server)
	lockedOut(t, finish(t, cmd))
	unlock := slices.Concat([]string{"lockout", "unlock", "--actor", "staff-17", "--reason", "r"}, whom)
	assert.Contains(t, lockedOut(t, carrel(t, unlock...)), "nothing was counted or locked there; if guesses are counted in Redis")
	good(t, carrel(t, slices.Concat(unlock, there)...))
	assert.Contains(t, lockedOut(t, carrel(t, slices.Concat(unlock, there)...)), "nothing was counted or locked there; are --store and --prefix those of the login program?")
	good(t, carrel(t, slices.Concat([]string{"lockout", "status"}, whom, there)...))
	assert.Len(t, lockEvents(t, db), 4)
}

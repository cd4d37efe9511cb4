package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

// A site is an installation of which there is a backup: a database, and apart from it its keys and its anchor.
type site struct {
	db, keys, backup, secret string
}

// newSite makes one with patrons and loans, and backs it up.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{db: newDB(t), backup: filepath.Join(t.TempDir(), "library.age")}
	s.keys = keysOf(s.db)
	good(t, carrel(t, "import", "--db", s.db, "--patrons", file(t, "p.csv", patronsCSV)))
	good(t, carrel(t, "import", "--db", s.db, "--loans", file(t, "l.csv", "loan,borrower,returned\nl1,p-77,\nl2,p-78,\n")))
	var public string
	public, s.secret = ageKey(t)
	if strings.HasSuffix(t.Name(), "Killed") { // so that reading and writing it takes a part of the time
		execSQL(t, s.db, `CREATE TABLE filler (data BLOB); WITH RECURSIVE i (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 4) INSERT INTO filler SELECT randomblob(1000000) FROM i`)
	}
	good(t, carrel(t, "backup", "--db", s.db, "--out", s.backup, "--recipient", public))
	return s
}

// restore are the arguments that restore it, with the anchor of the database that was.
func (s *site) restore(to string, more ...string) []string {
	return append([]string{"restore", s.backup, "--db", to, "--identity-file", s.secret, "--keys", s.keys, "--anchor", s.db + ".anchor",
		"--actor", "systems-2", "--approval", "incident 7"}, more...)
}

// shred forgets whoever has an identifier.
func (s *site) shred(t *testing.T, identifier string) string {
	t.Helper()
	id := strings.TrimSpace(good(t, carrelIn(t, identifier+"\n", atDesk(s.db, "patron", "find", "--identifier-file", "-")...)))
	good(t, carrel(t, "keys", "shred", "--db", s.db, "--id", id, "--actor", "dpo", "--approval", "erasure"))
	return id
}

// Since the backup somebody was forgotten, and the keys were rotated: all of it is done again, and said.
func TestRestoreAfterRotation(t *testing.T) {
	s := newSite(t)
	before := listedBorrowers(t, s.db)
	s.shred(t, "29000000000078")
	good(t, carrel(t, "keys", "rotate", "--db", s.db))
	to := filepath.Join(t.TempDir(), "new.db")
	text := good(t, carrel(t, s.restore(to)...))
	assert.Regexp(t, `\A.*new.db: 1 patron, from a backup of \S+Z
Erased again: 1 patron who was forgotten since; unlinked: no records.
These name somebody who is forgotten, and are protected. Settle what they are about .*:
KIND +ID +REASONS +UNTIL +RULE
loan +l2 +unfinished +not known yet
Of epoch 2 now: 1 key rewrapped, \d tokens renewed.
Lost with what was not backed up: restrictions and waiting erasures .*
Recorded: the trail's entries \d+ to \d+ are lost. For carrel log verify: --known (\d+-\d+)
\z`, text)
	known := text[strings.LastIndex(text, " ")+1 : len(text)-1]
	info, err := os.Stat(to)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	at := []string{"--keys", s.keys, "--anchor", s.db + ".anchor"}
	assert.Contains(t, good(t, carrel(t, append([]string{"log", "verify", "--db", to, "--known", known}, at...)...)), "Otherwise nothing was changed.")
	after := listedBorrowers(t, to)
	assert.Len(t, after, len(before))
	assert.NotContains(t, after, before[0], "they are of the new epoch")
	assert.Contains(t, good(t, carrel(t, append([]string{"keys", "status", "--db", to}, at[:2]...)...)), "2 (current)")
	assert.Contains(t, good(t, carrelIn(t, "29000000000077\n", append(atDesk(to, "patron", "find", "--identifier-file", "-"), at...)...)), "-")
	assert.Equal(t, exitFound, carrelIn(t, "29000000000078\n", append(atDesk(to, "patron", "find", "--identifier-file", "-"), at...)...).code)
	assert.Equal(t, "nothing is due\n", good(t, carrel(t, append([]string{"keys", "rotate", "--due", "--db", to}, at...)...)))
}

// Since the backup somebody was forgotten, and the key of bar codes was rotated: those who live are found.
func TestRestoreAfterIndexRotation(t *testing.T) {
	s := newSite(t)
	s.shred(t, "29000000000078")
	good(t, carrel(t, "keys", "rotate", "--db", s.db, "--index", "identifier"))
	to := filepath.Join(t.TempDir(), "new.db")
	assert.Contains(t, good(t, carrel(t, s.restore(to)...)), "Erased again: 1 patron")
	at := []string{"--keys", s.keys, "--anchor", s.db + ".anchor"}
	assert.Contains(t, good(t, carrelIn(t, "29000000000077\n", append(atDesk(to, "patron", "find", "--identifier-file", "-"), at...)...)), "-")
	assert.Equal(t, exitFound, carrelIn(t, "29000000000078\n", append(atDesk(to, "patron", "find", "--identifier-file", "-"), at...)...).code)
}

// An index was rotated since: everybody is found all the same.
func TestRestoreAfterTheIndexWasRotated(t *testing.T) {
	s := newSite(t)
	good(t, carrel(t, "keys", "rotate", "--db", s.db, "--index", "identifier"))
	to := filepath.Join(t.TempDir(), "new.db")
	assert.Contains(t, good(t, carrel(t, s.restore(to)...)), "The tokens by which patrons are found were made anew: ")
	for _, identifier := range []string{"29000000000077", "beno"} {
		good(t, carrelIn(t, identifier+"\n", append(atDesk(to, "patron", "find", "--identifier-file", "-"), "--keys", s.keys, "--anchor", s.db+".anchor")...))
	}
}

// Nothing was lost: nothing is declared.
func TestRestoreOfTheLastState(t *testing.T) {
	s := newSite(t)
	to := filepath.Join(t.TempDir(), "new.db")
	require.NoError(t, os.Remove(s.db))
	r := reportOf[restoreReport](t, carrel(t, s.restore(to, "--json")...))
	assert.Equal(t, []int{2, 0, 0, 0}, []int{r.Patrons, r.Reerased, r.Rewrapped, r.Renewed})
	assert.Equal(t, r.From, r.To)
	good(t, carrel(t, "log", "verify", "--db", to, "--keys", s.keys, "--anchor", s.db+".anchor"))
}

// Of an epoch whose keys are destroyed nothing is restored.
func TestRestoreOlderThanTheHorizon(t *testing.T) {
	s := newSite(t)
	d, err := openDatabase(t.Context(), s.db, readWrite)
	require.NoError(t, err)
	defer d.close()
	k, err := d.openKeys(t.Context(), s.keys)
	require.NoError(t, err)
	require.NoError(t, k.SetSchedule(t.Context(), crypto.Schedule{Horizon: 24 * time.Hour}))
	_, err = k.Rotate(t.Context(), nil)
	require.NoError(t, err)
	kek, err := crypto.OpenKEK(s.keys + ".kek")
	require.NoError(t, err)
	k, err = crypto.OpenKeyring(t.Context(), crypto.Config{Path: s.keys, KEK: kek, Store: d.keys(d.db), Tokens: d, Now: func() time.Time { return time.Now().Add(48 * time.Hour) }})
	require.NoError(t, err)
	ended, err := k.Tend(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, []uint32{1}, ended.Ended)
	to := filepath.Join(t.TempDir(), "new.db")
	refused(t, carrel(t, s.restore(to)...), "restore: the database is older than the backup horizon: the keys that opened it have been destroyed", "restore a younger backup")
	assert.Empty(t, names(t, filepath.Dir(to)))
	r := carrel(t, "backup", "verify", s.backup, "--identity-file", s.secret, "--keys", s.keys)
	assert.Equal(t, exitFound, r.code)
	assert.Contains(t, r.out, "older than the backup horizon")
}

// What stands in the way is named, and what was begun is gone on with.
func TestRestoreRefuses(t *testing.T) {
	s := newSite(t)
	to := filepath.Join(t.TempDir(), "new.db")
	restore := func(args []string) result { return carrel(t, args...) }
	require.NoError(t, os.WriteFile(to+"-wal", nil, 0o600))
	refused(t, restore(s.restore(to)), "new.db-wal: is there already")
	require.NoError(t, os.Remove(to+"-wal"))
	refused(t, restore(s.restore(filepath.Join(to, "x", "y.db"))), "cannot be made")
	other := newSite(t)
	refused(t, restore(append(s.restore(to), "--keys", other.keys)), "is not the keyring of this backup")
	refused(t, restore(append(s.restore(to), "--keys", to+".keys")), "there is no keyring")
	assert.Empty(t, names(t, filepath.Dir(to)))

	release, err := claim(to + ".restoring")
	require.NoError(t, err)
	refused(t, restore(s.restore(to)), "new.db.restoring: another process is at work there")
	release()
	require.NoError(t, os.Remove(to+".restoring"))

	// Without its anchor nothing is begun. If that is lost, the backup has the checkpoint to begin one with.
	_, files := opened(t, s.backup, s.secret)
	lost := *s
	lost.db = filepath.Join(t.TempDir(), "lost.db")
	refused(t, restore(lost.restore(to)), "lost.db.anchor: there is none; say with --anchor where it is kept")
	assert.Empty(t, names(t, filepath.Dir(to)))
	manifest := reportOf[backupManifest](t, result{out: string(files[manifestName])})
	require.NoError(t, os.WriteFile(lost.db+".anchor", []byte(manifest.Trail.Checkpoint), 0o600))
	good(t, restore(lost.restore(to)))
	good(t, carrel(t, "log", "verify", "--db", to, "--keys", s.keys, "--anchor", lost.db+".anchor"))

	// One that was begun is gone on with, and with no other.
	begun := filepath.Join(t.TempDir(), "begun.db")
	require.NoError(t, os.Rename(s.db+".anchor", s.db+".aside"))
	require.NoError(t, os.WriteFile(s.db+".anchor", []byte("Dear auditor"), 0o600))
	refused(t, restore(s.restore(begun)), "is not an anchor of this trail")
	assert.Equal(t, []string{"begun.db.restoring"}, names(t, filepath.Dir(begun)))
	require.NoError(t, os.Rename(s.db+".aside", s.db+".anchor"))
	good(t, carrel(t, "backup", "--db", s.db, "--out", s.backup+"2", "--passphrase-file", file(t, "phrase", "correct horse\r\n")))
	second := []string{"restore", s.backup + "2", "--db", begun, "--passphrase-file", file(t, "phrase", "correct horse"), "--keys", s.keys, "--anchor", s.db + ".anchor", "--actor", "a", "--approval", "b"}
	refused(t, restore(second), "holds another backup, whose restore was begun and not finished")
	good(t, restore(s.restore(begun)))
	assert.Equal(t, []string{"begun.db"}, names(t, filepath.Dir(begun)))

	// An older carrel's is brought up to date; a newer one's is not.
	later, path := *s, filepath.Join(t.TempDir(), "later.db")
	later.altered(t, "PRAGMA user_version = 99")
	refused(t, restore(later.restore(path+".new")), "newer carrel")
	assert.NoDirExists(t, path+".new.restoring")
}

// altered makes another backup of the site, of a database that somebody has changed.
func (s *site) altered(t *testing.T, query string) {
	t.Helper()
	_, files := opened(t, s.backup, s.secret)
	path := filepath.Join(t.TempDir(), "altered.db")
	require.NoError(t, os.WriteFile(path, files[databaseName], 0o600))
	execSQL(t, path, query)
	var public string
	public, s.secret = ageKey(t)
	s.backup = path + ".age"
	sealBackup(t, s.backup, path, public, reportOf[backupManifest](t, result{out: string(files[manifestName])}))
}

// What somebody changed before the backup, or a disk, does not keep the rest from being restored, and is said.
func TestRestoreOfWhatIsNotWhole(t *testing.T) {
	for said, query := range map[string]string{
		"The audit trail in the backup was changed by somebody": "UPDATE trail_tree SET checkpoint = CAST('x' AS BLOB)",
		"because nothing opens it: 1 key.":                      "UPDATE subject_keys SET wrapped = zeroblob(60) WHERE subject = (SELECT min(subject) FROM subject_keys WHERE length(subject) = 36)",
	} {
		s := newSite(t)
		good(t, carrel(t, "keys", "rotate", "--db", s.db))
		good(t, carrel(t, "keys", "rotate", "--db", s.db, "--index", "identifier"))
		s.altered(t, query)
		to := filepath.Join(t.TempDir(), "new.db")
		r := carrel(t, s.restore(to)...)
		assert.Equal(t, exitFound, r.code, "%s: %s", said, r.stderr)
		assert.Contains(t, r.out, said)
		assert.Equal(t, []string{"new.db"}, names(t, filepath.Dir(to)))
	}
}

// killed runs the command and kills it after a random part of the time that it takes, and reports whether it was over by then.
func killed(t *testing.T, most time.Duration, signal os.Signal, args ...string) (over bool) {
	t.Helper()
	cmd := command(t, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	n, err := rand.Int(rand.Reader, big.NewInt(int64(most)))
	require.NoError(t, err)
	time.Sleep(time.Duration(n.Int64()))
	cmd.Process.Signal(signal)
	var exit *exec.ExitError
	err = cmd.Wait()
	if err != nil {
		require.ErrorAs(t, err, &exit)
		if code := cmd.ProcessState.ExitCode(); code != -1 {
			require.Equal(t, exitInterrupted, code, out.String())
		}
	}
	return err == nil
}

// kills is how often; and how long the command takes.
func kills(t *testing.T, args func() []string) (times int, most time.Duration) {
	began := time.Now()
	good(t, carrel(t, args()...))
	if times = 5; os.Getenv("CARREL_TEST_LONG") != "" {
		times = 300
	}
	return times, time.Since(began) * 11 / 10
}

// Killed at any moment, a backup is whole or not there; interrupted, it leaves nothing.
func TestBackupKilled(t *testing.T) {
	s := newSite(t)
	public, secret := ageKey(t)
	dir, n := t.TempDir(), 0
	out := func() string { return filepath.Join(dir, fmt.Sprint(n, ".age")) }
	args := func() []string { n++; return []string{"backup", "--db", s.db, "--out", out(), "--recipient", public} }
	times, most := kills(t, args)
	for _, signal := range []os.Signal{os.Kill, os.Interrupt} {
		whole := 0
		for range times {
			over := killed(t, most, signal, args()...)
			_, err := os.Stat(out())
			if over {
				require.NoError(t, err)
			}
			if err == nil {
				whole++
				_, files := opened(t, out(), secret)
				require.Len(t, files, 3)
			}
			partial, err := filepath.Glob(filepath.Join(dir, "*.partial"))
			require.NoError(t, err)
			for _, name := range partial {
				require.Equal(t, os.Kill, signal, "interrupted, it leaves nothing: %s", name)
				require.NoError(t, os.Remove(name))
			}
		}
		t.Logf("%v: %d of %d were whole", signal, whole, times)
	}
	good(t, carrel(t, args()...))
	good(t, carrel(t, "log", "verify", "--db", s.db))
}

// Killed at any moment, a restore has put all of it in place or nothing, and is run again; in the end it is the same, and the trail goes on.
func TestRestoreKilled(t *testing.T) {
	s := newSite(t)
	s.shred(t, "29000000000078")
	good(t, carrel(t, "keys", "rotate", "--db", s.db))
	copied := func() *site { // each time as if it were the first
		c := *s
		dir := t.TempDir()
		c.db, c.keys = filepath.Join(dir, "was.db"), filepath.Join(dir, "keys")
		for _, suffix := range []string{"", ".kek", ".ledger"} {
			data, err := os.ReadFile(s.keys + suffix)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(c.keys+suffix, data, 0o600))
		}
		data, err := os.ReadFile(s.db + ".anchor")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(c.db+".anchor", data, 0o600))
		return &c
	}
	times, most := kills(t, func() []string { c := copied(); return c.restore(filepath.Join(filepath.Dir(c.keys), "new.db")) })
	for _, signal := range []os.Signal{os.Kill, os.Interrupt} {
		before := 0
		for range times {
			c := copied()
			to := filepath.Join(filepath.Dir(c.keys), "new.db")
			for try := 0; ; try++ {
				over := killed(t, most, signal, c.restore(to)...)
				if _, err := os.Stat(to); err == nil {
					break
				}
				require.False(t, over)
				before++
				if try == 2 {
					good(t, carrel(t, c.restore(to)...))
					break
				}
			}
			if _, err := os.Stat(to + ".restoring"); err == nil { // killed when it was over
				refused(t, carrel(t, c.restore(to)...), "is there already")
				require.NoDirExists(t, to+".restoring")
			}
			v := reportOf[verified](t, carrel(t, "log", "verify", "--db", to, "--keys", c.keys, "--anchor", c.db+".anchor", "--json"))
			require.Len(t, v.Findings, 1, "%v", v.Findings)
			require.Equal(t, audit.Declared, v.Findings[0].Kind)
			require.Zero(t, v.Unanchored)
			d, err := openDatabase(t.Context(), to, readOnly)
			require.NoError(t, err)
			k, err := d.openKeys(t.Context(), c.keys)
			require.NoError(t, err)
			left, err := d.keySubjects(t.Context(), "")
			require.NoError(t, err)
			require.Len(t, left, 1)
			forgotten, err := k.Forgotten(t.Context(), left[0])
			require.NoError(t, err)
			require.Empty(t, forgotten)
			epoch, err := d.TokenEpoch(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 2, epoch)
			require.NoError(t, d.close())
		}
		t.Logf("%v: %d times in %d before it was in place", signal, before, times)
	}
}

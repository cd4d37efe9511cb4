package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
)

// ageKey returns a public key, and a file with the secret one.
func ageKey(t testing.TB) (public, secret string) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	secret = filepath.Join(t.TempDir(), "age.key")
	require.NoError(t, os.WriteFile(secret, []byte("# a comment\n"+id.String()+"\n"), 0o600))
	return id.Recipient().String(), secret
}

// opened returns the files of a backup.
func opened(t testing.TB, backup, secret string) (names []string, files map[string][]byte) {
	t.Helper()
	key, err := os.Open(secret)
	require.NoError(t, err)
	defer key.Close()
	ids, err := age.ParseIdentities(key)
	require.NoError(t, err)
	f, err := os.Open(backup)
	require.NoError(t, err)
	defer f.Close()
	plain, err := age.Decrypt(f, ids...)
	require.NoError(t, err)
	files = map[string][]byte{}
	for in := tar.NewReader(plain); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return names, files
		}
		require.NoError(t, err)
		assert.EqualValues(t, 0o600, h.Mode)
		names = append(names, h.Name)
		files[h.Name], err = io.ReadAll(in)
		require.NoError(t, err)
	}
}

func reportOf[T any](t testing.TB, r result) (report T) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(r.out), &report), "%s%s", r.out, r.stderr)
	return report
}

func TestBackup(t *testing.T) {
	db, _ := trailDB(t)
	public, secret := ageKey(t)
	out := filepath.Join(t.TempDir(), "library.age")
	base := []string{"backup", "--db", db, "--recipient", public, "--approval", "backup policy 2026-2", "--actor", "job-backup"}

	r := reportOf[backupReport](t, carrel(t, append(base, "--out", out, "--json")...))
	info, err := os.Stat(out)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	assert.Equal(t, info.Size(), r.Bytes)
	left, err := filepath.Glob(out + "*")
	require.NoError(t, err)
	assert.Equal(t, []string{out}, left)

	// What is in it, and what never is.
	names, files := opened(t, out, secret)
	assert.Equal(t, []string{"head.json", "library.db", "manifest.json"}, names)
	var head backupHead
	var m backupManifest
	require.NoError(t, json.Unmarshal(files[headName], &head))
	require.NoError(t, json.Unmarshal(files[manifestName], &m))
	assert.Equal(t, head, m.backupHead)
	assert.Equal(t, m, r.backupManifest)
	assert.EqualValues(t, len(files[databaseName]), m.Size)
	assert.EqualValues(t, 2, m.Counts["patrons"])
	assert.EqualValues(t, 1, m.Epoch)
	assert.Contains(t, m.Trail.Checkpoint, fmt.Sprintf("carrel/trail/%s\n%d\n", m.Keyring, m.Trail.Size))
	assert.Zero(t, m.Trail.Pending)
	for _, suffix := range []string{"", ".kek", ".ledger"} {
		key, err := os.ReadFile(keysOf(db) + suffix)
		require.NoError(t, err)
		for name, data := range files {
			assert.NotContains(t, string(data), string(key[:40]), "%s in %s", suffix, name)
		}
	}
	data, err := os.ReadFile(out)
	require.NoError(t, err)
	assert.NotContains(t, string(data), sqliteMagic)
	log := good(t, carrel(t, reviewing(db, "log", "export", "--action", "export")...))
	assert.Contains(t, log, `"action":"export","outcome":"done","actor":"job-backup","role":"systems"`)
	assert.Contains(t, log, `"object":"backup"`)
	assert.Contains(t, log, `"approval":"backup policy 2026-2"`)
	assert.Contains(t, good(t, carrel(t, reviewing(db, "log", "report", "exposure", "--staff", "job-backup", "--since", "2026-01-01")...)), "no patrons, no records", "nobody was shown anything")

	refused(t, carrel(t, append(base, "--out", out)...), "backup: "+out+": is there already; it is not overwritten")
	for want, args := range map[string][]string{
		"--out is missing": base,
		"--recipient: want the public key of age-keygen, age1…":   {"backup", "--db", db, "--out", out + "2", "--recipient", "AGE-SECRET-KEY-1XYZ"},
		"--recipient is missing: who may open it":                 {"backup", "--db", db, "--out", out + "2"},
		"either --passphrase-file or public keys":                 append(base, "--out", out+"2", "--passphrase-file", secret),
		"want public keys of age-keygen, age1…, one a line":       {"backup", "--db", db, "--out", out + "2", "--recipients-file", secret},
		"its first line is empty":                                 {"backup", "--db", db, "--out", out + "2", "--passphrase-file", file(t, "empty", "\nx")},
		"there is no such database":                               {"backup", "--db", db + "x", "--out", out + "2", "--recipient", public},
		"docs/backups.md has the steps":                           {"backup", "--db", "postgres://u@h/d", "--out", out + "2", "--recipient", public},
		`backup: no command "verfy"; did you mean "verify"?`:      {"backup", "verfy", out},
		"cannot be written: no such file or directory":            {"backup", "--db", db, "--out", filepath.Join(out+"2", "x"), "--recipient", public},
		"backup verify: want either --identity-file":              {"backup", "verify", out},
		"which file? want the name of one backup":                 {"backup", "verify", "--identity-file", secret},
		"a database on PostgreSQL is backed up and restored":      {"restore", out, "--db", "postgres://u@h/d", "--identity-file", secret, "--actor", "a", "--approval", "b"},
		"restore: --approval is missing":                          {"restore", out, "--db", db + "n", "--identity-file", secret, "--actor", "a"},
		"library.age: no such file":                               {"restore", filepath.Join(t.TempDir(), "library.age"), "--db", db + "n", "--identity-file", secret, "--actor", "a", "--approval", "b"},
		"is not an age file, or only a part of one":               {"restore", secret, "--db", db + "n", "--identity-file", secret, "--actor", "a", "--approval", "b"},
		"want a file of age-keygen with a secret key, AGE-SECRET": {"restore", out, "--db", db + "n", "--identity-file", out, "--actor", "a", "--approval", "b"},
	} {
		r := carrel(t, args...)
		refused(t, r, want)
		assert.NotContains(t, r.stderr, "XYZ")
	}
	left, err = filepath.Glob(filepath.Join(filepath.Dir(out), "*"))
	require.NoError(t, err)
	assert.Equal(t, []string{out}, left, "whatever failed has left nothing")
}

// ageTool builds the tool that people have.
func ageTool(t testing.TB) string {
	t.Helper()
	tool := filepath.Join(t.TempDir(), "age.exe")
	build, err := exec.Command("go", "build", "-o", tool, "filippo.io/age/cmd/age").CombinedOutput()
	require.NoError(t, err, string(build))
	return tool
}

// A trail that somebody changed stops no backup: it is evidence. It is said, and found again.
func TestBackupOfATamperedTrail(t *testing.T) {
	db, _ := trailDB(t)
	public, secret := ageKey(t)
	out := filepath.Join(t.TempDir(), "library.age")
	execSQL(t, db, "UPDATE trail_tree SET checkpoint = CAST('x' AS BLOB)")
	refused(t, carrel(t, "backup", "--db", db, "--out", out, "--recipient", public), "was changed by somebody", "the backup was written all the same")
	r := carrel(t, "backup", "verify", out, "--identity-file", secret, "--keys", keysOf(db))
	assert.Equal(t, exitFound, r.code)
	assert.Regexp(t, `trail +failed`, r.out)
	assert.Equal(t, []string{"library.age"}, names(t, filepath.Dir(out)))
}

// The backup opens with the tools that everybody has.
func TestBackupOpensWithAge(t *testing.T) {
	tool := ageTool(t)
	db, _ := trailDB(t)
	public, secret := ageKey(t)
	other, otherSecret := ageKey(t)
	out := filepath.Join(t.TempDir(), "library.age")
	good(t, carrel(t, "backup", "--db", db, "--out", out, "--recipient", public, "--recipients-file", file(t, "keys", "# of the safe\n"+other+"\n")))
	for _, key := range []string{secret, otherSecret} {
		cmd := exec.Command(tool, "-d", "-i", key, out)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		plain, err := cmd.Output()
		require.NoError(t, err, stderr.String())
		dir := t.TempDir()
		untar := exec.Command("tar", "-x", "-C", dir)
		untar.Stdin = bytes.NewReader(plain)
		text, err := untar.CombinedOutput()
		require.NoError(t, err, string(text))
		good(t, carrel(t, "log", "verify", "--db", filepath.Join(dir, databaseName), "--keys", keysOf(db), "--anchor", db+".anchor"))
	}
}

func TestBackupVerify(t *testing.T) {
	db, id := trailDB(t)
	public, secret := ageKey(t)
	dir := t.TempDir()
	out := filepath.Join(dir, "library.age")
	good(t, carrel(t, "backup", "--db", db, "--out", out, "--recipient", public))
	tmp := t.TempDir()
	verify := func(name string, args ...string) result {
		cmd := command(t, append([]string{"backup", "verify", name, "--identity-file", secret}, args...)...)
		cmd.Env = append(cmd.Env, "TMPDIR="+tmp, "TMP="+tmp)
		r := finish(t, cmd)
		left, err := os.ReadDir(tmp)
		require.NoError(t, err)
		assert.Empty(t, left, "nothing of it stays")
		return r
	}
	assert.Contains(t, good(t, verify(out, "--keys", keysOf(db), "--json")), `"state":"ok"`)
	text := good(t, verify(out, "--keys", keysOf(db)))
	assert.Contains(t, text, "opens what is sealed")
	assert.NotContains(t, text, "Tunda")
	assert.Contains(t, good(t, verify(out)), "was not looked at: name the keyring")

	// Another keyring, another key.
	other, _ := trailDB(t)
	refused(t, verify(out, "--keys", keysOf(other)), "backup verify: "+keysOf(other)+": is not the keyring of this backup")
	_, wrong := ageKey(t)
	refused(t, carrel(t, "backup", "verify", out, "--identity-file", wrong), "this identity or passphrase does not open it")

	// Damage anywhere, and the end missing.
	data, err := os.ReadFile(out)
	require.NoError(t, err)
	for what, bad := range map[string][]byte{
		"a byte":           append(bytes.Clone(data[:len(data)/2]), append([]byte{data[len(data)/2] ^ 1}, data[len(data)/2+1:]...)...),
		"the last byte":    append(bytes.Clone(data[:len(data)-1]), data[len(data)-1]^1),
		"cut":              data[:len(data)*2/3],
		"cut near the end": data[:len(data)-1000],
		"more":             append(bytes.Clone(data), 0),
	} {
		r := verify(file(t, "bad.age", string(bad)))
		assert.Equal(t, exitFound, r.code, what)
		assert.Contains(t, r.out, "damaged, or a part is missing", what)
		r = carrel(t, "restore", file(t, "bad.age", string(bad)), "--db", filepath.Join(dir, "no.db"), "--identity-file", secret, "--keys", keysOf(db), "--anchor", db+".anchor", "--actor", "a", "--approval", "b")
		refused(t, r, "the backup is damaged, or a part of one; nothing was restored")
	}
	assert.Empty(t, slices.DeleteFunc(names(t, dir), func(name string) bool { return name == "library.age" }))

	// Somebody who has the public key may write a backup, too: of what is not as the trail was signed, or not as counted, or another database.
	_, files := opened(t, out, secret)
	forged := func(change func(db string, m *backupManifest)) string {
		path := filepath.Join(t.TempDir(), "forged.db")
		require.NoError(t, os.WriteFile(path, files[databaseName], 0o600))
		var m backupManifest
		require.NoError(t, json.Unmarshal(files[manifestName], &m))
		change(path, &m)
		name := filepath.Join(t.TempDir(), "forged.age")
		sealBackup(t, name, path, public, m)
		return name
	}
	for want, change := range map[string]func(string, *backupManifest){
		"not as many as the manifest says in patrons":       func(_ string, m *backupManifest) { m.Counts["patrons"]++ },
		"not as many as the manifest says in grants, other": func(_ string, m *backupManifest) { delete(m.Counts, "grants"); m.Counts["other"] = 0 },
		"2 findings; carrel log verify": func(db string, _ *backupManifest) {
			execSQL(t, db, "UPDATE trail_entries SET body = CAST(replace(CAST(body AS TEXT), 'staff-17', 'staff-19') AS BLOB) WHERE number = 2")
		},
		"does not open what is sealed": func(db string, _ *backupManifest) {
			execSQL(t, db, "UPDATE subject_keys SET wrapped = zeroblob(60) WHERE length(subject) = 36")
		},
		"integrity  failed": func(db string, _ *backupManifest) {
			data, err := os.ReadFile(db)
			require.NoError(t, err)
			for i := 5 * 4096; i < len(data); i += 4096 {
				copy(data[i:], bytes.Repeat([]byte{0xee}, 100))
			}
			require.NoError(t, os.WriteFile(db, data, 0o600))
		},
		"is no SQLite database": func(db string, _ *backupManifest) {
			require.NoError(t, os.WriteFile(db, []byte("Dear auditor"), 0o600))
		},
	} {
		r := verify(forged(change), "--keys", keysOf(db))
		assert.Equal(t, exitFound, r.code, want)
		assert.Contains(t, r.out, want)
	}

	// Everybody in it was forgotten.
	_ = id
	d, err := openDatabase(t.Context(), db, readWrite)
	require.NoError(t, err)
	k, err := d.openKeys(t.Context(), keysOf(db))
	require.NoError(t, err)
	all, err := d.keySubjects(t.Context(), "")
	require.NoError(t, err)
	require.NoError(t, k.Shred(t.Context(), all...))
	require.NoError(t, d.close())
	assert.Contains(t, good(t, verify(out, "--keys", keysOf(db))), "nobody is in it who could be opened")
}

// names returns what is in a directory.
func names(t testing.TB, dir string) (list []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, one := range all {
		list = append(list, one.Name())
	}
	return list
}

// sealBackup writes a backup of any file.
func sealBackup(t testing.TB, name, path, public string, m backupManifest) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	m.Size = int64(len(data))
	to, err := age.ParseX25519Recipient(public)
	require.NoError(t, err)
	out, err := os.Create(name)
	require.NoError(t, err)
	defer out.Close()
	at, err := time.Parse(time.RFC3339, m.Created)
	require.NoError(t, err)
	_, err = writeBackup(t.Context(), out, []age.Recipient{to}, m.backupHead, at, bytes.NewReader(data), func() (backupManifest, error) { return m, nil }, func(int64) {})
	require.NoError(t, err)
}

// What is no backup, or not yet or no longer one of this format, is refused with a line that says so.
func TestOtherFilesAreNoBackups(t *testing.T) {
	public, secret := ageKey(t)
	to, err := age.ParseX25519Recipient(public)
	require.NoError(t, err)
	sealed := func(files ...string) string {
		var b bytes.Buffer
		w, err := age.Encrypt(&b, to)
		require.NoError(t, err)
		tw := tar.NewWriter(w)
		for i := 0; i < len(files); i += 2 {
			require.NoError(t, tw.WriteHeader(&tar.Header{Name: files[i], Size: int64(len(files[i+1])), Mode: 0o600}))
			io.WriteString(tw, files[i+1])
		}
		require.NoError(t, tw.Close())
		require.NoError(t, w.Close())
		return file(t, "some.age", b.String())
	}
	for want, name := range map[string]string{
		"is a backup of format 2; this carrel reads format 1": sealed(headName, `{"carrel-backup":2}`),
		"not a backup of carrel's":                            sealed("other", "{}"),
		"is an age file, but":                                 sealed(headName, "{"),
		"damaged":                                             sealed(headName, `{"carrel-backup":1,"size":-1}`),
	} {
		refused(t, carrel(t, "backup", "verify", name, "--identity-file", secret), want)
	}
	for _, name := range []string{
		sealed(headName, `{"carrel-backup":1,"size":3}`),
		sealed(headName, `{"carrel-backup":1,"size":3}`, databaseName, "abcd"),
		sealed(headName, `{"carrel-backup":1,"size":3}`, "../library.db", "abc"),
		sealed(headName, `{"carrel-backup":1,"size":3}`, databaseName, "abc"),
		sealed(headName, `{"carrel-backup":1,"size":3}`, databaseName, "abc", manifestName, `{"carrel-backup":1,"size":3,"sha256":"00"}`),
		sealed(headName, `{"carrel-backup":1,"size":3}`, databaseName, "abc", manifestName, `{"carrel-backup":1,"size":3,"sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}`, "more", ""),
		sealed(headName, `{"carrel-backup":1,"size":3}`, databaseName, "abc", manifestName, `{"carrel-backup":1,"size":4,"sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}`),
	} {
		r := carrel(t, "backup", "verify", name, "--identity-file", secret)
		assert.Equal(t, exitFound, r.code)
		assert.Contains(t, r.out, "damaged, or a part is missing")
	}
}

// The ledger is asked before anything is unpacked.
var ledgerDefects = map[string]func(t *testing.T, ledger string, older []byte){
	"missing": func(t *testing.T, ledger string, _ []byte) { require.NoError(t, os.Remove(ledger)) },
	"older": func(t *testing.T, ledger string, older []byte) {
		require.NoError(t, os.WriteFile(ledger, older, 0o600))
	},
	"forged": func(t *testing.T, ledger string, _ []byte) {
		data, err := os.ReadFile(ledger)
		require.NoError(t, err)
		data[len(data)-40] ^= 1
		require.NoError(t, os.WriteFile(ledger, data, 0o600))
	},
	"truncated": func(t *testing.T, ledger string, _ []byte) {
		data, err := os.ReadFile(ledger)
		require.NoError(t, err)
		lines := bytes.SplitAfter(data, []byte("\n"))
		require.NoError(t, os.WriteFile(ledger, bytes.Join(lines[:len(lines)-2], nil), 0o600))
	},
}

// A thousand patrons are backed up, a hundred of them forgotten, and the backup restored: the hundred stay forgotten, the others are there.
func TestForgottenStayForgottenInBackups(t *testing.T) {
	patrons := 1000
	if raceDetector {
		patrons = 50
	}
	var csv strings.Builder
	csv.WriteString("patron,barcode,last,expires\n")
	for n := range patrons {
		fmt.Fprintf(&csv, "p%d,2900000%06d,Lastname%d,2030-01-01\n", n, n, n)
	}
	db := newDB(t)
	good(t, carrel(t, "import", "--db", db, "--patrons", file(t, "p.csv", csv.String())))
	good(t, carrel(t, "import", "--db", db, "--loans", file(t, "l.csv", "loan,borrower,returned\nl1,p1,\nl2,p999,\n")))
	public, secret := ageKey(t)
	backup := filepath.Join(t.TempDir(), "library.age")
	good(t, carrel(t, "backup", "--db", db, "--out", backup, "--recipient", public))
	older, err := os.ReadFile(keysOf(db) + ".ledger")
	require.NoError(t, err)

	d, err := openDatabase(t.Context(), db, readWrite)
	require.NoError(t, err)
	k, err := d.openKeys(t.Context(), "")
	require.NoError(t, err)
	subjects, err := d.keySubjects(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, subjects, patrons)
	erased := patrons / 10
	require.NoError(t, k.Shred(t.Context(), subjects[:erased]...))
	require.NoError(t, d.close())

	// The machine is gone; backup, keys and anchor are not.
	keys := func() string {
		at := filepath.Join(t.TempDir(), "ring")
		for _, suffix := range []string{"", ".kek", ".ledger"} {
			data, err := os.ReadFile(keysOf(db) + suffix)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(at+suffix, data, 0o600))
		}
		data, err := os.ReadFile(db + ".anchor")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(at+".anchor", data, 0o600))
		return at
	}
	restore := func(to, keys string, more ...string) result {
		return carrel(t, append([]string{"restore", backup, "--db", to, "--identity-file", secret, "--keys", keys, "--anchor", keys + ".anchor", "--actor", "systems-2", "--approval", "incident 7"}, more...)...)
	}
	stopped := 0
	for _, what := range slices.Sorted(maps.Keys(ledgerDefects)) {
		at, to := keys(), filepath.Join(t.TempDir(), "new.db")
		ledgerDefects[what](t, at+".ledger", older)
		refused(t, restore(to, at), "ledger")
		assert.Empty(t, names(t, filepath.Dir(to)), "nothing readable is there: %s", what)
		stopped++
	}
	assert.Equal(t, 4, stopped)

	at, to := keys(), filepath.Join(t.TempDir(), "new.db")
	r := reportOf[restoreReport](t, restore(to, at, "--json"))
	assert.Equal(t, erased, r.Reerased)
	assert.Equal(t, patrons-erased, r.Patrons)
	assert.Zero(t, r.Epoch, "all of it is of the newest epoch")
	assert.Equal(t, []string{"new.db"}, names(t, filepath.Dir(to)))
	refused(t, restore(to, at), "is there already; it is not overwritten")

	d, err = openDatabase(t.Context(), to, readOnly)
	require.NoError(t, err)
	defer d.close()
	k, err = d.openKeys(t.Context(), at)
	require.NoError(t, err)
	left, err := d.keySubjects(t.Context(), "")
	require.NoError(t, err)
	assert.ElementsMatch(t, subjects[erased:], left, "the keys of the others, and no more")
	var rows, tokens int
	require.NoError(t, d.db.QueryRow("SELECT (SELECT count(*) FROM patrons), (SELECT count(*) FROM patron_tokens)").Scan(&rows, &tokens))
	assert.Equal(t, patrons-erased, rows)
	assert.Equal(t, 2*rows, tokens)
	refusals, readable := 0, 0
	before, err := openDatabase(t.Context(), db, readOnly) // in which the rows of all are
	require.NoError(t, err)
	defer before.close()
	all, err := before.patrons(before.db).Rows(t.Context(), patron.Query{Limit: patrons + 1})
	require.NoError(t, err)
	require.Len(t, all, patrons)
	for _, row := range all {
		s := row.Segments[0]
		switch _, err := k.Open(t.Context(), row.ID.Subject(), crypto.Sealed{Label: s.Segment.String(), Revision: s.Revision, Data: s.Data}); {
		case slices.Contains(subjects[:erased], row.ID.Subject()):
			require.ErrorIs(t, err, crypto.ErrShredded)
			refusals++
		default:
			require.NoError(t, err)
			readable++
		}
	}
	assert.Equal(t, []int{erased, patrons - erased}, []int{refusals, readable})
	show := func(id crypto.Subject) []string {
		return []string{"patron", "show", "--id", string(id), "--db", to, "--keys", at, "--anchor", at + ".anchor", "--actor", "a", "--role", "circulation", "--purpose", "checkout"}
	}
	for _, n := range []int{0, erased - 1} {
		refused(t, carrel(t, show(subjects[n])...), "no such patron")
	}
	for _, n := range []int{erased, patrons - 1} {
		assert.Contains(t, good(t, carrel(t, show(subjects[n])...)), "Lastname")
	}
	good(t, carrel(t, "import", "--db", to, "--keys", at, "--anchor", at+".anchor", "--loans", file(t, "l.csv", "loan,borrower,returned\nl1,p1,\n")))
	log := good(t, carrel(t, append(reviewing(to, "log", "export", "--action", "import"), "--keys", at, "--anchor", at+".anchor")...))
	assert.Contains(t, log, `"object":"backup"`)
	assert.Contains(t, log, `"approval":"incident 7"`)
}

package residue

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"
	"pgregory.net/rapid"
)

// rowsOf reads all rows of all tables of a file with our reader, as texts.
func rowsOf(t testing.TB, path string) map[string][]string {
	all := map[string][]string{}
	require.NoError(t, withFiles(path, func(parts [3]part) error {
		d, err := openSQLite(parts[0], parts[1])
		require.NoError(t, err)
		d.known = make([]uint8, d.pages+1)
		tables, damage := d.schema()
		require.False(t, damage)
		for _, table := range tables {
			if table.index || strings.HasPrefix(table.name, "sqlite_") {
				continue
			}
			inner, leaves, damage := d.walk(table.root)
			require.False(t, damage)
			for _, n := range append(inner, leaves...) {
				p, err := d.page(n, d.one)
				require.NoError(t, err)
				require.True(t, d.rows(p, n, table, func(r *record) {
					line := ""
					for i, c := range r.cells {
						if i >= len(table.columns) {
							break
						}
						line += table.columns[i] + "=" + shown(r, c) + ";"
					}
					all[table.name] = append(all[table.name], line)
				}))
			}
		}
		return nil
	}))
	return all
}

func shown(r *record, c cell) string {
	switch c.kind {
	case kindNull:
		return "null"
	case kindInt:
		return fmt.Sprint(c.n)
	case kindReal:
		return "real"
	}
	return fmt.Sprintf("%q", r.body[c.off:c.end])
}

// What our reader reads is what the driver reads, in databases of random shapes: sizes of pages, encodings, modes, tables
// with and without rowid, values that overflow, rows that were deleted and changed, a log that was not emptied.
func TestReaderReadsWhatTheDriverReads(t *testing.T) {
	seeds := uint64(24)
	if RaceDetector {
		seeds = 5
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			path := filepath.Join(t.TempDir(), "x.db")
			db, err := sql.Open("sqlite", "file:"+filepath.ToSlash(path)+"?_pragma=synchronous(off)")
			require.NoError(t, err)
			defer db.Close()
			db.SetMaxOpenConns(1)
			exec := func(s string, args ...any) {
				_, err := db.Exec(s, args...)
				require.NoError(t, err, s)
			}
			exec(fmt.Sprintf("PRAGMA page_size = %d", 512<<rng.IntN(8)))
			exec("PRAGMA encoding = '" + []string{"UTF-8", "UTF-16le", "UTF-16be"}[rng.IntN(3)] + "'")
			exec(fmt.Sprintf("PRAGMA auto_vacuum = %d", rng.IntN(3)))
			exec("PRAGMA journal_mode = " + []string{"DELETE", "WAL", "WAL", "PERSIST"}[rng.IntN(4)])
			exec("PRAGMA wal_autocheckpoint = " + fmt.Sprint([]int{0, 10, 1000}[rng.IntN(3)]))
			tables := map[string]string{
				"plain":  `CREATE TABLE plain (a INTEGER PRIMARY KEY, b TEXT, "c d" BLOB, e REAL, UNIQUE (b))`,
				"keyed":  `CREATE TABLE keyed (x TEXT, a INTEGER, b TEXT, c BLOB, PRIMARY KEY (b, a)) WITHOUT ROWID`,
				"bare":   `CREATE TABLE [bare] (b, a INT, c /* , */ DEFAULT (1 + 2), d GENERATED ALWAYS AS (a + 1) VIRTUAL, e AS (a + 2) STORED)`,
				"strict": `CREATE TABLE strict (a INT PRIMARY KEY, b TEXT REFERENCES plain (b), c ANY) STRICT`,
			}
			for _, name := range []string{"plain", "keyed", "bare", "strict"} {
				exec(tables[name])
			}
			exec("CREATE INDEX plain_c ON plain (\"c d\")")
			text := func() string {
				n := rng.IntN(40)
				if rng.IntN(20) == 0 {
					n = rng.IntN(30_000)
				}
				var b strings.Builder
				for range n {
					b.WriteRune([]rune("abcdefgåß語😀0123 ")[rng.IntN(16)])
				}
				return b.String()
			}
			for i := range 400 {
				n := rng.Int64N(1<<uint(1+rng.IntN(62))) - int64(rng.IntN(300))
				switch rng.IntN(6) {
				case 0:
					exec("INSERT OR IGNORE INTO plain VALUES (?, ?, ?, ?)", n, fmt.Sprint(i, text()), []byte(text()), float64(n)/3)
				case 1:
					exec("INSERT OR IGNORE INTO keyed VALUES (?, ?, ?, ?)", text(), n, fmt.Sprint(i, text()), []byte(text()))
				case 2:
					exec("INSERT INTO bare (b, a, c) VALUES (?, ?, ?)", text(), rng.IntN(1000), nil)
				case 3:
					exec("INSERT OR IGNORE INTO strict VALUES (?, ?, ?)", n>>32, text(), []byte(text()))
				case 4:
					exec("UPDATE plain SET \"c d\" = ? WHERE a % 7 = ?", []byte(text()), rng.IntN(7))
				case 5:
					exec("DELETE FROM "+[]string{"plain", "keyed", "bare"}[rng.IntN(3)]+" WHERE a % 50 = ?", rng.IntN(50))
				}
			}
			exec("ALTER TABLE plain ADD COLUMN late TEXT")

			got := rowsOf(t, path)
			for name := range tables {
				columns := map[string][]string{"plain": {"a", "b", "c d", "e"}, "keyed": {"b", "a", "x", "c"}, "bare": {"b", "a", "c", "e"}, "strict": {"a", "b", "c"}}[name]
				rows, err := db.Query(`SELECT "` + strings.Join(columns, `", "`) + `" FROM ` + name)
				require.NoError(t, err)
				var want []string
				for rows.Next() {
					values := make([]any, len(columns))
					to := make([]any, len(columns))
					for i := range values {
						to[i] = &values[i]
					}
					require.NoError(t, rows.Scan(to...))
					line := ""
					for i, v := range values {
						switch v := v.(type) {
						case nil:
							line += columns[i] + "=null;"
						case int64:
							line += fmt.Sprintf("%s=%d;", columns[i], v)
						case float64:
							line += columns[i] + "=real;"
							if v == float64(int64(v)) && v < 1<<53 && v > -1<<53 {
								line = strings.TrimSuffix(line, "real;") + fmt.Sprintf("%d;", int64(v))
							}
						case string:
							line += fmt.Sprintf("%s=%q;", columns[i], v)
						case []byte:
							line += fmt.Sprintf("%s=%q;", columns[i], v)
						}
					}
					want = append(want, line)
				}
				require.NoError(t, rows.Close())
				slices.Sort(want)
				slices.Sort(got[name])
				require.Equal(t, len(want), len(got[name]), name)
				for i := range want {
					require.Equal(t, want[i], got[name][i], name)
				}
			}
		})
	}
}

// A damaged file is an error or a report, and never a panic or an endless loop.
func FuzzSQLite(f *testing.F) {
	for _, wal := range []bool{false, true} {
		path := filepath.Join(f.TempDir(), "seed.db")
		db, err := sql.Open("sqlite", path)
		require.NoError(f, err)
		if wal {
			_, err = db.Exec("PRAGMA page_size = 512; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0")
		} else {
			_, err = db.Exec("PRAGMA page_size = 512")
		}
		require.NoError(f, err)
		_, err = db.Exec(`CREATE TABLE a (id INTEGER PRIMARY KEY, who TEXT UNIQUE, what TEXT); CREATE TABLE k (x TEXT PRIMARY KEY, y) WITHOUT ROWID;
			INSERT INTO a VALUES (1, 'patron-000001', 'item-0000001'), (2, 'x', printf('%.2000c', 'y')); INSERT INTO k VALUES ('patron-000001', 'item-0000001'); DELETE FROM a WHERE id = 2`)
		require.NoError(f, err)
		main, err := os.ReadFile(path)
		require.NoError(f, err)
		log, _ := os.ReadFile(path + "-wal")
		require.NoError(f, db.Close())
		f.Add(main, log, []byte("patron-000001 item-0000001"))
		f.Add(main[:len(main)/2], log[:len(log)/2], []byte{})
	}
	f.Fuzz(func(t *testing.T, main, log, journal []byte) {
		s := NewSample(0)
		s.Add(Pair{Person: []string{"patron-000001", "1"}, Thing: []string{"item-0000001", "2"}})
		of := func(b []byte) part { return part{bytes.NewReader(b), int64(len(b))} }
		r, err := New(s, Config{}).sqlite(context.Background(), [3]part{of(main), of(log), of(journal)})
		if err == nil && r == nil {
			t.Error("neither a report nor an error")
		}
	})
}

// An identifier is found in whatever encoding and wherever it stands, and is not found in a longer one.
func TestSpellingsAreFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9\-._@/ åö]{6,30}[A-Za-z0-9]`).Draw(t, "id")
		if !strong(id) {
			return
		}
		s := NewSample(0)
		s.Add(Pair{Person: []string{id}, Thing: []string{"another thing"}})
		x := newIndex(newPeople(s))
		x.build()
		before, after := rapid.StringMatching(`[ -~]{0,40}[ :;?]`).Draw(t, "before"), rapid.StringMatching(`([ :;?][ -~]{0,40})?`).Draw(t, "after")
		plain := before + id + after
		for name, text := range map[string]string{
			"plain": plain, "backwards": backwards(plain), "lower": before + strings.ToLower(id) + after,
			"hex": hex.EncodeToString([]byte(plain)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(plain))),
			"base64": base64.StdEncoding.EncodeToString([]byte(plain)), "URL": base64.RawURLEncoding.EncodeToString([]byte(plain)),
		} {
			r := &record{body: []byte(text), cells: []cell{{kind: kindText, end: int32(len(text))}}}
			if hits := x.row(r, nil); !slices.ContainsFunc(hits, func(h hit) bool { return h.node == 0 }) {
				t.Fatalf("%s: not found", name)
			}
		}
		longer := []byte(before + id + string(id[len(id)-1]) + after)
		if strings.Count(string(longer), id) > 1 {
			return
		}
		for name, text := range map[string]string{"plain": string(longer), "hex": hex.EncodeToString(longer), "base64": base64.StdEncoding.EncodeToString(longer)} {
			r := &record{body: []byte(text), cells: []cell{{kind: kindText, end: int32(len(text))}}}
			if hits := x.row(r, nil); len(hits) > 0 && !strings.Contains(strings.ToLower(before+"\x00"+after), strings.ToLower(id)) {
				t.Fatalf("%s: found in a longer one", name)
			}
		}
	})
}

// The matcher finds what a search for each of the patterns finds.
func TestMatcherFindsAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SliceOfN(rapid.SampledFrom([]byte("ab0")), 0, 300).Draw(t, "text")
		words := rapid.SliceOfNDistinct(rapid.StringMatching(`[ab0]{7,12}`), 1, 40, rapid.ID).Draw(t, "words")
		var pats []pattern
		for i, w := range words {
			pats = append(pats, pattern{spelling: spelling{text: []byte(w)}, id: int32(i)})
		}
		m := newMatcher(pats)
		found := m.find(text, nil)
		want := 0
		for _, w := range words {
			for i := 0; i+len(w) <= len(text); i++ {
				if string(text[i:i+len(w)]) == w {
					want++
				}
			}
		}
		if len(found) != want {
			t.Fatalf("%d found, want %d", len(found), want)
		}
		for _, o := range found {
			if p := m.pats[o.pat]; string(text[o.at:o.at+len(p.text)]) != string(p.text) {
				t.Fatal("something else stands there")
			}
		}
	})
}

func FuzzComposite(f *testing.F) {
	f.Add([]byte(`(1,"two, or ""more""",\x00ff,)`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p := &postgres{}
		p.parse(text, []bool{false, true, true})
		for _, c := range p.rec.cells {
			_ = p.rec.body[c.off:c.end]
		}
	})
}

func TestComposite(t *testing.T) {
	p := &postgres{}
	p.parse([]byte(`(1,"two, or ""more"" \\ x",\x00ff,,"",last)`), []bool{false, false, true, false, false, false})
	var got []string
	for _, c := range p.rec.cells {
		got = append(got, shown(&p.rec, c))
	}
	assert.Equal(t, []string{`"1"`, `"two, or \"more\" \\ x"`, `"\x00\xff"`, "null", `""`, `"last"`}, got)
}

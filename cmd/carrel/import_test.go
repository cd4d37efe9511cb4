package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/circulation"
)

// dataDir finds the public data sets that tests use where they are present.
func dataDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join("..", "..", "..", "shared", "data")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("SKIPPED: the data sets are not here: %v", err)
	}
	return dir
}

const loansCSV = `loan,borrower,group,item,library,location,loaned,due,returned,lost,claimed_returned
l1,p1,student,i1,main,stacks,2026-01-10,2026-02-10,2026-02-01,,
l2,p1,student,i2,main,stacks,2026-01-10,2026-02-10,,yes,
l3,p2,staff,i3,main,stacks,2026-01-10T09:30:00+01:00,2026-02-10,2026-02-03 10:00:00,1,true
`

func newDB(t testing.TB) string {
	t.Helper()
	if onPostgres(t) {
		return newSchema(t)
	}
	return filepath.Join(t.TempDir(), "test.db")
}

func importJSON(t testing.TB, args ...string) (report importReport) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(good(t, carrel(t, append([]string{"import", "--json"}, args...)...))), &report))
	return report
}

// linked returns how many records of a kind name a borrower.
func linked(t testing.TB, db string, kind circulation.Kind) int {
	t.Helper()
	return sweepJSON(t, "--db", db, "--policy", file(t, "p.yaml", simplePolicy), "--dry-run").Kinds[kind.String()].LinkedBefore
}

func TestImport(t *testing.T) { onBoth(t, testImport) }

func testImport(t *testing.T) {
	db := newDB(t)
	patrons := file(t, "patrons.csv", "\ufeffpatron,group,expires,history,shoe_size\np1,student,2027-06-30,keep,42\np2,staff,,,43\n")
	loans := filepath.Join(t.TempDir(), "loans.csv.gz")
	require.NoError(t, os.WriteFile(loans, pack(t, loansCSV), 0o644))
	requests := file(t, "requests.jsonl", `{"request":1,"borrower":"p1","proxy":"p1","item":"i1","requested":"2026-01-01","filled":"2026-01-09","loan":"l1","categories":["a","b"]}
{"request":"2","borrower":"p2","cancelled":null,"requested":"2026-01-01"}
`)
	sharing := file(t, "sharing.csv", "sharing,borrower,state,closed,request\ns1,p2,completed,2026-02-02,2\ns2,p1,,,\n")
	fees := file(t, "fees.csv", "fee,loan,borrower,library,kind,amount,charged,status,closed,payment_method\nf1,l1,p1,main,overdue,1.5,2026-02-01,paid,2026-02-02,cash\nf2,l2,p1,main,lost,60,2026-03-01,open,,\n")
	notices := file(t, "notices.csv", "notice,borrower,type,created,sent,failed,loan,body\nn1,p1,overdue,2026-02-11,2026-02-12,,l2,\"bring it,\nback\"\n")

	args := []string{"--db", db, "--patrons", patrons, "--loans", loans, "--requests", requests, "--sharing", sharing, "--fees", fees, "--notices", notices}
	report := importJSON(t, args...)
	require.Len(t, report.Files, 6)
	for i, want := range []fileReport{
		{Kind: "patrons", Rows: 2, Added: 2, IgnoredColumns: []string{"shoe_size"}},
		{Kind: "loans", Rows: 3, Added: 3, MarksCleared: 1, IgnoredColumns: []string{}},
		{Kind: "requests", Rows: 2, Added: 2, IgnoredColumns: []string{}},
		{Kind: "sharing", Rows: 2, Added: 2, IgnoredColumns: []string{}},
		{Kind: "fees", Rows: 2, Added: 2, IgnoredColumns: []string{}},
		{Kind: "notices", Rows: 1, Added: 1, IgnoredColumns: []string{}},
	} {
		want.File = report.Files[i].File
		assert.Equal(t, want, report.Files[i])
	}
	if !onPostgres(t) {
		info, err := os.Stat(db)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "nobody else reads who borrowed what")
	}

	again := importJSON(t, args...)
	for _, f := range again.Files {
		assert.Equal(t, f.Rows, f.Same, f.Kind)
	}
	out := good(t, carrel(t, append([]string{"import"}, args...)...))
	assert.Contains(t, out, "columns that carrel does not read: shoe_size")
	assert.Contains(t, out, "MARKS-CLEARED")

	// What was unlinked stays so, and a late fee for it loses its pointer.
	good(t, carrel(t, "sweep", "--db", db, "--policy", file(t, "p.yaml", simplePolicy)))
	late := file(t, "late.csv", "fee,loan,borrower,status\nf9,l1,p1,open\n")
	report = importJSON(t, "--db", db, "--loans", loans, "--fees", late)
	assert.Equal(t, 2, report.Files[0].AlreadyUnlinked)
	assert.Equal(t, 1, report.Files[1].PointersDropped)
}

func TestImportKnowsNull(t *testing.T) {
	db := newDB(t)
	importJSON(t, "--db", db, "--loans", file(t, "l.csv", "loan,borrower,returned\nl1, NULL,2026-01-01\nl2,p1,\\N \n"))
	plan := sweepJSON(t, "--db", db, "--policy", file(t, "p.yaml", simplePolicy), "--dry-run")
	assert.Equal(t, 1, plan.Kinds["loan"].LinkedBefore, "nobody is called NULL")
}

func TestImportRefuses(t *testing.T) {
	const head = "loan,borrower,loaned,returned,renewals,lost\n"
	for _, c := range []struct{ name, flag, file, text, want string }{
		{"empty", "--loans", "l.csv", "", "the file is empty"},
		{"empty jsonl", "--loans", "l.jsonl", "", "the file is empty"},
		{"no id", "--loans", "l.csv", "lone,borrower,returned\nx,y,\n", `has no column loan; did you mean its column "lone" to be loan?`},
		{"no borrower", "--loans", "l.csv", "loan,borower,returned\nx,y,\n", `has no column borrower; did you mean its column "borower"`},
		{"no patron", "--patrons", "p.csv", "id,group\nx,y\n", "has no column patron"},
		{"semicolons", "--loans", "l.csv", "loan;borrower\nx;y\n", "not separated by commas"},
		{"twice", "--loans", "l.csv", "loan,borrower,borrower\nx,y,z\n", "columns 2 and 3 have the same name"},
		{"utf-16", "--loans", "l.csv", "\xff\xfel\x00o\x00", "UTF-16"},
		{"name", "--loans", "l.txt", head, "want .csv, .csv.gz, .jsonl or .jsonl.gz"},
		{"gzip", "--loans", "l.csv.gz", "\x1f\x8b\x08", "ends too early"},
		{"no returned", "--loans", "l.csv", "loan,borrower,return\nx,y,\n", `has no column returned; did you mean its column "return" to be returned? Rename it there or with --map; if there is none on purpose, the map says returned: ~`},
		{"no pointer", "--fees", "f.csv", "fee,borrower,status\nx,y,open\n", "has no column loan"},
		{"no request's borrower", "--requests", "r.csv", "request,who\nx,y\n", "has no column borrower"},
		{"no sharing's borrower", "--sharing", "s.csv", "sharing\nx\n", "has no column borrower"},
		{"no notice's borrower", "--notices", "n.csv", "notice\nx\n", "has no column borrower"},
		{"long row", "--loans", "l.csv", "loan,borrower,returned\nl1,\"" + strings.Repeat("x\n", 9<<20), "after line 1: more than 16 MiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := newDB(t)
			refused(t, carrel(t, "import", "--db", db, c.flag, file(t, c.file, c.text)), c.file, c.want)
			assert.NoFileExists(t, db, "a database for nothing")
		})
	}
	for _, c := range []struct{ name, flag, file, text, want string }{
		{"time", "--loans", "l.csv", head + "l1,p1,yesterday,,,\n", ":2: column loaned: not a time"},
		{"number", "--loans", "l.csv", head + "l1,p1,,,many,\n", ":2: column renewals: want a whole number"},
		{"bool", "--loans", "l.csv", head + "l1,p1,,,,perhaps\n", ":2: column lost: want yes or no"},
		{"id", "--loans", "l.csv", head + ",p1,,,,\n", ":2: column loan: is empty"},
		{"fields", "--loans", "l.csv", head + "l1,p1\n", ":2: not as many fields"},
		{"quote", "--loans", "l.csv", head + "l1,\"p\"1,,,,\n", ":2: not CSV"},
		{"utf-8", "--loans", "l.csv", head + "l1,p\xe5,,,,\n", ":2: column borrower: not UTF-8"},
		{"proxy", "--requests", "r.csv", "request,borrower,proxy\nr1,,p2\n", ":2: the request names a proxy but no borrower"},
		{"two ends", "--requests", "r.csv", "request,borrower,filled,expired\nr1,,2026-01-01,2026-01-02\n", ":2: column expired: has a date, and so has filled"},
		{"pointer", "--fees", "f.csv", "fee,loan,borrower,status\nf1,,,open\nf2,l77,,open\n", ":3: column loan: names a loan that is not in the database"},
		{"status", "--fees", "f.csv", "fee,loan,borrower,status\nf1,,,payed\n", `:2: column status: want open, in-process, paid, waived or exported; did you mean "paid"?`},
		{"no status", "--fees", "f.csv", "fee,loan,borrower,status,amount\nf1,,,,3\n", ":2: column status: is empty"},
		{"amount", "--fees", "f.csv", "fee,loan,borrower,amount,status\nf1,,,\"1,50\",open\n", ":2: column amount: want an amount"},
		{"open but closed", "--fees", "f.csv", "fee,loan,borrower,status,closed\nf1,,,open,2026-01-01\n", ":2: column closed: has a date"},
		{"state", "--sharing", "s.csv", "sharing,borrower,state\ns1,,compleeted\n", `:2: column state: want nothing, requested, shipped, received, completed, cancelled or rejected; did you mean "completed"?`},
		{"history", "--patrons", "p.csv", "patron,history\np1,forgit\n", `:2: column history: want nothing, keep or forget; did you mean "forget"?`},
		{"jsonl", "--loans", "l.jsonl", "{\"loan\":\"l1\",\"borrower\":\"p1\",\"returned\":null}\n{\"loan\":\"l2\",\n", ":2: not JSON"},
		{"jsonl returned", "--loans", "l.jsonl", `{"loan":"l1","borrower":"p1"}`, ":1: key returned is missing"},
		{"jsonl utf-8", "--loans", "l.jsonl", "{\"loan\":\"l1\",\"borrower\":\"p\xe5\",\"returned\":null}", ":1: not UTF-8"},
		{"jsonl half", "--loans", "l.jsonl", `{"loan":"l1","borrower":"p\ud83d","returned":null}`, ":1: a \\u escape is half of a character"},
		{"jsonl other half", "--loans", "l.jsonl", `{"loan":"l1","borrower":"p\udcd6","returned":null}`, ":1: a \\u escape is half of a character"},
		{"jsonl unknown twice", "--loans", "l.jsonl", `{"loan":"l1","borrower":"p1","returned":null,"p-7":1,"p-7":2}`, ":1: a key appears twice"},
		{"jsonl key", "--loans", "l.jsonl", "{\"loan\":\"l1\"}\n", ":1: key borrower is missing"},
		{"jsonl twice", "--loans", "l.jsonl", "{\"loan\":\"l1\",\"borrower\":\"a\",\"borrower\":\"b\"}\n", `:1: key "borrower" appears twice`},
		{"jsonl object", "--loans", "l.jsonl", "{\"loan\":\"l1\",\"borrower\":{}}\n", ":1: key \"borrower\": want a plain value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := newDB(t)
			r := carrel(t, "import", "--db", db, c.flag, file(t, c.file, c.text))
			assert.Equal(t, exitFailed, r.code)
			assert.Empty(t, r.out)
			assert.Contains(t, r.stderr, c.file+c.want)
			assert.Contains(t, r.stderr, "1 bad row; nothing of the file was imported")
			assert.NoFileExists(t, db)
		})
	}
}

func TestImportIsAtomicPerFile(t *testing.T) { onBoth(t, testImportIsAtomicPerFile) }

func testImportIsAtomicPerFile(t *testing.T) {
	db := newDB(t)
	loans := file(t, "loans.csv", loansCSV)
	fees := file(t, "fees.csv", "fee,loan,borrower,status\nf0,,p1,open\n"+strings.Repeat("f1,,p1,oops\n", 25)+"f2,,p1,open\n")
	r := carrel(t, "import", "--db", db, "--loans", loans, "--fees", fees)
	assert.Equal(t, exitFailed, r.code)
	assert.Contains(t, r.stderr, "fees.csv:3: column status")
	assert.Contains(t, r.stderr, "fees.csv:22: column status")
	assert.NotContains(t, r.stderr, "fees.csv:23")
	assert.Contains(t, r.stderr, "25 bad rows, of which the first 20 are listed; nothing of the file was imported (loans before it are in")
	assert.Equal(t, 21, strings.Count(r.stderr, "\n"))
	assert.Equal(t, 3, linked(t, db, circulation.KindLoan))
	assert.Equal(t, 0, linked(t, db, circulation.KindFee))

	// A file that cannot be opened is found out before anything is written.
	none := newDB(t)
	refused(t, carrel(t, "import", "--db", none, "--loans", loans, "--fees", "/nonexistent.csv"), "/nonexistent.csv: no such file")
	assert.NoFileExists(t, none)
}

func TestImportOfHalfAFile(t *testing.T) { onBoth(t, testImportOfHalfAFile) }

func testImportOfHalfAFile(t *testing.T) {
	db := newDB(t)
	packed := pack(t, loansCSV+strings.Repeat("l9,p9,,,,,,,,,\n", 9000))
	refused(t, carrel(t, "import", "--db", db, "--loans", file(t, "loans.csv.gz", string(packed[:len(packed)-20]))),
		"loans.csv.gz: the compressed data ends too early", "nothing of the file was imported")
	assert.NoFileExists(t, db)
}

func TestImportMap(t *testing.T) {
	db := newDB(t)
	theirs := file(t, "circ.csv", "id,who,state,fine,due\n1,p1,OUT,LOST,2026-01-01\n2,p2,OUT,MAXFINES,2026-01-01\n3,p3,IN,,2026-01-01\n")
	m := file(t, "map.yaml", `carrel-map: 1
loans:
  loan: id
  borrower: who
  returned: ~
  lost: {column: fine, is: [LOST]}
  library: {constant: main}
  type: {column: state, values: {OUT: book}, otherwise: ""}
  due: ~
`)
	report := importJSON(t, "--db", db, "--map", m, "--loans", theirs)
	assert.Equal(t, []string{"due"}, report.Files[0].IgnoredColumns)
	plan := sweepJSON(t, "--db", db, "--policy", file(t, "p.yaml", simplePolicy), "--dry-run")
	assert.Equal(t, map[string]int{"unfinished": 3, "lost": 1}, plan.Kinds["loan"].ByReason)

	for _, c := range []struct{ text, want string }{
		{"", "the map is empty"},
		{"loanz: {}", `map.yaml:1: unknown key "loanz"; did you mean "loans"?`},
		{"loans:\n  loan: id\n  borower: who", `map.yaml:3: loans have no column "borower"; did you mean "borrower"?`},
		{"carrel-map: 1\nloans:\n  loan: id\n  borrower: whom", `circ.csv: has no column "whom", which`},
		{"loans:\n  loan: id\n  lost: {colunm: x}", `map.yaml:3: unknown key "colunm"; did you mean "column"?`},
		{"loans:\n  lost: {is: [x]}", "map.yaml:2: want column"},
		{"loans:\n  lost: {column: fine, is: [x], otherwise: y}", "is gives yes or no"},
		{"loans:\n  loan: id\n  loan: who", "map.yaml:3: key \"loan\" appears twice"},
		{"carrel-map: 2", "reads version 1"},
		{"loans: [", "map.yaml: "},
		{"carrel-map: 1\nloans: {}", `has no column loan and no column borrower`},
		{"loans: {loan: id}", "map.yaml:1: carrel-map: 1 is missing"},
		{"carrel-map: 1\n---\nloans: {loan: id}", "one YAML document"},
	} {
		t.Run(c.want, func(t *testing.T) {
			refused(t, carrel(t, "import", "--db", newDB(t), "--loans", theirs, "--map", file(t, "map.yaml", c.text)), c.want)
		})
	}
	refused(t, carrel(t, "import", "--db", newDB(t), "--loans", theirs, "--zone", "Mars/Olympus"), "--zone: unknown")
}

func TestImportReed(t *testing.T) { onBoth(t, testImportReed) }

func testImportReed(t *testing.T) {
	reed := filepath.Join(dataDir(t), "reed")
	db := newDB(t)
	report := importJSON(t, "--db", db, "--patrons", filepath.Join(reed, "patrons.csv.gz"),
		"--loans", filepath.Join(reed, "loans.csv.gz"), "--fees", filepath.Join(reed, "fees.csv.gz"))
	require.Len(t, report.Files, 3)
	for i, rows := range []int{2565, 93564, 6680} {
		assert.Equal(t, rows, report.Files[i].Rows)
		assert.Equal(t, rows, report.Files[i].Added)
		assert.Empty(t, report.Files[i].IgnoredColumns)
	}
	assert.Equal(t, 190, report.Files[1].MarksCleared, "lost and checked in later")

	policy := filepath.Join(t.TempDir(), "rero.yaml")
	good(t, carrel(t, "policy", "init", "--preset", "rero", "--out", policy))
	plan := sweepJSON(t, "--db", db, "--policy", policy, "--at", "2020-12-01", "--dry-run").Kinds["loan"]
	assert.Equal(t, 93564, plan.LinkedBefore)
	assert.Equal(t, plan.LinkedBefore, plan.Unlinked+plan.Kept)
	assert.Equal(t, 1071, plan.ByReason["lost"], "lost and never checked in")
	assert.Equal(t, 132, plan.ByReason["claimed-returned"])
	assert.Equal(t, 1457+1071+132, plan.ByReason["unfinished"])

	done := sweepJSON(t, "--db", db, "--policy", policy, "--at", "2020-12-01").Kinds["loan"]
	assert.Equal(t, plan, done, "a dry run says what a run does")
	again := sweepJSON(t, "--db", db, "--policy", policy, "--at", "2020-12-01").Kinds["loan"]
	assert.Equal(t, 0, again.Unlinked)
	assert.Equal(t, done.Kept, again.LinkedBefore)
}

// The map is the worked example of docs/formats.md.
const concertoMap = `carrel-map: 1
patrons:
  patron: id
  street: street1
  extra: street2
  region: state
  birth: dob
  library: home_library
loans:
  lost: {column: stop_fines, is: [LOST]}
requests:
  request: hold
  proxy: requestor
  item: target
  library: pickup_library
  filled: fulfilled
`

func TestImportConcerto(t *testing.T) {
	concerto := filepath.Join(dataDir(t), "concerto")
	db := newDB(t)
	report := importJSON(t, "--db", db, "--map", file(t, "evergreen.yaml", concertoMap), "--zone", "America/Chicago",
		"--patrons", filepath.Join(concerto, "patrons.csv"), "--loans", filepath.Join(concerto, "loans.csv"), "--requests", filepath.Join(concerto, "holds.csv"))
	for i, rows := range []int{378, 486, 265} {
		assert.Equal(t, rows, report.Files[i].Added)
	}
	assert.Equal(t, []string{"barred", "juvenile"}, report.Files[0].IgnoredColumns)
	plan := sweepJSON(t, "--db", db, "--policy", file(t, "p.yaml", simplePolicy), "--dry-run")
	assert.Equal(t, map[string]int{"unfinished": 486, "lost": 12}, plan.Kinds["loan"].ByReason)
	assert.Equal(t, map[string]int{"unfinished": 265}, plan.Kinds["request"].ByReason)

	docs, err := os.ReadFile("../../docs/formats.md")
	require.NoError(t, err)
	assert.Contains(t, string(docs), concertoMap)
}

// Whatever goes wrong with a file in which the columns are mixed up, no borrower is printed.
func TestNoBorrowerIsEverPrinted(t *testing.T) { onBoth(t, testNoBorrowerIsEverPrinted) }

func testNoBorrowerIsEverPrinted(t *testing.T) {
	const canary = "p-canary-1234"
	policy := file(t, "p.yaml", simplePolicy)
	db := newDB(t)
	fresh := func() string {
		if onPostgres(t) {
			return db // there a new one takes its time
		}
		return newDB(t)
	}
	good(t, carrel(t, "import", "--db", db, "--loans", file(t, "l.csv", fmt.Sprintf("loan,borrower,proxy,comment,returned\nl1,%s,%[1]s,%[1]s,\n", canary))))
	var all []result
	for _, kind := range fileKinds() {
		for _, column := range kind.columns[1:] {
			header := append([]string{}, kind.required...)
			row := make([]string, len(header))
			row[0] = "x1"
			if !slices.Contains(header, column) {
				header, row = append(header, column), append(row, "")
			}
			row[slices.Index(header, column)] = canary
			if i := slices.Index(header, "status"); i >= 0 && column != "status" {
				row[i] = "open"
			}
			csv := file(t, "f.csv", strings.Join(header, ",")+"\n"+strings.Join(row, ",")+"\n")
			all = append(all, carrel(t, "import", "--db", fresh(), "--"+kind.name, csv))
		}
		all = append(all, carrel(t, "import", "--db", fresh(), "--"+kind.name, file(t, "f.csv", canary+","+canary+"\n")))
		all = append(all, carrel(t, "import", "--db", fresh(), "--"+kind.name, file(t, "f.jsonl", `{"`+kind.columns[0]+`":"`+canary+`}`)))
	}
	all = append(all,
		carrel(t, "import", "--db", fresh(), "--loans", file(t, "f.csv", "borower,"+canary+"\n")),
		carrel(t, "import", "--db", fresh(), "--requests", file(t, "f.csv", "request,borrower,proxy\n"+canary+",,"+canary+"\n")),
		carrel(t, "import", "--db", fresh(), "--loans", file(t, "f.jsonl", `{"`+canary+`":1,"`+canary+`":1}`)),
		carrel(t, "import", "--db", fresh(), "--loans", file(t, "f.jsonl", `{"`+canary+`":{}}`)))
	for _, key := range circulation.RecordKeys() {
		if key != "id" { // which is said again in the decision
			all = append(all, carrelIn(t, fmt.Sprintf(`{"kind":"loan","id":"l1","%s":"%s"}`, key, canary), "explain", "--policy", policy))
		}
	}
	all = append(all,
		carrel(t, "hold", "add", "--db", db, canary), carrel(t, "hold", "add", "--db", db, "-b"+canary),
		carrel(t, "hold", "add", "--db", db, "--borower", canary), carrel(t, "hold", "add", "--db", db, "--borrower", canary),
		carrel(t, "hold", "add", "--db", db, "--borrower", canary, "--ref", "r", "--until", canary),
		carrel(t, "hold", "release", "--db", db, "--borrower", canary, "--ref", "r"),
		carrel(t, "hold", "add", "--db", db, "--borrower", canary, "--ref", "r"),
		carrel(t, "hold", "list", "--db", db), carrel(t, "hold", "list", "--db", db, "--json"),
		carrel(t, "sweep", "--db", db, "--policy", policy), carrel(t, "sweep", "--db", db, "--policy", policy, "--json"),
		carrel(t, "sweep", "--db", db, "--policy", policy, "--shard", canary), carrel(t, "sweep", "--db", db, "--policy", policy, "--at", canary))
	for _, r := range all {
		assert.NotContains(t, r.out+r.stderr, canary)
	}
	shown := good(t, carrel(t, "hold", "list", "--db", db, "--show-borrowers"))
	assert.NotContains(t, shown, canary)
	assert.Regexp(t, `cp[\w-]{20,}`, shown, "a pseudonym")
}

package sqlite_test

import (
	"database/sql"
	"encoding/binary"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/circulation"
)

// slack counts, by table or index, the bytes of a checkpointed database file that belong to nothing and
// are not zero: where SQLite leaves copies of cells when it splits and merges pages.
func slack(t testing.TB, db *sql.DB, path string) map[string]int {
	t.Helper()
	owner := map[int]string{}
	rows, err := db.Query("SELECT pageno, name FROM dbstat")
	require.NoError(t, err)
	for rows.Next() {
		var n int
		var name string
		require.NoError(t, rows.Scan(&n, &name))
		owner[n] = name
	}
	require.NoError(t, rows.Close())
	file, err := os.ReadFile(path)
	require.NoError(t, err)
	size := int(binary.BigEndian.Uint16(file[16:]))
	left := map[string]int{}
	for n := 1; n*size <= len(file); n++ {
		page := file[(n-1)*size : n*size]
		h := 0
		if n == 1 {
			h = 100
		}
		head, ok := map[byte]int{2: 12, 5: 12, 10: 8, 13: 8}[page[h]]
		if !ok || owner[n] == "" {
			continue // overflow and free pages
		}
		cells := int(binary.BigEndian.Uint16(page[h+3:]))
		start := int(binary.BigEndian.Uint16(page[h+5:]))
		count := func(from, to int) {
			for _, b := range page[from:max(from, to)] {
				if b != 0 {
					left[owner[n]]++
				}
			}
		}
		count(h+head+2*cells, start)
		for at := int(binary.BigEndian.Uint16(page[h+1:])); at != 0; at = int(binary.BigEndian.Uint16(page[at:])) {
			count(at+4, at+int(binary.BigEndian.Uint16(page[at+2:])))
		}
	}
	return left
}

// After Finish the tables that identify have no copies of rows in the unused parts of their pages.
func TestFinishLeavesNoSlack(t *testing.T) {
	db, s, path := open(t)
	_, err := s.Save(t.Context(), func(yield func(circulation.Entry, error) bool) {
		for i := range 20_000 {
			l := loan(fmt.Sprint("l", i), fmt.Sprint("borrower-", i*7919%3001), i%300, i%300+1)
			l.Note = "a note about " + string(l.Borrower)
			if !yield(l, nil) {
				return
			}
		}
	})
	require.NoError(t, err)
	var go4of5 []circulation.Record
	for id, r := range linked(t, s, circulation.KindLoan) {
		if id[len(id)-1] != '7' && id[len(id)-1] != '2' {
			go4of5 = append(go4of5, r)
		}
	}
	for len(go4of5) > 0 {
		n := min(500, len(go4of5))
		require.Empty(t, unlink(t, s, go4of5[:n]...))
		go4of5 = go4of5[n:]
	}
	require.NoError(t, s.Finish(t.Context()))
	left := slack(t, db, path)
	for _, table := range []string{"persons", "links", "links_person", "companions", "personal", "ties", "fee_summaries", "holds"} {
		require.Less(t, left[table], 16, table) // a fragment beside a cell is shorter than any row
	}
}

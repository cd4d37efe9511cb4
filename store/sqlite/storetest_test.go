package sqlite_test

import (
	"context"
	"database/sql"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/storetest"
)

// hands gives the suite the store and the hands it needs.
func hands(t testing.TB) storetest.Circulation {
	db, s, _ := open(t)
	return storetest.Circulation{
		Store: s,
		Save: func(ctx context.Context, entries ...circulation.Entry) error {
			_, err := s.Save(ctx, all(entries...))
			return err
		},
		SaveAccount: func(ctx context.Context, a circulation.Account) error {
			_, err := s.SaveAccounts(ctx, all(a))
			return err
		},
		AddHold: s.AddHold, ReleaseHold: s.ReleaseHold,
		Receipts: s.Receipts,
		Dump: func(context.Context) (string, error) {
			return dump(t, db) + pointers(t, db), nil
		},
	}
}

// pointers shows ties by the IDs they join.
func pointers(t testing.TB, db *sql.DB) string {
	rows, err := db.Query("SELECT a.id, b.id FROM ties t JOIN records a ON a.n = t.n JOIN records b ON b.n = t.target")
	require.NoError(t, err)
	defer rows.Close()
	var b strings.Builder
	for rows.Next() {
		var from, to string
		require.NoError(t, rows.Scan(&from, &to))
		b.WriteString("tie " + from + " points at " + to + "\n")
	}
	require.NoError(t, rows.Err())
	return b.String()
}

func TestStore(t *testing.T) {
	storetest.TestCirculation(t, func(t *testing.T) storetest.Circulation { return hands(t) })
}

func BenchmarkStore(b *testing.B) {
	storetest.BenchmarkCirculation(b, func(b *testing.B) storetest.Circulation { return hands(b) })
}

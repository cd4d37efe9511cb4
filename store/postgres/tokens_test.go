package postgres_test

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/store/postgres"
)

func tokenOf(epoch uint32, who string) string {
	return "cp" + base64.RawURLEncoding.EncodeToString(append(binary.AppendUvarint(nil, uint64(epoch)), fmt.Sprintf("%-24s", who)...))
}

func renewTo(epoch uint32) func(name, token string) (string, error) {
	return func(_, token string) (string, error) {
		if _, ok := crypto.TokenEpoch(token); !ok {
			return "", crypto.ErrNotPseudonym
		}
		data, err := base64.RawURLEncoding.DecodeString(token[2:])
		return tokenOf(epoch, string(data[1:])), err
	}
}

func loanOf(id, borrower string) circulation.Loan {
	return circulation.Loan{ID: id, Borrower: circulation.Borrower(borrower), Item: "i" + id, Loaned: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

func saveLoan(ctx context.Context, c *postgres.Circulation, l circulation.Loan) error {
	_, err := c.Save(ctx, func(yield func(circulation.Entry, error) bool) { yield(l, nil) })
	return err
}

// In a transaction of the caller's that began before the tokens were renewed, a stale token is refused at every level.
func TestStaleTokenInACallersSnapshot(t *testing.T) {
	db, _ := open(t)
	c := postgres.New(db)
	for i, level := range []sql.IsolationLevel{sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable} {
		epoch := uint32(i + 1)
		tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: level})
		require.NoError(t, err)
		was, err := postgres.New(tx).TokenEpoch(t.Context())
		require.NoError(t, err)
		require.Equal(t, epoch, was)
		_, err = c.RenewTokens(t.Context(), epoch+1, renewTo(epoch+1))
		require.NoError(t, err)
		require.Error(t, saveLoan(t.Context(), postgres.New(tx), loanOf(level.String(), tokenOf(epoch, "anna"))), level)
		require.NoError(t, tx.Rollback())
		require.NoError(t, saveLoan(t.Context(), c, loanOf(level.String(), tokenOf(epoch+1, "anna"))), level)
	}
	var persons int
	require.NoError(t, db.QueryRow("SELECT count(*) FROM persons").Scan(&persons))
	require.Equal(t, 1, persons)
	tx, err := db.Begin()
	require.NoError(t, err)
	defer tx.Rollback()
	_, err = postgres.New(tx).RenewTokens(t.Context(), 9, renewTo(9))
	require.ErrorContains(t, err, "not in a transaction of the caller's")
}

// A renewal waits for a transaction that is open, but nobody waits for long behind it.
func TestRenewalKeepsNobodyWaiting(t *testing.T) {
	db, _ := open(t)
	c := postgres.New(db)
	tx, err := db.Begin()
	require.NoError(t, err)
	require.NoError(t, saveLoan(t.Context(), postgres.New(tx), loanOf("import", tokenOf(1, "x"))))
	renewed := make(chan error, 1)
	go func() {
		_, err := c.RenewTokens(t.Context(), 2, renewTo(2))
		renewed <- err
	}()
	for n := range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		require.NoError(t, saveLoan(ctx, c, loanOf(fmt.Sprint("desk", n), tokenOf(1, fmt.Sprint("y", n)))))
		cancel()
		time.Sleep(700 * time.Millisecond)
	}
	select {
	case err := <-renewed:
		t.Fatal("the renewal did not wait for the import: ", err)
	default:
	}
	require.NoError(t, saveLoan(t.Context(), postgres.New(tx), loanOf("import2", tokenOf(1, "z"))))
	require.NoError(t, tx.Commit())
	require.NoError(t, <-renewed)
	var stale int
	require.NoError(t, db.QueryRow("SELECT count(*) FROM persons WHERE borrower LIKE $1", tokenOf(1, "")[:4]+"%").Scan(&stale))
	require.Zero(t, stale)
}

func TestDamagedTokenEpoch(t *testing.T) {
	db, _ := open(t)
	c := postgres.New(db)
	for _, bad := range []string{"UPDATE token_epoch SET epoch = 0", "UPDATE token_epoch SET epoch = 1::bigint << 40", "INSERT INTO token_epoch VALUES (2)", "INSERT INTO token_epoch VALUES (2, false)"} {
		_, err := db.Exec(bad)
		require.Error(t, err, bad)
	}
	_, err := db.Exec("DELETE FROM token_epoch")
	require.NoError(t, err)
	_, err = c.TokenEpoch(t.Context())
	require.ErrorContains(t, err, "token_epoch is damaged")
	_, err = c.RenewTokens(t.Context(), 2, renewTo(2))
	require.ErrorContains(t, err, "token_epoch is damaged")
}

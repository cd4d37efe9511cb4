package sqlite_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/crypto"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/store/sqlite"
)

// BenchmarkRotate begins a new epoch: CARREL_PATRONS (20,000) subject keys are wrapped anew, and as many borrowers' tokens made anew.
func BenchmarkRotate(b *testing.B) {
	patrons := number("CARREL_PATRONS", 20_000)
	i, path := newPeople(b)
	borrowers, err := i.keys.Pseudonyms(patron.Borrowers)
	require.NoError(b, err)
	const page = 1000
	for at := 0; at < patrons; at += page {
		subjects := make([]crypto.Subject, min(page, patrons-at))
		for j := range subjects {
			subjects[j] = patron.NewID().Subject()
		}
		require.NoError(b, i.keys.CreateKeys(b.Context(), subjects...))
	}
	_, err = sqlite.New(i.db).SaveAccounts(b.Context(), func(yield func(circulation.Account, error) bool) {
		for j := range patrons {
			token, err := borrowers.Token(patron.Reference("patron", fmt.Sprint(j)))
			if !yield(circulation.Account{Borrower: circulation.Borrower(token)}, err) {
				return
			}
		}
	})
	require.NoError(b, err)
	keys := 0.0 // seconds
	for b.Loop() {
		b.StopTimer()
		start := b.Elapsed()
		k := people(b, path).keys
		b.StartTimer()
		r, err := k.Rotate(b.Context(), func(crypto.Rotation) { keys = (b.Elapsed() - start).Seconds() })
		require.NoError(b, err)
		require.Equal(b, patrons, r.Rewrapped)
		require.Equal(b, patrons, r.Renewed)
	}
	b.ReportMetric(keys, "s/keys")
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/all")
}

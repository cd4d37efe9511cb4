package storetest_test

import (
	"context"
	"testing"

	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/store/memory"
	"github.com/carrel-project/carrel/store/storetest"
)

// inMemory is the memory store with all hands.
func inMemory() storetest.Circulation {
	s := memory.NewCirculation()
	return storetest.Circulation{
		Store: s,
		Save: func(ctx context.Context, entries ...circulation.Entry) error {
			_, err := s.Save(ctx, each(entries))
			return err
		},
		SaveAccount: func(ctx context.Context, a circulation.Account) error {
			_, err := s.SaveAccounts(ctx, each([]circulation.Account{a}))
			return err
		},
		AddHold: s.AddHold, ReleaseHold: s.ReleaseHold,
		Receipts: s.Receipts,
		Dump:     s.Dump,
	}
}

func each[V any](values []V) func(func(V, error) bool) {
	return func(yield func(V, error) bool) {
		for _, v := range values {
			if !yield(v, nil) {
				return
			}
		}
	}
}

func TestMemory(t *testing.T) {
	storetest.TestCirculation(t, func(*testing.T) storetest.Circulation { return inMemory() })
}

func BenchmarkMemory(b *testing.B) {
	storetest.BenchmarkCirculation(b, func(*testing.B) storetest.Circulation { return inMemory() })
}

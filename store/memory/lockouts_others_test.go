package memory_test

import (
	"testing"
	"time"

	"github.com/sethvargo/go-limiter/memorystore"
	"github.com/stretchr/testify/require"
	"github.com/ulule/limiter/v3"
	ulule "github.com/ulule/limiter/v3/drivers/store/memory"
)

// BenchmarkOthers is what packages that only count do at one attempt: the same 256 accounts, one count each, no source, no way back.
func BenchmarkOthers(b *testing.B) {
	ctx := b.Context()
	b.Run("sethvargo", func(b *testing.B) {
		store, err := memorystore.New(&memorystore.Config{Tokens: 1 << 40, Interval: 15 * time.Minute})
		require.NoError(b, err)
		defer store.Close(ctx)
		attempts := logins()
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, _, _, _, err := store.Take(ctx, attempts[i%len(attempts)].Login); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ulule", func(b *testing.B) {
		l := limiter.New(ulule.NewStore(), limiter.Rate{Period: 15 * time.Minute, Limit: 1 << 40})
		attempts := logins()
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := l.Get(ctx, attempts[i%len(attempts)].Login); err != nil {
				b.Fatal(err)
			}
		}
	})
}

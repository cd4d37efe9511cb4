package civil

import (
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/stretchr/testify/require"
)

// Every hour from 1900 to 2150 the table and the time package agree on the offset.
func TestTableAgreesWithTimePackage(t *testing.T) {
	for _, name := range []string{"Europe/Stockholm", "America/Chicago", "America/Havana", "America/Santiago", "Pacific/Apia", "Africa/Casablanca"} {
		loc, err := time.LoadLocation(name)
		require.NoError(t, err)
		z := In(loc)
		end := time.Date(2150, 1, 1, 0, 0, 0, 0, time.UTC)
		for at := time.Date(1900, 1, 2, 0, 0, 0, 0, time.UTC); at.Before(end); at = at.Add(2 * time.Hour) {
			_, want := at.In(loc).Zone()
			if got := z.offsets[z.period(at.UnixMicro())] / Second; got != int64(want) {
				t.Fatalf("%s at %s: offset %d, want %d", name, at, got, want)
			}
		}
	}
}

package postgres

import (
	"github.com/carrel-project/carrel/audit"
)

// Log keeps an audit trail. It is safe for concurrent use if its DB is.
//
// Append does not number what it adds: many append at once, and a transaction of the caller's may take its time. Entries that are committed get their
// numbers from whoever reads or advances next, and are seen from then on. So nobody who appends waits for another, except with the same Key.
//
// On a *sql.Tx, Entries and Tree show what has a number; what was appended in that transaction is not among it. To give numbers there would make
// everybody else who reads wait for its end. A role or a server that may only read, such as a standby, also shows what others have numbered.
//
// Entries are as durable as synchronous_commit makes them: leave it on. Rows that were removed stay in the files until the tables are vacuumed.
type Log struct{ db DB }

var _ audit.Store = (*Log)(nil)

// NewLog returns the trail in db. It neither creates nor migrates tables. A role that appends needs the right to use the sequence trail_batches, besides those to the
// tables.
func NewLog(db DB) *Log { return &Log{db} }

// Package carrel is the root of a set of packages that a library management system embeds so that what
// it knows about people is sealed, seen only by those who need it, and forgotten on time. It has no code of its own;
// begin with one of these:
//
//   - [github.com/carrel-project/carrel/patron]: the directory of patrons, whose records are sealed segment by segment
//     under keys ([github.com/carrel-project/carrel/crypto]) that can be destroyed, and shown as far as a role may see
//     them for a purpose ([github.com/carrel-project/carrel/access]), after that was recorded in a trail that nobody
//     changes unnoticed ([github.com/carrel-project/carrel/audit]).
//   - [github.com/carrel-project/carrel/circulation]: loans, requests, resource sharing, fees and
//     notices, their life cycles, and the flat record that rules see.
//   - [github.com/carrel-project/carrel/anonymize]: the retention policy, the decision and the sweep.
//   - [github.com/carrel-project/carrel/store/storetest]: proves your own store.
//   - the command in cmd/carrel: the same decisions on exports, without writing Go.
//
// Each package stands alone: it declares the small store it needs, you implement that on your own
// tables, and a public conformance suite proves the implementation. There is no init function, no
// package-level state and no logging except to a logger that was handed in. imports_test.go holds the
// table of which package may import which; that a loan cannot name a patron by accident is a line of it.
//
// # Threat model in brief
//
// Whoever reads the tables, be it a curious administrator, a vendor's engineer or a thief of the database or of a
// backup, finds patrons' groups and expiry dates and otherwise noise: the keys are outside. What staff see, they see in a role, for a
// purpose, and recorded. A patron whose key was destroyed stays forgotten when a backup is restored under the erasure ledger.
//
// A circulation record forgets its borrower: whoever reads the tables after a
// sweep, be it a curious administrator, a vendor's engineer or a thief of the database, does not find
// who borrowed what, neither in the record nor through anything that carrel stores about it. An
// exception (an unfinished, lost or claimed item, money owed, a legal hold) beats every rule and is
// checked again in the transaction that unlinks. What nothing matched is kept, and said to be kept.
//
// Not protected: against a thief of database, keyring and key-encryption key; records that are not due yet; copies outside the store that was swept, which are
// backups, replicas, exports, logs and other tables of the library system (docs/adopting.md lists the
// usual ones); a running process that was taken over; what staff write down elsewhere; people who can
// be told apart by the statistics that a library chooses to keep.
package carrel

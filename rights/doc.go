// Package rights does what a patron may demand of a library (GDPR articles 15 to 20): a copy of everything that is held on them, erasure with a certificate, restriction; and it says
// which personal data are held at all, for the record of processing activities (article 30).
//
// It is the one package that sees both patrons and circulation records: whether somebody may be forgotten depends on what they still have and owe. An [Office] brings the stores together:
//
//	office, err := rights.New(rights.Config{Directory: directory, Circulation: store, Keys: keyring, Trail: trail})
//	…
//	certificate, err := office.Erase(ctx, call, id, rights.Request{Approval: "erasure 2026-31"})
//
// Erasing refuses by default when something is owed, with a list ([ObligationsError]). What it does it does in an order in which it can be stopped anywhere and done again to the end: first
// the links of circulation records go, then the key, then the row. The destroyed key is what erases (copies of the rows live on in free pages, logs and backups), and the keys that could open an old backup
// end with their epoch: a certificate says when.
//
// No event of the trail names a person and an item, and those of erasures name nobody.
package rights

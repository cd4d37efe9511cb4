// Package patron keeps the records of a library's patrons, sealed.
//
// A [Directory] stands in front of a [Store] in the library system's database. What says something about a person is sealed,
// segment by segment, under a key of that person's own; identifiers are looked up through a blind index. Everything goes through
// a decision (package access) and leaves a trace (package audit) before it is done:
//
//	d, err := patron.New(patron.Config{Store: store, Keys: keys, Access: matrix, Recorder: trail})
//	desk := patron.Call{Actor: "staff-17", Role: "circulation", Purpose: "checkout", Channel: audit.UI}
//	id, err := d.Find(ctx, desk, crypto.NewSecret("99999395390"))
//	v, err := d.View(ctx, desk, id, access.SetOf(access.Names, access.Photo))
//	fmt.Println(v.Profile.Names[0].Last.Reveal())
//
// What the database holds in plain are [Facts]: group, categories, home library, expiry, and the wish about the
// history. Forgetting a patron is destroying their key ([crypto.Keyring.Shred], which asks nobody and records nothing: its caller does);
// their row and its tokens stay until they are removed through the store, or the next [Directory.Reindex].
//
// The package does not authenticate: the caller says who acts. It does not protect from somebody who may call it with any
// role, nor from one who has database, keyring and key-encryption key.
package patron

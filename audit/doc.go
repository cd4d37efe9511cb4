// Package audit keeps a trail of what was done with personal data that nobody can change unnoticed, the database's owner included,
// and from which a patron who is forgotten disappears without breaking the proof.
//
//	trail, err := audit.New(ctx, audit.Config{Store: store, Keys: keys, Anchors: []audit.Anchor{audit.NewFileAnchor("/mnt/anchor/trail")}})
//	err = trail.Record(ctx, audit.Login{Time: now, Staff: "staff-17", Result: audit.Success, Channel: audit.UI}.Event())
//
// A [Recorder] writes events down. Whoever reveals or changes personal data records it first and goes on only if that succeeded: no
// plaintext without a trace. [Trail] is carrel's: an event is a row in the library system's own database, durable when Record returns; those who record
// at the same time share a transaction, and a row can be written in the caller's own (see [Trail.Prepare]). From the rows a sequencer, of which
// one works at a time, makes the leaves of a Merkle tree (RFC 6962, by [tlog]), signs its root as a checkpoint
// (https://c2sp.org/tlog-checkpoint, by [note]) and hands that to an [Anchor] outside the database. [Verify] checks the rows against the anchors and
// names what was changed, put in, left out, moved or cut off, with its place.
//
// What a checkpoint covers cannot be changed unnoticed from the moment it is anchored. Until then, ten seconds if nothing else is said, whoever owns the database
// can remove the newest rows; he cannot add or alter any, because each carries a MAC under a key of the keyring.
//
// # What an entry says about people
//
// The public part of an event names who acted, in which role and for what purpose, but no patron. Of each patron it is
// about, an entry holds a [Tag] and, if there is more to say, a ciphertext: both from the patron's own key ([crypto.Keyring]). The leaf commits to the
// hash of the ciphertext, never to a hash of anything that could be guessed. When the key is destroyed, nobody can find the patron's
// entries, open them or attribute them, in this database or any copy, and the tree verifies as before. What
// remains visible is that entries of one month with equal tags were about one unknown person.
//
// # Encoding
//
// Numbers written as "varint" are unsigned, base 128, the low seven bits first ([encoding/binary.Uvarint]), in their shortest form. A part is its
// length as varint and its bytes. The body of an entry is
//
//	1                 one byte: the version
//	nonce             8 random bytes: no two events are equal, so that a copy is one
//	public            a part: the public fields of the event
//	n                 varint: how many subjects follow
//	  tag             16 bytes
//	  ciphertext      a part; empty if the event says nothing more about them
//	mac               16 bytes
//
// and its leaf the same with each ciphertext that is not empty replaced by its SHA-256. The leaf's hash is that of RFC 6962: SHA-256 of a
// zero byte and the leaf. What stands in the log and is no entry, or has a wrong mac, has the leaf 0xff and its bytes as they are. The mac is the beginning of HMAC-SHA-256 over the leaf up to the mac; its key is derived from the trail's
// secret in the keyring by HKDF-SHA-256 (RFC 5869) with the keyring's ID as salt and the text carrel/v1/trail/entry. The public fields are a sequence of
// a tag byte and a part each, in ascending order of the tag; only tags 10 and 17 may repeat; an empty or zero field is not written.
//
//	 1  time          varint: microseconds since 1970, UTC
//	 2  action        text         3  outcome   text      4  why        text
//	 5  actor         text         6  role      text      7  purpose    text
//	 8  channel       text         9  network   text
//	10  segment       text; in alphabetical order, none twice
//	11  count         varint
//	12  grant         text        13  recipient text     14  approval   text
//	15  object        text        16  kind      text
//	17  tally         a zero byte, the name as a part, the count as varint
//	18  covers        varint: seconds
//	19  before        varint: microseconds since 1970, UTC
//	20  ranges        varints in pairs: the gap since the end of the range before, the length
//	21  collapsed     varint
//
// Texts are UTF-8, at most 1024 bytes, without control characters. The plaintext of a subject's ciphertext is a sequence of the same form: 1 the version of
// the record, varint; 2 the note; 3, repeated, a change, which is three times a zero byte and a part: segment, before, after; 4 zeros, to a multiple of 128 bytes. It is sealed under the
// label "trail", revision 0. The tag's first two bytes are the month of the event (UTC), counted from January 1970, big-endian, the other 14 the beginning of
// the subject's [crypto.Tag] for the text "trail month " and that number.
//
// A login at 2026-11-22 10:00:00 UTC, of the member of staff staff-17 in the role desk, by the user interface, has the public part
//
//	01 08 8090c6d2a89b9803 02 05 6c6f67696e 03 04 646f6e65 05 08 73746166662d3137 06 04 6465736b 08 02 7569
//
// and, followed by the varint 0 because it is about no patron, preceded by the version, the nonce 0102030405060708 and the length, and with 16 zero bytes for its mac, the leaf hash
//
//	76e9746bbbba5ebc80f0cad1a3541167018a3ebaad1d2179444dfe661006f1a8
//
// What [Trail.Record] writes besides, and what an [Anchor] gets, is in docs/formats.md.
package audit

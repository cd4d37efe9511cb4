// Package crypto seals what a library knows about a person under a key of that person's own, which can be destroyed.
//
// Make a key-encryption key and a keyring once, and open the keyring when the program starts:
//
//	err = crypto.CreateKEK("/etc/carrel/kek")
//	kek, err := crypto.OpenKEK("/etc/carrel/kek") // or any tink.AEAD: a cloud KMS, Vault
//	err = crypto.CreateKeyring("/etc/carrel/keys", kek)
//	keys, err := crypto.OpenKeyring(ctx, crypto.Config{Path: "/etc/carrel/keys", KEK: kek, Store: store})
//	sealed, err := keys.Seal(ctx, subject, crypto.Plain{Label: "names", Revision: 1, Value: crypto.NewSecret("…")})
//
// The chain is: KEK → keyring → epoch key → subject key → sealed data. The keyring is a small file that belongs
// outside the database and its backups; the subject keys lie, wrapped under an epoch key, in the database ([KeyStore]).
// The KEK is asked when the keyring is opened or changed, never for a subject.
//
// [Keyring.Shred] destroys a subject key, after it has written a tombstone to the erasure ledger, an append-only file
// beside the keyring: a database that is restored from an old backup brings the wrapped key back, but not the person.
//
// # Formats
//
// Sealed data is the byte 1, a random nonce of 12 bytes, the AES-256-GCM ciphertext and its tag of 16 bytes: 29 bytes more
// than the plaintext. Its associated data is "carrel/v1/sealed", a zero byte, and the keyring's ID (16 bytes), the
// subject and the label, each after its length in 8 bytes, big-endian, and the revision in 8 bytes. A wrapped subject key is nonce, ciphertext and
// tag under the epoch's key; its associated data is "carrel/v1/subject-key", a zero byte, the keyring's ID and the subject, each
// after its length, and the epoch in 8 bytes. Sealed formats stay readable for all of version 1.
//
// # What it does not protect
//
// It does not protect from somebody who has the database, the keyring and the KEK; from a process that was taken over; from core dumps
// and swap: Go does not guarantee that keys and plaintext are wiped from memory when they are no longer used. The package audits
// nothing; its callers do. It writes no log.
//
// Primitives are those of Tink (github.com/tink-crypto/tink-go/v2): AES-256-GCM for keys, and in the same format, from the standard
// library that Tink calls too, for data; AES-SIV (RFC 5297) for pseudonyms,
// HMAC-SHA-256 for indexes, tombstones and one-way pseudonyms.
package crypto

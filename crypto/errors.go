package crypto

import "errors"

// What can be wrong. No error of this package contains key bytes, plaintext, a subject or what was read.
var (
	// ErrShredded means that the subject's key was destroyed: nothing sealed for them opens again.
	ErrShredded = errors.New("crypto: the key of this subject has been destroyed")

	// ErrNoKey means that there never was a key for the subject, or that the key store has lost it.
	ErrNoKey = errors.New("crypto: there is no key for this subject")

	// ErrNotAuthentic means that a ciphertext or wrapped key is not what was sealed under this subject, label, revision and
	// installation: it was changed, cut, or moved from somewhere else.
	ErrNotAuthentic = errors.New("crypto: not authentic: changed, or sealed for another subject, label, revision or installation")

	// ErrWrongKEK means that the key-encryption key does not open the keyring.
	ErrWrongKEK = errors.New("crypto: the key-encryption key does not open this keyring")

	// ErrNoEpoch means that a key was wrapped in an epoch whose key the keyring does not hold (any more).
	ErrNoEpoch = errors.New("crypto: the keyring has no key for the epoch in which this was wrapped")

	// ErrForeignStore means that the store's keys were wrapped by another keyring: nothing in it would open, and nobody in it be found.
	ErrForeignStore = errors.New("crypto: the store of keys belongs to another keyring")

	// ErrOldKeyring means that the store was used with a newer state of the keyring: this is an old copy.
	ErrOldKeyring = errors.New("crypto: this keyring is an old copy: the store knows a newer epoch")

	// ErrEnded means that the store was restored from a backup that is older than the horizon: the keys of its epoch have been destroyed, and
	// nobody in it can be read any more, whether they were forgotten or not.
	ErrEnded = errors.New("crypto: the store is older than the backup horizon: the keys of its epoch have been destroyed")

	// ErrLedger means that the erasure ledger is missing, older than the keyring knows it to be, or not as it was written.
	// Nothing is opened then, because somebody who was forgotten could come back.
	ErrLedger = errors.New("crypto: the erasure ledger cannot be trusted")

	// ErrWeakKey means that a key is a published example, or has so little variety that it was not drawn at random.
	ErrWeakKey = errors.New("crypto: this is a default or test key; make a new one")

	// ErrPermissions means that a key file can be read or written by others than its owner.
	ErrPermissions = errors.New("crypto: others than its owner may read or write this key file")

	// ErrExists means that there is something where a new key file should go. It is left as it is.
	ErrExists = errors.New("crypto: there is a file already; it is not overwritten, because it may be the only copy of a key")

	// ErrLowEntropy means that an index over this field would tell its values by their frequencies, key or no key.
	ErrLowEntropy = errors.New("crypto: a field with few values is not indexed by itself")

	// ErrNoIndex means that the keyring has no key for an index of that name; see [Keyring.AddIndex].
	ErrNoIndex = errors.New("crypto: the keyring has no such index")

	// ErrNoStore means that the keyring was opened without a store for subject keys.
	ErrNoStore = errors.New("crypto: this keyring was opened without a store for subject keys")
)

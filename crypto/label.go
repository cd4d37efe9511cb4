package crypto

import "encoding/binary"

// Every hash and every sealed thing is bound to a label that says what it is for, so that nothing made for one purpose
// passes for another, and to length-prefixed parts, so that no two lists of parts run together.
const (
	labelKeyring   = "carrel/v1/keyring\x00"
	labelKey       = "carrel/v1/subject-key\x00"
	labelSegment   = "carrel/v1/sealed\x00"
	labelIndex     = "carrel/v1/index\x00"
	labelPseudonym = "carrel/v1/pseudonym\x00"
	labelPairwise  = "carrel/v1/pairwise\x00"
	labelStore     = "carrel/v1/store\x00"
	labelTombstone = "carrel/v1/tombstone\x00"
	labelChain     = "carrel/v1/ledger\x00"
	labelTag       = "carrel/v1/tag"
	labelTrail     = "carrel/v1/trail/"
	labelLockout   = "carrel/v1/lockout"
)

func appendPart[T string | []byte](b []byte, part T) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(len(part)))
	return append(b, part...)
}

func appendNumber(b []byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64(b, n)
}

package postgres

import (
	"strconv"
	"strings"
)

// A version token says which record was read, as which version, and at which moment: number, version, a checksum of the ID and the server's snapshot, as in "4711.2.2654435769.750:752:750". The record is unchanged if its link
// has that version still and its borrower has not changed in a transaction that the snapshot did not see. A borrower's changes need not be written to each of their records for that, and nobody who writes
// waits for a counter that all share.
type token struct {
	n, version int64
	id         uint32
	snapshot   string
}

func (t token) append(b []byte) []byte {
	b = strconv.AppendInt(b, t.n, 10)
	b = append(b, '.')
	b = strconv.AppendInt(b, t.version, 10)
	b = append(b, '.')
	b = strconv.AppendUint(b, uint64(t.id), 10)
	b = append(b, '.')
	return append(b, t.snapshot...)
}

// parseToken reads a token. Known is a snapshot that was found to be one.
func parseToken(s, known string) (token, bool) {
	n, rest, _ := strings.Cut(s, ".")
	version, rest, _ := strings.Cut(rest, ".")
	id, snapshot, _ := strings.Cut(rest, ".")
	m, err1 := strconv.ParseInt(n, 10, 64)
	v, err2 := strconv.ParseInt(version, 10, 32)
	i, err3 := strconv.ParseUint(id, 10, 32)
	return token{m, v, uint32(i), snapshot}, err1 == nil && err2 == nil && err3 == nil && (known != "" && snapshot == known || isSnapshot(snapshot))
}

// isSnapshot reports that the server will not refuse a text as a pg_snapshot, as far as its characters and parts go: what a caller made up must be a conflict and not an error.
func isSnapshot(s string) bool {
	xmin, rest, ok1 := strings.Cut(s, ":")
	xmax, in, ok2 := strings.Cut(rest, ":")
	a, err1 := strconv.ParseUint(xmin, 10, 63)
	z, err2 := strconv.ParseUint(xmax, 10, 63)
	if !ok1 || !ok2 || err1 != nil || err2 != nil || a == 0 || z < a {
		return false
	}
	last := uint64(0)
	if in == "" {
		return true
	}
	for one := range strings.SplitSeq(in, ",") {
		x, err := strconv.ParseUint(one, 10, 63)
		if err != nil || x < a || x >= z || x < last {
			return false
		}
		last = x
	}
	return true
}

// checksum is FNV-1a. It guards against a version handed in with another record's ID, not against malice.
func checksum(id string) uint32 {
	h := uint32(2166136261)
	for i := range len(id) {
		h = (h ^ uint32(id[i])) * 16777619
	}
	return h
}

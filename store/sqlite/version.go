package sqlite

import (
	"strconv"
	"strings"
)

// A version token says which record was read and after which change to the store: change, number and a
// checksum of the ID, as in "17.4711.2654435769". The record is unchanged if neither its link nor its
// borrower bears a later change. One comparison for a whole page is what makes this cheap: no record
// carries a counter of its own that would have to be read, handed out and compared one by one.
type token struct {
	change, n int64
	id        uint32
}

func (t token) append(b []byte) []byte {
	b = strconv.AppendInt(b, t.change, 10)
	b = append(b, '.')
	b = strconv.AppendInt(b, t.n, 10)
	b = append(b, '.')
	return strconv.AppendUint(b, uint64(t.id), 10)
}

func parseToken(s string) (token, bool) {
	change, rest, _ := strings.Cut(s, ".")
	n, id, _ := strings.Cut(rest, ".")
	c, err1 := strconv.ParseInt(change, 10, 64)
	m, err2 := strconv.ParseInt(n, 10, 64)
	i, err3 := strconv.ParseUint(id, 10, 32)
	return token{c, m, uint32(i)}, err1 == nil && err2 == nil && err3 == nil
}

// checksum is FNV-1a. It guards against a version handed in with another record's ID, not against malice.
func checksum(id string) uint32 {
	h := uint32(2166136261)
	for i := range len(id) {
		h = (h ^ uint32(id[i])) * 16777619
	}
	return h
}

package audit

import "golang.org/x/mod/sumdb/tlog"

// LeafHash is what an owner of the database can compute as well.
func LeafHash(body []byte) tlog.Hash {
	hash, _, _ := leafHash(nil, nil, body)
	return hash
}

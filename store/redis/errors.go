package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"

	goredis "github.com/redis/go-redis/v9"
)

// An Error is the server's or the client's, without its text, which may hold what was sent, or where to.
type Error struct {
	Op   string // what the store was doing
	Code string // the server's error code, as in OOM; empty: it did not answer, or not with what was asked
}

// What an operator can do something about, by the codes in the source of Redis.
var classes = map[string]string{
	"LOADING":     "the server is still loading its data",
	"READONLY":    "the server is read-only: it is a replica",
	"MASTERDOWN":  "the server is a replica that has lost its master",
	"OOM":         "the server is out of memory",
	"MISCONF":     "the server cannot write to its disk and refuses",
	"CLUSTERDOWN": "the cluster is down",
	"NOREPLICAS":  "the server has too few replicas and refuses",
	"NOAUTH":      "the server wants a password",
	"WRONGPASS":   "the server does not take the password",
	"NOPERM":      "the user may not do that: it needs EVAL, EVALSHA and the prefix's keys",
	"BUSY":        "the server is busy with another script",
	"WRONGTYPE":   "a key of the prefix is none of this store's",
	"CROSSSLOT":   "the server takes the keys to be in different slots",
	noReply:       "the connection failed",
	"":            "the answer is none of this store's: something else writes under its prefix",
}

// noReply stands in an Error's Code for what the client says.
const noReply = "connection"

func (e *Error) Error() string {
	class, ok := classes[e.Code]
	switch {
	case !ok:
		return fmt.Sprintf("redis: %s: the server refused (code %s)", e.Op, e.Code)
	case e.Code == "" || e.Code == noReply:
		return fmt.Sprintf("redis: %s: %s", e.Op, class)
	}
	return fmt.Sprintf("redis: %s: %s (code %s)", e.Op, class, e.Code)
}

// failed translates an error of the client; it never wraps it.
func failed(ctx context.Context, op string, err error) error {
	if end := ctx.Err(); end != nil {
		return fmt.Errorf("redis: %s: %w", op, end)
	}
	for _, end := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, end) {
			return fmt.Errorf("redis: %s: %w", op, end)
		}
	}
	var refused goredis.Error
	if !errors.As(err, &refused) || errors.Is(err, goredis.Nil) {
		return &Error{Op: op, Code: noReply}
	}
	text := strings.TrimSpace(refused.Error())
	if code, _, _ := strings.Cut(text, " "); isCode(code) {
		return &Error{Op: op, Code: code}
	}
	return &Error{Op: op, Code: "ERR"}
}

// isCode reports whether a word is a code and nothing that somebody sent.
func isCode(word string) bool {
	for _, c := range []byte(word) {
		if c < 'A' || c > 'Z' {
			return false
		}
	}
	return word != "" && len(word) <= 16
}

package redis

import (
	"context"
	"errors"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/carrel-project/carrel/lockout"
)

// A Client runs commands. Client, ClusterClient, Ring and UniversalClient of go-redis do.
type Client interface {
	Process(ctx context.Context, cmd goredis.Cmder) error
}

// Lockouts counts guesses in Redis, for all processes that use the same prefix. It is safe for concurrent use.
type Lockouts struct {
	client Client
	prefix string // {…}:
}

var (
	_ lockout.Store      = (*Lockouts)(nil)
	_ lockout.Timekeeper = (*Lockouts)(nil)
)

// maxPrefix is longer than anybody's, and keeps keys short.
const maxPrefix = 64

// NewLockouts returns a store of what is under a prefix: letters, digits and ._-/: are allowed. Empty, it is carrel. It does not ask the server anything.
func NewLockouts(client Client, prefix string) (*Lockouts, error) {
	if client == nil {
		return nil, errors.New("redis: there is no client")
	}
	if prefix == "" {
		prefix = "carrel"
	}
	if len(prefix) > maxPrefix {
		return nil, fmt.Errorf("redis: the prefix has %d bytes, want at most %d", len(prefix), maxPrefix)
	}
	for _, c := range []byte(prefix) {
		if !plain(c) {
			return nil, errors.New("redis: the prefix may have letters, digits and ._-/: only")
		}
	}
	return &Lockouts{client, "{" + prefix + "}:"}, nil
}

// plain reports whether a byte means nothing in a pattern of SCAN, or as a hash tag.
func plain(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return c == '.' || c == '_' || c == '-' || c == '/' || c == ':'
}

// Reserve implements lockout.Store.
func (l *Lockouts) Reserve(ctx context.Context, now time.Time, slots []lockout.Slot) (v lockout.Verdict, err error) {
	r, err := l.guess(now, slots, lockout.Conclusion{Reserved: now})
	if err != nil {
		return v, err
	}
	answer, err := l.text(ctx, "Reserve", reserve, again, r)
	if err != nil {
		return v, err
	}
	if len(answer) != verdictSize {
		return v, &Error{Op: "Reserve"}
	}
	return lockout.Verdict{
		Answer:  lockout.Answer(answer[0]),
		Slot:    int(answer[1]),
		Crossed: answer[2],
		Left:    readCount(answer[3:]),
		Wait:    time.Duration(readNumber(answer[7:])) * time.Microsecond,
	}, nil
}

// Conclude implements lockout.Store. It is sent once and not again, whatever the client is set to: done twice, it would give two guesses back.
func (l *Lockouts) Conclude(ctx context.Context, now time.Time, slots []lockout.Slot, c lockout.Conclusion) (v lockout.Verdict, err error) {
	if now.UnixMicro() >= c.Reserved.UnixMicro()+lockout.MaxCheck.Microseconds() {
		return lockout.Verdict{Answer: lockout.Late}, ctx.Err() // nothing is to be written
	}
	r, err := l.guess(now, slots, c)
	if err != nil {
		return v, err
	}
	answer, err := l.text(ctx, "Conclude", conclude, once, r)
	if err != nil {
		return v, err
	}
	if len(answer) != 1 {
		return v, &Error{Op: "Conclude"}
	}
	v.Crossed = answer[0]
	return v, nil
}

// Hold implements lockout.Store.
func (l *Lockouts) Hold(ctx context.Context, now time.Time, name lockout.Name, until time.Time) error {
	end := int64(0)
	if !until.IsZero() {
		end = until.UnixMicro()
	}
	_, err := l.text(ctx, "Hold", hold, again, one(l.key(name), now.UnixMicro(), end, string(appendField(nil, name.Hold()))))
	return err
}

// Sync implements lockout.Timekeeper. The server's clock may be set by up to an hour in either direction while a lock runs: the keys stay that much longer than
// the locks in them. What ends is then still the lock's own time, as the running Guards know it.
func (l *Lockouts) Sync(ctx context.Context, mine time.Time, seen int64) (time.Time, int64, error) {
	micro := int64(0)
	if !mine.IsZero() {
		micro = mine.UnixMicro()
	}
	reply, err := l.run(ctx, "Sync", clock, again, one(l.prefix+"clock", micro, lockout.Apart.Microseconds(), seen))
	if err != nil {
		return time.Time{}, 0, err
	}
	list, ok := reply.([]any)
	if !ok || len(list) != 2 {
		return time.Time{}, 0, &Error{Op: "Sync"}
	}
	now, isTime := list[0].(int64)
	edition, isNumber := list[1].(int64)
	if !isTime || !isNumber {
		return time.Time{}, 0, &Error{Op: "Sync"}
	}
	return time.UnixMicro(now), edition, nil
}

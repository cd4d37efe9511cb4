package redis

import (
	"context"
	"encoding/hex"
	"strings"
	"time"

	"github.com/carrel-project/carrel/lockout"
)

// States implements lockout.Store. Without a name it goes through all keys of the server, others' too, so a page may be empty though it is not the last. A state may be on two pages
// when the server makes its table smaller in between.
func (l *Lockouts) States(ctx context.Context, _ time.Time, q lockout.Query) (page lockout.Page, err error) {
	r := one(l.prefix+"scan", max(q.Limit, 1), l.prefix+strings.Repeat("?", 2*len(lockout.Name{})), q.Cursor)
	s := scan
	if q.Name != nil {
		r, s = one(l.key(*q.Name)), named
	}
	reply, err := l.run(ctx, "States", s, again, r)
	if err != nil {
		return page, err
	}
	list, ok := reply.([]any)
	if !ok || len(list)%2 == 0 {
		return page, &Error{Op: "States"}
	}
	if page.Cursor, ok = list[0].(string); !ok {
		return page, &Error{Op: "States"}
	}
	for i := 1; i < len(list); i += 2 {
		key, ok := list[i].(string)
		fields, ok2 := list[i+1].([]any)
		if !ok || !ok2 || len(fields)%2 != 0 {
			return lockout.Page{}, &Error{Op: "States"}
		}
		for j := 0; j < len(fields); j += 2 {
			e, ok := l.entry(key, fields[j], fields[j+1])
			if !ok {
				return lockout.Page{}, &Error{Op: "States"}
			}
			page.Entries = append(page.Entries, e)
		}
	}
	return page, nil
}

// entry reads what the scripts wrote.
func (l *Lockouts) entry(key string, field, value any) (e lockout.Entry, ok bool) {
	name, ok := strings.CutPrefix(key, l.prefix)
	rest, ok2 := field.(string)
	state, ok3 := value.(string)
	if !ok || !ok2 || !ok3 || len(name)+len(rest) != 2*len(e.Key) || len(state) != stateSize {
		return e, false
	}
	if _, err := hex.Decode(e.Key[:], []byte(name+rest)); err != nil {
		return e, false
	}
	e.State = lockout.State{
		Until:   readNumber(state),
		Start:   readNumber(state[8:]),
		Lease:   readNumber(state[16:]),
		Failed:  readCount(state[32:]),
		Earlier: readCount(state[36:]),
		Open:    readCount(state[40:]),
		Older:   readCount(state[44:]),
	}
	return e, true
}

// Both scripts answer with the next cursor, then each key and all that is in it. The SCAN is within a script because that goes, by its key, to the server of a cluster
// that has the prefix. Somebody else's cursor begins at a place of its own, or at none: Redis takes any number.
var (
	named = newScript(`return {'', KEYS[1], redis.call('HGETALL', KEYS[1])}`)
	scan  = newScript(`
local cursor = ARGV[3]
if cursor == '' then
  cursor = '0'
end
local found = redis.call('SCAN', cursor, 'COUNT', ARGV[1], 'MATCH', ARGV[2])
local list = {found[1]}
if list[1] == '0' then
  list[1] = ''
end
for _, key in ipairs(found[2]) do
  list[#list + 1] = key
  list[#list + 1] = redis.call('HGETALL', key)
end
return list
`)
)

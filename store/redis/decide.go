package redis

import (
	"fmt"

	"github.com/carrel-project/carrel/lockout"
)

// The scripts below are lockout.Admit, lockout.Settle and lockout.State.Forget in Lua, step by step and with the same names. Numbers are doubles there, which hold microseconds
// until the year 2255 exactly. A state is packed, in this order: until (til, because until is a word of Lua's), start, lease, kept, failed, earlier, open, older.
//
// Kept is until when the key is known to stay, so that the server is not asked and told at every guess: it is told when that is less than twice the duration and the slack away, and then
// for a little longer than that. It is asked before, so that no limit makes a key end that another one in it needs.
//
// What is not plain in them is for speed, because this is all that a server does one at a time: no functions, few tables, nothing read twice.

// reserve is lockout.Admit. It looks at all slots first, then counts in each.
var reserve = newScript(constants + `
local args = {parse(ARGV[1], ARGV[2])}
local now, last = args[1], #args - 5
local answer, slot, wait, crossed, bit = 0, 0, 0, 0, 1
local raws, i, k, j, found = {}, 0, 0
for at = 4, last, 5 do
  local run = args[at]
  if run > 0 then
    k, j = k + 1, 0
    if run == 1 then
      found = call('HMGET', KEYS[k], args[at + 1])
    elseif run == 2 then
      found = call('HMGET', KEYS[k], args[at + 1], args[at + 6])
    else
      local fields = {}
      for f = 1, run do
        fields[f] = args[at + 5 * f - 4]
      end
      found = call('HMGET', KEYS[k], unpack(fields))
    end
  end
  i, j = i + 1, j + 1
  local raw = found[j]
  raws[i] = raw
  if raw and parse('<d', raw) > now then
    local til, start, lease, kept, failed, earlier, open, older = parse('<ddddI4I4I4I4', raw)
    if now < lease and open + older > 0 or now < lease + check and open > 0 then
      if answer == 0 then
        answer, slot = 1, i - 1
      end
    else
      if open + older > 0 then
        crossed = crossed + bit
      end
      if answer ~= 2 or til - now > wait then
        answer, slot, wait = 2, i - 1, til - now
      end
    end
  end
  bit = bit * 2
end
local least = -1
if answer ~= 0 then
  least = 0
  if crossed == 0 then
    return pack('<BBBi4d', answer, slot, crossed, least, wait)
  end
end

i, k = 0, 0
for at = 4, last, 5 do
  if args[at] > 0 then
    k = k + 1
  end
  i = i + 1
  local raw, attempts, period = raws[i], args[at + 3], args[at + 4]
` + seen + `
  if answer == 0 and attempts > 0 then
    if failed + earlier == 0 then
      start = now
    end
    if open + older == 0 then
      lease = now + check
    end
    failed, open = failed + 1, open + 1
    local left = attempts - failed - earlier
    if left <= 0 then
      left, til = 0, now + period
    end
    if least < 0 or left < least then
      least = left
    end
  end
` + keep + `
end
return pack('<BBBi4d', answer, slot, crossed, least, wait)
`)

// conclude is lockout.Settle, but that whether it is too late was looked at before.
var conclude = newScript(constants + `
local args = {parse(ARGV[1], ARGV[2])}
local now, reserved, result, last = args[1], args[2], args[3], #args - 5
local crossed, bit, k = 0, 1, 0
for at = 4, last, 5 do
  if args[at] > 0 then
    k = k + 1
  end
  local period = args[at + 4]
  if args[at + 3] > 0 then
    local raw = call('HGET', KEYS[k], args[at + 1])
` + seen + `
    if older > 0 and (reserved < lease - check or open == 0) then
      older = older - 1
    elseif open > 0 then
      open = open - 1
    end
    if result == 1 and args[at + 2] == 1 then
      start, failed, earlier, til = now, open + older, 0, 0
    elseif result == 0 then
      if til > now and open + older == 0 then
        til = now + period
        crossed = crossed + bit
      end
    else
      if earlier > 0 and (reserved < start or failed == 0) then
        earlier = earlier - 1
      elseif failed > 0 then
        failed = failed - 1
      end
      til = 0
    end
` + keep + `
  end
  bit = bit * 2
end
return pack('B', crossed)
`)

// hold puts a hold on a name or, with no end, lifts it and does lockout.State.Forget with all that is under the name.
var hold = newScript(constants + `
local key, now, til = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
if til ~= 0 then
  call('HSET', key, ARGV[3], pack('<ddddI4I4I4I4', til, 0, 0, 0, 0, 0, 0, 0))
  local ttl = math.max(til - now, 0) + slack
  if call('PTTL', key) * 1000 < ttl then
    call('PEXPIRE', key, math.ceil(ttl / 1000))
  end
  return ''
end
local all = call('HGETALL', key)
for i = 1, #all, 2 do
  local _, _, lease, kept, _, _, open, older = parse('<ddddI4I4I4I4', all[i + 1])
  if lease + check <= now then
    open, older = 0, 0
  elseif lease <= now then
    open, older, lease = 0, open, lease + check
  end
  if open + older == 0 then
    call('HDEL', key, all[i])
  else
    call('HSET', key, all[i], pack('<ddddI4I4I4I4', 0, now, lease, kept, open + older, 0, open, older))
  end
end
return ''
`)

// seen is lockout.State.At: what raw says, as it is now. Keep writes it back. They are not functions, because calling one for every slot takes as long as the rest.
const (
	seen = `
local til, start, lease, kept, failed, earlier, open, older = 0, 0, 0, 0, 0, 0, 0, 0
if raw then
  til, start, lease, kept, failed, earlier, open, older = parse('<ddddI4I4I4I4', raw)
  if lease + check <= now then
    open, older = 0, 0
  elseif lease <= now then
    open, older, lease = 0, open, lease + check
  end
  if til <= now then
    if til ~= 0 or start + 2 * period <= now then
      til, start, lease, failed, earlier, open, older = 0, 0, 0, 0, 0, 0, 0
    elseif start + period <= now then
      start, earlier, failed = start + period, failed, 0
    end
  end
end
`
	keep = `
if til ~= 0 or failed + earlier + open + older > 0 then
  local ttl = 2 * period + slack
  local short = kept < now + ttl
  if short then
    ttl = ttl + spare
    kept = now + ttl
  end
  call('HSET', KEYS[k], args[at + 1], pack('<ddddI4I4I4I4', til, start, lease, kept, failed, earlier, open, older))
  if short and call('PTTL', KEYS[k]) * 1000 < ttl then
    call('PEXPIRE', KEYS[k], math.ceil(ttl / 1000))
  end
elseif raw then
  call('HDEL', KEYS[k], args[at + 1])
end
`
)

// constants are those that scripts share.
var constants = fmt.Sprintf(`
local call, parse, pack = redis.call, struct.unpack, struct.pack
local check, slack, spare = %d, %d, %d
`, lockout.MaxCheck.Microseconds(), slack.Microseconds(), spare.Microseconds())

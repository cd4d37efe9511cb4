package redis

// The scripts below are lockout.Admit, lockout.Settle and lockout.State.Forget in Lua, line by line: the names are the same. Numbers are doubles there, which hold microseconds
// until the year 2255 exactly. What guess packs is read with struct, little-endian: a head of the time, when the guess was reserved and its result; for each key, how
// many slots are in it and for how long to keep it; for each of these, whether it clears, its attempts and its duration.

// common is how a state is read, brought up to now, and written back.
const common = `
local call, pack, parse = redis.call, struct.pack, struct.unpack

-- read returns start, lease, until, failed, earlier, open.
local function read(raw, now, period)
  if not raw then
    return 0, 0, 0, 0, 0, 0
  end
  local start, lease, til, failed, earlier, open = parse('<dddI4I4I4', raw)
  if til > now then
    return start, lease, til, failed, earlier, open
  end
  if til ~= 0 or start + 2 * period <= now then
    return 0, 0, 0, 0, 0, 0
  end
  if start + period <= now then
    start, earlier, failed = start + period, failed, 0
  end
  if lease <= now then
    open = 0
  end
  return start, lease, til, failed, earlier, open
end

-- write keeps a state, if there is anything in it that counts. It reports whether there is.
local function write(key, field, raw, start, lease, til, failed, earlier, open)
  if til == 0 and failed + earlier + open == 0 then
    if raw then
      call('HDEL', key, field)
    end
    return false
  end
  call('HSET', key, field, pack('<dddI4I4I4', start, lease, til, failed, earlier, open))
  return true
end

-- stay lets a key live for so long, or for as long as it would have lived.
local function stay(key, ttl)
  if call('PTTL', key) < ttl then
    call('PEXPIRE', key, ttl)
  end
end
`

// reserve is lockout.Admit.
var reserve = newScript(`
local call, parse, pack = redis.call, struct.unpack, struct.pack
local args = {parse(ARGV[1], ARGV[2])}
local now, at = args[1], 4
local answer, slot, wait, crossed, bit, i = 0, 0, 0, 0, 1, 0
local states = {}

for k = 1, #KEYS do
  local n, raws = args[at]
  at = at + 2
  if n == 1 then
    raws = {call('HGET', KEYS[k], args[at])}
  elseif n == 2 then
    raws = call('HMGET', KEYS[k], args[at], args[at + 4])
  else
    local fields = {}
    for j = 1, n do
      fields[j] = args[at + 4 * (j - 1)]
    end
    raws = call('HMGET', KEYS[k], unpack(fields))
  end
  for j = 1, n do
    i = i + 1
    local raw = raws[j]
    if raw then
      local s = {parse('<dddI4I4I4', raw)} -- start, lease, until, failed, earlier, open
      local til, period = s[3], args[at + 3]
      if til > now then
        if s[6] > 0 and now < s[2] then
          if answer == 0 then
            answer, slot = 1, i - 1
          end
        else
          if s[6] > 0 then
            crossed = crossed + bit
            s[6] = 0
          end
          if answer ~= 2 or til - now > wait then
            answer, slot, wait = 2, i - 1, til - now
          end
        end
      elseif til ~= 0 or s[1] + 2 * period <= now then
        s = {0, 0, 0, 0, 0, 0}
      else
        if s[1] + period <= now then
          s[1], s[5], s[4] = s[1] + period, s[4], 0
        end
        if s[2] <= now then
          s[6] = 0
        end
      end
      states[i] = s
    end
    at = at + 4
    bit = bit * 2
  end
end
if answer ~= 0 and crossed == 0 then
  return pack('<BBBi4i8', answer, slot, 0, 0, wait)
end

local least = -1
if answer ~= 0 then
  least = 0
end
at, i = 4, 0
for k = 1, #KEYS do
  local n, ttl, kept = args[at], args[at + 1]
  at = at + 2
  for j = 1, n do
    i = i + 1
    local s, attempts = states[i], args[at + 2]
    local start, lease, til, failed, earlier, open = 0, 0, 0, 0, 0, 0
    if s then
      start, lease, til, failed, earlier, open = s[1], s[2], s[3], s[4], s[5], s[6]
    end
    if answer == 0 and attempts > 0 then
      if failed + earlier == 0 then
        start = now
      end
      failed, open, lease = failed + 1, open + 1, now + 60000000
      local left = attempts - failed - earlier
      if left <= 0 then
        left, til = 0, now + args[at + 3]
      end
      if least < 0 or left < least then
        least = left
      end
    end
    if til ~= 0 or failed + earlier + open > 0 then
      call('HSET', KEYS[k], args[at], pack('<dddI4I4I4', start, lease, til, failed, earlier, open))
      kept = true
    elseif s then
      call('HDEL', KEYS[k], args[at])
    end
    at = at + 4
  end
  if kept and call('PTTL', KEYS[k]) < ttl then
    call('PEXPIRE', KEYS[k], ttl)
  end
end
return pack('<BBBi4i8', answer, slot, crossed, least, wait)
`)

// conclude is lockout.Settle, but that whether it is too late was looked at before.
var conclude = newScript(common + `
local args = {parse(ARGV[1], ARGV[2])}
local now, reserved, result, at = args[1], args[2], args[3], 4
local crossed, bit = 0, 1
for k = 1, #KEYS do
  local n, ttl, kept = args[at], args[at + 1]
  at = at + 2
  for j = 1, n do
    local field, clears, attempts, period = args[at], args[at + 1], args[at + 2], args[at + 3]
    at = at + 4
    if attempts > 0 then
      local raw = call('HGET', KEYS[k], field)
      local start, lease, til, failed, earlier, open = read(raw, now, period)
      if open > 0 then
        open = open - 1
      end
      if result == 1 and clears == 1 then
        start, failed, earlier, til = now, open, 0, 0
      elseif result == 0 then
        if til > now and open == 0 then
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
      if write(KEYS[k], field, raw, start, lease, til, failed, earlier, open) then
        kept = true
      end
    end
    bit = bit * 2
  end
  if kept then
    stay(KEYS[k], ttl)
  end
end
return pack('B', crossed)
`)

// hold puts a hold on a name or, with no end, lifts it and forgets the failures.
var hold = newScript(common + `
local key, now, til = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
if til ~= 0 then
  write(key, ARGV[4], false, 0, 0, til, 0, 0, 0)
  stay(key, tonumber(ARGV[3]))
  return ''
end
local all = call('HGETALL', key)
for i = 1, #all, 2 do
  local _, lease, _, _, _, open = parse('<dddI4I4I4', all[i + 1])
  if lease <= now then
    open = 0
  end
  write(key, all[i], true, now, lease, 0, open, 0, open)
end
return ''
`)

package redis

// clock returns the store's time, which is the server's and an offset. Numbers are written with %.0f, because Lua's own way has 14 digits.
var clock = newScript(`
local t = redis.call('TIME')
local own = t[1] * 1000000 + t[2]
local kept = redis.call('HMGET', KEYS[1], 'apart', 'edition')
local now, edition = own + tonumber(kept[1] or '0'), tonumber(kept[2] or '0')
local mine = tonumber(ARGV[1])
if mine ~= 0 and tonumber(ARGV[3]) == edition and math.abs(now - mine) > tonumber(ARGV[2]) then
  now, edition = mine, edition + 1
  redis.call('HSET', KEYS[1], 'apart', string.format('%.0f', mine - own), 'edition', string.format('%.0f', edition))
end
return {now, edition}
`)

package redis

// clock returns the store's time, which is the server's and an offset. Numbers are written with %.0f, because Lua's own way has 14 digits.
var clock = newScript(`
local t = redis.call('TIME')
local own = t[1] * 1000000 + t[2]
local now = own + (tonumber(redis.call('GET', KEYS[1]) or '0'))
local mine = tonumber(ARGV[1])
if mine ~= 0 and math.abs(now - mine) > tonumber(ARGV[2]) then
  redis.call('SET', KEYS[1], string.format('%.0f', mine - own))
  now = mine
end
return now
`)

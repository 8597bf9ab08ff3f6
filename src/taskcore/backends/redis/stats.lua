-- How full a queue is.    Reply: ready, leased, scheduled, dead, age in ms of the oldest ready job (-1: none).
local s, l, z, d = unpack(KEYS)
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local leased = redis.call('ZCOUNT', l, '(' .. now, '+inf')
local due = redis.call('ZCOUNT', z, '-inf', now)
local ready = redis.call('XLEN', s) - leased + due
local oldest = now
local function since(entry)
  local ms = tonumber(string.match(entry, '^%d+'))
  if ms < oldest then oldest = ms end
end
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', l, '-inf', now, 'LIMIT', 0, 100)) do since(entry) end
if redis.call('EXISTS', s) == 1 then
  local from = '-'
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', s)) do
    for at = 1, #group, 2 do
      if group[at] == 'last-delivered-id' then from = '(' .. group[at + 1] end
    end
  end
  for _, entry in ipairs(redis.call('XRANGE', s, from, '+', 'COUNT', 1)) do since(entry[1]) end
end
local first = redis.call('ZRANGE', z, 0, 0, 'WITHSCORES')[2]
if first and tonumber(first) < oldest then oldest = tonumber(first) end
return {ready, leased, redis.call('ZCARD', z) - due, redis.call('XLEN', d), ready > 0 and now - oldest or -1}

#!lua flags=allow-oom
-- Forget ready and scheduled jobs, some at a time.    ARGV: how many at most.    Reply: how many there were.
local s, l, n, z, b, j, e, f = unpack(KEYS)
local limit = tonumber(ARGV[1])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local ids, entries = {}, {}

local later = redis.call('ZRANGE', z, 0, limit - 1)
if #later > 0 then
  for _, id in ipairs(later) do ids[#ids + 1] = id end
  redis.call('ZREM', z, unpack(later))
  redis.call('HDEL', b, unpack(later))
end
local function forget(found)
  for _, entry in ipairs(found) do
    entries[#entries + 1] = entry[1]
    if entry[2][1] == 'i' and entry[2][2] ~= '' then ids[#ids + 1] = entry[2][2] end
  end
end
for _, held in ipairs(redis.call('ZRANGEBYSCORE', l, '-inf', now, 'LIMIT', 0, limit - #later)) do
  local entry = string.match(held, '^%S+')
  forget(redis.call('XRANGE', s, entry, entry))
  redis.call('ZREM', l, held)
  redis.call('HDEL', n, entry)
end
local left = limit - #later - #entries
if left > 0 and redis.call('EXISTS', s) == 1 then
  local from = '-'
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', s)) do
    for at = 1, #group, 2 do
      if group[at] == 'last-delivered-id' then from = '(' .. group[at + 1] end
    end
  end
  forget(redis.call('XRANGE', s, from, '+', 'COUNT', left))
end
if #entries > 0 then redis.call('XDEL', s, unpack(entries)) end
if #ids > 0 then
  redis.call('HDEL', j, unpack(ids))
  redis.call('SADD', e, unpack(ids))
  if redis.call('PTTL', e) < 0 then redis.call('PEXPIRE', e, 120000) end
end
return #later + #entries

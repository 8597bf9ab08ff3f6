#!lua flags=allow-oom
-- Where a job is, and perhaps: forget it, if nobody holds it.    ARGV: id, '1' to forget it.
-- Reply: scheduled, ready, leased; or nothing.
local s, l, n, z, b, j, e, f = unpack(KEYS)
local id, forget = ARGV[1], ARGV[2] == '1'

local function over(entry) -- a lease on it that was given back or has ended
  local t = redis.call('TIME')
  for _, held in ipairs(redis.call('ZRANGEBYSCORE', l, '-inf', t[1] * 1000 + math.floor(t[2] / 1000))) do
    if string.match(held, '^%S+') == entry then return held end
  end
end
local function passed(entry) -- by the group: it was handed out
  local ms, seq = string.match(entry, '(%d+)-(%d+)')
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', s)) do
    for at = 1, #group, 2 do
      if group[at] == 'last-delivered-id' then
        local last, count = string.match(group[at + 1], '(%d+)-(%d+)')
        ms, seq, last, count = tonumber(ms), tonumber(seq), tonumber(last), tonumber(count)
        return ms < last or (ms == last and seq <= count)
      end
    end
  end
  return false
end

local place = redis.call('HGET', j, id)
if not place then return nil end
if place == 'z' then
  if forget then
    redis.call('ZREM', z, id)
    redis.call('HDEL', b, id)
  end
elseif not redis.call('XRANGE', s, place, place)[1] then
  redis.call('HDEL', j, id)
  return nil
else
  if passed(place) then
    local held = over(place)
    if not held then return 'leased' end
    if forget then redis.call('ZREM', l, held) end
  end
  if forget then
    redis.call('XDEL', s, place)
    redis.call('HDEL', n, place)
  end
end
if forget then
  redis.call('HDEL', j, id)
  redis.call('SADD', e, id)
  if redis.call('PTTL', e) < 0 then redis.call('PEXPIRE', e, 120000) end
end
return place == 'z' and 'scheduled' or 'ready'

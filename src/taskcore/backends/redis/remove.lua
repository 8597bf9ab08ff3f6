#!lua flags=allow-oom
-- Forget one job that nobody holds.    ARGV: id.    Reply: 1 if it was there.
local s, l, o, n, z, b, j, e, f = unpack(KEYS)
local id = ARGV[1]
local place = redis.call('HGET', j, id)
if not place then return 0 end
if place == 'z' then
  redis.call('ZREM', z, id)
  redis.call('HDEL', b, id)
else
  local t = redis.call('TIME')
  local expires = redis.call('ZSCORE', l, place)
  if expires and tonumber(expires) > t[1] * 1000 + math.floor(t[2] / 1000) then return 0 end
  if redis.call('XDEL', s, place) == 0 then return 0 end
  redis.call('ZREM', l, place)
  redis.call('HDEL', o, place)
  redis.call('HDEL', n, place)
end
redis.call('HDEL', j, id)
redis.call('SADD', e, id)
if redis.call('PTTL', e) < 0 then redis.call('PEXPIRE', e, 120000) end
return 1

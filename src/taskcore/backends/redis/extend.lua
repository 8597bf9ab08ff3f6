#!lua flags=allow-oom
-- Renew leases, each only if the caller still has it.
--
--   KEYS   leases     sorted set: 'entry token' of each lease → its end, in ms
--   ARGV   1  lease   milliseconds; then the leases to renew …
--
-- Answer: the positions, from 0, of those that were lost before.
local leases = KEYS[1]
local lease = ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = string.format('%.0f', now + lease)
local lost, renewed = {}, {}

for index, old_end in ipairs(redis.call('ZMSCORE', leases, unpack(ARGV, 2))) do
  if old_end and tonumber(old_end) > now then
    renewed[#renewed + 1], renewed[#renewed + 2] = ends, ARGV[index + 1]
  else
    lost[#lost + 1] = index - 1
  end
end
if #renewed > 0 then redis.call('ZADD', leases, unpack(renewed)) end
return lost

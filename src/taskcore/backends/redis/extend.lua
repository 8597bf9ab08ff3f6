#!lua flags=allow-oom
-- Start leases anew, each only if it is still the asker's.    ARGV: milliseconds, then leases …
-- Reply: the positions, from 0, of those that were lost before.
local l = KEYS[1]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local lost, longer = {}, {}
local expires = string.format('%.0f', now + ARGV[1])
for i, ends in ipairs(redis.call('ZMSCORE', l, unpack(ARGV, 2))) do
  if ends and tonumber(ends) > now then
    longer[#longer + 1], longer[#longer + 2] = expires, ARGV[i + 1]
  else
    lost[#lost + 1] = i - 1
  end
end
if #longer > 0 then redis.call('ZADD', l, unpack(longer)) end
return lost

#!lua flags=allow-oom
-- Start leases anew, each only if it is still the asker's.    ARGV: lease in ms, then entry, token …
-- Reply: the positions, from 0, of those that were lost before.
local l, o = unpack(KEYS)
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local entries, lost, longer = {}, {}, {}
for at = 2, #ARGV, 2 do entries[#entries + 1] = ARGV[at] end
local owners = redis.call('HMGET', o, unpack(entries))
local leases = redis.call('ZMSCORE', l, unpack(entries))
for i, entry in ipairs(entries) do
  if owners[i] == ARGV[2 * i + 1] and leases[i] and tonumber(leases[i]) > now then
    longer[#longer + 1] = now + ARGV[1]; longer[#longer + 1] = entry
  else
    lost[#lost + 1] = i - 1
  end
end
if #longer > 0 then redis.call('ZADD', l, unpack(longer)) end
return lost

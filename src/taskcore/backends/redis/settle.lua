#!lua flags=allow-oom
-- Carry out verdicts, each only if the lease is still the asker's. Copies are written before their original is deleted.
-- ARGV: entry, token, id, verdict, time in ms, trail, reason …   (a: ack, r: retry, f: release, d: bury)
-- Reply: the positions, from 0, of those whose lease was lost; and the entries that have disappeared.
local s, l, o, n, z, b, j, e, f, d, w = unpack(KEYS)
for _, key in ipairs({o, n, b, j}) do redis.call('HLEN', key) end -- a key of another type fails here, before anything is written
redis.call('ZCARD', z); redis.call('SCARD', e); redis.call('SCARD', f); redis.call('XLEN', s); redis.call('XLEN', d)
local woken = redis.call('LLEN', w)
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local entries = {}
for at = 1, #ARGV, 7 do entries[#entries + 1] = ARGV[at] end
local owners = redis.call('HMGET', o, unpack(entries))
local leases = redis.call('ZMSCORE', l, unpack(entries))
local lost, gone, over, ended, places = {}, {}, {}, {}, {}
local ready = false
local settled = {}

local function body(entry)
  local found = redis.call('XRANGE', s, entry, entry)[1]
  if not found then return nil end
  local fields = found[2]
  if fields[1] == 'i' and fields[3] == 'e' then return fields[4] end
  return table.concat(fields, ' ') -- somebody else's entry: its bytes as they came
end

for i, entry in ipairs(entries) do
  local at = 7 * (i - 1)
  local token, id, verdict = ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  if owners[i] ~= token or settled[entry] or not leases[i] or tonumber(leases[i]) <= now then
    lost[#lost + 1] = i - 1
  elseif verdict == 'a' then
    over[#over + 1] = entry
    if id ~= '' then ended[#ended + 1] = id end
    settled[entry] = true
  elseif verdict == 'f' then
    redis.call('ZADD', l, 0, entry)
    redis.call('HSET', o, entry, '')
    settled[entry] = true
    ready = true
  else
    local after, trail, envelope = tonumber(ARGV[at + 5]), ARGV[at + 6], body(entry)
    if not envelope then
      gone[#gone + 1] = entry
      lost[#lost + 1] = i - 1
    elseif verdict == 'd' then
      redis.call('XADD', d, '*', 'i', id, 'e', envelope, 't', trail, 'r', ARGV[at + 7])
      if id ~= '' then ended[#ended + 1] = id end
    elseif after > 0 and id ~= '' then
      local first = redis.call('ZRANGE', z, 0, 0, 'WITHSCORES')[2]
      if not first or now + after < tonumber(first) then ready = true end
      redis.call('ZADD', z, now + after + 1, id)
      redis.call('HSET', b, id, #trail .. ':' .. trail .. envelope)
      places[#places + 1] = id; places[#places + 1] = 'z'
    else
      local copy = redis.call('XADD', s, '*', 'i', id, 'e', envelope, 't', trail)
      if id ~= '' then places[#places + 1] = id; places[#places + 1] = copy end
      ready = true
    end
    over[#over + 1] = entry
    settled[entry] = true
  end
end

if #ended > 0 then
  redis.call('HDEL', j, unpack(ended))
  -- Ended ids are remembered for a minute at least, and for two at most, in two sets that take turns.
  local left = redis.call('PTTL', e)
  if left >= 0 and (left < 60000 or redis.call('SCARD', e) >= 50000) then redis.call('RENAME', e, f); left = -2 end
  redis.call('SADD', e, unpack(ended))
  if left < 0 then redis.call('PEXPIRE', e, 120000) end
end
if #places > 0 then redis.call('HSET', j, unpack(places)) end
if #over > 0 then
  redis.call('XDEL', s, unpack(over))
  redis.call('ZREM', l, unpack(over))
  redis.call('HDEL', o, unpack(over))
  if redis.call('EXISTS', n) == 1 then redis.call('HDEL', n, unpack(over)) end
end
if ready and woken == 0 then redis.call('LPUSH', w, 1) end
return {lost, gone}

#!lua flags=allow-oom
-- Carry out verdicts, each only if the lease is still the asker's. Copies are written before their original is deleted.
-- ARGV: the number of acks, their leases …, their entries …, their ids …; then for every other verdict its
-- lease, entry, id ('' if it is not a job of ours), kind (a: ack, r: retry, f: release, d: bury), ms, trail, reason
-- Reply: the positions in this order, from 0, of those whose lease was lost; and the entries that have disappeared.
local s, l, n, z, b, j, e, f, d, w = unpack(KEYS)
-- A key of another type fails here, before anything is written.
for _, key in ipairs({n, b, j}) do redis.call('HLEN', key) end
for _, key in ipairs({e, f}) do redis.call('SCARD', key) end
for _, key in ipairs({s, d}) do redis.call('XLEN', key) end
redis.call('ZCARD', z)
local woken = redis.call('LLEN', w)
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local acks = tonumber(ARGV[1])
local others = 3 * acks + 2
local lost, gone, leases, over, ended = {}, {}, {}, {}, {}
local expired = {}
for _, lease in ipairs(redis.call('ZRANGEBYSCORE', l, '-inf', now)) do expired[lease] = true end

if acks > 0 then
  local ends = redis.call('ZMSCORE', l, unpack(ARGV, 2, acks + 1))
  local sound = next(expired) == nil
  for i = 1, acks do
    if not ends[i] then sound = false; break end
  end
  if sound then
    leases = {unpack(ARGV, 2, acks + 1)}
    over = {unpack(ARGV, acks + 2, 2 * acks + 1)}
    ended = {unpack(ARGV, 2 * acks + 2, 3 * acks + 1)}
  else
    for i = 1, acks do
      local lease = ARGV[i + 1]
      if not ends[i] or expired[lease] then
        lost[#lost + 1] = i - 1
      else
        leases[#leases + 1], over[#over + 1], ended[#ended + 1] = lease, ARGV[acks + 1 + i], ARGV[2 * acks + 1 + i]
        expired[lease] = true -- the same one twice in a batch is settled once
      end
    end
  end
end

local ready, places = false, {}
local function body(entry)
  local found = redis.call('XRANGE', s, entry, entry)[1]
  if not found then return nil end
  local fields = found[2]
  if fields[1] == 'i' and fields[3] == 'e' then return fields[4] end
  return table.concat(fields, ' ') -- somebody else's entry: its bytes as they came
end
local function later(id, after, trail, envelope)
  local first = redis.call('ZRANGE', z, 0, 0, 'WITHSCORES')[2]
  if not first or now + after < tonumber(first) then ready = true end
  redis.call('ZADD', z, now + after + 1, id)
  redis.call('HSET', b, id, #trail .. ':' .. trail .. envelope)
  places[#places + 1] = id; places[#places + 1] = 'z'
end
for at = others, #ARGV, 7 do
  local lease, entry, id, kind = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local after, trail = tonumber(ARGV[at + 4]), ARGV[at + 5]
  local position = acks + (at - others) / 7
  if expired[lease] or not redis.call('ZSCORE', l, lease) then
    lost[#lost + 1] = position
  elseif kind == 'f' then
    redis.call('ZADD', l, 0, entry)
    leases[#leases + 1] = lease
    ready = true
  elseif kind == 'a' then
    leases[#leases + 1], over[#over + 1] = lease, entry
    if id ~= '' then ended[#ended + 1] = id end
  else
    local envelope = body(entry)
    if not envelope then
      gone[#gone + 1] = entry
      lost[#lost + 1] = position
    elseif kind == 'd' then
      redis.call('XADD', d, '*', 'i', id, 'e', envelope, 't', trail, 'r', ARGV[at + 6])
      if id ~= '' then ended[#ended + 1] = id end
    elseif after > 0 and id ~= '' then
      later(id, after, trail, envelope)
    else
      local copy = redis.call('XADD', s, '*', 'i', id, 'e', envelope, 't', trail)
      if id ~= '' then places[#places + 1] = id; places[#places + 1] = copy end
      ready = true
    end
    leases[#leases + 1], over[#over + 1] = lease, entry
  end
  expired[lease] = true
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
if #leases > 0 then redis.call('ZREM', l, unpack(leases)) end
if #over > 0 then
  redis.call('XDEL', s, unpack(over))
  if redis.call('EXISTS', n) == 1 then redis.call('HDEL', n, unpack(over)) end
end
if ready and woken == 0 then redis.call('LPUSH', w, 1) end
return {lost, gone}

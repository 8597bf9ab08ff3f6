#!lua flags=allow-oom
-- Delete ready and scheduled jobs, a bounded number at a time.
--
--   KEYS   jobs          stream: ready and leased jobs
--          leases        sorted set: 'entry token' of each lease → its end, in ms; given back: 'entry' → 0
--          redeliveries  hash: entry → times that it was handed out without a verdict
--          schedule      sorted set: job id → due, in ms
--          bodies        hash: job id → trail and envelope of a scheduled job
--          places        hash: job id → its entry in the stream, or 'scheduled'
--          ended         set: ids of jobs that ended lately
--   ARGV   1  limit      how many at most
--
-- Answer: how many were deleted.
local jobs, leases, redeliveries, schedule, bodies, places, ended = unpack(KEYS)
local limit = tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ids, entries = {}, {}

-- A key of another type fails here, before anything is written.
for _, key in ipairs({redeliveries, bodies, places}) do redis.call('HLEN', key) end
redis.call('XLEN', jobs)
redis.call('ZCARD', leases)
redis.call('SCARD', ended)

local later = redis.call('ZRANGE', schedule, 0, limit - 1)
if #later > 0 then
  for _, id in ipairs(later) do ids[#ids + 1] = id end
  redis.call('ZREM', schedule, unpack(later))
  redis.call('HDEL', bodies, unpack(later))
end

local function collect(found)
  for _, entry in ipairs(found) do
    local fields = entry[2]
    entries[#entries + 1] = entry[1]
    if fields[1] == 'id' and fields[2] ~= '' then ids[#ids + 1] = fields[2] end
  end
end
for _, lease in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, limit - #later)) do
  local entry = string.match(lease, '^%S+') or ''
  local fields = entry_at(jobs, entry)
  if fields then collect({{entry, fields}}) end
  redis.call('ZREM', leases, lease)
  redis.call('HDEL', redeliveries, entry)
end
local left = limit - #later - #entries
if left > 0 and redis.call('EXISTS', jobs) == 1 then
  local last = group_at(jobs)
  if last ~= LAST_ID then collect(redis.call('XRANGE', jobs, last and '(' .. last or '-', '+', 'COUNT', left)) end
end

if #entries > 0 then redis.call('XDEL', jobs, unpack(entries)) end
if #ids > 0 then
  redis.call('HDEL', places, unpack(ids))
  redis.call('SADD', ended, unpack(ids))
  if redis.call('PTTL', ended) < 0 then redis.call('PEXPIRE', ended, 120000) end
end
return #later + #entries

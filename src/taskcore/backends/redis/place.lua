#!lua flags=allow-oom
-- Where a job is; and, if asked, delete it unless it is leased.
--
--   KEYS   jobs          stream: ready and leased jobs
--          leases        sorted set: 'entry token' of each lease → its end, in ms; given back: 'entry' → 0
--          redeliveries  hash: entry → times that it was handed out without a verdict
--          schedule      sorted set: job id → due, in ms
--          bodies        hash: job id → trail and envelope of a scheduled job
--          places        hash: job id → its entry in the stream, or 'scheduled'
--          ended         set: ids of jobs that ended lately
--   ARGV   1  id         of the job
--          2  delete     '1' to delete it
--
-- Answer: 'scheduled', 'ready' or 'leased'; nil if it is not here.
local jobs, leases, redeliveries, schedule, bodies, places, ended = unpack(KEYS)
local id, delete = ARGV[1], ARGV[2] == '1'

local function ended_lease(entry) -- a lease on the entry that was given back or has ended
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  for _, lease in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now)) do
    if string.match(lease, '^%S+') == entry then return lease end
  end
end

local function was_delivered(entry) -- whether the consumer group has passed the entry
  local last = group_at(jobs)
  if not last then return false end
  local ms, seq = string.match(entry, '(%d+)-(%d+)')
  local last_ms, last_seq = string.match(last, '(%d+)-(%d+)')
  ms, seq, last_ms, last_seq = tonumber(ms), tonumber(seq), tonumber(last_ms), tonumber(last_seq)
  return ms < last_ms or (ms == last_ms and seq <= last_seq)
end

if delete then -- a key of another type fails here, before anything is written
  for _, key in ipairs({redeliveries, bodies}) do redis.call('HLEN', key) end
  for _, key in ipairs({leases, schedule}) do redis.call('ZCARD', key) end
  redis.call('SCARD', ended)
end
local place = redis.call('HGET', places, id)
if not place then return nil end
if place == 'scheduled' then
  if delete then
    redis.call('ZREM', schedule, id)
    redis.call('HDEL', bodies, id)
  end
elseif not entry_at(jobs, place) then
  redis.call('HDEL', places, id)
  return nil
else
  if was_delivered(place) then
    local lease = ended_lease(place)
    if not lease then return 'leased' end
    if delete then redis.call('ZREM', leases, lease) end
  end
  if delete then
    redis.call('XDEL', jobs, place)
    redis.call('HDEL', redeliveries, place)
  end
end
if delete then
  redis.call('HDEL', places, id)
  redis.call('SADD', ended, id)
  if redis.call('PTTL', ended) < 0 then redis.call('PEXPIRE', ended, 120000) end
end
return place == 'scheduled' and 'scheduled' or 'ready'

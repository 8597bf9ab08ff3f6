#!lua flags=allow-oom
-- Carry out verdicts, each only if the caller still has the lease. A copy is written before its original is deleted.
--
--   KEYS   jobs          stream: ready and leased jobs
--          leases        sorted set: 'entry token' of each lease → its end, in ms; given back: 'entry' → 0
--          redeliveries  hash: entry → times that it was handed out without a verdict
--          schedule      sorted set: job id → due, in ms
--          bodies        hash: job id → trail and envelope of a scheduled job
--          places        hash: job id → its entry in the stream, or 'scheduled'
--          ended         set: ids of jobs that ended lately
--          ended_before  set: ids of jobs that ended before those
--          letters       stream: dead letters
--          wake          list: one token if a worker may have something to do
--
--   ARGV   1  acks       the number of acks; then their leases …, their entries …, their ids …
--          then, for every other verdict: lease, entry, id ('' if the entry is not a job of ours),
--          kind ('ack', 'retry', 'release', 'bury'), delay in ms, trail, reason
--
-- Three answers: the positions in this order, from 0, of those whose lease was lost; the entries that have disappeared;
-- the number of those that could not be settled, because their stream has no id left: they count as lost, too.
local jobs, leases, redeliveries, schedule, bodies, places, ended, ended_before, letters, wake = unpack(KEYS)
local acks = tonumber(ARGV[1])
local call = redis.call

-- A key of another type fails here, before anything is written.
for _, key in ipairs({redeliveries, bodies, places}) do call('HLEN', key) end
for _, key in ipairs({ended, ended_before}) do call('SCARD', key) end
for _, key in ipairs({jobs, letters}) do call('XLEN', key) end
call('ZCARD', schedule)
local woken = call('LLEN', wake)

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local others = 3 * acks + 2
local lost, gone, stuck = {}, {}, 0
local done_leases, done_entries, done_ids = {}, {}, {}
local expired = {}
for _, lease in ipairs(call('ZRANGEBYSCORE', leases, '-inf', now)) do expired[lease] = true end

if acks > 0 then
  local ends = call('ZMSCORE', leases, unpack(ARGV, 2, acks + 1))
  local all_valid = next(expired) == nil
  for index = 1, acks do
    if not ends[index] then all_valid = false; break end
  end
  if all_valid then
    done_leases = {unpack(ARGV, 2, acks + 1)}
    done_entries = {unpack(ARGV, acks + 2, 2 * acks + 1)}
    done_ids = {unpack(ARGV, 2 * acks + 2, 3 * acks + 1)}
  else
    for index = 1, acks do
      local lease = ARGV[index + 1]
      if not ends[index] or expired[lease] then
        lost[#lost + 1] = index - 1
      else
        done_leases[#done_leases + 1] = lease
        done_entries[#done_entries + 1] = ARGV[acks + 1 + index]
        done_ids[#done_ids + 1] = ARGV[2 * acks + 1 + index]
        expired[lease] = true -- the same one twice in a batch is settled once
      end
    end
  end
end

local has_news, new_places = false, {}

local function envelope_of(entry)
  local fields = entry_at(jobs, entry)
  if not fields then return nil end
  if fields[1] == 'id' and fields[3] == 'envelope' then return fields[4] end
  return table.concat(fields, ' ') -- an entry of another program: its bytes as they came
end

local function put_off(id, delay, trail, envelope)
  local first = call('ZRANGE', schedule, 0, 0, 'WITHSCORES')[2]
  if not first or now + delay < tonumber(first) then has_news = true end
  call('ZADD', schedule, now + delay + 1, id)
  call('HSET', bodies, id, #trail .. ':' .. trail .. envelope)
  new_places[#new_places + 1] = id
  new_places[#new_places + 1] = 'scheduled'
end

for at = others, #ARGV, 7 do
  local lease, entry, id, kind = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local delay, trail, reason = tonumber(ARGV[at + 4]), ARGV[at + 5], ARGV[at + 6]
  local position = acks + (at - others) / 7
  if expired[lease] or not call('ZSCORE', leases, lease) then
    lost[#lost + 1] = position
  elseif kind == 'release' then
    call('ZADD', leases, 0, entry)
    done_leases[#done_leases + 1] = lease
    has_news = true
  elseif kind == 'ack' then
    done_leases[#done_leases + 1], done_entries[#done_entries + 1] = lease, entry
    if id ~= '' then done_ids[#done_ids + 1] = id end
  else
    local envelope, settled = envelope_of(entry), true
    if not envelope then
      gone[#gone + 1] = entry
      lost[#lost + 1] = position
    elseif kind == 'bury' then
      settled = append(letters, 'id', id, 'envelope', envelope, 'trail', trail, 'reason', reason)
      if settled and id ~= '' then done_ids[#done_ids + 1] = id end
    elseif delay > 0 and id ~= '' then
      put_off(id, delay, trail, envelope)
    else
      local copy = append(jobs, 'id', id, 'envelope', envelope, 'trail', trail)
      if copy and id ~= '' then
        new_places[#new_places + 1] = id
        new_places[#new_places + 1] = copy
      elseif id ~= '' then
        put_off(id, 0, trail, envelope) -- until the stream has ids again
      end
      settled = copy or id ~= ''
      has_news = true
    end
    if settled then
      done_leases[#done_leases + 1], done_entries[#done_entries + 1] = lease, entry
    else
      lost[#lost + 1] = position
      stuck = stuck + 1
    end
  end
  expired[lease] = true
end

if #done_ids > 0 then
  call('HDEL', places, unpack(done_ids))
  -- The ids of ended jobs are kept for one minute at least, and for two at most, in two sets that take turns.
  local left = call('PTTL', ended)
  if left >= 0 and (left < 60000 or call('SCARD', ended) >= 50000) then
    call('RENAME', ended, ended_before)
    left = -2
  end
  call('SADD', ended, unpack(done_ids))
  if left < 0 then call('PEXPIRE', ended, 120000) end
end
if #new_places > 0 then call('HSET', places, unpack(new_places)) end
if #done_leases > 0 then call('ZREM', leases, unpack(done_leases)) end
if #done_entries > 0 then
  call('XDEL', jobs, unpack(done_entries))
  if call('EXISTS', redeliveries) == 1 then call('HDEL', redeliveries, unpack(done_entries)) end
end
if has_news and woken == 0 then call('LPUSH', wake, 1) end
return {lost, gone, stuck}

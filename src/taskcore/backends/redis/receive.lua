#!lua flags=allow-oom
-- Move due jobs into the stream, then lease jobs: those of lost replies, those whose lease has ended, and new ones.
--
--   KEYS   jobs          stream: ready and leased jobs; its group 'workers' knows how far it was handed out
--          leases        sorted set: 'entry token' of each lease → its end, in ms; given back: 'entry' → 0
--          redeliveries  hash: entry → times that it was handed out without a verdict
--          schedule      sorted set: job id → due, in ms
--          bodies        hash: job id → trail and envelope of a scheduled job
--          places        hash: job id → its entry in the stream, or 'scheduled'
--          wake          list: one token if a worker may have something to do
--
--   ARGV   1  limit      how many jobs at most
--          2  lease      its length, in ms
--          3  token      of this call; then the tokens of earlier calls whose replies were lost …
--
-- Six answers: new entries as they are; others as {entry, redeliveries, fields}; ids or entries that have disappeared;
-- ms until a job is due or a lease ends (-1: neither); whether the group was missing (1: made anew, 2: no stream
-- either); how many more have disappeared.
local jobs, leases, redeliveries, schedule, bodies, places, wake = unpack(KEYS)
local limit, lease, token = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local call = redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local fresh, again, gone, renewed = {}, {}, {}, 0
local woken, length

local function check() -- a key of another type fails here, before anything is written
  if woken then return end
  for _, key in ipairs({redeliveries, bodies, places}) do call('HLEN', key) end
  call('ZCARD', leases)
  call('XLEN', jobs)
  woken = call('LLEN', wake)
end

-- Due jobs go into the stream.
local due = call('ZRANGEBYSCORE', schedule, '-inf', now, 'LIMIT', 0, 200)
if #due > 0 then
  check()
  local found, moved, new_places = call('HMGET', bodies, unpack(due)), {}, {}
  for index, id in ipairs(due) do
    local body = found[index]
    if body then
      local digits = string.match(body, '^(%d+):')
      local trail, envelope = '', body -- of another program: its bytes are the envelope, which no worker can read
      if digits and #digits + 1 + tonumber(digits) <= #body then
        local trail_end = #digits + 1 + tonumber(digits)
        trail, envelope = string.sub(body, #digits + 2, trail_end), string.sub(body, trail_end + 1)
      end
      local entry
      if trail == '' then
        entry = append(jobs, 'id', id, 'envelope', envelope)
      else
        entry = append(jobs, 'id', id, 'envelope', envelope, 'trail', trail)
      end
      if not entry then break end -- it stays in the schedule until the stream has ids again
      if id ~= '' then
        new_places[#new_places + 1] = id
        new_places[#new_places + 1] = entry
      end
    else
      gone[#gone + 1] = id
      call('HDEL', places, id)
    end
    moved[index] = id
  end
  if #new_places > 0 then call('HSET', places, unpack(new_places)) end
  if #moved > 0 then
    call('ZREM', schedule, unpack(moved))
    call('HDEL', bodies, unpack(moved))
  end
end

-- Jobs that were handed out before are leased anew.
local new_leases, filled = {}, 0
local ends = string.format('%.0f', now + lease) -- once: Redis turns a number into text more slowly than Lua
local suffix = ' ' .. token

local function take(old_lease, entry, blame)
  call('ZREM', leases, old_lease)
  local fields = entry_at(jobs, entry)
  if not fields then
    gone[#gone + 1] = entry
    call('HDEL', redeliveries, entry)
    return
  end
  local count
  if blame then
    count = redis.pcall('HINCRBY', redeliveries, entry, 1)
    if type(count) == 'table' then -- another program wrote there
      count = 1
      call('HSET', redeliveries, entry, count)
    end
  else
    count = tonumber(call('HGET', redeliveries, entry) or '0') or 0
  end
  again[#again + 1] = {entry, count, fields}
  new_leases[filled + 1], new_leases[filled + 2] = ends, entry .. suffix
  filled = filled + 2
end

if #ARGV > 3 then
  check()
  local lost_tokens = {}
  for at = 4, #ARGV do lost_tokens[ARGV[at]] = true end
  for _, old_lease in ipairs(call('ZRANGE', leases, 0, -1)) do
    local space = string.find(old_lease, ' ', 1, true)
    if space and lost_tokens[string.sub(old_lease, space + 1)] then
      local entry = string.sub(old_lease, 1, space - 1)
      if #again < limit then
        take(old_lease, entry, false)
      else -- more than the caller wants now: give it back for the next one
        call('ZREM', leases, old_lease)
        call('ZADD', leases, 0, entry)
      end
    end
  end
end
if #again < limit then
  local over = call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, limit - #again)
  if #over > 0 then check() end
  for _, old_lease in ipairs(over) do
    local space = string.find(old_lease, ' ', 1, true)
    take(old_lease, space and string.sub(old_lease, 1, space - 1) or old_lease, space)
  end
end

-- New jobs are leased.
if #again < limit then
  length = call('XLEN', jobs)
  if length > 0 then check() end
  local read = {
    'XREADGROUP', 'GROUP', 'workers', 'workers', 'COUNT', limit - #again, 'NOACK', 'STREAMS', jobs, '>',
  }
  local reply = redis.pcall(unpack(read))
  if reply and reply.err then
    if not string.find(reply.err, 'NOGROUP', 1, true) then
      if filled > 0 then call('ZADD', leases, unpack(new_leases)) end
      return reply
    end
    reply = nil
    if call('EXISTS', jobs) == 1 then
      -- Everything that was handed out and is not settled is among the leases, or was just taken from there; so the
      -- highest of those is where the group was.
      local start, highest_ms, highest_seq = '0', -1, -1
      local function consider(old_lease)
        local ms, seq = string.match(old_lease, '^(%d+)-(%d+)')
        ms, seq = tonumber(ms), tonumber(seq)
        if not ms or not entry_at(jobs, string.match(old_lease, '^%S+')) then return end
        if ms > highest_ms or (ms == highest_ms and seq > highest_seq) then
          start, highest_ms, highest_seq = string.match(old_lease, '^%S+'), ms, seq
        end
      end
      for _, old_lease in ipairs(call('ZRANGE', leases, 0, -1)) do consider(old_lease) end
      for at = 2, filled, 2 do consider(new_leases[at]) end
      call('XGROUP', 'CREATE', jobs, 'workers', start)
      reply = call(unpack(read))
      renewed = 1
    else
      renewed = 2
    end
  end
  if reply then
    fresh = reply[1][2]
    for index = 1, #fresh do
      new_leases[filled + 1], new_leases[filled + 2] = ends, fresh[index][1] .. suffix
      filled = filled + 2
    end
  end
end

if filled > 0 then call('ZADD', leases, unpack(new_leases)) end
local next_time = call('ZRANGE', schedule, 0, 0, 'WITHSCORES')[2]
local more = 0
if length == 0 and not next_time then
  local orphans = call('HLEN', places)
  if orphans > 0 then -- no job is left, and these have not ended: the stream was trimmed or deleted
    gone = call('HRANDFIELD', places, 10)
    more = orphans - #gone
    call('UNLINK', places) -- their ids are free again
  end
end
-- Another worker may be able to go on: with more that is ready, or by watching the clock while this one is busy.
if (#fresh + #again >= limit or (next_time and #fresh + #again > 0)) and woken == 0 then
  call('LPUSH', wake, 1)
end
local next_end = call('ZRANGE', leases, 0, 0, 'WITHSCORES')[2]
if next_end and (not next_time or tonumber(next_end) < tonumber(next_time)) then next_time = next_end end
local pause = next_time and math.min(math.max(0, tonumber(next_time) - now), 1e15) or -1 -- a score may be infinite
return {fresh, again, gone, pause, renewed, more}

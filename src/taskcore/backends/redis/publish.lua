-- Store jobs whose ids are not known: ready ones in the stream, later ones in the schedule.
--
--   KEYS   jobs          stream: ready and leased jobs
--          schedule      sorted set: job id → due, in ms
--          bodies        hash: job id → trail and envelope of a scheduled job
--          places        hash: job id → its entry in the stream, or 'scheduled'
--          ended         set: ids of jobs that ended lately
--          ended_before  set: ids of jobs that ended before those
--          letters       stream: dead letters
--          wake          list: one token if a worker may have something to do
--
--   ARGV   1  limit      jobs and dead letters that the queue may hold
--          2  letters    the number of dead letters at the end: as many as jobs, or none
--          3  touch      '1': write something even if every job is a duplicate, because WAIT follows
--          4  plain      the number of plain jobs; then their ids …, then their envelopes …
--          then, for every other job (delayed, or with a trail): id, delay in ms, trail, envelope
--          then, for every job: the dead letter that is deleted in the same step; '' for none
--
-- No id may be twice in a batch. Two answers: one sign a job, plain jobs first (S stored, D duplicate, F full, X: an
-- entry of another program has the last id of the stream); and whether the stream existed before.
local jobs, schedule, bodies, places, ended, ended_before, letters, wake = unpack(KEYS)
local limit, replayed, touch, plain = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1', tonumber(ARGV[4])
local call = redis.call
local woken = call('LLEN', wake) -- a key of another type fails here, before anything is written
local others, last = 2 * plain + 5, #ARGV - replayed
local ids = {unpack(ARGV, 5, plain + 4)}
local count = plain
if others <= last then call('HLEN', bodies) end
if replayed > 0 then call('XLEN', letters) end
for at = others, last, 4 do
  count = count + 1
  ids[count] = ARGV[at]
end

local known = call('HMGET', places, unpack(ids))
for _, lately in ipairs({ended, ended_before}) do
  if call('EXISTS', lately) == 1 then
    for index, is_member in ipairs(call('SMISMEMBER', lately, unpack(ids))) do
      if is_member == 1 then known[index] = known[index] or 'ended' end
    end
  end
end
local length = call('XLEN', jobs)
local existed = length > 0 and 1 or call('EXISTS', jobs)
local room = limit - length - call('ZCARD', schedule) - call('XLEN', letters)
room = room + replayed

local signs, new_places, filled = {}, {}, 0
local has_news, now = false, nil

local function sign(index, id)
  if known[index] then
    if touch and known[index] ~= 'ended' then call('HSET', places, id, known[index]) end
    return 'D'
  end
  if room <= 0 then return 'F' end
  room = room - 1
  return 'S'
end

for index = 1, plain do
  local id = ids[index]
  if known[index] or room <= 0 then
    signs[index] = sign(index, id)
  else
    local entry = append(jobs, 'id', id, 'envelope', ARGV[plain + 4 + index])
    if entry then
      new_places[filled + 1], new_places[filled + 2] = id, entry
      filled, room, has_news = filled + 2, room - 1, true
    end
    signs[index] = entry and 'S' or 'X'
  end
end
for index = plain + 1, count do
  local at = others + 4 * (index - plain - 1)
  local id, delay, trail, envelope = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
  signs[index] = sign(index, id)
  if signs[index] == 'S' and delay > 0 then
    if not now then
      local time = call('TIME')
      now = time[1] * 1000 + math.floor(time[2] / 1000) + 1
    end
    local first = call('ZRANGE', schedule, 0, 0, 'WITHSCORES')[2]
    if not first or now + delay < tonumber(first) then has_news = true end
    call('ZADD', schedule, now + delay, id)
    call('HSET', bodies, id, #trail .. ':' .. trail .. envelope)
    new_places[filled + 1], new_places[filled + 2] = id, 'scheduled'
    filled = filled + 2
  elseif signs[index] == 'S' then
    local entry = append(jobs, 'id', id, 'envelope', envelope, 'trail', trail)
    if entry then
      new_places[filled + 1], new_places[filled + 2] = id, entry
      filled = filled + 2
      has_news = true
    else
      signs[index] = 'X'
    end
  end
end

if filled > 0 then call('HSET', places, unpack(new_places)) end
for index = 1, replayed do
  local letter = ARGV[last + index]
  if letter ~= '' and signs[index] ~= 'F' and signs[index] ~= 'X' then call('XDEL', letters, letter) end
end
if has_news and woken == 0 then call('LPUSH', wake, 1) end
return {table.concat(signs), existed}

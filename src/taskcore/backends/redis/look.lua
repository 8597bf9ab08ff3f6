#!lua flags=no-writes
-- Which of many queues may have something to do now. Queues without jobs cost next to nothing.
--
--   KEYS   places …      of each queue a hash: job id → its entry in the stream, or 'scheduled'
--          jobs …        of each queue a stream: ready and leased jobs
--          leases …      of each queue a sorted set: 'entry token' of each lease → its end, in ms; given back: 0
--          schedule …    of each queue a sorted set: job id → due, in ms
--
-- Three answers: the numbers of the queues to look at, from 1; ms until a job is due or a lease ends in another one (-1:
-- never); how many queues have a stream.
local count = #KEYS / 4
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found, soonest = {}, math.huge

local function number(command, ...) -- nil: a key of another type, about which the look at that queue complains
  local answer = redis.pcall(command, ...)
  if type(answer) ~= 'table' then return answer end
  if answer.err then return nil end
  return tonumber(answer[2] or math.huge)
end

local function consider(index)
  local jobs, leases, schedule = KEYS[count + index], KEYS[2 * count + index], KEYS[3 * count + index]
  local next_end, due = number('ZRANGE', leases, 0, 0, 'WITHSCORES'), number('ZRANGE', schedule, 0, 0, 'WITHSCORES')
  local length, leased = number('XLEN', jobs), number('ZCARD', leases)
  if not (next_end and due and length) or length ~= leased or math.min(next_end, due) <= now then
    found[#found + 1] = index
  elseif length == 0 and due == math.huge then -- ids without jobs: the stream was trimmed or deleted
    found[#found + 1] = index
  else
    soonest = math.min(soonest, next_end, due)
  end
end

local function existing(first, last) return redis.call('EXISTS', unpack(KEYS, first, last)) end

local function search(first, last) -- by halves: most queues have no jobs
  if existing(first, last) == 0 then return end
  if first == last then return consider(first) end
  local middle = math.floor((first + last) / 2)
  search(first, middle)
  search(middle + 1, last)
end

local streams = 0
for first = 1, count, 1000 do -- Lua takes no more arguments than some thousands
  local last = math.min(first + 999, count)
  search(first, last)
  streams = streams + existing(count + first, count + last)
end
return {found, soonest < math.huge and math.min(soonest - now, 1e15) or -1, streams}

-- How full a queue is.
--
--   KEYS   jobs       stream: ready and leased jobs
--          leases     sorted set: 'entry token' of each lease → its end, in ms
--          schedule   sorted set: job id → due, in ms
--          letters    stream: dead letters
--
-- Answer: ready, leased, scheduled, dead, age of the oldest ready job in ms (-1: none).
local jobs, leases, schedule, letters = unpack(KEYS)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local leased = redis.call('ZCOUNT', leases, '(' .. now, '+inf')
local due = redis.call('ZCOUNT', schedule, '-inf', now)
local ready = math.max(0, redis.call('XLEN', jobs) - leased) + due
local oldest = now

local function consider(entry)
  local created = tonumber(string.match(entry, '^(%d+)%-'))
  if created and created < oldest then oldest = created end
end
for _, lease in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 100)) do consider(lease) end
if redis.call('EXISTS', jobs) == 1 then
  local last = group_at(jobs)
  local start = last and '(' .. last or '-'
  if last == LAST_ID then start = last end
  for _, entry in ipairs(redis.call('XRANGE', jobs, start, '+', 'COUNT', 1)) do consider(entry[1]) end
end
local first = redis.call('ZRANGE', schedule, 0, 0, 'WITHSCORES')[2]
if first and tonumber(first) < oldest then oldest = math.max(0, tonumber(first)) end

local scheduled = redis.call('ZCARD', schedule) - due
return {ready, leased, scheduled, redis.call('XLEN', letters), ready > 0 and now - oldest or -1}

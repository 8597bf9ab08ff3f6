-- The jobs of a queue that come next; they stay where they are.
--
--   KEYS   jobs       stream: ready and leased jobs
--          leases     sorted set: 'entry token' of each lease → its end, in ms; given back: 'entry' → 0
--          schedule   sorted set: job id → due, in ms
--          bodies     hash: job id → trail and envelope of a scheduled job
--   ARGV   1  place   'ready' or 'scheduled'
--          2  limit   how many at most
--          3  most    bytes of each part that are shown
--
-- Answer: for each its envelope, its trail, and the ms until it is due (0: it is ready).
local jobs, leases, schedule, bodies = unpack(KEYS)
local place, limit, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = {}

local function show(fields)
  local ours = fields[1] == 'id' and fields[3] == 'envelope'
  local envelope, trail = ours and fields[4] or table.concat(fields, ' '), ours and fields[6] or ''
  found[#found + 1] = {string.sub(envelope, 1, most), string.sub(trail, 1, most), 0}
end

local function show_scheduled(from, to)
  local later = redis.call('ZRANGE', schedule, from, to, 'BYSCORE', 'LIMIT', 0, limit - #found, 'WITHSCORES')
  for at = 1, #later, 2 do
    local envelope, trail = redis.call('HGET', bodies, later[at]), ''
    local digits = string.match(envelope or '', '^(%d+):')
    if digits then
      local trail_end = #digits + 1 + tonumber(digits)
      trail, envelope = string.sub(envelope, #digits + 2, trail_end), string.sub(envelope, trail_end + 1)
    end
    if envelope then
      local due = math.max(0, tonumber(later[at + 1]) - now)
      found[#found + 1] = {string.sub(envelope, 1, most), string.sub(trail, 1, most), due}
    end
  end
end

if place == 'scheduled' then
  show_scheduled('(' .. now, '+inf')
  return found
end
for _, lease in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, limit)) do
  local fields = entry_at(jobs, string.match(lease, '^%S+') or '')
  if fields then show(fields) end
end
if #found < limit and redis.call('EXISTS', jobs) == 1 then
  local last = group_at(jobs)
  if last ~= LAST_ID then
    local fresh = redis.call('XRANGE', jobs, last and '(' .. last or '-', '+', 'COUNT', limit - #found)
    for _, entry in ipairs(fresh) do show(entry[2]) end
  end
end
if #found < limit then show_scheduled('-inf', now) end
return found

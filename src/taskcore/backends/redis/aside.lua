#!lua flags=allow-oom
-- Put off the job of a lost reply if it may be larger than the server sends: no other job must wait behind it.
--
--   KEYS   jobs       stream: ready and leased jobs
--          leases     sorted set: 'entry token' of each lease → its end, in ms; given back: 'entry' → 0, or later
--   ARGV   1  token   of the call that handed out this job alone
--          2  small   bytes: a job that has no more is not at fault
--          3  pause   ms after which it is handed out again, without blame
--
-- Answer: its entry, its id and its bytes; nil if it is not at fault.
local jobs, leases = KEYS[1], KEYS[2]
local token, small, pause = ' ' .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

for _, lease in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
  local entry = string.sub(lease, 1, -#token - 1)
  if string.sub(lease, -#token) == token then
    local fields, size = entry_at(jobs, entry) or {}, 0
    for _, part in ipairs(fields) do size = size + #part end
    if size <= small then return nil end
    redis.call('ZREM', leases, lease)
    redis.call('ZADD', leases, string.format('%.0f', now + pause), entry)
    return {entry, fields[1] == 'id' and fields[2] or '', size}
  end
end
return nil

#!lua flags=allow-oom
-- Move due jobs into the stream, then lease: what others lost, what our own lost replies contained, what is new.
-- ARGV: how many, lease in ms, token, then tokens whose replies were lost.
-- Reply: new entries as they are; others as {entry, redeliveries, fields}; what has disappeared; ms until something
-- is due or a lease ends (-1: nothing to wait for); whether the group had to be made anew; how many jobs more have disappeared.
local s, l, o, n, z, b, j, w = unpack(KEYS)
local limit, lease, token = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local fresh, again, gone, renewed = {}, {}, {}, 0
local woken, length
local function check() -- a key of another type fails here, before anything is written
  if woken then return end
  for _, key in ipairs({o, n, b, j}) do redis.call('HLEN', key) end
  redis.call('ZCARD', l); redis.call('XLEN', s)
  woken = redis.call('LLEN', w)
end

local due = redis.call('ZRANGEBYSCORE', z, '-inf', now, 'LIMIT', 0, 200)
if #due > 0 then
  check()
  local bodies, places = redis.call('HMGET', b, unpack(due)), {}
  for i, id in ipairs(due) do
    local body = bodies[i]
    if body then
      local colon = string.find(body, ':', 1, true)
      local length = tonumber(string.sub(body, 1, colon - 1))
      local trail, envelope = string.sub(body, colon + 1, colon + length), string.sub(body, colon + length + 1)
      local entry
      if trail == '' then
        entry = redis.call('XADD', s, '*', 'i', id, 'e', envelope)
      else
        entry = redis.call('XADD', s, '*', 'i', id, 'e', envelope, 't', trail)
      end
      places[#places + 1] = id; places[#places + 1] = entry
    else
      gone[#gone + 1] = id
      redis.call('HDEL', j, id)
    end
  end
  if #places > 0 then redis.call('HSET', j, unpack(places)) end
  redis.call('ZREM', z, unpack(due))
  redis.call('HDEL', b, unpack(due))
end

local leases, owners = {}, {}
local function take(entry, blame)
  local found = redis.call('XRANGE', s, entry, entry)
  if not found[1] then
    gone[#gone + 1] = entry
    redis.call('ZREM', l, entry); redis.call('HDEL', o, entry); redis.call('HDEL', n, entry)
    return
  end
  local count
  if blame then count = redis.call('HINCRBY', n, entry, 1) else count = tonumber(redis.call('HGET', n, entry) or '0') end
  again[#again + 1] = {entry, count, found[1][2]}
  leases[#leases + 1] = now + lease; leases[#leases + 1] = entry
  owners[#owners + 1] = entry; owners[#owners + 1] = token
end
if #ARGV > 3 then
  check()
  local lost = {}
  for at = 4, #ARGV do lost[ARGV[at]] = true end
  local held = redis.call('HGETALL', o)
  for at = 1, #held, 2 do
    if lost[held[at + 1]] then
      if #again < limit then
        take(held[at], false)
      else -- more than we asked for now: for whoever comes next
        redis.call('ZADD', l, 0, held[at]); redis.call('HSET', o, held[at], '')
      end
    end
  end
end
if #again < limit then
  local over = redis.call('ZRANGEBYSCORE', l, '-inf', now, 'LIMIT', 0, limit - #again)
  if #over > 0 then check() end
  for _, entry in ipairs(over) do
    take(entry, redis.call('HGET', o, entry) ~= '')
  end
end

if #again < limit then
  length = redis.call('XLEN', s)
  if length > 0 then check() end
  local read = {'XREADGROUP', 'GROUP', 'w', 'w', 'COUNT', limit - #again, 'NOACK', 'STREAMS', s, '>'}
  local reply = redis.pcall(unpack(read))
  if reply and reply.err then
    if not string.find(reply.err, 'NOGROUP', 1, true) then return reply end
    reply = nil
    if redis.call('EXISTS', s) == 1 then
      -- Everything that was handed out and is not settled has an owner, so the highest of those is where we were.
      local from, high, low = '0', -1, -1
      for _, entry in ipairs(redis.call('HKEYS', o)) do
        local dash = string.find(entry, '-', 1, true)
        local ms, seq = tonumber(string.sub(entry, 1, dash - 1)), tonumber(string.sub(entry, dash + 1))
        if ms > high or (ms == high and seq > low) then from, high, low = entry, ms, seq end
      end
      redis.call('XGROUP', 'CREATE', s, 'w', from)
      reply = redis.call(unpack(read))
      renewed = 1
    else
      renewed = 2
    end
  end
  if reply then
    fresh = reply[1][2]
    for _, entry in ipairs(fresh) do
      leases[#leases + 1] = now + lease; leases[#leases + 1] = entry[1]
      owners[#owners + 1] = entry[1]; owners[#owners + 1] = token
    end
  end
end

if #leases > 0 then
  redis.call('ZADD', l, unpack(leases))
  redis.call('HSET', o, unpack(owners))
end
local next = redis.call('ZRANGE', z, 0, 0, 'WITHSCORES')[2]
local more = 0
local orphans = length == 0 and not next and redis.call('HLEN', j) or 0
if orphans > 0 then -- nothing is left, and these have not ended: somebody trimmed or deleted them; their ids are free again
  local names = redis.call('HRANDFIELD', j, 10)
  more = orphans - #names
  for _, id in ipairs(names) do gone[#gone + 1] = id end
  redis.call('UNLINK', j)
end
-- Somebody else may be able to go on: with more that is ready, or by watching the clock while we are busy.
if (#fresh + #again >= limit or (next and #fresh + #again > 0)) and woken == 0 then
  redis.call('LPUSH', w, 1)
end
local over = redis.call('ZRANGE', l, 0, 0, 'WITHSCORES')[2]
if over and (not next or tonumber(over) < tonumber(next)) then next = over end
return {fresh, again, gone, next and math.max(0, tonumber(next) - now) or -1, renewed, more}

#!lua flags=allow-oom
-- Move due jobs into the stream, then lease: what others lost, what our own lost replies contained, what is new.
-- ARGV: how many, lease in ms, token, then tokens whose replies were lost.
-- Reply: new entries as they are; others as {entry, redeliveries, fields}; what has disappeared; ms until something is
-- due or a lease ends (-1: nothing to wait for); whether the group had to be made anew; how many more have disappeared.
local s, l, n, z, b, j, w = unpack(KEYS)
local limit, lease, token = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local fresh, again, gone, renewed = {}, {}, {}, 0
local woken, length
local function check() -- a key of another type fails here, before anything is written
  if woken then return end
  for _, key in ipairs({n, b, j}) do redis.call('HLEN', key) end
  redis.call('ZCARD', l)
  redis.call('XLEN', s)
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

local leases, k = {}, 0
local expires = string.format('%.0f', now + lease) -- once: Redis turns a number into text more slowly than Lua
local suffix = ' ' .. token
local function take(held, entry, blame)
  redis.call('ZREM', l, held)
  local found = redis.call('XRANGE', s, entry, entry)
  if not found[1] then
    gone[#gone + 1] = entry
    redis.call('HDEL', n, entry)
    return
  end
  local count
  if blame then count = redis.call('HINCRBY', n, entry, 1) else count = tonumber(redis.call('HGET', n, entry) or '0') end
  again[#again + 1] = {entry, count, found[1][2]}
  leases[k + 1], leases[k + 2] = expires, entry .. suffix
  k = k + 2
end
if #ARGV > 3 then
  check()
  local lost = {}
  for at = 4, #ARGV do lost[ARGV[at]] = true end
  for _, held in ipairs(redis.call('ZRANGE', l, 0, -1)) do
    local space = string.find(held, ' ', 1, true)
    if space and lost[string.sub(held, space + 1)] then
      local entry = string.sub(held, 1, space - 1)
      if #again < limit then
        take(held, entry, false)
      else -- more than we asked for now: for whoever comes next
        redis.call('ZREM', l, held)
        redis.call('ZADD', l, 0, entry)
      end
    end
  end
end
if #again < limit then
  local over = redis.call('ZRANGEBYSCORE', l, '-inf', now, 'LIMIT', 0, limit - #again)
  if #over > 0 then check() end
  for _, held in ipairs(over) do
    local space = string.find(held, ' ', 1, true)
    take(held, space and string.sub(held, 1, space - 1) or held, space)
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
      -- Everything that was handed out and is not settled is in l, or was just taken from there; so the highest of
      -- those is where we were.
      local from, high, low = '0', -1, -1
      local function behind(held)
        local ms, seq = string.match(held, '^(%d+)-(%d+)')
        ms, seq = tonumber(ms), tonumber(seq)
        if ms > high or (ms == high and seq > low) then from, high, low = string.match(held, '^%S+'), ms, seq end
      end
      for _, held in ipairs(redis.call('ZRANGE', l, 0, -1)) do behind(held) end
      for at = 2, k, 2 do behind(leases[at]) end
      redis.call('XGROUP', 'CREATE', s, 'w', from)
      reply = redis.call(unpack(read))
      renewed = 1
    else
      renewed = 2
    end
  end
  if reply then
    fresh = reply[1][2]
    for i = 1, #fresh do
      leases[k + 1], leases[k + 2] = expires, fresh[i][1] .. suffix
      k = k + 2
    end
  end
end

if k > 0 then redis.call('ZADD', l, unpack(leases)) end
local next = redis.call('ZRANGE', z, 0, 0, 'WITHSCORES')[2]
local more = 0
if length == 0 and not next then
  local orphans = redis.call('HLEN', j)
  if orphans > 0 then -- nothing is left, and these have not ended: somebody trimmed or deleted them
    gone = redis.call('HRANDFIELD', j, 10)
    more = orphans - #gone
    redis.call('UNLINK', j) -- their ids are free again
  end
end
-- Somebody else may be able to go on: with more that is ready, or by watching the clock while we are busy.
if (#fresh + #again >= limit or (next and #fresh + #again > 0)) and woken == 0 then
  redis.call('LPUSH', w, 1)
end
local over = redis.call('ZRANGE', l, 0, 0, 'WITHSCORES')[2]
if over and (not next or tonumber(over) < tonumber(next)) then next = over end
return {fresh, again, gone, next and math.max(0, tonumber(next) - now) or -1, renewed, more}

-- Store jobs whose ids are not known: ready ones into the stream, later ones into the schedule.
-- ARGV: limit, letter to drop ('' for none), touch ('1': write even if nothing is new), then id, delay in ms, trail, envelope …
-- Reply: one sign for each job (S stored, D duplicate, F full), and whether the stream was there before.
local s, z, b, j, e, f, d, w = unpack(KEYS)
local letter, touch = ARGV[2], ARGV[3] == '1'
local woken = redis.call('LLEN', w) + 0 * redis.call('HLEN', b) -- a key of another type fails here, before anything is written
local ids = {}
for at = 4, #ARGV, 4 do ids[#ids + 1] = ARGV[at] end
local known = redis.call('HMGET', j, unpack(ids))
local ended = redis.call('SMISMEMBER', e, unpack(ids))
local before = redis.call('SMISMEMBER', f, unpack(ids))
local there = redis.call('EXISTS', s)
local room = tonumber(ARGV[1]) - redis.call('XLEN', s) - redis.call('ZCARD', z) - redis.call('XLEN', d)
if letter ~= '' then room = room + 1 end
local now
local signs, places, seen = {}, {}, {}
local ready, earliest = false, false
for i, id in ipairs(ids) do
  local at = 4 * i
  if known[i] or seen[id] or ended[i] == 1 or before[i] == 1 then
    signs[i] = 'D'
    if touch and known[i] then redis.call('HSET', j, id, known[i]) end
  elseif room <= 0 then
    signs[i] = 'F'
  else
    local delay, trail, envelope = tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
    if delay > 0 then
      if not now then local t = redis.call('TIME'); now = t[1] * 1000 + math.floor(t[2] / 1000) + 1 end
      local first = redis.call('ZRANGE', z, 0, 0, 'WITHSCORES')
      if not first[2] or now + delay < tonumber(first[2]) then earliest = true end
      redis.call('ZADD', z, now + delay, id)
      redis.call('HSET', b, id, #trail .. ':' .. trail .. envelope)
      places[#places + 1] = id; places[#places + 1] = 'z'
    else
      local entry
      if trail == '' then
        entry = redis.call('XADD', s, '*', 'i', id, 'e', envelope)
      else
        entry = redis.call('XADD', s, '*', 'i', id, 'e', envelope, 't', trail)
      end
      places[#places + 1] = id; places[#places + 1] = entry
      ready = true
    end
    signs[i] = 'S'; seen[id] = true; room = room - 1
  end
end
if #places > 0 then redis.call('HSET', j, unpack(places)) end
if letter ~= '' and signs[1] ~= 'F' then redis.call('XDEL', d, letter) end
if (ready or earliest) and woken == 0 then redis.call('LPUSH', w, 1) end
return {table.concat(signs), there}

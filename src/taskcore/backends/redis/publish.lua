-- Store jobs whose ids are not known: ready ones into the stream, later ones into the schedule.
-- ARGV: limit, letter to drop ('' for none), touch ('1': write even if nothing is new), the number of plain jobs, their
-- ids …, their envelopes …; then for every other job (later, or with a trail) its id, delay in ms, trail, envelope
-- No id may be there twice in a batch. Reply: one sign for each job in this order (S stored, D duplicate, F full), and whether the stream was there before.
local s, z, b, j, e, f, d, w = unpack(KEYS)
local woken = redis.call('LLEN', w) -- a key of another type fails here, before anything is written
local letter, touch, plain = ARGV[2], ARGV[3] == '1', tonumber(ARGV[4])
local others = 2 * plain + 5
local ids = {unpack(ARGV, 5, plain + 4)}
local count = plain
if others <= #ARGV then redis.call('HLEN', b) end
for at = others, #ARGV, 4 do
  count = count + 1
  ids[count] = ARGV[at]
end
local known = redis.call('HMGET', j, unpack(ids))
for _, lately in ipairs({e, f}) do
  if redis.call('EXISTS', lately) == 1 then
    for i, there in ipairs(redis.call('SMISMEMBER', lately, unpack(ids))) do
      if there == 1 then known[i] = known[i] or 'x' end
    end
  end
end
local length = redis.call('XLEN', s)
local there = length > 0 and 1 or redis.call('EXISTS', s)
local room = tonumber(ARGV[1]) - length - redis.call('ZCARD', z) - redis.call('XLEN', d)
if letter ~= '' then room = room + 1 end
local signs, places, k = {}, {}, 0
local news, now = false, nil

local function sign(i, id)
  if known[i] then
    if touch and known[i] ~= 'x' then redis.call('HSET', j, id, known[i]) end
    return 'D'
  end
  if room <= 0 then return 'F' end
  room = room - 1
  return 'S'
end
local call = redis.call
for i = 1, plain do
  local id = ids[i]
  if known[i] or room <= 0 then
    signs[i] = sign(i, id)
  else
    places[k + 1], places[k + 2] = id, call('XADD', s, '*', 'i', id, 'e', ARGV[plain + 4 + i])
    signs[i] = 'S'
    k, room, news = k + 2, room - 1, true
  end
end
for i = plain + 1, count do
  local at = others + 4 * (i - plain - 1)
  local id, delay, trail, envelope = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
  signs[i] = sign(i, id)
  if signs[i] == 'S' and delay > 0 then
    if not now then local t = redis.call('TIME'); now = t[1] * 1000 + math.floor(t[2] / 1000) + 1 end
    local first = redis.call('ZRANGE', z, 0, 0, 'WITHSCORES')[2]
    if not first or now + delay < tonumber(first) then news = true end
    redis.call('ZADD', z, now + delay, id)
    redis.call('HSET', b, id, #trail .. ':' .. trail .. envelope)
    places[k + 1], places[k + 2] = id, 'z'
    k = k + 2
  elseif signs[i] == 'S' then
    places[k + 1], places[k + 2] = id, redis.call('XADD', s, '*', 'i', id, 'e', envelope, 't', trail)
    k = k + 2
    news = true
  end
end
if k > 0 then redis.call('HSET', j, unpack(places)) end
if letter ~= '' and signs[1] ~= 'F' then redis.call('XDEL', d, letter) end
if news and woken == 0 then redis.call('LPUSH', w, 1) end
return {table.concat(signs), there}

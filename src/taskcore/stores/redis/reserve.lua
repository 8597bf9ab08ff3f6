#!lua flags=allow-oom
-- Before write.lua, when the server's memory is full and jobs want to end: they make room, but what they write comes
-- first. So these writes may go beyond maxmemory, by a twentieth of it at most, whatever their number and their size.
local function room()
  local info = redis.pcall('INFO', 'memory')
  if type(info) ~= 'string' then
    return 0  -- this user may not ask; so nobody knows how much is left
  end
  local function number(name)
    return tonumber(string.match(info, '\n' .. name .. ':(%d+)')) or 0
  end
  return number('maxmemory') * 1.05 - number('used_memory') + number('mem_not_counted_for_evict')
end

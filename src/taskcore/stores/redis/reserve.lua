#!lua flags=allow-oom
-- Stands before write.lua when the server's memory is full and jobs end: an end makes room, but its writes come first.
-- These writes may exceed maxmemory by a twentieth of it, whatever their number and size.
local function room()
  local info = redis.pcall('INFO', 'memory')
  if type(info) ~= 'string' then
    return 0  -- this user may not ask, so the room is unknown
  end
  local function number(name)
    return tonumber(string.match(info, '\n' .. name .. ':(%d+)')) or 0
  end
  return number('maxmemory') * 1.05 - number('used_memory') + number('mem_not_counted_for_evict')
end

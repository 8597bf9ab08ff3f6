#!lua flags=no-writes
-- The beginning of a dead letter that is larger than the server sends in one reply.
--
--   KEYS   letters     stream: dead letters
--   ARGV   1  command  XRANGE or XREVRANGE
--          2, 3        its bounds
--          4  most     bytes of each part
--
-- Answer: as that of the command with COUNT 1; behind the fields of a letter that is not whole are its bytes.
local found = redis.call(ARGV[1], KEYS[1], ARGV[2], ARGV[3], 'COUNT', 1)
local most, size = tonumber(ARGV[4]), 0
for _, entry in ipairs(found) do
  local fields, is_whole = entry[2], true
  for at, part in ipairs(fields) do
    size = size + #part
    if #part > most then fields[at], is_whole = string.sub(part, 1, most), false end
  end
  if not is_whole then entry[3] = size end
end
return found

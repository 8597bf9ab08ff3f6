-- Stands before every script of a queue: what other programs write into its keys must not stop a script half-way, because
-- Redis keeps what the script has written until then.
local LAST_ID = '18446744073709551615-18446744073709551615'

local function is_entry(text) -- whether it can be the id of an entry
  return string.match(text, '^%d+%-%d+$') ~= nil
end

local function entry_at(stream, entry) -- the fields of an entry; nil if there is none
  if not is_entry(entry) then return nil end
  local found = redis.pcall('XRANGE', stream, entry, entry) -- more digits than an id has are an error
  return not found.err and found[1] and found[1][2] or nil
end

local function group_at(stream) -- the last entry that was handed out to our group; nil without the group
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local name, last
    for at = 1, #group, 2 do
      if group[at] == 'name' then name = group[at + 1] end
      if group[at] == 'last-delivered-id' then last = group[at + 1] end
    end
    if name == 'workers' then return last end
  end
end

-- Add an entry to a stream; nil if there is no id left, because an entry of another program has the last one.
-- After that entry has gone, ids continue behind the entry before it: whatever is left was handed out already.
local function append(stream, ...)
  local entry = redis.pcall('XADD', stream, '*', ...)
  if type(entry) == 'string' then return entry end
  if not string.find(entry.err, 'exhausted', 1, true) then error(entry) end
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  local back_to = last and last[1] or '0-1'
  if back_to == LAST_ID then return nil end
  if group_at(stream) == LAST_ID then redis.call('XGROUP', 'SETID', stream, 'workers', back_to) end
  redis.call('XSETID', stream, back_to)
  return redis.call('XADD', stream, '*', ...)
end


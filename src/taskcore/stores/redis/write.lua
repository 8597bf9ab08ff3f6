-- Compare and set for many records at once. A record is one string: its version, a space, its value.
--
--   KEYS[i]        the record
--   ARGV[3i - 2]   what has to be there: '*' whatever, '-' nothing, '=' and a version
--   ARGV[3i - 1]   how long to keep it: milliseconds, '' for ever; 'x' deletes
--   ARGV[3i]       version, space, value; '' with 'x'
--
-- One answer each:   1 written · 0 nothing there to delete · {head} deleted, and it began so
--                    a record, or nil: that is there instead, nothing was done · {0, error} the server refused
--
-- What was written is announced on a channel with the name of its key. Only the name: whoever cares asks for the latest
-- record, so that nobody can see an older one after a newer one, and what nobody watches costs next to nothing.

-- Before it comes a line that says what room() is: nothing, where the server itself knows when it is full; or reserve.lua.

local HEAD = 63  -- bytes of a record in which its version ends
local OVERHEAD = 250  -- bytes that a record takes besides its key and itself, at most

local function delete(key, expect)
  if expect == '-' then
    return redis.call('GET', key) or 0
  end
  local head = redis.call('GETRANGE', key, 0, HEAD)
  if expect == '*' then
    if head == '' then
      return 0
    end
  elseif string.sub(head, 1, #expect) ~= string.sub(expect, 2) .. ' ' then
    return redis.call('GET', key)
  end
  redis.call('DEL', key)
  return {head}
end

local function write(key, expect, keep, record)
  if keep == 'x' then
    return delete(key, expect)
  elseif expect == '-' then
    local found
    if keep == '' then
      found = redis.call('SET', key, record, 'NX', 'GET')
    else
      found = redis.call('SET', key, record, 'PX', keep, 'NX', 'GET')
    end
    if found then
      return found
    end
  else
    if expect ~= '*' and redis.call('GETRANGE', key, 0, #expect - 1) ~= string.sub(expect, 2) .. ' ' then
      return redis.call('GET', key)
    end
    if keep == '' then
      redis.call('SET', key, record)
    else
      redis.call('SET', key, record, 'PX', keep)
    end
  end
  redis.call('PUBLISH', key, '')
  return 1
end

local answers, left = {}, room and room()
local USED_UP = {err = 'OOM the reserve is used up, too'}
for i = 1, #KEYS do
  local done, answer = false, USED_UP
  if left then left = left - #KEYS[i] - #ARGV[3 * i] - OVERHEAD end
  if not left or left >= 0 then
    done, answer = pcall(write, KEYS[i], ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i])
  end
  if done then
    answers[i] = answer
  else
    answers[i] = {0, type(answer) == 'table' and answer.err or tostring(answer)}
  end
end
return answers

-- Compare and set for many records at once. A record is one string: its version, a space, its value.
--
--   KEYS[i]        the record
--   ARGV[3i - 2]   the expected record: '*' any or none, '-' none, '=' and a version
--   ARGV[3i - 1]   its time to live: milliseconds, '' for ever; 'delete' deletes it
--   ARGV[3i]       version, space, value; '' with 'delete'
--
-- One answer each:   1 written · 0 no record to delete · {head} deleted, with the beginning of the record
--                    a record, or nil: the record that is there instead, nothing was done · {0, error} refused
--                    2 as before, but all of these records together are too much for one answer: read it
--
-- A write is announced on a channel with the name of its key. Only the name: a watch reads the latest record, so it never
-- sees an older one after a newer one, and a record without watches costs next to nothing.
--
-- A line before this script defines room(): nil, where the server itself refuses when it is full; or reserve.lua.

local HEAD = 63  -- bytes of a record in which its version ends
local TOLD = 65536  -- bytes of records in one answer: a server may end connections to which it owes much more
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
  if keep == 'delete' then
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

local answers, left, told = {}, room and room(), 0
local USED_UP = {err = 'OOM the reserve is used up, too'}
for index = 1, #KEYS do
  local done, answer = false, USED_UP
  local key, expect, keep, record = KEYS[index], ARGV[3 * index - 2], ARGV[3 * index - 1], ARGV[3 * index]
  if left then left = left - #key - #record - OVERHEAD end
  if not left or left >= 0 then
    done, answer = pcall(write, key, expect, keep, record)
  end
  if done and type(answer) == 'string' then
    told = told + #answer
    if told > TOLD then answer = 2 end
  end
  if done then
    answers[index] = answer
  else
    answers[index] = {0, type(answer) == 'table' and answer.err or tostring(answer)}
  end
end
return answers

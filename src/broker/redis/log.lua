-- Shared by append.lua and publish.lua: adds entries, and trims the log at the end of each call.
-- The last entry that was trimmed is remembered, so that the cursor of a quiet stream stays provable.
--
-- Every string that Lua makes is hashed byte by byte, and every call of Redis has its price: together that is what an append
-- costs. So texts are handed on as they came, and looked at only where something hangs on them. That is also why there are
-- milestones: trimming by count has to know the id and the fingerprint of the last entry that goes, and reading all entries
-- up to it cost as much as appending them. A milestone has the id and the fingerprint of every STEP-th entry, and its number,
-- counted by the field 'appended' of the meta hash: so many entries follow it as the count has grown since.

local call = redis.call

-- 1 % more entries than the bound stand in the log before some go, and what the call at hand adds.
local SLACK = 0.01
-- Entries that one call removes at most, and up to one more step. More than one call can add, so the bound holds.
local TRIM_MAX = 1024
-- Entries from milestone to milestone; fewer where the slack is smaller, that trimming may be as exact as that.
local STEP_MAX = 256

-- What this call has added: ids and heads.
local ids, heads = {}, {}

local function newer(a, b) -- compares ids 'ms-seq'
  local am, as = string.match(a, '^(%d+)-(%d+)$')
  local bm, bs = string.match(b, '^(%d+)-(%d+)$')
  am, as, bm, bs = tonumber(am), tonumber(as), tonumber(bm), tonumber(bs)
  return am > bm or (am == bm and as > bs)
end

local function successor(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)
end

local function end_of_log(log)
  local last = call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  return last and last[1] or '0-0'
end

local function added(id, head)
  ids[#ids + 1], heads[#heads + 1] = id, head
  return id
end

-- Adds {h: head, class: text} with an id above `after`.
local function add(log, after, head, class, text)
  local id = call('XADD', log, '*', 'h', head, class, text)
  -- The ids of one stream only grow. A version that comes from the database may yet be ahead of this Redis's clock.
  -- Digits before anything else: what is greater as a text and not shorter is greater as an id.
  if (id > after and #id >= #after) or newer(id, after) then return added(id, head) end
  call('XDEL', log, id)
  return added(call('XADD', log, successor(after), 'h', head, class, text), head)
end

-- Counts what was added, and sets the milestones that are due. Answers the count.
local function count_added(meta, milestones, step)
  local before = tonumber(call('HMGET', meta, 'appended')[1] or 0)
  if #ids == 0 then return before end
  local total = before + #ids
  call('HSET', meta, 'appended', string.format('%.0f', total))
  for at = step - before % step, #ids, step do
    local print, number = string.match(heads[at], '^%d+'), string.format('%.0f', before + at)
    -- It fails where somebody has deleted the log and not the milestones. Without them trimming is slower, and no more.
    redis.pcall('XADD', milestones, ids[at], 'h', print, 'n', number)
  end
  return total
end

-- Removes the entries up to this one, and the milestones. Where no entry was left, a node that knows no milestones has trimmed
-- beyond it: then it must not be remembered, or a cursor would be proven although what followed it is gone.
local function cut(log, meta, milestones, id, print)
  local next_id = successor(id)
  if call('XTRIM', log, 'MINID', '=', next_id) > 0 then
    call('HSET', meta, 'trimmed', id, 'trimmed_print', print)
  end
  call('XTRIM', milestones, 'MINID', '=', next_id)
end

local function print_of(entry)
  return entry[2][1] == 'h' and string.match(entry[2][2], '^%d+') or '0'
end

-- Entries older than retention_ms before the newest go. Looking for the last of them costs the same however many they are, but
-- where there is none, XREVRANGE goes through the whole stream from its end (streamIteratorStart in Redis' t_stream.c): with a
-- million entries that was a third of what Redis did. So the first entry is asked before.
local function trim_by_age(log, meta, milestones, retention_ms)
  local floor = tonumber(string.match(end_of_log(log), '^(%d+)')) - retention_ms
  local first = call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  if floor <= 0 or not first or tonumber(string.match(first[1], '^(%d+)')) >= floor then return end
  local last = call('XREVRANGE', log, '(' .. string.format('%.0f', floor) .. '-0', '-', 'COUNT', 1)[1]
  if last then cut(log, meta, milestones, last[1], print_of(last)) end
end

-- The last milestone up to this number, of as many as one call may pass.
local function last_passed(milestones, step, upto)
  local last = nil
  for _, milestone in ipairs(call('XRANGE', milestones, '-', '+', 'COUNT', math.floor(TRIM_MAX / step))) do
    local number = tonumber(milestone[2][4])
    -- They may be further apart than they are now.
    if not last then upto = math.min(upto, number + TRIM_MAX) end
    if number > upto then break end
    last = milestone
  end
  return last
end

local function trim_by_count(log, meta, milestones, entries_max, slack, step, total)
  local excess = call('XLEN', log) - entries_max
  if excess <= slack then return end
  local last = last_passed(milestones, step, total - entries_max)
  if not last then
    -- Entries from before there were milestones, or somebody else's.
    local old = call('XRANGE', log, '-', '+', 'COUNT', math.min(excess, TRIM_MAX))
    last = old[#old]
  end
  cut(log, meta, milestones, last[1], print_of(last))
end

local function trim(log, meta, milestones, retention_ms, entries_max, by_age)
  entries_max = tonumber(entries_max)
  local slack = math.floor(entries_max * SLACK)
  local step = math.max(1, math.min(STEP_MAX, slack))
  local total = count_added(meta, milestones, step)
  if by_age == '1' then trim_by_age(log, meta, milestones, tonumber(retention_ms)) end
  trim_by_count(log, meta, milestones, entries_max, slack, step, total)
end

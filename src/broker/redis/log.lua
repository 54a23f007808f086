-- Shared by append.lua and publish.lua: adds entries, and trims the log at the end of each call.
-- The last entry that was trimmed is remembered, so that the cursor of a quiet stream stays provable.
--
-- Every string that Lua makes is hashed byte by byte, and every call of Redis has its price: together that is what an append
-- costs. So texts are handed on as they came, and looked at only where something hangs on them.

local call = redis.call

-- 1 % more entries than the bound stand in the log before some go: looking for the last of them means reading them.
local SLACK = 0.01
-- Entries that one call removes at most. More than one call can add, so the bound holds.
local TRIM_MAX = 1024

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

-- Adds {h: head, class: text} with an id above `after`.
local function add(log, after, head, class, text)
  local id = call('XADD', log, '*', 'h', head, class, text)
  -- The ids of one stream only grow. A version that comes from the database may yet be ahead of this Redis's clock.
  -- Digits before anything else: what is greater as a text and not shorter is greater as an id.
  if (id > after and #id >= #after) or newer(id, after) then return id end
  call('XDEL', log, id)
  return call('XADD', log, successor(after), 'h', head, class, text)
end

local function remember_trimmed(meta, entry)
  local print = entry[2][1] == 'h' and string.match(entry[2][2], '^%d+')
  call('HSET', meta, 'trimmed', entry[1], 'trimmed_print', print or '0')
  return entry[1]
end

-- Entries older than retention_ms before the newest go. Looking for the last of them costs the same however many they are.
local function trim_by_age(log, meta, retention_ms)
  local floor = tonumber(string.match(end_of_log(log), '^(%d+)')) - retention_ms
  if floor <= 0 then return end
  local last = call('XREVRANGE', log, '(' .. string.format('%.0f', floor) .. '-0', '-', 'COUNT', 1)[1]
  if not last then return end
  call('XTRIM', log, 'MINID', '=', successor(remember_trimmed(meta, last)))
end

local function trim_by_count(log, meta, entries_max)
  local excess = call('XLEN', log) - entries_max
  if excess <= math.floor(entries_max * SLACK) then return end
  local old = call('XRANGE', log, '-', '+', 'COUNT', math.min(excess, TRIM_MAX))
  call('XTRIM', log, 'MINID', '=', successor(remember_trimmed(meta, old[#old])))
end

local function trim(log, meta, retention_ms, entries_max, by_age)
  if by_age == '1' then trim_by_age(log, meta, tonumber(retention_ms)) end
  trim_by_count(log, meta, tonumber(entries_max))
end


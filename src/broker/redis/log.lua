-- Shared by append.lua and publish.lua: adds an entry and trims the log in the same step.
-- The last entry that was trimmed is remembered, so that the cursor of a quiet stream stays provable.

local function newer(a, b) -- compares ids 'ms-seq'
  local am, as = string.match(a, '^(%d+)-(%d+)$')
  local bm, bs = string.match(b, '^(%d+)-(%d+)$')
  am, as, bm, bs = tonumber(am), tonumber(as), tonumber(bm), tonumber(bs)
  return am > bm or (am == bm and as > bs)
end

local function remember_trimmed(meta, entry)
  local fields = entry[2]
  for i = 1, #fields, 2 do
    if fields[i] == 'f' then
      redis.call('HSET', meta, 'trimmed', entry[1], 'trimmed_print', fields[i + 1])
    end
  end
end

-- Entries older than retention_ms before `at` go. Looking for the last of them costs the same however many they are.
local function trim_by_age(log, meta, at, retention_ms)
  local floor = tonumber(string.match(at, '^(%d+)')) - retention_ms
  if floor <= 0 then return end
  local last = redis.call('XREVRANGE', log, '(' .. string.format('%.0f', floor) .. '-0', '-', 'COUNT', 1)[1]
  if not last then return end
  remember_trimmed(meta, last)
  local ms, seq = string.match(last[1], '^(%d+)-(%d+)$')
  redis.call('XTRIM', log, 'MINID', '=', ms .. '-' .. string.format('%.0f', tonumber(seq) + 1))
end

local function trim_by_count(log, meta, entries_max)
  local excess = math.min(redis.call('XLEN', log) - entries_max, 1000)
  if excess <= 0 then return end
  local old = redis.call('XRANGE', log, '-', '+', 'COUNT', excess)
  remember_trimmed(meta, old[#old])
  redis.call('XTRIM', log, 'MAXLEN', '=', redis.call('XLEN', log) - excess)
end

-- limits: {retention_ms, entries_max, trim}; after: the new entry gets an id above this one.
local function add(log, meta, limits, after, fields)
  local id = '*'
  if after and after ~= '0-0' then
    local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
    local now = redis.call('TIME')
    local clock = string.format('%.0f-0', tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000))
    if newer(after, clock) and (not last or newer(after, last[1])) then
      local ms, seq = string.match(after, '^(%d+)-(%d+)$')
      id = ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)
    end
  end
  local at = redis.call('XADD', log, id, unpack(fields))
  if limits.trim then
    trim_by_age(log, meta, at, limits.retention_ms)
  end
  trim_by_count(log, meta, limits.entries_max)
  return at
end


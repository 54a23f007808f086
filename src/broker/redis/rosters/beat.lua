-- Says that a node is there, and finds what is due and what dead nodes held. It takes nothing out: roster.lua does, after having
-- looked again.
--
-- KEYS 1 nodes: sorted set by the ms until which each is there
--      2 of beats: hash with 'at' the last one, 'quiet' until when nothing is taken out, and of each node that may not know yet that
--        it was not known the number → '1'
--      3 when to look at which device: sorted set of entries by ms
-- ARGV 1 node  2 ms of a lease  3 stem of the keys of what each node holds, sets of entries; the node follows
--      4 entries at most  5 '1': the node knows that it was not known
-- Answers {1 if it was not known, [entries due], [dead node, entry that it held, …]}

local call = redis.call
local nodes, beats, deadlines = KEYS[1], KEYS[2], KEYS[3]
local node, lease_ms, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])

local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local until_ms = now + lease_ms

local before = call('HMGET', beats, 'at', 'quiet', node)
local at, quiet = tonumber(before[1]), tonumber(before[2]) or 0

local lease = tonumber(call('ZSCORE', nodes, node))
-- The answer that said so may have been lost: it is given again until the node says that it knows.
local anew = not lease or lease <= now or (before[3] and ARGV[5] ~= '1')
if anew then
  call('HSET', beats, node, '1')
elseif before[3] then
  call('HDEL', beats, node)
end
call('ZADD', nodes, until_ms, node)

if not at or math.abs(now - at) > lease_ms / 2 then
  -- This Redis was away, or all nodes were, or its clock was set: they must all be able to say first that they are there.
  quiet = until_ms
  call('HSET', beats, 'quiet', quiet)
  for _, ahead in ipairs(call('ZRANGEBYSCORE', nodes, '(' .. string.format('%.0f', until_ms), '+inf')) do
    call('ZADD', nodes, until_ms, ahead)
  end
end
call('HSET', beats, 'at', now)
if now < quiet and quiet <= until_ms then return { anew and 1 or 0, {}, {} } end

local due = call('ZRANGEBYSCORE', deadlines, '-inf', now, 'LIMIT', 0, most)
local lost = {}
for _, dead in ipairs(call('ZRANGEBYSCORE', nodes, '-inf', now)) do
  -- Any of them: so nodes that sweep at once don't all do the same.
  local held = call('SRANDMEMBER', ARGV[3] .. dead, math.max(1, most - #due - #lost / 2))
  for _, entry in ipairs(held) do
    lost[#lost + 1] = dead
    lost[#lost + 1] = entry
  end
  if #held == 0 then
    call('ZREM', nodes, dead)
    call('HDEL', beats, dead)
  end
  if #due + #lost / 2 >= most then break end
end
return { anew and 1 or 0, due, lost }

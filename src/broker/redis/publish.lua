-- Appends one event, once for each name.
-- KEYS 1 log stream  2 log meta hash  3 the append's name
-- ARGV 1 fingerprint  2 accepted_us  3 retention_ms  4 entries_max  5 '1': trim by age now
--      6 channel  7 event name  8 class  9 data  10 ms to remember the name
-- Answers {id, fingerprint} of the entry, also of one appended earlier under this name.

local before = redis.call('GET', KEYS[3])
if before then
  local id, print = string.match(before, '^(%S+) (%S+)$')
  return {id, print}
end
local limits = {retention_ms = tonumber(ARGV[3]), entries_max = tonumber(ARGV[4]), trim = ARGV[5] == '1'}
local fields = {'f', ARGV[1], 'a', ARGV[2], 'c', ARGV[6], 'e', ARGV[7], 'k', ARGV[8], 'd', ARGV[9]}
local id = add(KEYS[1], KEYS[2], limits, nil, fields)
redis.call('SET', KEYS[3], id .. ' ' .. ARGV[1], 'PX', ARGV[10])
return {id, ARGV[1]}

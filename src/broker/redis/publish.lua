-- Appends one event, once for each name.
-- KEYS 1 log stream  2 log meta hash  3 the append's name
-- ARGV 1 retention_ms  2 entries_max  3 '1': trim by age now  4 ms to remember the name
--      5 head 'fingerprint accepted_us'  6 'channel name class data'
-- Answers 'id fingerprint' of the entry, also of one appended earlier under this name.

local before = call('GET', KEYS[3])
if before then return before end
local id = call('XADD', KEYS[1], '*', 'h', ARGV[5], 'e', ARGV[6])
local answer = id .. ' ' .. string.match(ARGV[5], '^%d+')
call('SET', KEYS[3], answer, 'PX', ARGV[4])
trim(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
return answer

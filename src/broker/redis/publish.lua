-- Appends events in order, each once for its name, in one step for all of them.
-- KEYS 1 log stream  2 log meta hash  3 milestones  4… the names
-- ARGV 1 retention_ms  2 entries_max  3 '1': trim by age now
--      4… of each event: ms to remember its name, head 'fingerprint accepted_us' and more, 'channel name class data'
-- Answers for each 'id fingerprint' of its entry, also of one appended earlier under this name; with commas between.

local log = KEYS[1]

local function publish(name, name_ms, head, text)
  local before = call('GET', name)
  if before then return before end
  local id = added(call('XADD', log, '*', 'h', head, 'e', text), head)
  local answer = id .. ' ' .. string.match(head, '^%d+')
  call('SET', name, answer, 'PX', name_ms)
  return answer
end

local answers = {}
for at = 1, #KEYS - 3 do
  answers[at] = publish(KEYS[3 + at], ARGV[3 * at + 1], ARGV[3 * at + 2], ARGV[3 * at + 3])
end
trim(log, KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3])
return table.concat(answers, ',')

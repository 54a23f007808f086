-- Sets a mark into the order of the raw messages, and proves that this Redis writes and publishes.
-- KEYS 1 mark counter      ARGV 1 channel of marks  2 what the mark says
-- Answers the mark's number.

if redis.call('EXISTS', KEYS[1]) == 0 then
  -- Marks must keep rising when Redis comes back empty, so they start at its clock instead of at 1.
  local now = redis.call('TIME')
  redis.call('SET', KEYS[1], string.format('%.0f', tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)))
end
local number = redis.call('INCR', KEYS[1])
redis.call('PUBLISH', ARGV[1], string.format('%.0f', number) .. ' ' .. ARGV[2])
return number

-- Says which log this is, and starts one where there is none.
-- KEYS 1 log meta hash  2 mark counter      ARGV 1 epoch of a new log (decimal)
-- Answers {epoch, last trimmed id or '0-0', its fingerprint or '0'}

redis.call('HSETNX', KEYS[1], 'epoch', ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 0 then
  -- Marks must keep rising when Redis comes back empty, so they start at its clock instead of at 1.
  local now = redis.call('TIME')
  redis.call('SET', KEYS[2], string.format('%.0f', tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)))
end
local h = redis.call('HMGET', KEYS[1], 'epoch', 'trimmed', 'trimmed_print')
return {h[1], h[2] or '0-0', h[3] or '0'}

-- Says which log this is, and starts one where there is none.
-- KEYS 1 log meta hash      ARGV 1 epoch of a new log (decimal)
-- Answers {epoch, last trimmed id or '0-0', its fingerprint or '0'}

redis.call('HSETNX', KEYS[1], 'epoch', ARGV[1])
local h = redis.call('HMGET', KEYS[1], 'epoch', 'trimmed', 'trimmed_print')
return {h[1], h[2] or '0-0', h[3] or '0'}

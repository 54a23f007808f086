-- Sets a mark into the order of the raw messages, and proves that this Redis writes and publishes.
-- KEYS 1 mark counter      ARGV 1 channel of marks  2 node  3 nonce  4 '1': the node may own jobs
-- Answers the mark's number.

local number = redis.call('INCR', KEYS[1])
redis.call('PUBLISH', ARGV[1], string.format('%.0f', number) .. ' ' .. ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
return number

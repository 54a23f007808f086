-- Remembers the cookie of a spent ticket.
-- KEYS 1 the user's cookies, by when they end
-- ARGV 1 hash of the cookie  2 when it ends, in seconds since 1970  3 now  4 cookies of a user at most  5 seconds of leeway

local call = redis.call
call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', tonumber(ARGV[3]) - tonumber(ARGV[5])))
call('ZADD', KEYS[1], ARGV[2], ARGV[1])
call('ZREMRANGEBYRANK', KEYS[1], 0, -tonumber(ARGV[4]) - 1)
local last = call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
if last then
  local life = tonumber(last) - tonumber(ARGV[3]) + tonumber(ARGV[5])
  call('EXPIRE', KEYS[1], string.format('%.0f', math.max(life, 1)))
end
return 1

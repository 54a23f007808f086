-- Whether the entry that a cursor names is still that very entry, so that what follows it is all that ever followed it.
-- KEYS 1 log stream  2 log meta hash      ARGV 1 epoch  2 id  3 fingerprint
-- Answers 'found', 'gone' or 'ahead'.

local h = redis.call('HMGET', KEYS[2], 'epoch', 'trimmed', 'trimmed_print')
if h[1] ~= ARGV[1] then return 'gone' end
if (h[2] or '0-0') == ARGV[2] then
  return (h[3] or '0') == ARGV[3] and 'found' or 'gone'
end
local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
if entry then
  local fields = entry[2]
  local print = fields[1] == 'h' and string.match(fields[2], '^%d+')
  return print == ARGV[3] and 'found' or 'gone'
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local head = last and last[1] or h[2] or '0-0'
local hm, hs = string.match(head, '^(%d+)-(%d+)$')
local cm, cs = string.match(ARGV[2], '^(%d+)-(%d+)$')
hm, hs, cm, cs = tonumber(hm), tonumber(hs), tonumber(cm), tonumber(cs)
if cm > hm or (cm == hm and cs > hs) then return 'ahead' end
return 'gone'

-- Changes who is at one document, in one step: takes the steps in their order, counts the version on if anything of it can be
-- seen, and then tells all who listen, once. Its twin in Rust is rosters/turn.rs.
--
-- KEYS 1 roster, also the channel of its news  2 when to look at which device: sorted set of entries by ms
--      3 nodes: sorted set by the ms until which each is there
-- ARGV 1 document  2 this node  3 epoch of a new roster, 19 digits at most  4 ms that typing lasts  5 ms until idle
--      6 ms of a node's lease  7 stem of the keys of what each node holds, sets of entries; the node follows
--      8 ms for which a roster without members is remembered  9 steps, JSON
-- Answers 'epoch number'; '0 0' where there is no roster.
--
-- An entry is 'document/user/device'. The roster is a hash: '' → 'epoch number', and of each user the member as JSON:
--   {j: joined ms, p: profile, d: {device: {a: active ms, f: {aspect: JSON text}, i: true if idle, y: ms when typing ends,
--    n: node, t: ms when its lease or its lingering ends, c: cause if it lingers}}}
-- Profile and aspects are never decoded: that would change numbers and empty arrays. Of a device that lingers n is the node that
-- all have last been told, so that nothing has changed when it comes back there.
-- News: {e: epoch, n: number, m: [[user, '', member] or [user, cause, null], …]}

local call = redis.call
local roster, deadlines, nodes = KEYS[1], KEYS[2], KEYS[3]
local document, own = ARGV[1], ARGV[2]
local typing_ms, idle_ms, lease_ms = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local CAUSES = { closed = true, timeout = true, node_lost = true, revoked = true, drain = true }

local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- By user: the member, false if there is none; whether it has to be written; why it left, or true. And who of these, in order.
local members, written, outcomes, order = {}, {}, {}, {}
local counts_changed = false

local function is_ms(value) -- one that cjson writes in digits
  return type(value) == 'number' and value >= 0 and value < 1e14 and value % 1 == 0
end

local function is_sound_device(name, device)
  if type(name) ~= 'string' or type(device) ~= 'table' or type(device.f) ~= 'table' or not is_ms(device.a) then return false end
  for aspect, text in pairs(device.f) do
    if type(aspect) ~= 'string' or type(text) ~= 'string' then return false end
  end
  return (device.t == nil or is_ms(device.t)) and (device.y == nil or is_ms(device.y))
    and (device.n == nil or type(device.n) == 'string') and (device.i == nil or type(device.i) == 'boolean')
    and (device.c == nil or (CAUSES[device.c] and device.t)) and (device.n or device.t)
end

-- Whether we wrote it. Somebody else may have, and must not stop everybody else's changes.
local function is_sound(member)
  if type(member) ~= 'table' or not is_ms(member.j) or type(member.p) ~= 'string' then return false end
  if type(member.d) ~= 'table' or next(member.d) == nil then return false end
  for name, device in pairs(member.d) do
    if not is_sound_device(name, device) then return false end
  end
  return true
end

local function member_of(user)
  if members[user] == nil then
    local text = call('HGET', roster, user)
    local is_read, member = pcall(cjson.decode, text or '')
    members[user] = is_read and is_sound(member) and member
  end
  return members[user]
end

local function device_of(user, name)
  local member = member_of(user)
  return member and member.d[name]
end

local function saw(user, outcome)
  if not outcomes[user] then order[#order + 1] = user end
  outcomes[user], written[user] = outcome, true
end

local function held_by(node) return ARGV[7] .. node end

local function entry(user, name) return document .. '/' .. user .. '/' .. name end

-- Sees to it that the device is looked at in time. One that is looked at earlier is not planned anew: whoever moves a pointer
-- would do that with each move.
local function plan(user, name, device, also)
  local at = device.t
  if device.y and (not at or device.y < at) then at = device.y end
  if not device.i and (not at or device.a + idle_ms < at) then at = device.a + idle_ms end
  if also and (not at or also < at) then at = also end
  if at then call('ZADD', deadlines, 'LT', at, entry(user, name)) end
end

local function release(user, name, device)
  call('ZREM', deadlines, entry(user, name))
  if device.n then call('SREM', held_by(device.n), entry(user, name)) end
end

local function leave(user, cause)
  members[user], counts_changed = false, true
  saw(user, cause)
end

local function drop(user, name, cause)
  local member, device = member_of(user), device_of(user, name)
  if not device then return end
  release(user, name, device)
  member.d[name] = nil
  if next(member.d) == nil then leave(user, cause) else saw(user, true) end
end

-- The place of the one that lingers and ends first.
local function take_over(user, member)
  local taken, device = nil, nil
  for name, other in pairs(member.d) do
    if other.c and (not device or other.t < device.t or (other.t == device.t and name < taken)) then
      taken, device = name, other
    end
  end
  if not device then return nil end
  release(user, taken, device)
  member.d[taken] = nil
  return device
end

-- Answers whether this node did not hold it before.
local function hold(user, name, device, lease)
  local enters = device.n ~= own or device.c ~= nil
  local node = not lease and own or nil
  if device.n ~= node then
    if device.n then call('SREM', held_by(device.n), entry(user, name)) end
    device.n = node
    saw(user, true)
  end
  if lease or device.c then written[user] = true end
  device.c, device.t = nil, lease and now + lease or nil
  if node and enters then call('SADD', held_by(node), entry(user, name)) end
  return node and enters
end

local function say(user, device, said)
  for aspect, text in pairs(said) do
    device.f[aspect] = text ~= '' and text or nil
    if aspect == 'typing' then device.y = text ~= '' and now + typing_ms or nil end
  end
  device.a, device.i = now, nil
  saw(user, true)
end

local act = {}

-- d device  p profile  ms lease, if it is one  f what it says, '' to forget
function act.put(step, user, name)
  local member = member_of(user)
  if not member then
    member = { j = now, p = step.p, d = {} }
    members[user], counts_changed = member, true
    saw(user, true)
  end
  if member.p ~= step.p then
    member.p = step.p
    saw(user, true)
  end
  local device = member.d[name]
  if not device then
    device = take_over(user, member) or { a = now, f = {} }
    member.d[name] = device
    saw(user, true)
  end
  local enters = hold(user, name, device, step.ms)
  if step.f then say(user, device, step.f) end
  -- Of a node that has not said yet that it is there nobody would notice when it dies.
  local is_stranger = enters and not call('ZSCORE', nodes, own)
  plan(user, name, device, is_stranger and now + lease_ms)
end

-- d device  f what it says, '' to forget
function act.say(step, user, name)
  local device = device_of(user, name)
  if not device or not step.f then return end
  say(user, device, step.f)
  plan(user, name, device)
end

-- d device  c cause  ms how long
function act.linger(step, user, name)
  local device = device_of(user, name)
  if not device or device.n ~= own or device.c then return end
  if step.ms == 0 then return drop(user, name, step.c) end
  call('SREM', held_by(own), entry(user, name))
  device.c, device.t, written[user] = step.c, now + step.ms, true
  plan(user, name, device)
end

-- d device  c cause
function act.drop(step, user, name) drop(user, name, step.c) end

-- c cause
function act.expel(step, user)
  local member = member_of(user)
  if not member then return end
  for name, device in pairs(member.d) do release(user, name, device) end
  leave(user, step.c)
end

-- d device of which something may be due
function act.due(step, user, name)
  local device = device_of(user, name)
  call('ZREM', deadlines, entry(user, name))
  if not device then return end
  if device.t and device.t <= now then return drop(user, name, device.c or 'timeout') end
  -- Of a node that has never said that it is there. Those that have are dead when their lease is over, and found by that.
  if device.n and not device.c and not call('ZSCORE', nodes, device.n) then return drop(user, name, 'node_lost') end
  if device.y and device.y <= now then
    if device.f.typing then saw(user, true) end
    device.y, device.f.typing, written[user] = nil, nil, true
  end
  if not device.i and device.a + idle_ms <= now then
    device.i = true
    saw(user, true)
  end
  plan(user, name, device)
end

-- d device  n its node, which is dead
function act.lost(step, user, name)
  local device = device_of(user, name)
  if not device or device.n ~= step.n or device.c then
    call('SREM', held_by(step.n), entry(user, name))
    return
  end
  local lease = call('ZSCORE', nodes, step.n)
  if not lease or tonumber(lease) <= now then drop(user, name, 'node_lost') end
end

local function write(user, member)
  if not member then
    call('HDEL', roster, user)
    return 'null'
  end
  if outcomes[user] then
    -- Nobody is told where a device is that lingers, so its return is news.
    for _, device in pairs(member.d) do
      if device.c then device.n = nil end
    end
  end
  local text = cjson.encode(member)
  call('HSET', roster, user, text)
  return text
end

local function announce(epoch, number, texts)
  local told = {}
  for at, user in ipairs(order) do
    local cause = members[user] and '' or outcomes[user]
    told[at] = '["' .. user .. '","' .. cause .. '",' .. texts[user] .. ']'
  end
  call('HSET', roster, '', epoch .. ' ' .. number)
  call('PUBLISH', roster, '{"e":"' .. epoch .. '","n":' .. number .. ',"m":[' .. table.concat(told, ',') .. ']}')
end

for _, step in ipairs(cjson.decode(ARGV[9])) do act[step.k](step, step.u, step.d) end

local texts = {}
for user in pairs(written) do texts[user] = write(user, members[user]) end
local epoch, number = string.match(call('HGET', roster, '') or '', '^(%d+) (%d+)$')
if not epoch or #epoch > 19 or #number > 15 then epoch, number = nil, '0' end
if #order > 0 then
  epoch, number = epoch or ARGV[3], string.format('%.0f', tonumber(number) + 1)
  announce(epoch, number, texts)
end
if counts_changed then
  if call('HLEN', roster) > 1 then call('PERSIST', roster) else call('PEXPIRE', roster, ARGV[8]) end
end
return epoch and epoch .. ' ' .. number or '0 0'

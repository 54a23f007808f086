-- Judges one job update and, when it applies, appends it: dedupe, fold, XADD, trim in one step.
-- The fold is the twin of src/jobs/fold.rs; a property test runs both against each other.
--
-- KEYS 1 log stream   2 log meta hash   3 job hash
--      4 the update's updateId ('' in ARGV 16: none)   5 the append's name ('' in ARGV 17: none)   6 durable inbox position
-- ARGV 1 fingerprint  2 accepted_us  3 retention_ms  4 entries_max  5 '1': trim by age now
--      6 job id  7 status  8 '1': the status is terminal
--      9 progress 10 message 11 error 12 data: '' keeps, '-' clears, '=…' sets
--      13 timestamp (JSON string)  14 attempt  15 seq: '' or 20 digits
--      16 ms to remember the updateId  17 ms to remember the append's name
--      18 raw name 'mark-offset', 20 digits each, or ''   19 '1': late raw   20 inbox id or ''
--      21 digest of the bytes  22 '' no seed, '0' nothing known, '1' a state follows
--      23 status 24 terminal 25 progress 26 message 27 error 28 attempt 29 seq 30 data 31 timestamp 32 version
-- Answers {'applied', id, fingerprint} {'rejected', reason} {'unknown'} {'behind', end of the log} {'done'}

local log, meta, job = KEYS[1], KEYS[2], KEYS[3]
local limits = {retention_ms = tonumber(ARGV[3]), entries_max = tonumber(ARGV[4]), trim = ARGV[5] == '1'}
local raw, late, source = ARGV[18], ARGV[19] == '1', ARGV[20]
local JOB_KEPT_S = 86400

if source ~= '' then
  local applied = redis.call('GET', KEYS[6])
  if applied and not newer(source, applied) then return {'done'} end
end
if ARGV[17] ~= '' then
  local before = redis.call('GET', KEYS[5])
  if before then
    local id, print = string.match(before, '^(%S+) (%S+)$')
    if id then return {'applied', id, print} end
    return {'done'}
  end
end

local h = redis.call('HMGET', job, 'dg', 'st', 'tm', 'pr', 'ms', 'er', 'at', 'sq', 'da', 'ts', 'v', 'rn')
local s
if h[1] then
  s = {digest = h[1], status = h[2], terminal = h[3] == '1', progress = h[4], message = h[5], error = h[6],
       attempt = h[7], seq = h[8], data = h[9], timestamp = h[10], version = h[11], raw = h[12]}
elseif ARGV[22] == '' then
  return {'unknown'}
elseif ARGV[22] == '1' then
  s = {digest = '', status = ARGV[23], terminal = ARGV[24] == '1', progress = ARGV[25], message = ARGV[26], error = ARGV[27],
       attempt = ARGV[28], seq = ARGV[29], data = ARGV[30], timestamp = ARGV[31], version = ARGV[32], raw = ''}
else
  s = {digest = '', status = '', terminal = false, progress = '', message = '', error = '',
       attempt = '', seq = '', data = '', timestamp = '', version = ARGV[32], raw = ''}
end

if raw ~= '' and not late then
  if s.raw ~= '' and raw <= s.raw then
    -- Whoever reads the log up to its present end sees whether it was this very update that was judged.
    local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
    return {'behind', last and last[1] or '0-0'}
  end
  s.raw = raw
end

local ZERO = '00000000000000000000'
local function number(text) if text == '' then return ZERO end return text end

-- '' when it applies to the current attempt, 'anew' when it starts one, else the reason to drop it.
local function order()
  if s.status == '' then return 'anew' end
  local current = number(s.attempt)
  local attempt = ARGV[14] ~= '' and ARGV[14] or current
  if attempt < current then return 'stale' end
  if attempt > current then return 'anew' end
  if s.terminal then
    local numbered = ARGV[14] ~= '' or s.attempt ~= ''
    local succeeded = s.status == 'completed' or s.status == 'succeeded'
    local again = ARGV[7] == 'queued' or ARGV[7] == 'retrying'
    if not numbered and not succeeded and again then return 'anew' end
    return 'terminal'
  end
  if ARGV[15] ~= '' and s.seq ~= '' then
    if ARGV[15] < s.seq then return 'stale' end
    if ARGV[15] == s.seq then return 'duplicate' end
  end
  return ''
end

local verdict
if ARGV[16] ~= '' then
  verdict = redis.call('EXISTS', KEYS[4]) == 1 and 'duplicate' or order()
else
  verdict = ARGV[21] == s.digest and 'duplicate' or order()
end
s.digest = ARGV[21]

local function save()
  redis.call('HSET', job, 'dg', s.digest, 'st', s.status, 'tm', s.terminal and '1' or '0', 'pr', s.progress, 'ms', s.message,
    'er', s.error, 'at', s.attempt, 'sq', s.seq, 'da', s.data, 'ts', s.timestamp, 'v', s.version, 'rn', s.raw)
  redis.call('EXPIRE', job, JOB_KEPT_S)
end

local function remember(answer)
  if ARGV[17] ~= '' then redis.call('SET', KEYS[5], answer, 'PX', ARGV[17]) end
  if source ~= '' then redis.call('SET', KEYS[6], source) end
end

if verdict ~= '' and verdict ~= 'anew' then
  -- Every node has to see that this raw update was judged, or it would append it again.
  if raw ~= '' then add(log, meta, limits, nil, {'f', ARGV[1], 'i', ARGV[6], 'j', raw}) end
  save()
  remember('judged')
  return {'rejected', verdict}
end

local same_status = verdict == '' and s.status == ARGV[7]
if verdict == 'anew' then
  s.progress, s.message, s.error, s.attempt, s.seq, s.data = '', '', '', '', '', ''
end
local function merge(old, given)
  if given == '' then return old end
  if given == '-' then return '' end
  return string.sub(given, 2)
end
s.progress, s.message = merge(s.progress, ARGV[9]), merge(s.message, ARGV[10])
s.error, s.data = merge(s.error, ARGV[11]), merge(s.data, ARGV[12])
s.status, s.terminal, s.timestamp = ARGV[7], ARGV[8] == '1', ARGV[13]
if ARGV[14] ~= '' then s.attempt = ARGV[14] end
if ARGV[15] ~= '' then s.seq = ARGV[15] end

-- Integers beyond 2^53 - 1 are written as strings: JSON.parse would round them.
local function integer(text)
  local plain = string.match(text, '^0*(%d+)$')
  if text > '00009007199254740991' then return '"' .. plain .. '"' end
  return plain
end
local parts = {'{"type":"job.update","channel":"jobs.', ARGV[6], '","jobId":"', ARGV[6], '","status":"', s.status,
  '","terminal":', s.terminal and 'true' or 'false'}
local function put(name, value) if value ~= '' then parts[#parts + 1] = name .. value end end
put(',"progress":', s.progress)
put(',"message":', s.message)
put(',"error":', s.error)
put(',"attempt":', s.attempt ~= '' and integer(s.attempt) or '')
put(',"seq":', s.seq ~= '' and integer(s.seq) or '')
put(',"data":', s.data)
put(',"timestamp":', s.timestamp)
parts[#parts + 1] = '}'

local class = s.terminal and 't' or (same_status and 'l' or 'd')
local fields = {'f', ARGV[1], 'a', ARGV[2], 'c', 'jobs.' .. ARGV[6], 'e', 'job:update', 'k', class, 'd', table.concat(parts)}
if raw ~= '' then
  fields[#fields + 1], fields[#fields + 2] = 'i', ARGV[6]
  fields[#fields + 1], fields[#fields + 2] = 'j', raw
end
local id = add(log, meta, limits, s.version, fields)
s.version = id
save()
if ARGV[16] ~= '' then redis.call('SET', KEYS[4], '1', 'PX', ARGV[16]) end
remember(id .. ' ' .. ARGV[1])
return {'applied', id, ARGV[1]}

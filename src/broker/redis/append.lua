-- Judges job updates in order and appends those that apply: dedupe, fold, XADD, state, in one step for all of them.
-- The fold is the twin of src/jobs/fold.rs; a property test runs both against each other.
--
-- KEYS 1 log stream   2 log meta hash   3 milestones   4 durable inbox position   5… the state of each update's job
--      then, in the order of the updates, the keys that these say they have: its updateId, its append's name
-- ARGV 1 retention_ms   2 entries_max   3 '1': trim by age now   4 ms to remember names   5… one packed update each
-- An update is texts that each end with \0, which none of them can hold:
--      head for the log entry 'fingerprint accepted_us job raw', and the trace if there is one   digest of the bytes   raw name or ''   '1': late raw
--      status   '1': the status is terminal   timestamp (JSON)   attempt   seq (sortable or '')
--      progress message error data: '' keeps, '-' clears, else the JSON value   '1': the following follows
--      inbox id or ''   '1': has an updateId   '1': has a name   '1': the rest is a seed, packed like a state
-- A state is texts that each end with \0: version  digest of the last update  last raw name judged, then its body, which
--      is also what stands in the log entry: status terminal attempt seq error timestamp progress message data
-- Sortable numbers: a letter for the count of digits, then the digits; Lua's doubles would end at 2^53.
-- Answers one text, for each update, with commas between: an id, applied there; 'P' with id and fingerprint, applied before
--      under this name; 'D' done before; 'Rd' 'Rs' 'Rt' rejected as duplicate, stale, terminal; 'B' with an id: behind, the
--      log up to there tells; 'U' not judged: the job is unknown, or an update of it before this one was not judged

local log, meta, milestones, inbox = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local names_ms = ARGV[4]
local text = struct.unpack
local count = #ARGV - 4
local further = 4 + count
local JOB_KEPT_S = 86400
-- The versions of one time to live differ only after these digits: 10^6 ms.
local PERIOD_DIGITS = 7

local states = {}
for at, state in ipairs(call('MGET', unpack(KEYS, 5, further))) do states[KEYS[4 + at]] = state end

-- Jobs of which an update was not judged, and whether that is true of an entry of the inbox: nothing overtakes these.
local waits = {}
local inbox_waits = false

-- '' when it applies to the current attempt, 'anew' when it starts one, else the reason to drop it.
local function order(status, attempt, seq, s_status, s_terminal, s_attempt, s_seq)
  if s_status == '' then return 'anew' end
  local current = s_attempt ~= '' and s_attempt or 'a0'
  local given = attempt ~= '' and attempt or current
  if given < current then return 'Rs' end
  if given > current then return 'anew' end
  if s_terminal == '1' then
    local numbered = attempt ~= '' or s_attempt ~= ''
    local succeeded = s_status == 'completed' or s_status == 'succeeded'
    local again = status == 'queued' or status == 'retrying'
    if not numbered and not succeeded and again then return 'anew' end
    return 'Rt'
  end
  if seq ~= '' and s_seq ~= '' then
    if seq < s_seq then return 'Rs' end
    if seq == s_seq then return 'Rd' end
  end
  return ''
end

local function save(key, state, keeps_ttl)
  if keeps_ttl then
    call('SET', key, state, 'KEEPTTL')
  else
    call('SET', key, state, 'EX', JOB_KEPT_S)
  end
  states[key] = state
end

local function remember(name_key, answer, source)
  if name_key then call('SET', name_key, answer, 'PX', names_ms) end
  if source ~= '' then call('SET', inbox, source) end
end

local function next_key(given)
  if given == '' then return nil end
  further = further + 1
  return KEYS[further]
end

local function judge(key, packed)
  local head, digest, raw, late, status, terminal, timestamp, attempt, seq, progress, message, err, data, more, rest =
    text('ssssssssssssss', packed)
  local source, update_key, name_key, seed = '', nil, nil, nil
  if more ~= '' then
    local has_update, has_name, has_seed
    source, has_update, has_name, has_seed, rest = text('ssss', packed, rest)
    update_key, name_key = next_key(has_update), next_key(has_name)
    if has_seed ~= '' then seed = string.sub(packed, rest) end
  end

  if source ~= '' then
    -- One that was not judged must not be passed by: the position would say that it was.
    if inbox_waits then return 'U' end
    local applied = call('GET', inbox)
    if applied and not newer(source, applied) then return 'D' end
  end
  if name_key then
    local before = call('GET', name_key)
    if before then
      if string.find(before, ' ', 1, true) then return 'P' .. before end
      return 'D'
    end
  end
  local known = states[key]
  local state = known or seed
  if waits[key] or not state then
    waits[key] = true
    inbox_waits = inbox_waits or source ~= ''
    return 'U'
  end

  local version, s_digest, s_raw, body = text('sss', state)
  if raw ~= '' and late == '' then
    if raw <= s_raw then
      -- Whoever reads the log up to its present end sees whether it was this very update that was judged.
      waits[key] = true
      return 'B' .. end_of_log(log)
    end
    s_raw = raw
  end
  local s_status, s_terminal, s_attempt, s_seq, s_error, s_rest = text('sssss', state, body)

  local verdict
  if update_key then
    verdict = call('EXISTS', update_key) == 1 and 'Rd'
  else
    verdict = digest == s_digest and 'Rd'
  end
  verdict = verdict or order(status, attempt, seq, s_status, s_terminal, s_attempt, s_seq)
  if verdict ~= '' and verdict ~= 'anew' then
    -- Every node has to see that this raw update was judged, or it would append it again.
    if raw ~= '' then added(call('XADD', log, '*', 'h', head), head) end
    save(key, version .. '\0' .. digest .. '\0' .. s_raw .. '\0' .. string.sub(state, body), known)
    remember(name_key, 'judged', source)
    return verdict
  end

  local class = terminal == '1' and 't' or (verdict == '' and s_status == status and 'l' or 'd')
  if verdict == 'anew' then
    s_attempt, s_seq, s_error = '', '', ''
    if progress == '' then progress = '-' end
    if message == '' then message = '-' end
    if data == '' then data = '-' end
  end
  if progress == '' or message == '' or data == '' then
    local _, s_progress, s_message, s_data = text('ssss', state, s_rest)
    if progress == '' then progress = s_progress end
    if message == '' then message = s_message end
    if data == '' then data = s_data end
  end
  if err == '' then err = s_error end
  if progress == '-' then progress = '' end
  if message == '-' then message = '' end
  if err == '-' then err = '' end
  if data == '-' then data = '' end
  if attempt == '' then attempt = s_attempt end
  if seq == '' then seq = s_seq end
  local new_body = status .. '\0' .. terminal .. '\0' .. attempt .. '\0' .. seq .. '\0' .. err .. '\0' .. timestamp .. '\0'
    .. progress .. '\0' .. message .. '\0' .. data .. '\0'
  local id = add(log, version, head, class, new_body)
  -- A new time to live only now and then: it costs as much as the rest of the SET.
  local same_period = known and string.sub(version, 1, PERIOD_DIGITS) == string.sub(id, 1, PERIOD_DIGITS)
  save(key, id .. '\0' .. digest .. '\0' .. s_raw .. '\0' .. new_body, same_period)
  if more ~= '' then
    if update_key then call('SET', update_key, '1', 'PX', names_ms) end
    remember(name_key, id .. ' ' .. string.match(head, '^%d+'), source)
  end
  return id
end

local answers = {}
for at = 1, count do answers[at] = judge(KEYS[4 + at], ARGV[4 + at]) end
trim(log, meta, milestones, ARGV[1], ARGV[2], ARGV[3])
return table.concat(answers, ',')

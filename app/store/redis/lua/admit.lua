-- Admission, one atomic step: reserves everything that a call may use, if the API key's record is still what the worker
-- believes and every limit allows it; and looks for a cached answer. Nothing is reserved for a call that is refused, and
-- running it twice for one call reserves once.
--
-- KEYS
--   1    record of the API key
--   2    reservation of the call (hash)
--   3    open reservations of the owner, a worker or the queue (zset: call id by deadline, ms)
--   4    cached answer
--   5    single flight: the call that fetches this answer while identical ones wait
--   6    running calls of the API key (zset: call id by deadline, ms)
--   7…   counters, one for each limit of the plan
--
-- ARGV
--   1    the record that the worker believes in; "" for an API key without one
--   2    call id
--   3    deadline, ms from now
--   4    record of the reservation (JSON), kept as `d`
--   5    how long the reservation is kept, ms
--   6    "1" to look for a cached answer, else "0"
--   7    "1" to hold or follow the single flight, else "0"
--   8    most running calls of the API key; "" for no bound
--   9…   five for each counter, in the order of KEYS:
--          kind            "gcra" (a rate with a burst) or "window" (a UTC day or month)
--          amount          to reserve: requests, tokens or nano-dollars
--          limit           in the same unit
--          period_ms       gcra: the period; window: how long the counter is kept
--          counts_cached   "1" if a cached answer counts too, else "0"
--
-- Returns one of
--   {"ok",      "",        left, reset_ms, …}   admitted
--   {"hit",     answer,    left, reset_ms, …}   admitted, and here is the cached answer
--   {"follow",  "",        left, reset_ms, …}   admitted; another call is fetching the same answer
--   {"limited", number, retry_ms, left, reset_ms, …}   refused by counter `number` (from 1; 0: too many running calls);
--                                               retry_ms is -1 if only the end of its window helps
--   {"stale",   record | false}                 refused: this is the API key's record by now
--   {"ended",   d | false}                      refused: the call has ended, perhaps before this arrived, or its first
--                                               reply cannot be given again; with `d` it must be cancelled
--   left and reset_ms come once for each counter: what is left of the limit, and ms until it is full again (-1: when
--   its window ends)
--
-- Fields of the reservation
--   s    state: open, and then settled, lost or cancelled (settle.lua)
--   c    what the call has on each counter, in their order (JSON array); only this is given back when the call ends, so
--        that whatever changes a counter for an open call changes `c` with it
--   d    record of the reservation, from which the reaper settles a call whose worker died
--   h    "1" if the answer came from the cache
--   n    number of upstream attempts that money is reserved for, once there is a second one (extend.lua)

local repeated = redis.call('EXISTS', KEYS[2]) == 1
if repeated then
  local state, hit, data = unpack(redis.call('HMGET', KEYS[2], 's', 'h', 'd'))
  if state ~= 'open' then return {'ended', data} end
  local counters = cjson.decode(data).keys
  local same = #counters == #KEYS - 6
  for i, counter in ipairs(counters) do same = same and counter == KEYS[i + 6] end
  -- Another process repeats it on another day or plan; or it was a hit, and its answer has expired.
  if not same or (hit == '1' and redis.call('EXISTS', KEYS[4]) == 0) then return {'ended', data} end
elseif ARGV[1] ~= '' then
  local record = redis.call('GET', KEYS[1])
  if record ~= ARGV[1] then return {'stale', record} end
end

local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local now_ms = math.floor(now_us / 1000)

local answer = false
if ARGV[6] == '1' then answer = redis.call('GET', KEYS[4]) end

local reply = {'', ''}
local writes, taken = {}, {}
local first, step = 9, 5
local refused, retry_ms = -1, 0

for i = 7, #KEYS do
  local at = first + (i - 7) * step
  local kind, amount, limit, period_ms = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  if repeated or (answer and ARGV[at + 4] ~= '1') then amount = 0 end
  taken[i - 6] = amount > 0 and ARGV[at + 1] or '0'
  local remaining, reset_ms
  if kind == 'gcra' then
    -- The theoretical arrival time: how far ahead of now the key has already spent. GCRA needs only this number. With
    -- it, as its fraction, goes when it was written.
    local interval = period_ms * 1000 / limit
    local stored = redis.call('GET', KEYS[i])
    local tat = math.max(tonumber(stored or 0), now_us)
    if tat - now_us > period_ms * 1000 then
      -- So far ahead because calls used more than they had reserved, or because the clock has gone back since. That is
      -- put right here, also for a call that is refused: else the key would be until the clock has caught up.
      local ahead = (tonumber(string.match(stored, '%.(%d+)')) or 0) - now_us
      if ahead > 0 then
        tat = math.max(tat - ahead, now_us)
        redis.call('SET', KEYS[i], string.format('%.0f.%.0f', tat, now_us), 'PX', math.ceil((tat - now_us) / 1000) + 1)
      end
    end
    local wanted = tat + amount * interval
    if amount > 0 and wanted - now_us > period_ms * 1000 + 0.5 then
      if refused < 0 then
        refused, retry_ms = i - 6, math.ceil((wanted - now_us) / 1000 - period_ms)
      end
      wanted = tat
    elseif amount > 0 then
      writes[#writes + 1] = {'SET', KEYS[i], string.format('%.0f.%.0f', wanted, now_us), 'PX', math.ceil((wanted - now_us) / 1000) + 1}
    end
    remaining = math.floor((period_ms * 1000 - (wanted - now_us)) / interval + 0.000001)
    reset_ms = math.ceil((wanted - now_us) / 1000)
  else
    local used = tonumber(redis.call('GET', KEYS[i]) or 0)
    if amount > 0 and used + amount > limit then
      if refused < 0 then refused, retry_ms = i - 6, -1 end
    elseif amount > 0 then
      used = used + amount
      writes[#writes + 1] = {'INCRBY', KEYS[i], ARGV[at + 1]}
      if redis.call('PTTL', KEYS[i]) < 0 then writes[#writes + 1] = {'PEXPIRE', KEYS[i], ARGV[at + 3]} end
    end
    remaining, reset_ms = math.max(limit - used, 0), -1
  end
  reply[#reply + 1] = math.max(remaining, 0)
  reply[#reply + 1] = reset_ms
end

if refused < 0 and not answer and not repeated and ARGV[8] ~= '' then
  -- Nothing is written yet: a full Redis lets a script go on that has begun to write.
  if redis.call('ZCOUNT', KEYS[6], string.format('(%.0f', now_ms), '+inf') >= tonumber(ARGV[8]) then refused, retry_ms = 0, 1000 end
end
if refused >= 0 then
  reply[1], reply[2] = 'limited', refused
  table.insert(reply, 3, retry_ms)
  return reply
end

for _, write in ipairs(writes) do redis.call(unpack(write)) end
local deadline = now_ms + tonumber(ARGV[3])
if not repeated then
  redis.call('HSET', KEYS[2], 's', 'open', 'h', answer and '1' or '0', 'd', ARGV[4], 'c', '[' .. table.concat(taken, ',') .. ']')
  redis.call('PEXPIRE', KEYS[2], ARGV[5])
  redis.call('ZADD', KEYS[3], deadline, ARGV[2])
  if ARGV[8] ~= '' and not answer then
    redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', now_ms)
    redis.call('ZADD', KEYS[6], deadline, ARGV[2])
    redis.call('PEXPIRE', KEYS[6], tonumber(ARGV[3]) + 1000)
  end
end
-- A repeated one may find an answer that was not there the first time: its settlement then gives back the rest. The
-- reservation stays as it is until then, since this may be the late copy of an admission whose call is being made.

if answer then
  reply[1], reply[2] = 'hit', answer
elseif ARGV[7] == '1' then
  if redis.call('SET', KEYS[5], ARGV[2], 'NX', 'PX', ARGV[3]) then
    reply[1] = 'ok'
  else
    reply[1] = redis.call('GET', KEYS[5]) == ARGV[2] and 'ok' or 'follow'
  end
else
  reply[1] = 'ok'
end
return reply

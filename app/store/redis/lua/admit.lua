-- Admission, one atomic step: is the key still what the worker believes, is there a cached answer, does every
-- limit allow the call? Then, and only then, everything is reserved. Running it twice for one call charges once.
--
-- The reservation (hash) holds: `s` its state (open; settled, lost, cancelled are settle.lua's), `c` what the call has on
-- each of its counters, in their order (a JSON array), `h` whether a cached answer was there, `d` what the reaper needs.
-- Whoever changes a counter for an open call changes `c` with it: whatever ends the call goes by `c` alone.
--
-- KEYS  1 key record   2 reservation (hash)   3 the worker's open reservations (zset by deadline)
--       4 cached answer   5 single-flight holder   6 running calls of the key (zset by deadline)   7… one a limit
-- ARGV  1 expected key record, "" for a key that needs none   2 call id   3 deadline, ms from now
--       4 what the reaper needs (JSON)   5 ms to keep the reservation   6 "1": look for a cached answer
--       7 "1": hold or follow the single flight   8 most calls at once, "" for no limit
--       9… four a limit: kind (gcra|window)  amount  limit  period_ms, preceded by nothing, followed by
--          "1" if a cached answer counts too (so five a limit)
-- returns {"stale", record|false}
--         {"ended", `d`|false}: the call has ended already, perhaps before it arrived, or what was answered the first
--         time cannot be answered again; with `d`, it is lost or open, and has to be cancelled
--         {"limited", limit's index (0: calls at once), retry_after_ms (-1: with the window), r1, reset1, r2, …}
--         {"hit", answer, r1, reset1, …} | {"ok", "", r1, reset1, …} | {"follow", "", r1, reset1, …}
--         r = what remains (requests or tokens or nano-dollars), reset = ms until full again (-1: with the window)

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

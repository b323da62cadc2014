-- Settlement, one atomic step: ends the reservation, corrects the counters to what the call really used, caches the
-- answer, lets go of the single flight and appends the ledger row. Settling twice does nothing.
--
-- KEYS
--   1    reservation of the call (hash; its fields: see admit.lua)
--   2    open reservations of the owner, a worker or the queue
--   3    cached answer
--   4    single flight
--   5    running calls of the API key
--   6    outbox (stream)
--   7…   counters of the call, as in admit.lua
--
-- ARGV
--   1    call id
--   2    how it ends:
--          settled     by whoever ran it
--          lost        by the reaper: its worker is gone
--          cancelled   it is never made: it used nothing, and has a row only to replace that of a lost call
--          unrecorded  it cost nothing: it counts as a request, and has a row only to replace that of a lost call
--          replayed    settled once more, since its reply was lost: does nothing for a call that Redis has forgotten
--   3    ledger row (JSON)
--   4    answer to cache; "" for none
--   5    how long the answer is kept, ms
--   6    how long Redis remembers how the call ended, ms
--   7…   four for each counter, in the order of KEYS: kind, actual amount, limit, period_ms (see admit.lua)
--
-- Returns
--    1   this ended the call
--    0   it had ended before
--   -1   replayed: Redis has forgotten it
--
-- What the call has on each counter is what its reservation says (`c`), in whatever state it is: open, or lost or
-- cancelled before. A worker that was only stalled may settle after the reaper declared its call lost: the ledger lets
-- the real row replace the lost one. So may a job that was queued although the caller was told that it could not be.
-- Without a reservation nothing was taken: Redis lost it (a crash within the AOF's last second) and all it had charged
-- with it, or the admission has not arrived. To cancel that one leaves a mark, and the admission then takes nothing.

local found = redis.call('HMGET', KEYS[1], 's', 'c')
local state, final = found[1], ARGV[2]
if final == 'replayed' then
  if not state then return -1 end
  final = 'settled'
end
if state == 'settled' or state == final or (final == 'lost' and state ~= 'open') then
  redis.call('ZREM', KEYS[2], ARGV[1])  -- a job's name may have come to the queue's list after it was cancelled
  return 0
end

-- The version before this one sent five a limit, the second being what was reserved, and kept that nowhere else.
local step = math.max((#ARGV - 6) / math.max(#KEYS - 6, 1), 4)
local taken = {}
if found[2] then
  taken = cjson.decode(found[2])
elseif state == 'open' then
  local args = cjson.decode(redis.call('HGET', KEYS[1], 'd') or '{}').args or {}
  for i = 2, #args, 5 do taken[#taken + 1] = tonumber(args[i]) end
end

local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local charged = {}

for i = 7, #KEYS do
  local at = 7 + (i - 7) * step
  local kind, actual, limit, period_ms = ARGV[at], tonumber(ARGV[at + step - 3]), tonumber(ARGV[at + step - 2]), tonumber(ARGV[at + step - 1])
  charged[i - 6] = ARGV[at + step - 3]
  -- Lost before it was cancelled, it keeps its row: a request, as its arguments say, that used nothing.
  if final == 'cancelled' and state ~= 'lost' then actual, charged[i - 6] = 0, '0' end
  local delta = actual - (taken[i - 6] or 0)
  if delta ~= 0 then
    if kind == 'gcra' then
      local stored = redis.call('GET', KEYS[i])
      local tat = math.max(tonumber(stored or 0), now_us)
      if tat - now_us > period_ms * 1000 then  -- perhaps the clock has gone back (see admit.lua)
        tat = tat - math.max((tonumber(string.match(stored, '%.(%d+)')) or 0) - now_us, 0)
      end
      tat = tat + delta * period_ms * 1000 / limit
      if tat <= now_us then
        redis.call('DEL', KEYS[i])
      else
        redis.call('SET', KEYS[i], string.format('%.0f.%.0f', tat, now_us), 'PX', math.ceil((tat - now_us) / 1000) + 1)
      end
    else
      redis.call('INCRBY', KEYS[i], string.format('%.0f', delta))
      if redis.call('PTTL', KEYS[i]) < 0 then redis.call('PEXPIRE', KEYS[i], period_ms) end
    end
  end
end

redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
if ARGV[4] ~= '' then redis.call('SET', KEYS[3], ARGV[4], 'PX', ARGV[5]) end
if redis.call('GET', KEYS[4]) == ARGV[1] then redis.call('DEL', KEYS[4]) end
if (final ~= 'cancelled' and final ~= 'unrecorded') or state == 'lost' then
  redis.call('XADD', KEYS[6], '*', 'row', ARGV[3])
end
redis.call('HSET', KEYS[1], 's', final, 'c', '[' .. table.concat(charged, ',') .. ']')
if final ~= 'lost' then redis.call('HDEL', KEYS[1], 'd') end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return 1

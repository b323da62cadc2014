-- Settlement, one atomic step: the reservation ends, counters are corrected to what the call really used, the
-- answer is cached, the single flight is released and the ledger row is appended. Settling twice does nothing.
--
-- A worker that was only stalled may settle after the reaper declared its call lost: the counters are then
-- corrected from what the reaper charged, and the ledger lets the real row replace the lost one. So may a job that was
-- queued although the caller was told that it could not be.
--
-- KEYS  1 reservation   2 the worker's open reservations   3 cached answer   4 single-flight holder
--       5 running calls of the key   6 outbox stream   7… one a limit
-- ARGV  1 call id   2 "settled", "lost", or "cancelled" (never admitted: no row)   3 ledger row (JSON)   4 answer to cache, "" for none   5 ms to keep it
--       6 ms to remember that this call is settled   7… five a limit: kind  reserved  actual  limit  period_ms
--       ("replayed": "settled" once more, after its reply was lost; does nothing for a call that is forgotten)
-- returns 1 if this settled the call, 0 if it was settled before, -1 if it is forgotten

local state = redis.call('HGET', KEYS[1], 's')
local final = ARGV[2]
if final == 'replayed' then
  if not state then return -1 end
  final = 'settled'
end
if state == 'settled' or (final ~= 'settled' and state ~= 'open') then return 0 end

local charged = {}
if state == 'lost' or state == 'cancelled' then charged = cjson.decode(redis.call('HGET', KEYS[1], 'c')) end
local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local actuals = {}

for i = 7, #KEYS do
  local at = 7 + (i - 7) * 5
  local kind, reserved, actual = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local limit, period_ms = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  -- No reservation at all: Redis lost it (a crash within the AOF's last second), and what it had charged with it.
  if state == 'lost' or state == 'cancelled' then reserved = charged[i - 6] elseif not state then reserved = 0 end
  local delta = actual - reserved
  actuals[i - 6] = actual
  if delta ~= 0 then
    if kind == 'gcra' then
      local tat = math.max(tonumber(redis.call('GET', KEYS[i]) or 0), now_us) + delta * period_ms * 1000 / limit
      if tat <= now_us then
        redis.call('DEL', KEYS[i])
      else
        redis.call('SET', KEYS[i], string.format('%.0f', tat), 'PX', math.ceil((tat - now_us) / 1000) + 1)
      end
    else
      redis.call('INCRBY', KEYS[i], string.format('%.0f', delta))
      if redis.call('PTTL', KEYS[i]) < 0 then redis.call('PEXPIRE', KEYS[i], ARGV[at + 4]) end
    end
  end
end

redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
if ARGV[4] ~= '' then redis.call('SET', KEYS[3], ARGV[4], 'PX', ARGV[5]) end
if redis.call('GET', KEYS[4]) == ARGV[1] then redis.call('DEL', KEYS[4]) end
if final ~= 'cancelled' then redis.call('XADD', KEYS[6], '*', 'row', ARGV[3]) end
redis.call('HSET', KEYS[1], 's', final, 'c', cjson.encode(actuals))
redis.call('HDEL', KEYS[1], 'd')
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return 1

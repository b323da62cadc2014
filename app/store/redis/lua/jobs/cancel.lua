-- Cancels a job: at once when it waits, by a word to its worker when it runs. Sent once more it answers as it did.
--
-- What the job's call has reserved is to be settled by whoever gets it here; until it says that it has (settled.lua), the
-- job keeps it, and is among the unsettled: a beat gives it to a worker if the gateway has died.
--
-- KEYS  1 job   2 waiting   3 the key's own jobs   4 cancels   5 later   6 callbacks' list   7 callbacks' messages
--       8 unsettled (zset by time)   and those of bytes.lua
-- ARGV  1 job id   2 key id that it must belong to   3 ms to keep the result
--       4 message id, which also tells this cancellation from another   5 message: the callback, if the job wants one
-- returns {"unknown"} | {"cancelled", its reservation} | {"processing"} | {its final state, of before}

local state = redis.call('HGET', KEYS[1], 'state')
if not state or redis.call('HGET', KEYS[1], 'owner') ~= ARGV[2] then return {'unknown'} end
if state == 'cancelled' and redis.call('HGET', KEYS[1], 'cancelled_by') == ARGV[4] then
  return {state, redis.call('HGET', KEYS[1], 'held') or ''}
end
if state == 'processing' then
  redis.call('SREM', KEYS[4], ARGV[1])  -- a script that has begun to write is not refused by a Redis that is full
  redis.call('SADD', KEYS[4], ARGV[1])
  return {state}
end
if state ~= 'queued' then return {state} end
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local keep_ms = math.max(tonumber(ARGV[3]), 60000)  -- longer than it takes until somebody has settled it
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('SREM', KEYS[4], ARGV[1])
redis.call('HSET', KEYS[1], 'state', 'cancelled', 'finished', now_ms, 'cancelled_by', ARGV[4])
redis.call('HDEL', KEYS[1], 'request', 'number', 'worker')
redis.call('PEXPIRE', KEYS[1], keep_ms)
redis.call('ZADD', KEYS[8], now_ms, ARGV[1])
redis.call('ZADD', RESULTS, now_ms + keep_ms, ARGV[1])
count(ARGV[1], ARGV[2], measured(KEYS[1]))
if redis.call('HGET', KEYS[1], 'callback_url') ~= '' then
  redis.call('HSET', KEYS[7], ARGV[4], ARGV[5])
  redis.call('RPUSH', KEYS[6], ARGV[4])
end
return {'cancelled', redis.call('HGET', KEYS[1], 'held')}

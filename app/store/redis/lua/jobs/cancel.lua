-- Cancels a job, one atomic step: at once when it waits; when it runs, its worker is told at its next beat. Sent again
-- it replies the same.
--
-- The caller that gets the deferred call is to settle its reservation. Until it reports that (settled.lua) the job keeps
-- the call and is among the unsettled: a beat gives it to a worker if the gateway has died.
--
-- KEYS  1 job   2 waiting   3 the key's own jobs   4 cancels   5 later   6 callbacks' list   7 callbacks' messages
--       8 unsettled (zset by time)   and those of bytes.lua
-- ARGV  1 job id   2 key id that it must belong to   3 ms to keep the result
--       4 message id, which also tells this cancellation from another   5 message: the callback, if the job wants one
-- returns {"unknown"} | {"cancelled", its deferred call} | {"processing"} | {the final state that it had}

local state = redis.call('HGET', KEYS[1], 'state')
if not state or redis.call('HGET', KEYS[1], 'owner') ~= ARGV[2] then return {'unknown'} end
if state == 'cancelled' and redis.call('HGET', KEYS[1], 'cancelled_by') == ARGV[4] then
  return {state, redis.call('HGET', KEYS[1], 'held') or ''}
end
if state == 'processing' then
  redis.call('SREM', KEYS[4], ARGV[1])  -- a full Redis refuses none of a script's writes after its first
  redis.call('SADD', KEYS[4], ARGV[1])
  return {state}
end
if state ~= 'queued' then return {state} end
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local keep_ms = math.max(tonumber(ARGV[3]), 60000)  -- longer than it takes until it is settled
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

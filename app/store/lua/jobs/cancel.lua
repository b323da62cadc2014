-- Cancels a job: at once when it waits, by a word to its worker when it runs.
--
-- KEYS  1 job   2 waiting   3 the key's own jobs   4 cancels   5 facts   6 later
--       7 callbacks' list   8 callbacks' messages
-- ARGV  1 job id   2 key id that it must belong to   3 ms to keep the result
--       4 message id   5 message: the callback, if the job wants one
-- returns {"unknown"} | {"cancelled", its reservation} | {"processing"} | {its final state}

local state = redis.call('HGET', KEYS[1], 'state')
if not state or redis.call('HGET', KEYS[1], 'owner') ~= ARGV[2] then return {'unknown'} end
if state == 'processing' then
  redis.call('SADD', KEYS[4], ARGV[1])
  return {state}
end
if state ~= 'queued' then return {state} end
local clock = redis.call('TIME')
local held = redis.call('HGET', KEYS[1], 'held')
if redis.call('ZREM', KEYS[2], ARGV[1]) == 1 then
  redis.call('HINCRBY', KEYS[5], 'bytes', -tonumber(redis.call('HGET', KEYS[1], 'size')))
end
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[6], ARGV[1])
redis.call('SREM', KEYS[4], ARGV[1])
redis.call('HSET', KEYS[1], 'state', 'cancelled', 'finished', clock[1] * 1000 + math.floor(clock[2] / 1000))
redis.call('HDEL', KEYS[1], 'request', 'held', 'number', 'worker')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if redis.call('HGET', KEYS[1], 'callback_url') ~= '' then
  redis.call('HSET', KEYS[8], ARGV[4], ARGV[5])
  redis.call('RPUSH', KEYS[7], ARGV[4])
end
return {'cancelled', held}

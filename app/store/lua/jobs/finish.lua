-- Ends an attempt: the job has its final state, or goes back into the queue. Only the attempt that the queue knows of
-- may: a worker that was stalled past its lease has lost the job to another one.
--
-- KEYS  1 job   2 running   3 cancels   4 facts   5 later (zset: job by when it may run again)
--       6 callbacks' list   7 callbacks' messages
-- ARGV  1 job id   2 attempt   3 state: completed, failed, cancelled, or queued   4 ms to keep the result; queued: ms to wait
--       5 the key's running calls   6 message id   7 message: the callback, if the job wants one   8… fields of the job
-- returns 1, or 0 if it was not this attempt's to end

if redis.call('HGET', KEYS[1], 'state') ~= 'processing' or redis.call('HGET', KEYS[1], 'attempts') ~= ARGV[2] then
  return 0
end
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local fields = {}
for i = 8, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'finished', now_ms, unpack(fields))
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', ARGV[5], ARGV[1])
if ARGV[3] == 'queued' then
  redis.call('ZADD', KEYS[5], now_ms + tonumber(ARGV[4]), ARGV[1])
  return 1
end
redis.call('SREM', KEYS[3], ARGV[1])
redis.call('HDEL', KEYS[1], 'request', 'held', 'number', 'worker')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if redis.call('HGET', KEYS[1], 'callback_url') ~= '' then
  redis.call('HSET', KEYS[7], ARGV[6], ARGV[7])
  redis.call('RPUSH', KEYS[6], ARGV[6])
end
if ARGV[3] == 'completed' then
  -- How long a job takes, for estimates: the mean of about the last twenty.
  local took = now_ms - tonumber(redis.call('HGET', KEYS[1], 'started'))
  local mean = tonumber(redis.call('HGET', KEYS[4], 'mean_ms') or took)
  redis.call('HSET', KEYS[4], 'mean_ms', string.format('%.1f', mean + (took - mean) / 20))
end
return 1

-- Ends an attempt, one atomic step: the job gets its final state, or goes back into the queue. Only the job's current
-- attempt may: a worker that was stalled past its lease has lost the job to another one. Sent again it replies the same.
--
-- A response for which there is no room is refused, and nothing changes; any other end is always taken, also by a full
-- Redis: the script's first writes make room.
--
-- KEYS  1 job   2 running   3 cancels   4 later (zset: job by when it may run again)
--       5 callbacks' list   6 callbacks' messages   and those of bytes.lua
-- ARGV  1 job id   2 attempt   3 state: completed, failed, cancelled, or queued   4 ms to keep the result; queued: ms to wait
--       5 the key's running calls   6 message id   7 message: the callback, if the job wants one   8 most bytes
--       9 prefix of jobs   10… fields of the job
-- returns the state that the job is in now, "full" if there is no room, or "" if it was not this attempt's to end

local state, attempts, owner = unpack(redis.call('HMGET', KEYS[1], 'state', 'attempts', 'owner'))
if attempts ~= ARGV[2] then return '' end
if state ~= 'processing' then return state end
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local fields = {}
for i = 10, #ARGV do fields[#fields + 1] = ARGV[i] end

if ARGV[3] == 'completed' then
  local bytes = measured_of(fields)
  if not fits(ARGV[1], owner, bytes, tonumber(ARGV[8]), 3) then
    drop_expired(ARGV[9], now_ms, 200)
    if not fits(ARGV[1], owner, bytes, tonumber(ARGV[8]), 3) then return 'full' end
  end
  local stored = redis.pcall('HSET', KEYS[1], unpack(fields))
  if type(stored) == 'table' and stored.err then
    if string.find(stored.err, 'OOM', 1, true) then return 'full' end
    return stored
  end
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', ARGV[5], ARGV[1])
if ARGV[3] ~= 'queued' then redis.call('HDEL', KEYS[1], 'request', 'held', 'number', 'worker') end
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'finished', now_ms, unpack(fields))
count(ARGV[1], owner, measured(KEYS[1]))
if ARGV[3] == 'queued' then
  redis.call('HSET', KEYS[1], 'recorded', attempts)
  redis.call('ZADD', KEYS[4], now_ms + tonumber(ARGV[4]), ARGV[1])
  return ARGV[3]
end
redis.call('SREM', KEYS[3], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('ZADD', RESULTS, now_ms + tonumber(ARGV[4]), ARGV[1])
if redis.call('HGET', KEYS[1], 'callback_url') ~= '' then
  redis.call('HSET', KEYS[6], ARGV[6], ARGV[7])
  redis.call('RPUSH', KEYS[5], ARGV[6])
end
if ARGV[3] == 'completed' then
  -- How long a job takes, for estimates: the mean of about the last twenty.
  local took = now_ms - tonumber(redis.call('HGET', KEYS[1], 'started'))
  local mean = tonumber(redis.call('HGET', FACTS, 'mean_ms') or took)
  redis.call('HSET', FACTS, 'mean_ms', string.format('%.1f', mean + (took - mean) / 20))
end
return ARGV[3]

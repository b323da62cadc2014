-- Heartbeat of a worker, one atomic step: renews its sign of life and the leases of the jobs it runs, and puts the queue
-- in order: jobs whose worker died and jobs whose pause is over go back to their place, expired results are no longer
-- counted, and a bell is rung if jobs wait without one.
--
-- KEYS  1 workers   2 running   3 cancels   4 later   5 waiting   6 turns   7 bell's list   8 bell's messages
--       9 unsettled   and those of bytes.lua
-- ARGV  1 worker:slots   2 ms of the lease   3 prefix of jobs   4 prefix of the keys' own jobs   5 message id   6 message
--       7 ms after which a silent worker is forgotten   8 prefix of the keys' running calls   9 prefix of claims
--       10 ms after which a cancelled job's reservation is for a worker to settle   11 number of unanswered claims
--       12… their names, then job id, attempt, …
-- returns two lists: the attempts that are to end, each as id, number and reason ("cancelled", or "lost" to a later
--         attempt); and the cancelled jobs that the worker is to settle, each as id and deferred call

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local claims = tonumber(ARGV[11])
-- The first write only removes: a full Redis refuses none of a script's writes after its first one.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms - tonumber(ARGV[7]))
redis.call('ZADD', KEYS[1], now_ms, ARGV[1])

local ending = {}
for i = 12 + claims, #ARGV, 2 do
  local id, job = ARGV[i], ARGV[3] .. ARGV[i]
  local mine = redis.call('HGET', job, 'state') == 'processing' and redis.call('HGET', job, 'attempts') == ARGV[i + 1]
  if mine then redis.call('ZADD', KEYS[2], now_ms + tonumber(ARGV[2]), id) end
  local why = not mine and 'lost' or redis.call('SISMEMBER', KEYS[3], id) == 1 and 'cancelled'
  if why then
    ending[#ending + 1] = id
    ending[#ending + 1] = ARGV[i + 1]
    ending[#ending + 1] = why
  end
end

local function requeue(id)
  local job = ARGV[3] .. id
  local facts = redis.call('HMGET', job, 'owner', 'number', 'submitted')
  if not facts[2] then return end
  redis.call('HSET', job, 'state', 'queued')
  redis.call('ZADD', KEYS[5], facts[3], id)
  redis.call('ZADD', ARGV[4] .. facts[1], facts[2], id)
  redis.call('ZADD', KEYS[6], 'NX', redis.call('HGET', FACTS, 'clock') or 0, facts[1])
end
local function give_up(id)
  redis.call('ZREM', KEYS[2], id)
  redis.call('ZREM', ARGV[8] .. (redis.call('HGET', ARGV[3] .. id, 'owner') or ''), id)
  requeue(id)
end
-- Jobs that this worker claimed without getting the reply: no worker has run them. The claim may still arrive: void it.
for i = 12, 11 + claims do
  local id, attempt = string.match(redis.call('GET', ARGV[9] .. ARGV[i]) or '', '^(%S+) (%S+)$')
  if id then
    local state, attempts = unpack(redis.call('HMGET', ARGV[3] .. id, 'state', 'attempts'))
    if state == 'processing' and attempts == attempt then
      redis.call('HINCRBY', ARGV[3] .. id, 'attempts', -1)
      give_up(id)
    end
  end
  redis.call('SET', ARGV[9] .. ARGV[i], 'void', 'PX', ARGV[2])
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now_ms, 'LIMIT', 0, 200)) do give_up(id) end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now_ms, 'LIMIT', 0, 200)) do
  redis.call('ZREM', KEYS[4], id)
  requeue(id)
end

drop_expired(ARGV[3], now_ms, 500)

local unsettled = {}
local overdue = redis.call('ZRANGEBYSCORE', KEYS[9], '-inf', now_ms - tonumber(ARGV[10]), 'LIMIT', 0, 20)
for _, id in ipairs(overdue) do
  local held = redis.call('HGET', ARGV[3] .. id, 'held')
  if held then
    redis.call('ZADD', KEYS[9], now_ms, id)  -- so that the next workers' beats do not get it, too
    unsettled[#unsettled + 1] = id
    unsettled[#unsettled + 1] = held
  else
    redis.call('ZREM', KEYS[9], id)
  end
end

if redis.call('ZCARD', KEYS[5]) > 0 and redis.call('HLEN', KEYS[8]) <= redis.call('ZCARD', KEYS[2]) then
  if redis.call('HSET', KEYS[8], ARGV[5], ARGV[6]) == 1 then redis.call('RPUSH', KEYS[7], ARGV[5]) end
end
return {ending, unsettled}

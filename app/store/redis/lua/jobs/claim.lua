-- Gives a worker the next job, one atomic step: of the keys with jobs that may run, the first one by virtual time.
-- A key's virtual time advances by 1/priority with each job it gets, so that keys share in proportion to their priority
-- and a flood of one does not hold up another. Jobs of one key run in the order in which they came.
--
-- Sent again with the same name it gives the same job and never another one. A claim whose reply was lost is voided by
-- beat.lua.
--
-- KEYS  1 waiting   2 turns   3 running (zset: job by the end of its lease)   4 bell's list   5 bell's messages
--       6 cancels   7 the claim: "void", or "<job> <attempt>"   and those of bytes.lua
-- ARGV  1 prefix of jobs   2 prefix of the keys' own jobs   3 prefix of the keys' running calls   4 ms of the lease
--       5 ms that a call may run   6 worker   7 message id   8 message: a bell, rung when more jobs wait than bells
--       9 prefix of reservations
-- returns {} if none may run, else {job id, 1 if it is to be cancelled, its reservation's state or "", the job's fields
--         and values…}

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function reply_of(id)
  local reservation = redis.call('HGET', ARGV[9] .. id, 's') or ''
  return {id, redis.call('SISMEMBER', KEYS[6], id), reservation, unpack(redis.call('HGETALL', ARGV[1] .. id))}
end

local claim = redis.call('GET', KEYS[7])
if claim then
  local id, attempt = string.match(claim, '^(%S+) (%S+)$')
  if not id then return {} end
  local state, attempts = unpack(redis.call('HMGET', ARGV[1] .. id, 'state', 'attempts'))
  if state == 'processing' and attempts == attempt then
    return reply_of(id)
  end
  return {}
end
local found, owner, turn

-- A key's oldest job. One whose fields are gone (a Redis that evicts, a hand at work) would block the queue for good.
local function first_of(key)
  while true do
    local id = redis.call('ZRANGE', ARGV[2] .. key, 0, 0)[1]
    if not id or redis.call('EXISTS', ARGV[1] .. id) == 1 then return id end
    redis.call('ZREM', ARGV[2] .. key, id)
    redis.call('ZREM', KEYS[1], id)
    count(id, '', 0)
  end
end

local order = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
for i = 1, #order, 2 do
  local first = first_of(order[i])
  if not first then
    redis.call('ZREM', KEYS[2], order[i])
  else
    local most = redis.call('HGET', ARGV[1] .. first, 'most_at_once')
    local free = true
    if most and most ~= '' then
      local running = ARGV[3] .. order[i]
      redis.call('ZREMRANGEBYSCORE', running, '-inf', now_ms)
      free = redis.call('ZCARD', running) < tonumber(most)
      if free then
        redis.call('ZADD', running, now_ms + tonumber(ARGV[5]), first)
        redis.call('PEXPIRE', running, tonumber(ARGV[5]) + 1000)
      end
    end
    if free then
      found, owner, turn = first, order[i], tonumber(order[i + 1])
      break
    end
  end
end

if not found then
  redis.call('SET', KEYS[7], 'void', 'PX', ARGV[4])
  return {}
end
local job = ARGV[1] .. found
redis.call('ZREM', KEYS[1], found)
redis.call('ZREM', ARGV[2] .. owner, found)
redis.call('HSET', FACTS, 'clock', turn)
redis.call('ZADD', KEYS[2], turn + 1 / tonumber(redis.call('HGET', job, 'priority')), owner)
redis.call('ZADD', KEYS[3], now_ms + tonumber(ARGV[4]), found)
local attempts = redis.call('HINCRBY', job, 'attempts', 1)
redis.call('SET', KEYS[7], found .. ' ' .. attempts, 'PX', ARGV[4])
redis.call('HSET', job, 'state', 'processing', 'worker', ARGV[6], 'started', now_ms)

-- Bells that no running job has answered; one may have been lost with a worker.
local idle = redis.call('HLEN', KEYS[5]) - redis.call('ZCARD', KEYS[3])
if redis.call('ZCARD', KEYS[1]) > idle then
  redis.call('HSET', KEYS[5], ARGV[7], ARGV[8])
  redis.call('RPUSH', KEYS[4], ARGV[7])
end
return reply_of(found)

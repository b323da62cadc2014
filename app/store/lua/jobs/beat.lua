-- A worker's sign of life, for itself and each job it runs; and the queue is put in order: jobs whose worker died and
-- jobs whose pause is over go back to their place, and where jobs wait with no bell that rings for them one is rung.
--
-- KEYS  1 workers   2 running   3 cancels   4 later   5 waiting   6 turns   7 facts   8 bell's list   9 bell's messages
-- ARGV  1 worker   2 ms of the lease   3 prefix of jobs   4 prefix of the keys' own jobs   5 message id   6 message
--       7 ms after which a silent worker is forgotten   8 prefix of the keys' running calls   9… job id, attempt
-- returns those attempts that are to end, each an id, its number and why: "cancelled", or "lost" to a later attempt

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZADD', KEYS[1], now_ms, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms - tonumber(ARGV[7]))

local ending = {}
for i = 9, #ARGV, 2 do
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

local function again(id)
  local job = ARGV[3] .. id
  local facts = redis.call('HMGET', job, 'owner', 'number', 'submitted', 'size')
  if not facts[2] then return end
  redis.call('HSET', job, 'state', 'queued')
  redis.call('ZADD', KEYS[5], facts[3], id)
  redis.call('HINCRBY', KEYS[7], 'bytes', facts[4])
  redis.call('ZADD', ARGV[4] .. facts[1], facts[2], id)
  redis.call('ZADD', KEYS[6], 'NX', redis.call('HGET', KEYS[7], 'clock') or 0, facts[1])
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now_ms, 'LIMIT', 0, 200)) do
  redis.call('ZREM', KEYS[2], id)
  redis.call('ZREM', ARGV[8] .. (redis.call('HGET', ARGV[3] .. id, 'owner') or ''), id)
  again(id)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now_ms, 'LIMIT', 0, 200)) do
  redis.call('ZREM', KEYS[4], id)
  again(id)
end

if redis.call('ZCARD', KEYS[5]) > 0 and redis.call('HLEN', KEYS[9]) <= redis.call('ZCARD', KEYS[2]) then
  redis.call('HSET', KEYS[9], ARGV[5], ARGV[6])
  redis.call('RPUSH', KEYS[8], ARGV[5])
end
return ending

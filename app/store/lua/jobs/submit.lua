-- Takes a job into the queue, one atomic step: it is stored, its reservation passes from the gateway's worker to the
-- queue, and a worker's bell is rung. Or nothing happens: the queue is full, or the job is there already.
--
-- KEYS  1 job   2 waiting (zset by time)   3 turns (zset: key id by virtual time)   4 the key's own jobs (zset by number)
--       5 facts   6 idempotency entry, or a placeholder   7 its worker's open reservations   8 the queue's
--       9 reservation   10 bell's list   11 bell's messages
-- ARGV  1 job id   2 key id   3 most jobs   4 most bytes   5 this job's bytes   6 idempotency value, "" for none
--       7 ms to remember it   8 ms that the reservation is held   9 message id   10 message   11… fields of the job
-- returns {"queued"} | {"full"} | {"known", idempotency value} | {"gone"} (its reservation was settled meanwhile)

if ARGV[6] ~= '' then
  local known = redis.call('GET', KEYS[6])
  if known then return {'known', known} end
end
local bytes = tonumber(redis.call('HGET', KEYS[5], 'bytes') or 0)
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[3]) or bytes + tonumber(ARGV[5]) > tonumber(ARGV[4]) then
  return {'full'}
end
if redis.call('HGET', KEYS[9], 's') ~= 'open' then return {'gone'} end

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local fields = {}
for i = 11, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('HSET', KEYS[1], 'state', 'queued', 'owner', ARGV[2], 'attempts', 0, 'submitted', now_ms, 'size', ARGV[5], unpack(fields))
redis.call('ZREM', KEYS[7], ARGV[1])
redis.call('ZADD', KEYS[8], now_ms + tonumber(ARGV[8]), ARGV[1])
local number = redis.call('HINCRBY', KEYS[5], 'number', 1)
redis.call('HINCRBY', KEYS[5], 'bytes', ARGV[5])
redis.call('HSET', KEYS[1], 'number', number)
redis.call('ZADD', KEYS[2], now_ms, ARGV[1])
redis.call('ZADD', KEYS[4], number, ARGV[1])
redis.call('ZADD', KEYS[3], 'NX', redis.call('HGET', KEYS[5], 'clock') or 0, ARGV[2])
if ARGV[6] ~= '' then redis.call('SET', KEYS[6], ARGV[6], 'PX', ARGV[7]) end
-- What Dramatiq's own script does to enqueue a message, without the sign of life that only its workers give.
redis.call('HSET', KEYS[11], ARGV[9], ARGV[10])
redis.call('RPUSH', KEYS[10], ARGV[9])
return {'queued'}

-- Takes a job into the queue, one atomic step: stores it, passes its reservation from the gateway's worker to the queue,
-- and rings a bell for the workers. Or does nothing: the queue is full, or has the job already. Sent again it replies
-- the same, and does nothing.
--
-- KEYS  1 job   2 waiting (zset by time)   3 turns (zset: key id by virtual time)   4 the key's own jobs (zset by number)
--       5 idempotency entry, or a placeholder   6 the worker's open reservations   7 the queue's   8 reservation
--       9 bell's list   10 bell's messages   and those of bytes.lua
-- ARGV  1 job id   2 key id   3 most jobs   4 most bytes   5 bytes of its request   6 idempotency value, "" for none
--       7 ms to remember it   8 ms that the reservation is held   9 message id   10 message   11 prefix of jobs
--       12… fields of the job
-- returns {"queued"} | {"full"} | {"share"} (the key holds too many bytes) | {"known", idempotency value}
--         | {"gone"} (its reservation was settled meanwhile)

if redis.call('EXISTS', KEYS[1]) == 1 then return {'queued'} end
if ARGV[6] ~= '' then
  local known = redis.call('GET', KEYS[5])
  if known then return {'known', known} end
end
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[3]) then return {'full'} end
if redis.call('HGET', KEYS[8], 's') ~= 'open' then return {'gone'} end
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local fields = {}
for i = 12, #ARGV do fields[#fields + 1] = ARGV[i] end
local bytes = measured_of(fields)
if not fits(ARGV[1], ARGV[2], bytes, tonumber(ARGV[4]), 1) then
  drop_expired(ARGV[11], now_ms, 200)
  if not fits(ARGV[1], ARGV[2], bytes, tonumber(ARGV[4]), 1) then return {'share'} end
end

redis.call('HSET', KEYS[1], 'state', 'queued', 'owner', ARGV[2], 'attempts', 0, 'recorded', 0, 'submitted', now_ms,
  'size', ARGV[5], unpack(fields))
count(ARGV[1], ARGV[2], bytes)
redis.call('ZREM', KEYS[6], ARGV[1])
redis.call('ZADD', KEYS[7], now_ms + tonumber(ARGV[8]), ARGV[1])
local number = redis.call('HINCRBY', FACTS, 'number', 1)
redis.call('HSET', KEYS[1], 'number', number)
redis.call('ZADD', KEYS[2], now_ms, ARGV[1])
redis.call('ZADD', KEYS[4], number, ARGV[1])
redis.call('ZADD', KEYS[3], 'NX', redis.call('HGET', FACTS, 'clock') or 0, ARGV[2])
if ARGV[6] ~= '' then redis.call('SET', KEYS[5], ARGV[6], 'PX', ARGV[7]) end
-- What Dramatiq's own script does to enqueue a message, without the sign of life that only its workers give.
redis.call('HSET', KEYS[10], ARGV[9], ARGV[10])
redis.call('RPUSH', KEYS[9], ARGV[9])
return {'queued'}

-- Heartbeat of a worker, at Redis's time: the machines of workers and of the reaper may have clocks that differ.
--
-- KEYS
--   1    workers (zset: worker id by Unix seconds)
--
-- ARGV
--   1    worker id

local clock = redis.call('TIME')
redis.call('ZADD', KEYS[1], clock[1] + clock[2] / 1000000, ARGV[1])

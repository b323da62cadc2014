-- A worker's sign of life, at Redis's time: workers, and who judges them, may be on machines whose clocks differ.
--
-- KEYS  1 workers (zset by Unix seconds)
-- ARGV  1 worker

local clock = redis.call('TIME')
redis.call('ZADD', KEYS[1], clock[1] + clock[2] / 1000000, ARGV[1])

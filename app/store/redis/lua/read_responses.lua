-- Reads responses, and keeps each for its time to live from now on: a conversation that goes on is not forgotten.
--
-- KEYS
--   1    all records (zset: their keys by when they expire, ms of Redis's clock)
--   2    the owner's records (zset likewise)
--   3 …  records
--
-- ARGV
--   1    time to live, ms
--
-- Returns each record, or false.

local time = redis.call('TIME')
local expiry = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
local found = {}
for i = 3, #KEYS do
  found[i - 2] = redis.call('GET', KEYS[i])
  if found[i - 2] then
    redis.call('PEXPIRE', KEYS[i], ARGV[1])
    redis.call('ZADD', KEYS[1], 'XX', expiry, KEYS[i])
    redis.call('ZADD', KEYS[2], 'XX', expiry, KEYS[i])
    redis.call('PEXPIRE', KEYS[2], ARGV[1])
  end
end
return found

-- Drops the deferred call of a cancelled job: its reservation is settled.
--
-- KEYS  1 job   2 unsettled   and those of bytes.lua
-- ARGV  1 job id
-- returns 1

redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HGET', KEYS[1], 'state') == 'cancelled' and redis.call('HDEL', KEYS[1], 'held') == 1 then
  count(ARGV[1], '', measured(KEYS[1]))
end
return 1

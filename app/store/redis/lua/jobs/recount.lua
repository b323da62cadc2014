-- Recounts the memory that the queue takes, from the jobs themselves: after an upgrade, a manual change, a Redis that
-- lost its last second. One atomic step, a few microseconds a job.
--
-- KEYS  1 waiting   2 running   3 later   and those of bytes.lua
-- ARGV  1 prefix of jobs
-- returns the bytes of all jobs

redis.call('DEL', SIZES, SHARES)
redis.call('HSET', FACTS, 'bytes', 0)
for _, place in ipairs({KEYS[1], KEYS[2], KEYS[3], RESULTS}) do
  for _, id in ipairs(redis.call('ZRANGE', place, 0, -1)) do
    local owner = redis.call('HGET', ARGV[1] .. id, 'owner')
    if owner then
      count(id, owner, measured(ARGV[1] .. id))
    elseif place == RESULTS then
      redis.call('ZREM', RESULTS, id)
    end
  end
end
return tonumber(redis.call('HGET', FACTS, 'bytes'))

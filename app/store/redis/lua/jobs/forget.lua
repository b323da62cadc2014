-- Deletes jobs that have ended, with their idempotency entries, one atomic step.
--
-- KEYS  1… the jobs, and their idempotency entries   and those of bytes.lua
-- ARGV  1… job ids
-- returns 1

for i = 1, #KEYS - 4 do redis.call('DEL', KEYS[i]) end
for _, id in ipairs(ARGV) do
  redis.call('ZREM', RESULTS, id)
  count(id, '', 0)
end
return 1

-- Drops jobs that have ended, and what was remembered of their submission.
--
-- KEYS  1… the jobs, and their idempotency entries   and those of bytes.lua
-- ARGV  1… job ids

for i = 1, #KEYS - 4 do redis.call('DEL', KEYS[i]) end
for _, id in ipairs(ARGV) do
  redis.call('ZREM', RESULTS, id)
  count(id, '', 0)
end
return 1

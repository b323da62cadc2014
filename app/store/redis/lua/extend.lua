-- Extension, one atomic step: reserves the money that one more upstream attempt of a call may cost, besides what the call
-- has, and replaces the record from which the reaper would settle it. Or nothing happens. Running it twice for one
-- attempt reserves once.
--
-- KEYS
--   1    reservation of the call (hash; its fields: see admit.lua)
--   2…   counters of the call, as in admit.lua
--
-- ARGV
--   1    number of the attempt, from 2
--   2    record of the reservation (JSON), kept as `d`
--   3…   four for each counter, in the order of KEYS: kind, amount, limit, period_ms (see admit.lua)
--
-- Returns
--    1   the attempt may be made
--    0   a limit does not allow it
--   -1   the call has ended
--
-- A job whose worker died between settling its call and saying so runs once more, and is charged no more.

local found = redis.call('HMGET', KEYS[1], 's', 'n', 'c')
if found[1] == 'settled' then return 1 end
if found[1] ~= 'open' then return -1 end
if tonumber(found[2] or 1) >= tonumber(ARGV[1]) then return 1 end

local taken, writes = cjson.decode(found[3]), {}
for i = 2, #KEYS do
  local at = 3 + (i - 2) * 4
  local amount, limit = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  if ARGV[at] == 'window' and amount > 0 then
    if tonumber(redis.call('GET', KEYS[i]) or 0) + amount > limit then return 0 end
    writes[#writes + 1] = {i, amount, ARGV[at + 3]}
  end
end
for _, write in ipairs(writes) do
  local key, amount = KEYS[write[1]], write[2]
  redis.call('INCRBY', key, string.format('%.0f', amount))
  if redis.call('PTTL', key) < 0 then redis.call('PEXPIRE', key, write[3]) end
  taken[write[1] - 1] = taken[write[1] - 1] + amount
end
for i, amount in ipairs(taken) do taken[i] = string.format('%.0f', amount) end
redis.call('HSET', KEYS[1], 'n', ARGV[1], 'c', '[' .. table.concat(taken, ',') .. ']', 'd', ARGV[2])
return 1

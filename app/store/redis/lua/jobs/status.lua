-- Status of a job for its owner: its fields, and for one that waits the number of jobs that will run before it.
--
-- That number is an estimate: of each other key as many jobs come first as the own key has up to this one.
--
-- KEYS  1 job   2 turns   3 facts   4 workers (zset: worker by its last sign of life; its name ends in :slots)
-- ARGV  1 key id that it must belong to   2 prefix of the keys' own jobs   3 job id   4 ms after which a worker is dead
--       5 ETags that the caller has, as in If-None-Match   6… fields to show, the first one is "state"
-- returns {} for an unknown or foreign job, else {jobs before it or -1, slots, mean ms, ETag, the fields' values…}. The
--         ETag changes with everything that is shown but estimates; a caller that has it gets only the state after it

if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return {} end
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local before, slots = -1, 0
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'queued' then
  before = redis.call('ZRANK', ARGV[2] .. ARGV[1], ARGV[3]) or 0
  local own = before + 1
  local keys = redis.call('ZRANGE', KEYS[2], 0, 199)
  for _, key in ipairs(keys) do
    if key ~= ARGV[1] then before = before + math.min(redis.call('ZCARD', ARGV[2] .. key), own) end
  end
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], now_ms - tonumber(ARGV[4]), '+inf')) do
    slots = slots + tonumber(string.match(worker, ':(%d+)$') or 0)
  end
end
local facts = redis.call('HMGET', KEYS[1], 'attempts', 'started', 'finished')
local etag = table.concat({'"' .. state, facts[1], facts[2] or '', facts[3] or '', before .. '"'}, '-')
local reply = {before, slots, redis.call('HGET', KEYS[3], 'mean_ms') or '', etag}
if string.find(ARGV[5], etag, 1, true) then
  reply[5] = state
  return reply
end
local fields = {}
for i = 6, #ARGV do fields[#fields + 1] = ARGV[i] end
local values = redis.call('HMGET', KEYS[1], unpack(fields))
for i = 1, #fields do reply[4 + i] = values[i] end
return reply

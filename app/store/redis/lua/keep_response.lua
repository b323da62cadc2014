-- Keeps one response, and forgets those whose time has come or that there is no room for, in one atomic step. Keeping
-- the same one twice keeps it once.
--
-- KEYS
--   1    the response's record
--   2    all records (zset: their keys by when they expire, ms of Redis's clock)
--   3    sizes (hash: record's key → "bytes owner"; "all" and "of <owner>" → bytes of these together)
--
-- ARGV
--   1    record
--   2    its bytes, overhead included
--   3    its owner, an API key's id
--   4    time to live, ms
--   5    most bytes of all records
--   6    most bytes of one owner's records
--   7    prefix of the zsets of one owner's records; the owner follows
--
-- Returns how many records were forgotten.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local forgotten = 0

local function forget(key)
  local size, owner = string.match(redis.call('HGET', KEYS[3], key) or '', '^(%d+) (.*)$')
  redis.call('DEL', key)
  redis.call('ZREM', KEYS[2], key)
  if size then
    redis.call('HDEL', KEYS[3], key)
    redis.call('ZREM', ARGV[7] .. owner, key)
    redis.call('HINCRBY', KEYS[3], 'all', -size)
    if redis.call('HINCRBY', KEYS[3], 'of ' .. owner, -size) <= 0 then redis.call('HDEL', KEYS[3], 'of ' .. owner) end
    forgotten = forgotten + 1
  end
end

local function used(name)
  return tonumber(redis.call('HGET', KEYS[3], name) or 0)
end

for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100)) do forget(key) end
if redis.call('HEXISTS', KEYS[3], KEYS[1]) == 1 then
  forget(KEYS[1])
  forgotten = forgotten - 1
end

local own = ARGV[7] .. ARGV[3]
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[4])
redis.call('ZADD', KEYS[2], now + ARGV[4], KEYS[1])
redis.call('ZADD', own, now + ARGV[4], KEYS[1])
redis.call('PEXPIRE', own, ARGV[4])
redis.call('HSET', KEYS[3], KEYS[1], ARGV[2] .. ' ' .. ARGV[3])
redis.call('HINCRBY', KEYS[3], 'all', ARGV[2])
redis.call('HINCRBY', KEYS[3], 'of ' .. ARGV[3], ARGV[2])

for _, bound in ipairs({ { own, 'of ' .. ARGV[3], ARGV[6] }, { KEYS[2], 'all', ARGV[5] } }) do
  while used(bound[2]) > tonumber(bound[3]) do
    local oldest = redis.call('ZRANGE', bound[1], 0, 0)[1]
    if not oldest then break end
    forget(oldest)
  end
end
return forgotten

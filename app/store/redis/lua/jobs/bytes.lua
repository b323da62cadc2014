-- Accounting of the memory that the queue takes: a job's request until it ends, then its result until that expires.
-- Not a script of its own: the beginning of the scripts that change it.
--
-- KEYS  the last four of each: facts   sizes (hash: job → "bytes owner")   shares (hash: key id → bytes)
--       results (zset: jobs that have ended, by when they expire)
-- `bytes` of the facts is the sum of the sizes, and each share that of its key's jobs: all three only change in `count`.

local FACTS, SIZES, SHARES, RESULTS = KEYS[#KEYS - 3], KEYS[#KEYS - 2], KEYS[#KEYS - 1], KEYS[#KEYS]
-- Bytes of a job besides its texts, in a Redis on a 64-bit machine: its hash, and its places in sorted sets.
local OVERHEAD = 2000
local TEXTS = {request = true, held = true, response = true, about = true, error = true}

local function counted(id)
  local bytes, owner = string.match(redis.call('HGET', SIZES, id) or '', '^(%d+) (.*)$')
  return tonumber(bytes or 0), owner
end

-- Sets the bytes that the job takes; 0 when it is gone.
local function count(id, owner, bytes)
  local before, whose = counted(id)
  owner = whose or owner
  if bytes == before then return end
  if bytes > 0 then redis.call('HSET', SIZES, id, bytes .. ' ' .. owner) else redis.call('HDEL', SIZES, id) end
  redis.call('HINCRBY', FACTS, 'bytes', bytes - before)
  if redis.call('HINCRBY', SHARES, owner, bytes - before) <= 0 then redis.call('HDEL', SHARES, owner) end
end

local function measured(job)
  local bytes = OVERHEAD
  for name in pairs(TEXTS) do bytes = bytes + redis.call('HSTRLEN', job, name) end
  return bytes
end

-- Measures fields and values that are yet to be written.
local function measured_of(fields)
  local bytes = OVERHEAD
  for i = 1, #fields, 2 do
    if TEXTS[fields[i]] then bytes = bytes + #fields[i + 1] end
  end
  return bytes
end

-- Stops counting jobs that have expired, or are gone for another reason.
local function drop_expired(prefix, now_ms, most)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', RESULTS, '-inf', now_ms, 'LIMIT', 0, most)) do
    local left_ms = redis.call('PTTL', prefix .. id)
    if left_ms > 0 then
      redis.call('ZADD', RESULTS, now_ms + left_ms, id)
    else
      redis.call('ZREM', RESULTS, id)
      count(id, '', 0)
    end
  end
end

-- Returns true if the job may take so many bytes of `most`: its key may hold `part` times what is then still free. So
-- one key can never fill the queue, and a key that comes later finds room, however many have come before.
local function fits(id, owner, bytes, most, part)
  local before = counted(id)
  local own = tonumber(redis.call('HGET', SHARES, owner) or 0) + bytes - before
  local all = tonumber(redis.call('HGET', FACTS, 'bytes') or 0) + bytes - before
  return own <= part * (most - all)
end

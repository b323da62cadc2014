-- Appends one turn to a conversation and forgets the oldest ones beyond its bounds, in one atomic step.
-- Running it twice with the same turn appends it once.
--
-- KEYS  1 the conversation (list of turns, oldest first)
--       2 open conversations (zset: their keys → when they are forgotten, ms by Redis's clock)
-- ARGV  1 the turn, its unique id included   2 most turns   3 most bytes   4 time to live, ms
-- returns how many turns are kept

local kept = redis.call('LRANGE', KEYS[1], 0, -1)
for _, turn in ipairs(kept) do
  if turn == ARGV[1] then return #kept end
end

local most, room, count = tonumber(ARGV[2]), tonumber(ARGV[3]) - #ARGV[1], 1
for i = #kept, 1, -1 do
  room = room - #kept[i]
  if count >= most or room < 0 then break end
  count = count + 1
end
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], -count, -1)
redis.call('PEXPIRE', KEYS[1], ARGV[4])

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('ZADD', KEYS[2], now + ARGV[4], KEYS[1])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return count

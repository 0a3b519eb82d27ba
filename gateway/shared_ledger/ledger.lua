#!lua name=kvgate_ledger_1
-- The shared ledger of several gateways in front of one backend. Per backend two keys in one hash slot:
--   ends   ZSET  gateway -> server time in ms at which its entry lapses unless renewed
--   books  HASH  gateway -> "seq blocks resident sequences wanted since", and !born, !seen, !lapsed
-- A gateway has one entry: the most blocks that all its requests there will hold. Each call replaces it, so a call may
-- be repeated; one that comes late, after a newer one, is known by its number and changes nothing.

local KEPT_MS = 3600000

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function parsed(text)
  local seq, blocks, resident, sequences, wanted, since =
    string.match(text, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
  return {
    seq = tonumber(seq), blocks = tonumber(blocks), resident = tonumber(resident),
    sequences = tonumber(sequences), wanted = tonumber(wanted), since = tonumber(since),
  }
end

local function text_of(entry)
  return string.format('%.0f %.0f %.0f %.0f %.0f %.0f',
    entry.seq, entry.blocks, entry.resident, entry.sequences, entry.wanted, entry.since)
end

-- Takes out entries that were not renewed in time; how many.
local function lapse(ends, books, now)
  local late = redis.call('ZRANGEBYSCORE', ends, '-inf', now)
  for _, id in ipairs(late) do
    local text = redis.call('HGET', books, id)
    if text then
      redis.call('HINCRBY', books, '!lapsed', string.format('%.0f', parsed(text).blocks))
      redis.call('HDEL', books, id)
    end
    redis.call('ZREM', ends, id)
  end
  return #late
end

-- For how long the ledger has been in use without a break; it begins anew where nobody has called for a whole TTL.
local function age(books, now, ttl)
  local born = tonumber(redis.call('HGET', books, '!born') or now)
  local seen = tonumber(redis.call('HGET', books, '!seen') or now)
  if now - seen > ttl or born > now then born = now end
  redis.call('HSET', books, '!born', string.format('%.0f', born), '!seen', string.format('%.0f', now))
  return now - born
end

-- Sums up everybody else's entries. `promised` is what the gateway wants whose request has waited longest, if it has
-- waited longer than ours: nobody else may take that room, else a large request would starve.
local function others_of(books, me, since)
  local sum = { count = 0, blocks = 0, resident = 0, sequences = 0, promised = 0, wanted = 0 }
  local oldest, oldest_id = since, me
  local fields = redis.call('HGETALL', books)
  for i = 1, #fields, 2 do
    local id = fields[i]
    if id ~= me and string.sub(id, 1, 1) ~= '!' then
      local entry = parsed(fields[i + 1])
      sum.count = sum.count + 1
      sum.blocks = sum.blocks + entry.blocks
      sum.resident = sum.resident + entry.resident
      sum.sequences = sum.sequences + entry.sequences
      if entry.wanted > 0 then
        sum.wanted = 1
        if entry.since < oldest or (entry.since == oldest and id < oldest_id) then
          oldest, oldest_id, sum.promised = entry.since, id, entry.wanted
        end
      end
    end
  end
  return sum
end

-- KEYS ends books; ARGS gateway seq ttl_ms is_claim blocks limit resident sequences wanted waited_ms
-- A claim holds only if all entries together stay within the limit; anything else states what is, and always holds.
-- A resident of -1 leaves the last one as it is.
local function hold(keys, args)
  local ends, books = keys[1], keys[2]
  local me, seq, ttl, is_claim = args[1], tonumber(args[2]), tonumber(args[3]), args[4] == '1'
  local blocks, limit, resident = tonumber(args[5]), tonumber(args[6]), tonumber(args[7])
  local sequences, wanted, waited = tonumber(args[8]), tonumber(args[9]), tonumber(args[10])
  local now = now_ms()
  local lapsed = lapse(ends, books, now)
  local age_ms = age(books, now, ttl)
  local since = wanted > 0 and now - waited or math.huge
  local sum = others_of(books, me, since)
  local text = redis.call('HGET', books, me)
  local mine = text and parsed(text) or { seq = 0, blocks = 0, resident = 0 }
  local granted = 0
  if seq > mine.seq then
    if not is_claim or blocks + sum.blocks + sum.promised <= limit then granted = 1 end
    -- Who got what it asked for does not wait for it any more.
    if is_claim and granted == 1 then wanted = 0 end
    redis.call('HSET', books, me, text_of({
      seq = seq,
      blocks = granted == 1 and blocks or mine.blocks,
      resident = resident >= 0 and resident or mine.resident,
      sequences = sequences,
      wanted = wanted,
      since = wanted > 0 and since or 0,
    }))
    redis.call('ZADD', ends, now + ttl, me)
  end
  redis.call('PEXPIRE', ends, KEPT_MS)
  redis.call('PEXPIRE', books, KEPT_MS)
  local total_lapsed = tonumber(redis.call('HGET', books, '!lapsed') or 0)
  return { granted, sum.count + 1, sum.blocks, sum.resident, sum.sequences, sum.promised, sum.wanted,
    total_lapsed, lapsed, age_ms }
end

-- KEYS ends books; ARGS gateway blocks. A gateway goes; what its requests may still hold is nobody's from now on.
local function leave(keys, args)
  redis.call('ZREM', keys[1], args[1])
  if redis.call('HDEL', keys[2], args[1]) == 1 then
    redis.call('HINCRBY', keys[2], '!lapsed', args[2])
  end
  return 1
end

redis.register_function('kvgate_hold_1', hold)
redis.register_function('kvgate_leave_1', leave)

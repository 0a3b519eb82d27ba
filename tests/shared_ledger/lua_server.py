"""The function library of the ledger on tables instead of a server: thousands of calls a second, on any clock.

Only the commands that it uses are there, each as Redis documents it; tests against servers show that it is so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lupa.lua51 import LuaRuntime

from gateway.shared_ledger.redis_store import LIBRARY

SERVER = """
local clock = ...
local keys, functions, commands = {}, {}, {}
local function at(key)
  keys[key] = keys[key] or {}
  return keys[key]
end
function commands.TIME()
  local now = clock()
  return { string.format('%d', math.floor(now)), string.format('%d', math.floor(now % 1 * 1000000)) }
end
function commands.HGET(key, field) return at(key)[field] or false end
function commands.HSET(key, ...)
  local pairs_given = { ... }
  for i = 1, #pairs_given, 2 do at(key)[pairs_given[i]] = pairs_given[i + 1] end
end
function commands.HDEL(key, field)
  local was = at(key)[field] and 1 or 0
  at(key)[field] = nil
  return was
end
function commands.HINCRBY(key, field, by)
  at(key)[field] = string.format('%.0f', tonumber(at(key)[field] or 0) + tonumber(by))
end
function commands.HGETALL(key)
  local flat = {}
  for field, value in pairs(at(key)) do
    flat[#flat + 1] = field
    flat[#flat + 1] = value
  end
  return flat
end
function commands.ZADD(key, score, member) at(key)[member] = score end
function commands.ZREM(key, member) at(key)[member] = nil end
function commands.ZRANGEBYSCORE(key, _, upto)
  local found = {}
  for member, score in pairs(at(key)) do
    if score <= upto then found[#found + 1] = member end
  end
  return found
end
function commands.PEXPIRE() end
redis = {}
function redis.call(name, ...) return commands[name](...) end
function redis.register_function(name, run) functions[name] = run end
function call(name, ends, books, args) return functions[name]({ ends, books }, args) end
function fields(key) return at(key) end
"""


class LuaServer:
    """One server. It forgets all when another takes its place."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._lua = LuaRuntime()
        self._lua.compile(SERVER)(clock)
        self._lua.execute(LIBRARY.partition("\n")[2])

    def call(self, function: str, args: Sequence[str | int]) -> list[int]:
        """As FCALL does on the keys of one backend."""
        words = self._lua.table_from([str(arg) for arg in args])
        answer = self._lua.globals().call(function, "ends", "books", words)
        return [int(number) for number in answer.values()] if function.startswith("kvgate_hold") else []

    def entries(self) -> dict[str, str]:
        """Of all gateways."""
        return {key: value for key, value in self._lua.globals().fields("books").items() if not key.startswith("!")}

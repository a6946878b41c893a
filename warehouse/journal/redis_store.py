"""What the journal in Redis is made of: its keys, and one script by which all of a write is made, or nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

from warehouse.errors import ConfigError, JournalUnavailable
from warehouse.journal.base import PRUNED, Lock, ReplyLost
from warehouse.results import State

# So many arguments go into one command, and so many transactions are read or pruned at a time.
CHUNK: Final = 500
# Stands for the number that a finished transaction gets.
NUMBER: Final = b"\0number"
_PREFIX: Final = "warehouse:"

# Each argument list is a command: its length, its name, its arguments. Checks come before writes.
_SCRIPT: Final = """
local position, number = 1, nil
while position <= #ARGV do
  local length = tonumber(ARGV[position])
  local name, command = ARGV[position + 1], {}
  for index = 2, length do command[index - 1] = ARGV[position + index] end
  position = position + length + 1
  if name == 'absent' then
    if redis.call('EXISTS', command[1]) == 1 then return {'present'} end
  elseif name == 'equal' then
    if (redis.call('HGET', command[1], command[2]) or '') ~= command[3] then return {'changed'} end
  elseif name == 'free' then
    for index = 3, #command do
      local holder = redis.call('HGET', command[1], command[index])
      if holder and not string.find(command[2], holder, 1, true) then
        return {'locked', command[index], holder}
      end
    end
  elseif name == 'unmoved' then
    for index = 4, #command do
      local last = redis.call('HGET', command[1], command[index])
      if last and tonumber(last) > tonumber(command[2])
        and not string.find(command[3], ' ' .. last .. ' ', 1, true) then
        return {'locked', command[index], ''}
      end
    end
  elseif name == 'number' then
    number = redis.call('HINCRBY', command[1], 'sequence', 1)
  else
    for index = 1, #command do
      if command[index] == '\\0number' then command[index] = tostring(number) end
    end
    redis.call(name, unpack(command))
  end
end
return {'done'}
"""

Command: TypeAlias = tuple[Any, ...]


def place(kind: str, name: str | bytes = "") -> bytes:
    last = name.encode() if isinstance(name, str) else name
    return f"{_PREFIX}{kind}{':' if last else ''}".encode() + last


META, LOCKS, FINISHED, KEYS, OWNERS = map(place, ("meta", "locks", "finished", "keys", "owners"))
# Sorted: all and open transactions by their start, ended ones by their end (also those with images), and by number;
# records by the number of the last that finished with them.
ALL, OPEN, ENDED, IMAGES, ORDER, LAST = map(place, ("all", "open", "ended", "images", "order", "last"))


class Store:
    """One Redis database, while it is open."""

    def __init__(self, url: str) -> None:
        """Take a URL as `redis://host:6379/0`; ConfigError where it is none, or redis is not installed."""
        try:
            from redis.asyncio import Redis
        except ImportError as error:
            raise ConfigError(
                f"the journal needs a driver that is not installed: {error}",
                hint="pip install 'warehouse[redis]'",
            ) from error
        try:
            self.client: Any = Redis.from_url(url, max_connections=CHUNK)
        except ValueError:
            raise ConfigError("journal.url is no URL of a Redis database") from None
        options = self.client.connection_pool.connection_kwargs
        self.description = (
            f"redis://{options.get('host')}:{options.get('port', 6379)}/{options.get('db') or 0}"
        )
        self.opened = False

    async def write(self, commands: Sequence[Command]) -> list[bytes]:
        """Run the script; what it said.

        Raises JournalUnavailable where nothing was sent, or it was refused; ReplyLost.
        """
        arguments: list[Any] = []
        for command in commands:
            arguments += (len(command), *command)
        async with self.errors("written"):
            connection = await self.client.connection_pool.get_connection()
        try:
            return await self._said(connection, arguments)
        finally:
            await self.client.connection_pool.release(connection)

    async def _said(self, connection: Any, arguments: Sequence[Any]) -> list[bytes]:
        from redis.exceptions import ConnectionError as Lost
        from redis.exceptions import ResponseError
        from redis.exceptions import TimeoutError as Late

        try:
            await connection.send_command("EVAL", _SCRIPT, 0, *arguments)
            said: list[bytes] = await connection.read_response()
        except ResponseError as error:
            raise JournalUnavailable(f"the journal {self.description} refused a write: {error}") from error
        except (Lost, Late, OSError) as error:
            await connection.disconnect()
            raise ReplyLost(f"the journal {self.description} did not confirm a write: {error}") from error
        except BaseException:
            await connection.disconnect()  # its reply is not to be taken for that of another
            raise
        return said

    @asynccontextmanager
    async def errors(self, what: str) -> AsyncIterator[None]:
        """What goes wrong, as JournalUnavailable."""
        from redis.exceptions import RedisError

        if not self.opened:
            raise JournalUnavailable(f"the journal {self.description} is not open")
        try:
            yield
        except (RedisError, OSError) as error:
            raise JournalUnavailable(f"the journal {self.description} cannot be {what}: {error}") from error


def checks(names: Sequence[str], locks: Sequence[Lock], since: int, known: Sequence[int]) -> list[Command]:
    """That nobody but `names` has a lock, nor finished with one after `since` (but for the numbers `known`)."""
    out: list[Command] = []
    holders, numbers = " ".join(names), f" {' '.join(map(str, known))} "
    for start in range(0, len(locks), CHUNK):
        part = locks[start : start + CHUNK]
        out += [("free", LOCKS, holders, *part), ("unmoved", FINISHED, since, numbers, *part)]
    return out


def each(name: str, where: bytes, items: Sequence[tuple[Any, ...]]) -> list[Command]:
    """One command for many arguments, or several where they are too many."""
    return [
        (name, where, *(part for item in items[start : start + CHUNK] for part in item))
        for start in range(0, len(items), CHUNK)
    ]


def ended(name: str, state: State, finished: float) -> list[Command]:
    """For pruning: what failed is kept."""
    return [("ZADD", where, finished, name) for where in (ENDED, IMAGES)] if state in PRUNED else []

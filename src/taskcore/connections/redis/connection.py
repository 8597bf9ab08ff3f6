"""One connection, one exchange at a time, and no doubt about the outcome of a command.

redis-py connects, logs in and parses. It never repeats a command here: a repeated command whose first reply was lost is
a doubled job. An exchange ends in exactly one of

    the replies                     it was carried out
    CommandRefused                  the server refused it; nothing was changed
    ReplyLost                       it was sent and the reply did not come: perhaps carried out
    BrokerUnavailable otherwise     it was not sent; surely not carried out
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError

from taskcore.connections.redis.address import RedisOptions
from taskcore.connections.redis.refusals import DEMOTED, ReplyLost, error_text, refused
from taskcore.connections.redis.sockets import is_closed
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.tasks import TaskSet
from taskcore.toolkit.timeouts import SharedTimer

__all__ = ["Command", "RedisConnection", "Script"]

Command: TypeAlias = Sequence[bytes | str | int | float]

pack_command: Callable[[tuple[Any, ...]], bytes] | None = None
with suppress(ImportError):  # the extra installs it; without it packing is slower
    from hiredis import pack_command

PING_AFTER_IDLE: Final = 2.0  #: seconds without use, after which a connection is tested with PING before it is used: …
PING_TIMEOUT: Final = 2.0  #: … it is closed without an answer in this time, for a firewall may have forgotten it


class Script:
    """A Lua script: sent whole once to a server, and by its hash from then on."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - the name that Redis gives it


class RedisConnection:
    """One connection, made when it is needed, and made anew after every doubt.

    :param connect: makes a connection that is ready to use.
    :param timer: ends exchanges whose time is over; many connections share it.
    :param options: of the URL; they limit the time of an exchange.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[AbstractConnection]], timer: SharedTimer, options: RedisOptions
    ) -> None:
        self.ends = 0.0  # as a deadline: of the exchange that is under way
        self._connect = connect
        self._timer = timer
        self._timeout = options.timeout
        self._shown = options.shown
        self._lock = asyncio.Lock()
        self._callers = 0  # that wait for the lock, or hold it
        self._connection: AbstractConnection | None = None
        self._closed = False
        self._used = 0.0
        self._expired = False
        self._dropping = TaskSet("connection to Redis")

    async def call(self, *commands: Command, timeout: float | None = None) -> list[Any]:
        """Send the commands in one piece; return their replies in order.

        :param timeout: seconds, for a command that may take longer than usual because it blocks.
        :raises CommandRefused: the server refused one of them; those behind it were carried out.
        """
        asked = time.monotonic()
        self._callers += 1
        try:
            async with self._lock:
                replies = await self._exchange(commands, asked, timeout)
        finally:
            self._callers -= 1
        if self._callers:
            await asyncio.sleep(0)  # let the next caller send before this one digests its replies: the server goes on
        for reply in replies:
            if isinstance(reply, ResponseError):
                answer = refused(reply, self._shown)
                if answer.kind in DEMOTED:
                    await self.drop()
                raise answer
        return replies

    async def _exchange(self, commands: Sequence[Command], asked: float, timeout: float | None) -> list[Any]:
        if time.monotonic() - asked >= self._timeout:  # or each caller would wait for its own time limit in turn
            raise BrokerUnavailable(f"Redis at {self._shown} has not answered earlier calls for {self._timeout:g} s")
        connection = await self._ready()
        self._expired = False
        self._timer.add(self, self._timeout if timeout is None else timeout)
        try:
            await connection.send_packed_command(_pack(connection, commands), check_health=False)
            replies = [await _reply(connection) for _ in commands]
        except (AuthenticationError, BusyLoadingError) as error:  # redis-py takes these answers for lost connections
            await self.drop()
            raise refused(error, self._shown) from error
        except (RedisError, OSError) as error:
            await self.drop()
            why = "the time limit was over" if self._expired else error_text(error)
            lost = ReplyLost(f"Redis at {self._shown} did not answer", facts=[why])
            lost.cut = not self._expired
            raise lost from error
        except BaseException:
            await self.drop()  # half an exchange: the next caller must not read this one's reply
            raise
        finally:
            self._timer.discard(self)
        self._used = time.monotonic()
        return replies

    def expire(self) -> float:
        """End the exchange that is under way, as a deadline: its caller finds the connection closed."""
        self._expired = True
        self._dropping.start(self.drop())
        return math.inf

    async def drop(self) -> None:
        """Disconnect at once; the next call connects anew."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Disconnect for good: calls that are under way or wait for the lock make no connection any more."""
        self._closed = True
        await self.drop()

    async def _ready(self) -> AbstractConnection:
        """Return a connection that lives, as far as can be known without asking."""
        connection = self._connection
        if connection is not None and is_closed(connection):
            await self.drop()  # before anything was sent, so nothing is in doubt
        elif connection is not None and time.monotonic() - self._used > PING_AFTER_IDLE:
            try:
                async with asyncio.timeout(min(PING_TIMEOUT, self._timeout)):
                    await connection.send_packed_command(_pack(connection, [("PING",)]), check_health=False)
                    await connection.read_response(disable_decoding=True)
            except (RedisError, OSError):  # closed unnoticed; a new connection tells more
                await self.drop()
            except BaseException:
                await self.drop()
                raise
        if self._connection is None and not self._closed:
            self._connection = await self._connect()
        if self._connection is None or self._closed:
            await self.drop()
            raise BrokerUnavailable(f"the connections to Redis at {self._shown} were closed")
        return self._connection


async def _reply(connection: AbstractConnection) -> Any:
    """Read a reply; an error answer is a value too, because the replies behind it have to be read all the same."""
    try:
        return await connection.read_response(disable_decoding=True)
    except ResponseError as error:
        return error


def _pack(connection: AbstractConnection, commands: Sequence[Command]) -> list[bytes]:
    if pack_command is not None:
        return [pack_command(tuple(command)) for command in commands]
    return connection.pack_commands(commands)

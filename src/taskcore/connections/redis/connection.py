"""Line: one connection, one exchange at a time, and no doubt about what became of it.

redis-py connects, logs in, packs and parses. What it does not do here is repeat commands: a repeated command whose
first reply was lost is a doubled job. So an exchange ends in exactly one of

    the replies                     it was carried out
    Denied                          the server said no; nothing was changed
    Unanswered                      it was sent and the reply did not come: perhaps carried out
    BrokerUnavailable otherwise     it was not sent; surely not carried out
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError

from taskcore.errors import BrokerUnavailable

__all__ = ["DEMOTED", "Command", "Denied", "Line", "Script", "Unanswered", "denied"]

Command: TypeAlias = Sequence[bytes | str | int | float]

DEMOTED = {"READONLY", "MASTERDOWN"}  #: it is not the primary any more; whoever connects anew is told who is
IDLE = 10.0  #: seconds without use, after which a connection is asked whether it still lives


class Unanswered(BrokerUnavailable):
    """A command was sent and no reply came: it was carried out, or it was not."""


class Denied(BrokerUnavailable):
    """The server refused a command and changed nothing.

    :param kind: the first word of its answer: ``OOM``, ``MISCONF``, ``READONLY``, ``MOVED``, …
    :param says: the answer.
    """

    def __init__(self, what: str, *, kind: str, says: str, fix: str | None = None) -> None:
        super().__init__(what, facts=[says], fix=fix)
        self.kind = kind
        self.says = says


class Script:
    """A Lua script, sent whole once a server and by its hash ever after."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - the name that Redis gives it


class Line:
    """One connection that is made when it is needed, and made anew after every doubt.

    :param connect: makes a connection that is ready to use.
    :param timeout: seconds for an exchange.
    :param shown: the address for texts, without secrets.
    """

    def __init__(self, connect: Callable[[], Awaitable[AbstractConnection]], *, timeout: float, shown: str) -> None:
        self._connect = connect
        self._timeout = timeout
        self._shown = shown
        self._lock = asyncio.Lock()
        self._queued = 0  # callers who wait for their turn
        self._connection: AbstractConnection | None = None
        self._closed = False
        self._used = 0.0
        self._deadline = math.inf  # of the exchange that is under way; 0: it was passed
        self._timer: asyncio.TimerHandle | None = None
        self._hanging_up: asyncio.Task[None] | None = None

    async def call(self, *commands: Command, patience: float | None = None) -> list[Any]:
        """Send the commands in one piece; their replies in order.

        :param patience: seconds, where it may take longer than usual (a blocking command).
        :raises Denied: the server refused one of them; those behind it were carried out.
        """
        asked = time.monotonic()
        self._queued += 1
        try:
            await self._lock.acquire()
        finally:
            self._queued -= 1
        try:
            replies = await self._exchange(commands, asked, patience)
        finally:
            self._lock.release()
        if self._queued:
            await asyncio.sleep(0)  # let the next one send before we digest our replies, so that the server goes on
        for reply in replies:
            if isinstance(reply, ResponseError):
                answer = self._denied(reply)
                if answer.kind in DEMOTED:
                    await self.drop()
                raise answer
        return replies

    async def _exchange(self, commands: Sequence[Command], asked: float, patience: float | None) -> list[Any]:
        if time.monotonic() - asked >= self._timeout:  # or each would wait for its own time limit behind the others
            raise BrokerUnavailable(f"Redis at {self._shown} has not answered others for {self._timeout:g} s")
        connection = await self._ready()
        self._watch(self._timeout if patience is None else patience)
        try:
            await connection.send_packed_command(_pack(connection, commands), check_health=False)
            replies = [await _reply(connection) for _ in commands]
        except (
            AuthenticationError,
            BusyLoadingError,
        ) as error:  # redis-py takes these answers for lost connections
            await self.drop()
            raise self._denied(error) from error
        except (RedisError, OSError) as error:
            await self.drop()
            why = _text(error) if self._deadline else "the time limit was over"
            raise Unanswered(f"Redis at {self._shown} did not answer", facts=[why]) from error
        except BaseException:
            await self.drop()  # half an exchange: whoever comes next must not read our reply
            raise
        finally:
            self._deadline = math.inf
        self._used = time.monotonic()
        return replies

    def _watch(self, seconds: float) -> None:
        """Hang up after so many seconds. One timer for many exchanges: one of its own would cost as much as they do."""
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + seconds
        if self._timer is None or self._timer.when() > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(self._deadline, self._look)

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        if self._deadline == math.inf:
            return
        if loop.time() < self._deadline:
            self._timer = loop.call_at(self._deadline, self._look)
            return
        self._deadline = 0.0
        self._hanging_up = loop.create_task(self.drop())  # whoever waits for a reply finds the connection closed

    async def drop(self) -> None:
        """Disconnect at once; the next call connects anew."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Disconnect for good: what those connect who are still under way, or wait their turn, would be nobody's."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self.drop()

    async def _ready(self) -> AbstractConnection:
        """A connection that lives, as far as anybody can know."""
        connection = self._connection
        if connection is not None and _is_closed(connection):
            await self.drop()  # before anything was sent, so that nothing is in doubt
        elif connection is not None and time.monotonic() - self._used > IDLE:
            try:
                async with asyncio.timeout(self._timeout):
                    await connection.send_packed_command(_pack(connection, [("PING",)]), check_health=False)
                    await connection.read_response(disable_decoding=True)
            except (RedisError, OSError):  # closed while nobody looked; a new one says more
                await self.drop()
            except BaseException:
                await self.drop()
                raise
        if self._connection is None:
            self._require_open()
            self._connection = await self._connect()
            if self._closed:
                await self.drop()
            self._require_open()
        return self._connection

    def _require_open(self) -> None:
        if self._closed:
            raise BrokerUnavailable(f"the connections to Redis at {self._shown} were closed")

    def _denied(self, error: RedisError) -> Denied:
        return denied(error, self._shown)


def _is_closed(connection: AbstractConnection) -> bool:
    """Whether the server has closed the connection, as far as has been heard; redis-py only looks when it reads."""
    reader: asyncio.StreamReader | None = getattr(connection, "_reader", None)
    return reader is None or reader.at_eof() or reader.exception() is not None


def denied(error: RedisError, shown: str) -> Denied:
    """What the server answered, in our words."""
    kind = _kind(error)
    return Denied(
        f"Redis at {shown} refused: {MEANINGS.get(kind, 'it answered with an error')}",
        kind=kind,
        says=_text(error),
        fix=FIXES.get(kind),
    )


CLASSES = {
    "AskError": "ASK",
    "AuthenticationError": "NOAUTH",
    "BusyLoadingError": "LOADING",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "NoPermissionError": "NOPERM",
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}
MEANINGS = {
    "OOM": "its memory is full",
    "MISCONF": "it cannot write to its disk",
    "READONLY": "it is a replica, a failover may be under way",
    "LOADING": "it is still reading its data from disk",
    "MASTERDOWN": "it is a replica that has lost its primary",
    "NOREPLICAS": "it has too few replicas to accept writes",
    "NOAUTH": "user name or password are missing or wrong",
    "NOPERM": "this user may not do that",
    "CLUSTERDOWN": "the cluster is down",
    "TRYAGAIN": "the slot is being moved",
    "WRONGTYPE": "one of our keys holds something that is not ours",
    "BUSY": "a script of somebody else's has been running for too long",
}
FIXES = {
    "OOM": "give it more memory (maxmemory), or let workers empty the queues",
    "MISCONF": "free its disk; it goes on by itself",
    "NOAUTH": "correct them in the URL: redis://user:password@host, or redis://:password@host",
    "NOPERM": "the docs have a recipe for the user's rights (ACL)",
    "WRONGTYPE": "delete that key, or choose another prefix in the URL: ?prefix=…",
    "BUSY": "SCRIPT KILL, on that server",
}


async def _reply(connection: AbstractConnection) -> Any:
    """A reply; an error of the server's is a value too, because those behind it have to be read all the same."""
    try:
        return await connection.read_response(disable_decoding=True)
    except ResponseError as error:
        return error


def _packer() -> Callable[[tuple[Any, ...]], bytes] | None:
    """The extra brings hiredis; without it all is slower, not wrong."""
    try:
        from hiredis import pack_command  # noqa: PLC0415 - a private function of this module's
    except ImportError:
        return None
    return cast("Callable[[tuple[Any, ...]], bytes]", pack_command)


_PACK = _packer()


def _pack(connection: AbstractConnection, commands: Sequence[Command]) -> list[bytes]:
    if _PACK is not None:
        return [_PACK(tuple(command)) for command in commands]
    return connection.pack_commands(commands)


def _kind(error: RedisError) -> str:
    """redis-py takes the first word off the answers that it knows; their classes tell it still."""
    return CLASSES.get(type(error).__name__) or str(error).partition(" ")[0].rstrip(",:")


def _text(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__

"""Watches: one connection that is told which records were written, for everybody who waits.

    desired       the channels of which there are watches      subscribed    those the server has confirmed
    missing       to be subscribed                             needless      to be unsubscribed
    dirty         records to be read: newly subscribed, announced, or perhaps missed while the connection was away

Three loops live as long as there is a connection: one makes ``subscribed`` equal to ``desired``, a batch at a time; one
hears the server; one reads what is dirty and shows it to the watches. A record is always read after its announcement
and by one reader, so what a watch sees never goes back, and news that pile up become one.

The connection is made for the first watch and kept after the last one, silent. While there are watches it is asked now
and then whether it still lives. When it breaks, the loops begin anew, everything is subscribed again and then read.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice

import anyio
import anyio.abc
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from taskcore.connections.redis import RedisLink
from taskcore.connections.redis.connection import denied
from taskcore.errors import BrokerUnavailable
from taskcore.stores.redis.batches import read
from taskcore.stores.redis.records import Names
from taskcore.stores.redis.watch import Watch
from taskcore.toolkit.logging import logger

__all__ = ["Watches"]

log = logger("taskcore.stores.redis")

AT_ONCE = 1000  #: channels in one command
READ_AT_ONCE = 100  #: records read together
SILENCE = 10.0  #: seconds without a word from the server, after which it is asked whether it lives
LATER = 2.0  #: seconds until a record that could not be read is tried again
PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0)  #: seconds between tries to connect; the last one from then on


class Watches:
    """All watches of one store.

    :param limit: seconds that entering a watch may take.
    """

    def __init__(self, link: RedisLink, names: Names, *, limit: float) -> None:
        self._link = link
        self._names = names
        self._limit = limit
        self._desired: dict[str, tuple[str, list[Watch]]] = {}  # channel → key, watches
        self._subscribed: set[str] = set()
        self._missing: dict[str, None] = {}  # in order
        self._needless: dict[str, None] = {}
        self._awaited = 0  # confirmations that are on their way
        self._dirty: dict[str, None] = {}  # channels, in order
        self._changed = asyncio.Event()
        self._soiled = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._scope: anyio.CancelScope | None = None
        self._heard = 0.0

    def watch(self, key: str) -> Watch:
        """A watch, to be entered."""
        return Watch(self, key)

    async def close(self) -> None:
        """End all; whoever still waits gets an error."""
        if self._scope is not None and self._keeper is not None:
            self._scope.cancel()  # which repeats itself; a lone Task.cancel() may get lost in asyncio.wait_for
            await self._keeper
        for watch in self._all():
            watch.fail(BrokerUnavailable("the store was closed while somebody watched a record"))

    # ── what watches ask ──

    async def enter(self, watch: Watch) -> None:
        """Subscribe, if nobody has, and read the record; the watch has it then."""
        channel = self._names(watch.key)
        self._desired.setdefault(channel, (watch.key, []))[1].append(watch)
        if channel in self._subscribed:
            self._soil([channel])
        else:
            self._missing[channel] = None
        self._needless.pop(channel, None)
        self._changed.set()
        if self._keeper is None:
            self._scope = anyio.CancelScope()
            self._keeper = asyncio.create_task(self._keep(self._scope))
        try:
            with anyio.fail_after(self._limit):
                await watch.shown()
        except BrokerUnavailable:
            self.leave(watch)
            raise
        except TimeoutError:
            self.leave(watch)
            raise BrokerUnavailable(
                f"Redis at {self._link.options.shown} did not confirm a watch within {self._limit:g} s"
            ) from None
        except BaseException:
            self.leave(watch)
            raise

    def leave(self, watch: Watch) -> None:
        """Unsubscribe, if it was the last one."""
        channel = self._names(watch.key)
        _, watches = self._desired.get(channel, ("", []))
        if watch in watches:
            watches.remove(watch)
            if not watches:
                del self._desired[channel]
                self._missing.pop(channel, None)
                if channel in self._subscribed:
                    self._needless[channel] = None
                self._changed.set()

    # ── the connection ──

    async def _keep(self, scope: anyio.CancelScope) -> None:
        """Have a connection while anybody watches; the last one is kept."""
        tries = 0
        with scope:
            while True:
                while not self._desired:
                    self._changed.clear()
                    await self._changed.wait()
                began = anyio.current_time()
                try:
                    connection = await self._link.connect()
                except BrokerUnavailable as error:
                    self._fail_entering(error)
                    if tries == 0 and self._desired:
                        log.warning("watching records waits for Redis: %s", error.what)
                else:
                    await self._serve(connection)
                tries = tries + 1 if anyio.current_time() - began < SILENCE else 0
                await anyio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])

    async def _serve(self, connection: AbstractConnection) -> None:
        """Use a connection until it breaks."""
        self._subscribed.clear()
        self._needless.clear()
        self._missing = dict.fromkeys(self._desired)
        self._awaited = 0
        self._heard = asyncio.get_running_loop().time()
        self._changed.set()
        try:
            async with anyio.create_task_group() as group:
                for work in (self._hear, self._subscribe, self._read):
                    group.start_soon(self._until_broken, group, work, connection)
        finally:
            with contextlib.suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)

    async def _until_broken(
        self,
        group: anyio.abc.TaskGroup,
        work: Callable[[AbstractConnection], Awaitable[None]],
        connection: AbstractConnection,
    ) -> None:
        """One of the loops; when it cannot go on, none of them shall."""
        try:
            await work(connection)
        except (RedisError, OSError) as error:  # BrokerUnavailable is an OSError
            if self._desired:
                log.info("the connection that watches records broke, and is made anew: %s", error)
            if isinstance(error, ResponseError):  # the server forbids it, and will do so again
                error = denied(error, self._link.options.shown)
            if isinstance(error, BrokerUnavailable):
                self._fail_entering(error)
            group.cancel_scope.cancel()

    async def _subscribe(self, connection: AbstractConnection) -> None:
        """Make what is subscribed equal to what is desired, whenever that changes; ask for signs of life."""
        while True:
            await self._quiet_or_changed(connection)
            self._changed.clear()
            if self._awaited:
                continue
            missing, needless = _take(self._missing), _take(self._needless)
            self._awaited = len(missing) + len(needless)
            if missing:
                await connection.send_command("SUBSCRIBE", *missing, check_health=False)
            if needless:
                await connection.send_command("UNSUBSCRIBE", *needless, check_health=False)

    async def _quiet_or_changed(self, connection: AbstractConnection) -> None:
        """Wait for something to do; after too long a silence, ask, and then wait for an answer, but not for ever."""
        loop, timeout = asyncio.get_running_loop(), self._link.options.timeout
        asked = math.inf
        while not self._changed.is_set():
            now = loop.time()
            if self._heard > asked:
                asked = math.inf
            if not (self._desired or self._awaited):
                wait = None
            elif asked < math.inf or self._awaited:
                wait = max(self._heard, asked if asked < math.inf else 0.0) + timeout - now
                if wait <= 0:
                    raise TimeoutError(f"no sign of life for {timeout:g} s")
            else:
                wait = self._heard + SILENCE - now
                if wait <= 0:
                    asked = now
                    await connection.send_command("PING", check_health=False)
                    if self._link.is_cluster:  # nodes tell each other what was written, and need not be connected
                        self._soil(self._subscribed)
                    continue
            with anyio.move_on_after(wait):
                await self._changed.wait()

    async def _hear(self, connection: AbstractConnection) -> None:
        """Take in what the server says."""
        loop = asyncio.get_running_loop()
        while True:
            said = await connection.read_response(disable_decoding=True, timeout=math.inf, disconnect_on_error=False)
            self._heard = loop.time()
            if not isinstance(said, list):
                continue  # the answer to a PING when nothing is subscribed
            kind, channel = said[0], said[1].decode() if said[1] is not None else ""
            if kind == b"message":
                self._soil([channel])
            elif kind == b"subscribe":
                self._subscribed.add(channel)
                self._soil([channel])
                if channel not in self._desired:  # nobody wants it any more
                    self._needless[channel] = None
                self._confirmed()
            elif kind == b"unsubscribe":
                self._subscribed.discard(channel)
                if channel in self._desired:  # somebody wants it again
                    self._missing[channel] = None
                self._confirmed()

    def _confirmed(self) -> None:
        self._awaited -= 1
        if not self._awaited:
            self._changed.set()  # what was wished for meanwhile

    # ── the records ──

    def _soil(self, channels: Iterable[str]) -> None:
        self._dirty.update(dict.fromkeys(channels))
        self._soiled.set()

    async def _read(self, _connection: AbstractConnection) -> None:
        """Read what is dirty, and show it to those who were there before it was read."""
        while True:
            await self._soiled.wait()
            batch: list[tuple[str, list[Watch]]] = []
            while self._dirty and len(batch) < READ_AT_ONCE:
                channel = next(iter(self._dirty))
                del self._dirty[channel]
                if channel in self._desired:
                    key, watches = self._desired[channel]
                    batch.append((key, list(watches)))
            if not self._dirty:
                self._soiled.clear()
            if batch:
                await self._show(batch)

    async def _show(self, batch: list[tuple[str, list[Watch]]]) -> None:
        with anyio.fail_after(self._limit):
            found = await read(self._link, "watched records", self._names, [key for key, _ in batch])
        for (key, watches), record in zip(batch, found, strict=True):
            if isinstance(record, BrokerUnavailable):
                self._postpone(key, watches, record)
                continue
            for watch in watches:
                watch.show(record)

    def _postpone(self, key: str, watches: Sequence[Watch], error: BrokerUnavailable) -> None:
        """A record cannot be read: whoever is about to watch it is told, whoever does already sees it later."""
        for watch in watches:
            if not watch.entered:
                watch.fail(error)
        if any(watch.entered for watch in watches):
            log.warning("a watched record cannot be read, and is tried again: %s", error.what)
            asyncio.get_running_loop().call_later(LATER, self._soil, [self._names(key)])

    def _all(self) -> list[Watch]:
        return [watch for _, watches in self._desired.values() for watch in watches]

    def _fail_entering(self, error: BrokerUnavailable) -> None:
        for watch in self._all():
            if not watch.entered:
                watch.fail(error)


def _take(channels: dict[str, None]) -> list[str]:
    """The first of them, taken out; not too many at once."""
    taken = list(islice(channels, AT_ONCE))
    for channel in taken:
        del channels[channel]
    return taken

"""Feeding watches: one connection on which the server announces written records, for all watches of a store.

    watches       the keys that are watched        subscribed    those whose subscription the server has confirmed
    missing       keys to be subscribed            needless      keys to be unsubscribed
    stale         keys to be read: newly subscribed, announced, or perhaps missed while the connection was away

Three loops run as long as there is a connection. One makes ``subscribed`` equal to the watched keys, a batch at a time;
one receives announcements; one reads stale records and shows them to the watches. A record is always read after its
announcement and by one reader, so a watch never goes back in time, and announcements that pile up cost one read.

The connection is made for the first watch and kept, idle, after the last one. While there are watches, a silent
connection is tested with PING. When it breaks, the loops start anew: all keys are subscribed again and then read.
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
from taskcore.connections.redis.refusals import refused
from taskcore.errors import BrokerUnavailable
from taskcore.stores.limits import Failure
from taskcore.stores.redis.batches import read
from taskcore.stores.redis.layout import RecordNames
from taskcore.stores.watches import Watch, Watches
from taskcore.toolkit.logging import logger
from taskcore.toolkit.tasks import TaskSet

__all__ = ["WatchFeed"]

log = logger("taskcore.stores.redis")

CHANNELS_PER_COMMAND = 1000
READ_BATCH = 100  #: records read together
PING_AFTER_SILENCE = 2.0  #: seconds without a word from the server before it is sent a PING
PING_TIMEOUT = 3.0  #: seconds for its answer
READ_RETRY = 2.0  #: seconds until a record that could not be read is read again
CONNECT_PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0)  #: seconds between attempts to connect; the last one from then on


class WatchFeed:
    """Shows the watches of one store each new version of their records.

    :param limit: seconds that entering a watch may take.
    """

    def __init__(self, link: RedisLink, names: RecordNames, *, limit: float) -> None:
        self.watches = Watches(begin=self._begin, end=self._end)
        self._link = link
        self._names = names
        self._limit = limit
        self._subscribed: set[str] = set()
        self._missing: dict[str, None] = {}  # in order
        self._needless: dict[str, None] = {}
        self._stale: dict[str, None] = {}
        self._unconfirmed = 0  # confirmations that the server owes
        self._changed = asyncio.Event()
        self._has_stale = asyncio.Event()
        self._tasks = TaskSet("redis store")
        self._scope: anyio.CancelScope | None = None
        self._heard = 0.0

    async def close(self) -> None:
        """Stop; watches that are still open end with an error."""
        if self._scope is not None:
            self._scope.cancel()  # which repeats itself; a lone Task.cancel() may get lost in asyncio.wait_for
        await self._tasks.wait_closed()
        self.watches.fail(BrokerUnavailable("the store was closed while a record was watched"), final=True)

    async def _begin(self, watch: Watch) -> None:
        """Subscribe to the watch's key, unless it is subscribed, and wait until the record was read."""
        key = watch.key
        if key in self._subscribed:
            self._mark_stale([key])
        else:
            self._missing[key] = None
        self._needless.pop(key, None)
        self._changed.set()
        if self._scope is None:
            self._scope = anyio.CancelScope()
            self._tasks.start(self._stay_connected(self._scope))
        try:
            with anyio.fail_after(self._limit):
                await watch.shown()
        except BrokerUnavailable:  # an OSError, as TimeoutError is
            raise
        except TimeoutError:
            raise BrokerUnavailable(
                f"Redis at {self._link.options.shown} did not confirm a watch within {self._limit:g} s"
            ) from None

    def _end(self, key: str) -> None:
        self._missing.pop(key, None)
        if key in self._subscribed:
            self._needless[key] = None
        self._changed.set()

    # ── the connection ──

    async def _stay_connected(self, scope: anyio.CancelScope) -> None:
        """Keep a connection from the first watch on."""
        tries = 0
        with scope:
            while True:
                while not self.watches:
                    self._changed.clear()
                    await self._changed.wait()
                began = anyio.current_time()
                try:
                    connection = await self._link.connect()
                except BrokerUnavailable as error:
                    self.watches.fail(error, entering=True)
                    if tries == 0 and self.watches:
                        log.warning("cannot receive announcements of watched records; trying again: %s", error.what)
                else:
                    await self._serve(connection)
                tries = tries + 1 if anyio.current_time() - began < PING_AFTER_SILENCE else 0
                await anyio.sleep(CONNECT_PAUSES[min(tries, len(CONNECT_PAUSES) - 1)])

    async def _serve(self, connection: AbstractConnection) -> None:
        """Use a connection until it breaks."""
        self._subscribed.clear()
        self._needless.clear()
        self._missing = dict.fromkeys(self.watches.keys)
        self._unconfirmed = 0
        self._heard = asyncio.get_running_loop().time()
        self._changed.set()
        try:
            async with anyio.create_task_group() as group:
                for work in (self._receive, self._subscribe, self._read):
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
        """Run one of the loops; when it ends with an error, end the others."""
        try:
            await work(connection)
        except (RedisError, OSError) as error:  # BrokerUnavailable is an OSError
            if self.watches:
                log.info("the connection that announces watched records broke; reconnecting: %s", error)
            if isinstance(error, ResponseError):  # the server forbids it, and will do so again
                error = refused(error, self._link.options.shown)
            if isinstance(error, BrokerUnavailable):
                self.watches.fail(error, entering=True)
            group.cancel_scope.cancel()

    async def _subscribe(self, connection: AbstractConnection) -> None:
        """Make what is subscribed equal to what is watched, whenever that changes; test a silent connection."""
        while True:
            await self._quiet_or_changed(connection)
            self._changed.clear()
            if self._unconfirmed:
                continue
            missing, needless = _take(self._missing), _take(self._needless)
            self._unconfirmed = len(missing) + len(needless)
            if missing:
                await connection.send_command("SUBSCRIBE", *map(self._names, missing), check_health=False)
            if needless:
                await connection.send_command("UNSUBSCRIBE", *map(self._names, needless), check_health=False)

    async def _quiet_or_changed(self, connection: AbstractConnection) -> None:
        """Wait for a change; after too long a silence send a PING, and wait for its answer within the time limit."""
        loop, timeout = asyncio.get_running_loop(), min(PING_TIMEOUT, self._link.options.timeout)
        pinged = math.inf
        while not self._changed.is_set():
            now = loop.time()
            if self._heard > pinged:
                pinged = math.inf
            if not (self.watches or self._unconfirmed):
                wait = None
            elif pinged < math.inf or self._unconfirmed:
                wait = max(self._heard, pinged if pinged < math.inf else 0.0) + timeout - now
                if wait <= 0:
                    raise TimeoutError(f"the server was silent for {timeout:g} s")
            else:
                wait = self._heard + PING_AFTER_SILENCE - now
                if wait <= 0:
                    pinged = now
                    await connection.send_command("PING", check_health=False)
                    if self._link.is_cluster:  # announcements pass between nodes, which may be cut off from each other
                        self._mark_stale(self._subscribed)
                    continue
            with anyio.move_on_after(wait):
                await self._changed.wait()

    async def _receive(self, connection: AbstractConnection) -> None:
        """Receive announcements and confirmations."""
        loop = asyncio.get_running_loop()
        while True:
            said = await connection.read_response(disable_decoding=True, timeout=math.inf, disconnect_on_error=False)
            self._heard = loop.time()
            if not isinstance(said, list):
                continue  # the answer to a PING when nothing is subscribed
            kind, key = said[0], self._names.key_of(said[1].decode()) if said[1] is not None else ""
            if kind == b"message":
                self._mark_stale([key])
            elif kind == b"subscribe":
                self._subscribed.add(key)
                self._mark_stale([key])
                if key not in self.watches:  # its watches have left meanwhile
                    self._needless[key] = None
                self._confirmed()
            elif kind == b"unsubscribe":
                self._subscribed.discard(key)
                if key in self.watches:  # it is watched again
                    self._missing[key] = None
                self._confirmed()

    def _confirmed(self) -> None:
        self._unconfirmed -= 1
        if not self._unconfirmed:
            self._changed.set()  # what has changed meanwhile is next

    # ── the records ──

    def _mark_stale(self, keys: Iterable[str]) -> None:
        self._stale.update(dict.fromkeys(keys))
        self._has_stale.set()

    async def _read(self, _connection: AbstractConnection) -> None:
        """Read stale records, and show each to the watches that were there before it was read."""
        while True:
            await self._has_stale.wait()
            batch: list[tuple[str, Sequence[Watch]]] = []
            while self._stale and len(batch) < READ_BATCH:
                key = next(iter(self._stale))
                del self._stale[key]
                if watches := self.watches.of(key):
                    batch.append((key, watches))
            if not self._stale:
                self._has_stale.clear()
            if batch:
                await self._show(batch)

    async def _show(self, batch: list[tuple[str, Sequence[Watch]]]) -> None:
        with anyio.fail_after(self._limit):
            found = await read(self._link, "watched records", self._names, [key for key, _ in batch])
        for (key, watches), record in zip(batch, found, strict=True):
            if isinstance(record, BrokerUnavailable):
                self._postpone(key, watches, record)
                continue
            for watch in watches:
                if isinstance(record, Failure):  # no later look finds another record
                    watch.fail(record)
                else:
                    watch.show(record)

    def _postpone(self, key: str, watches: Sequence[Watch], error: BrokerUnavailable) -> None:
        """Handle a record that cannot be read: fail watches that are being entered, read again for the others."""
        for watch in watches:
            if not watch.entered:
                watch.fail(error)
        if any(watch.entered for watch in watches):
            log.warning("cannot read a watched record; trying again in %g s: %s", READ_RETRY, error.what)
            asyncio.get_running_loop().call_later(READ_RETRY, self._mark_stale, [key])


def _take(keys: dict[str, None]) -> list[str]:
    """Remove and return the first keys, as many as one command takes."""
    taken = list(islice(keys, CHANNELS_PER_COMMAND))
    for key in taken:
        del keys[key]
    return taken

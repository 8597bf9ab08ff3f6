"""Channels for administration: they declare, bind, count and look, a few calls at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any, Literal, TypeVar
from weakref import WeakValueDictionary

from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed
from aiormq.exceptions import ChannelAccessRefused, ChannelLockedResource

from taskcore.connections.amqp.connection import Connector, ReconnectingConnection
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.logging import logger

__all__ = ["CALLS_AT_ONCE", "AdminChannel"]

log = logger("taskcore.connections.amqp")

T = TypeVar("T")
AmqpArguments = dict[str, Any]
BindTarget = Literal["queue", "exchange"]
ChannelCall = Callable[[AbstractChannel], Awaitable[object]]

CALLS_AT_ONCE = 8  #: each has a channel of its own
LOCK_RETRY = (0.005, 0.03)  #: seconds, least and most, between two attempts to get a lock


class AdminChannel:
    """Makes a few calls at a time, on a connection of its own that never carries jobs."""

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self.connection = ReconnectingConnection(connector, "admin")
        self._idle: list[AbstractChannel] = []  # the channels that no call uses
        self._calling = asyncio.Semaphore(CALLS_AT_ONCE)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def call(
        self, action: str, function: Callable[[AbstractChannel], Awaitable[T]], *, turn: asyncio.Lock | None = None
    ) -> T:
        """Call the function with a channel of aio-pika; return its result.

        :param action: for the text of an error: ``counting queue x``.
        :param turn: calls with the same one are made one after another, also if their callers are cancelled.
        :raises BrokerUnavailable: no answer in time, or a refusal; the error's cause is the library's error.
        """

        async def work() -> T:
            async with turn or nullcontext(), self._calling:
                channel = await self._ready_channel()
                try:
                    return await function(channel)
                finally:
                    self._idle.append(channel)

        return await self.connector.run(action, work())

    async def _ready_channel(self) -> AbstractChannel:
        while self._idle:
            channel = self._idle.pop()
            if not channel.is_closed:
                return channel
        return await (await self.connection.open()).channel()

    async def close(self) -> None:
        """Close the connection."""
        await self.connection.close()

    # ── looking ──

    async def count(self, queue: str) -> int | None:
        """Return how many messages of a queue are ready; None if there is no such queue."""

        async def count(channel: AbstractChannel) -> int:
            found = await channel.declare_queue(queue, passive=True)
            return int(found.declaration_result.message_count or 0)

        return await self._look(f"counting queue {queue}", count)

    async def is_empty(self, queue: str) -> bool:
        """Return whether no message is ready; wait for the answer of the queue's leader.

        ``count`` is 0 also for a quorum queue that has no leader or has not recovered. Only a request for a message
        needs the leader. A message found that way is requeued and counts as one more delivery.

        :raises BrokerUnavailable: the queue has no leader, and none was elected in time.
        """

        async def is_empty(channel: AbstractChannel) -> bool:
            try:
                found = await (await channel.get_queue(queue, ensure=False)).get(fail=False)
            except ChannelAccessRefused:  # a user who may not read must rely on the count
                return True
            except ValueError:  # the library cannot decode a property of the message that it got
                await channel.close()
                return False
            if found is None:
                return True
            await found.reject(requeue=True)
            return False

        return await self._look(f"looking into queue {queue}", is_empty) is not False

    async def has_exchange(self, name: str) -> bool:
        """Return whether there is an exchange of this name."""
        return await self._look(f"looking for exchange {name}", lambda channel: channel.get_exchange(name)) is not None

    async def _look(self, action: str, function: Callable[[AbstractChannel], Awaitable[T]]) -> T | None:
        """Call the function; return None if there is no such queue or exchange."""
        try:
            return await self.call(action, function)
        except BrokerUnavailable as error:
            if isinstance(error.__cause__, ChannelNotFoundEntity):
                return None
            raise

    # ── declaring ──

    async def declare_exchange(self, name: str, kind: str, arguments: AmqpArguments | None = None) -> None:
        """Make an exchange if it is missing.

        :raises BrokerUnavailable: it exists with other arguments, or this user may not make it.
        """
        await self._declare(
            f"exchange {name}",
            lambda channel: channel.declare_exchange(name, kind, durable=True, arguments=arguments),
            lambda: self.has_exchange(name),
        )

    async def declare_queue(self, name: str, arguments: AmqpArguments, *, known_missing: bool = False) -> bool:
        """Make a queue if it is missing; return whether it was.

        :param known_missing: it was missing a moment ago: not asked again.
        :raises BrokerUnavailable: it exists with other arguments, or this user may not make it.
        """

        async def is_there() -> bool:
            return await self.count(name) is not None

        there = not known_missing and await is_there()
        await self._declare(
            f"queue {name}",
            lambda channel: channel.declare_queue(name, durable=True, arguments=arguments),
            is_there,
        )
        return not there

    async def _declare(self, what: str, declare: ChannelCall, is_there: Callable[[], Awaitable[bool]]) -> None:
        """Declare; what exists stays as it is, because the server only compares the arguments.

        If this user may not declare, it is enough that the thing exists.
        """
        try:
            await self.call(f"declaring {what}", declare)
        except BrokerUnavailable as error:
            cause = error.__cause__
            if isinstance(cause, ChannelPreconditionFailed):
                problem = "exists with other arguments than this app's URL asks for"
                fix = "use the options that it was made with, delete it, or give this app a virtual host of its own"
            elif not isinstance(cause, ChannelAccessRefused):
                raise
            elif await is_there():
                return
            else:
                problem = "does not exist, and this user may not make it"
                fix = "give the user permission to configure it, or start an app with that permission once"
            raise BrokerUnavailable(f"{what} {problem}", facts=[str(cause)], fix=fix) from cause

    async def bind(
        self, kind: BindTarget, target: str, source: str, key: str, headers: AmqpArguments | None = None
    ) -> None:
        """Bind a queue or an exchange to another exchange; without permission leave it to an app that has it."""

        async def bind(channel: AbstractChannel) -> None:
            get = channel.get_queue if kind == "queue" else channel.get_exchange
            await (await get(target, ensure=False)).bind(source, key, arguments=headers)

        action = f"binding {target} to {source}"
        try:
            await self.call(action, bind)
        except BrokerUnavailable as error:
            if not isinstance(error.__cause__, ChannelAccessRefused):
                raise
            log.debug("%s: not permitted, so it is left to another app: %s", action, error.__cause__)

    # ── locking ──

    @asynccontextmanager
    async def exclusive(self, name: str) -> AsyncIterator[None]:
        """Hold a lock that excludes all other processes.

        The lock is an exclusive queue: the server deletes it when this connection ends.
        """

        async def acquire(channel: AbstractChannel) -> bool:
            try:
                await channel.declare_queue(name, exclusive=True, auto_delete=True)
            except ChannelLockedResource:
                return False
            return True

        async def release(channel: AbstractChannel) -> None:
            with suppress(ChannelLockedResource):  # the caller gave up, and another process has it
                await channel.queue_delete(name)

        turn = asyncio.Lock()
        async with self._locks.setdefault(name, asyncio.Lock()):
            try:
                while not await self.call(f"waiting for lock {name}", acquire, turn=turn):  # noqa: ASYNC110 - no event
                    await asyncio.sleep(random.uniform(*LOCK_RETRY))
                yield
            finally:  # also if the caller is cancelled: its last attempt goes on, and may succeed
                await self.call(f"releasing lock {name}", release, turn=turn)

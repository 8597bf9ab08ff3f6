"""A channel for administration: it declares, binds, counts and looks, one call at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed
from aiormq.exceptions import ChannelAccessRefused, ChannelLockedResource

from taskcore.connections.amqp.channel import FilteredChannel
from taskcore.connections.amqp.connection import Connector, ReconnectingConnection
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.detached import run_detached
from taskcore.toolkit.logging import logger

__all__ = ["AdminChannel"]

log = logger("taskcore.connections.amqp")

T = TypeVar("T")
ChannelT = TypeVar("ChannelT", bound=FilteredChannel)
Arguments = dict[str, Any]
Function = Callable[[AbstractChannel], Awaitable[object]]

LOCK_RETRY = (0.005, 0.03)  #: seconds, least and most, between two attempts to get a lock


class AdminChannel:
    """Makes one call at a time, on a connection of its own that never carries jobs."""

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self.connection = ReconnectingConnection(connector, "admin")
        self._channel: AbstractChannel | None = None
        self._calling = asyncio.Lock()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def call(self, action: str, function: Callable[[AbstractChannel], Awaitable[T]]) -> T:
        """Call the function with a channel of aio-pika; return its result.

        :param action: for the text of an error: ``counting queue x``.
        :raises BrokerUnavailable: no answer in time, or a refusal; the error's cause is the library's error.
        """

        async def work() -> T:
            async with self._calling:
                if self._channel is None or self._channel.is_closed:
                    self._channel = await (await self.connection.open()).channel()
                return await function(self._channel)

        with self.connector.errors(action):
            return await run_detached(work(), timeout=self.connector.address.timeout)

    async def close(self) -> None:
        """Close the connection."""
        await self.connection.close()

    # ── looking ──

    async def count(self, queue: str) -> int | None:
        """Return how many messages of a queue are ready; None if there is no such queue."""

        async def count(channel: AbstractChannel) -> int | None:
            try:
                found = await channel.declare_queue(queue, passive=True)
            except ChannelNotFoundEntity:
                return None
            return int(found.declaration_result.message_count or 0)

        return await self.call(f"counting queue {queue}", count)

    async def is_empty(self, queue: str) -> bool:
        """Return whether no message is ready; wait for the answer of the queue's leader.

        ``count`` is 0 also for a quorum queue that has no leader or has not recovered. Only a request for a message
        needs the leader. A message found that way is requeued and counts as one more delivery.

        :raises BrokerUnavailable: the queue has no leader, and none was elected in time.
        """

        async def is_empty(channel: AbstractChannel) -> bool:
            try:
                found = await (await channel.get_queue(queue, ensure=False)).get(fail=False)
            except ChannelNotFoundEntity:
                return True
            except ChannelAccessRefused:  # a user who may not read must rely on the count
                return True
            except ValueError:  # the library cannot decode a property of the message that it got
                await channel.close()
                return False
            if found is None:
                return True
            await found.reject(requeue=True)
            return False

        return await self.call(f"looking into queue {queue}", is_empty)

    async def has_exchange(self, name: str) -> bool:
        """Return whether there is an exchange of this name."""

        async def look(channel: AbstractChannel) -> bool:
            try:
                await channel.get_exchange(name)
            except ChannelNotFoundEntity:
                return False
            return True

        return await self.call(f"looking for exchange {name}", look)

    async def open_channel(self, kind: type[ChannelT]) -> ChannelT:
        """Open a filtered channel on the same connection, for browsing."""

        async def work() -> ChannelT:
            connection = await self.connection.open()
            return kind(connection, await connection.channel())

        with self.connector.errors("opening a channel"):
            return await run_detached(work(), timeout=self.connector.address.timeout)

    # ── declaring ──

    async def declare_exchange(self, name: str, kind: str, arguments: Arguments | None = None) -> None:
        """Make an exchange if it is missing.

        :raises BrokerUnavailable: it exists with other arguments, or this user may not make it.
        """
        await self._declare(
            f"exchange {name}",
            lambda channel: channel.declare_exchange(name, kind, durable=True, arguments=arguments),
            lambda channel: channel.get_exchange(name),
        )

    async def declare_queue(self, name: str, arguments: Arguments) -> bool:
        """Make a queue if it is missing; return whether it was.

        :raises BrokerUnavailable: it exists with other arguments, or this user may not make it.
        """
        found = await self.count(name)
        await self._declare(
            f"queue {name}",
            lambda channel: channel.declare_queue(name, durable=True, arguments=arguments),
            lambda channel: channel.get_queue(name),
        )
        return found is None

    async def _declare(self, what: str, declare: Function, look: Function) -> None:
        """Declare; what exists stays as it is, because the server only compares the arguments.

        If this user may not declare, it is enough that the thing exists.
        """
        try:
            await self.call(f"declaring {what}", declare)
        except BrokerUnavailable as error:
            cause = error.__cause__
            if isinstance(cause, ChannelPreconditionFailed):
                raise BrokerUnavailable(
                    f"{what} exists with other arguments than this app's URL asks for",
                    facts=[str(cause)],
                    fix="use the options that it was made with, delete it, or give this app a virtual host of its own",
                ) from cause
            if not isinstance(cause, ChannelAccessRefused):
                raise
            try:
                await self.call(f"looking for {what}", look)
            except BrokerUnavailable as second:
                if not isinstance(second.__cause__, ChannelNotFoundEntity):
                    raise
                raise BrokerUnavailable(
                    f"{what} does not exist, and this user may not make it",
                    facts=[str(cause)],
                    fix="give the user permission to configure it, or start an app with that permission once",
                ) from cause

    async def bind_queue(self, queue: str, exchange: str, key: str, headers: Arguments | None = None) -> None:
        """Bind a queue to an exchange, if this user may."""

        async def bind(channel: AbstractChannel) -> None:
            await (await channel.get_queue(queue, ensure=False)).bind(exchange, key, arguments=headers)

        await self._if_permitted(f"binding {queue} to {exchange}", bind)

    async def bind_exchange(self, target: str, source: str, key: str, headers: Arguments | None = None) -> None:
        """Bind an exchange to another one, if this user may."""

        async def bind(channel: AbstractChannel) -> None:
            await (await channel.get_exchange(target, ensure=False)).bind(source, key, arguments=headers)

        await self._if_permitted(f"binding {target} to {source}", bind)

    async def _if_permitted(self, action: str, function: Function) -> None:
        """Call the function; without permission leave it to an app that has it."""
        try:
            await self.call(action, function)
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
            await channel.queue_delete(name)

        async with self._locks.setdefault(name, asyncio.Lock()):
            while not await self.call(f"waiting for lock {name}", acquire):  # noqa: ASYNC110 - the broker sends no event
                await asyncio.sleep(random.uniform(*LOCK_RETRY))
            try:
                yield
            finally:
                await self.call(f"releasing lock {name}", release)

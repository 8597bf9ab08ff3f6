"""The connections of one program to one database: a backend and a store on the same database share them.

A piece of work takes a free connection, the one that was used last; if there is none, a new one is made, up to a limit.
One more is kept for urgent work: leases would end while their extension waits behind results and claims.
A connection is prepared for all parts of the program that use the database.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, TypeVar

import anyio

from taskcore.connections.postgres.address import PostgresAddress
from taskcore.connections.postgres.session import Connection, PostgresSession, postgres_unavailable

__all__ = ["PostgresPool"]

T = TypeVar("T")

Prepare: TypeAlias = Callable[[Connection], Awaitable[None]]

POOL_SIZE: Final = 5  #: connections at most, beside those that listen, and …
URGENT_SIZE: Final = 1  #: … those that only urgent work gets, when all others are in use


class PostgresPool:
    """One part's share of the connections.

    :param prepare: is awaited with each new connection, before any work.
    """

    def __init__(self, address: PostgresAddress, prepare: Prepare) -> None:
        self._address = address
        self._prepare = prepare
        self._shared: _SharedPool | None = None

    async def open(self) -> None:
        """Join the connections of this program and this event loop; connect.

        :raises BrokerUnavailable: the server cannot be reached, or its tables cannot be used.
        """
        key = (self._address, os.getpid(), id(asyncio.get_running_loop()))
        self._shared = shared = _POOLS.get(key) or _POOLS.setdefault(key, _SharedPool(self._address, key))
        shared.join(self._prepare)
        try:
            await self.run(_touch, repeatable=True)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave; the last part disconnects."""
        shared, self._shared = self._shared, None
        if shared is not None and shared.leave(self._prepare):
            _POOLS.pop(shared.key, None)
            shared.drop()

    async def run(
        self, work: Callable[[Connection], Awaitable[T]], *, repeatable: bool = False, urgent: bool = False
    ) -> T:
        """Do the work with a free connection; see :meth:`PostgresSession.run`.

        :param urgent: it does not wait behind work that is not.
        """
        if self._shared is None:
            raise RuntimeError("the database is used inside the context of its backend or store only")
        return await self._shared.run(work, repeatable=repeatable, urgent=urgent)


class _SharedPool:
    """The connections, and for which parts they are prepared."""

    def __init__(self, address: PostgresAddress, key: Any) -> None:
        self.key = key
        self._address = address
        self._parts: list[Prepare] = []
        self._prepared: frozenset[Prepare] = frozenset()
        self._idle: list[tuple[PostgresSession, frozenset[Prepare]]] = []
        self._free = asyncio.Semaphore(POOL_SIZE)
        self._kept = asyncio.Semaphore(URGENT_SIZE)

    def join(self, prepare: Prepare) -> None:
        self._parts.append(prepare)
        if prepare not in self._prepared:
            self._prepared |= {prepare}
            self.drop()

    def leave(self, prepare: Prepare) -> bool:
        self._parts.remove(prepare)
        return not self._parts

    def drop(self) -> None:
        """Disconnect what is free; what is in use ends after its work."""
        while self._idle:
            self._idle.pop()[0].drop()

    async def run(self, work: Callable[[Connection], Awaitable[T]], *, repeatable: bool, urgent: bool) -> T:
        free = self._kept if urgent and self._free.locked() else self._free
        try:
            with anyio.fail_after(self._address.timeout):
                await free.acquire()
        except TimeoutError as error:
            raise postgres_unavailable(error, self._address) from error
        try:
            session, prepared = (
                self._idle.pop() if self._idle else (PostgresSession(self._address, self._begin), self._prepared)
            )
            try:
                return await session.run(work, repeatable=repeatable)
            finally:
                if prepared == self._prepared and self._parts:
                    self._idle.append((session, prepared))
                else:
                    session.drop()
        finally:
            free.release()

    async def _begin(self, connection: Connection) -> None:
        for prepare in self._prepared:
            await prepare(connection)


_POOLS: dict[Any, _SharedPool] = {}


async def _touch(connection: Connection) -> None:
    """Do nothing: to make the connection is enough."""

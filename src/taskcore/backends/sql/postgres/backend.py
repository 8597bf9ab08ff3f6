"""PostgresBackend: the verbs of the seam, and what PostgreSQL can do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Self

from taskcore.backend import Features, Outgoing, Published
from taskcore.backends.sql.messages import FEATURES as SQL_FEATURES
from taskcore.backends.sql.messages import KnownCounts
from taskcore.backends.sql.postgres.admin import PostgresAdmin
from taskcore.backends.sql.postgres.consumer import Waker
from taskcore.backends.sql.postgres.layout import CHANNEL, CLEAN, prepare
from taskcore.backends.sql.postgres.publish import PostgresPublisher
from taskcore.backends.sql.postgres.settle import PostgresExtender
from taskcore.backends.sql.postgres.source import PostgresSource
from taskcore.connections.loops import require_asyncio
from taskcore.connections.postgres.address import postgres_address
from taskcore.connections.postgres.diagnose import diagnose
from taskcore.connections.postgres.pool import PostgresPool
from taskcore.connections.postgres.session import Connection, PostgresSession
from taskcore.connections.postgres.sleepers import PostgresSleepers
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.diagnostics import Diagnosis
from taskcore.toolkit.logging import logger
from taskcore.toolkit.tasks import TaskSet

__all__ = ["PostgresBackend"]

log = logger("taskcore.backends.sql")

CLEAN_EVERY: Final = 10.0  #: seconds between two deletions of ids of ended jobs
CLEAN_BATCH: Final = 5_000  #: ids deleted in one statement

FEATURES: Final = SQL_FEATURES(
    broker="postgresql",
    durability="a committed job survives what a commit of this server survives: fsync and synchronous_commit decide",
    delay_error=0.25,
)


class PostgresBackend:
    """Queues in PostgreSQL, from version 12.

    :param url: see :mod:`taskcore.connections.postgres.address`.
    :raises InvalidURL: the URL has an unknown or impossible part (TC103).
    """

    silence: float | None = None  #: see :class:`taskcore.keeping.seam.LendsExtenders`

    def __init__(self, url: str) -> None:
        self.url = url  #: see :class:`taskcore.keeping.seam.MadeOfURL`
        self._address = postgres_address(url)
        self.database = self._address  #: see :class:`taskcore.joint_ends.InDatabase`
        self._clear()

    def _clear(self) -> None:
        """Start without connections: at the beginning, and for each event loop."""
        self._pool = PostgresPool(self._address, prepare)
        self._sleepers = PostgresSleepers(self._address, CHANNEL)
        self._waker = Waker(self._pool)
        self._counts = KnownCounts()
        self._publisher = PostgresPublisher(self._pool, self._waker.note)
        self._tasks = TaskSet("PostgreSQL backend")

    @property
    def features(self) -> Features:
        """What PostgreSQL can do with our tables."""
        return FEATURES

    @property
    def admin(self) -> PostgresAdmin:
        """Counts, purging, removing, dead letters."""
        return PostgresAdmin(self._pool, self._publisher, self._counts)

    async def __aenter__(self) -> Self:
        """Connect, and create the tables unless they exist.

        :raises BrokerUnavailable: the server cannot be reached, or this role may not create the tables.
        :raises FeatureRefused: on trio (TC501).
        """
        require_asyncio("postgresql", "psycopg")
        self._clear()
        await self._pool.open()
        self._tasks.start(self._clean())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect."""
        await self._tasks.cancel()
        await self._waker.close()
        await self._sleepers.close()
        self._pool.close()

    async def diagnose(self) -> Diagnosis:
        """Ask how the server is set up.

        :raises BrokerUnavailable: it cannot be reached.
        """
        session = PostgresSession(self._address)
        try:
            return await session.run(diagnose, repeatable=True)
        finally:
            session.drop()

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Published]:
        """Store the jobs.

        :raises BrokerUnavailable: surely none of them was stored.
        """
        return await self._publisher.publish(batch)

    def consume(self, queues: Sequence[str], *, lease: float) -> AbstractAsyncContextManager[PostgresSource]:
        """Return a source on these queues, earlier queues first."""
        return self._consuming(queues, lease)

    def extender(self, *, lease: float) -> PostgresExtender:
        """Return what extends leases of this server's jobs from another thread or process."""
        return PostgresExtender(self._address, lease)

    @asynccontextmanager
    async def _consuming(self, queues: Sequence[str], lease: float) -> AsyncIterator[PostgresSource]:
        async with PostgresSource(self._pool, queues, lease, self._sleepers, self._waker.note) as source:
            yield source

    async def _clean(self) -> None:
        """Forget the ids of ended jobs, a bounded step at a time."""
        while True:
            await asyncio.sleep(CLEAN_EVERY * random.uniform(0.5, 1.5))  # so that many programs do not do it at once
            try:
                while await self._pool.run(_forget_ended) == CLEAN_BATCH:
                    pass
            except BrokerUnavailable as error:
                log.info("cannot forget ended jobs now; trying again later: %s", error.what)


async def _forget_ended(connection: Connection) -> int:
    return (await connection.execute(CLEAN, {"limit": CLEAN_BATCH})).rowcount

"""RedisBackend: the verbs of the seam, and what Redis can do."""

from __future__ import annotations

import math
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Self

from taskcore.backend import Features, Outgoing, Published
from taskcore.backends.redis.admin import RedisAdmin
from taskcore.backends.redis.layout import QueueKeys
from taskcore.backends.redis.publish import RedisPublisher
from taskcore.backends.redis.settle import RedisExtender
from taskcore.backends.redis.source import RedisSource
from taskcore.connections.redis import RedisLink
from taskcore.connections.redis.diagnose import diagnose
from taskcore.toolkit.diagnostics import Diagnosis

__all__ = ["RedisBackend"]

FEATURES: Final = Features(
    broker="redis",
    durability="what its append-only file has; without one, what the last snapshot has",
    survives_worker=True,
    survives_broker=True,
    delay="emulated",
    delay_error=0.1,
    dedup="emulated",
    dedup_window=60.0,
    fencing="emulated",
    redeliveries="emulated",
    remove="emulated",
    locate="emulated",
    dead_letters="emulated",
    atomic_retry=True,
    peek="native",
)


class RedisBackend:
    """Queues on Redis or Valkey, from version 7.0: one server, behind Sentinel, or a cluster.

    :param url: see :mod:`taskcore.connections.redis.address`.
    :raises InvalidURL: the URL has an unknown or impossible part (TC103).
    """

    silence: float | None = None  #: see :class:`taskcore.keeping.seam.LendsExtenders`

    def __init__(self, url: str) -> None:
        self.url = url  #: see :class:`taskcore.keeping.seam.MadeOfURL`
        self._link = RedisLink(url)
        self._publisher = RedisPublisher(self._link)

    @property
    def features(self) -> Features:
        """What Redis can do with our scripts."""
        return FEATURES

    @property
    def admin(self) -> RedisAdmin:
        """Counts, purging, removing, dead letters."""
        return RedisAdmin(self._link, self._publisher)

    async def __aenter__(self) -> Self:
        """Connect.

        :raises BrokerUnavailable: the server cannot be reached, is older than 7.0, or forbids WAIT.
        """
        await self._link.__aenter__()
        if self._link.options.wait:  # or a job would be stored and its sender would learn the contrary
            try:
                await self._link.call("publish", "", ("WAIT", 0, 1))
            except BaseException:
                await self._link.close()
                raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._link.close()

    async def diagnose(self) -> Diagnosis:
        """Ask how the server is set up; of a cluster, every node.

        :raises BrokerUnavailable: it cannot be reached.
        """
        return await diagnose(self._link)

    def keys_of(self, queue: str) -> QueueKeys:
        """Return the keys of a queue."""
        return self._publisher.keys_of(queue)

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Published]:
        """Store the jobs.

        :raises BrokerUnavailable: surely none of them was stored.
        """
        return await self._publisher.publish(batch)

    def consume(self, queues: Sequence[str], *, lease: float) -> AbstractAsyncContextManager[RedisSource]:
        """Return a source on these queues, earlier queues first."""
        return self._consuming(queues, lease)

    def extender(self, *, lease: float) -> RedisExtender:
        """Return what extends leases of this server's jobs from another thread or process."""
        return RedisExtender(self.url, math.ceil(lease * 1000))

    @asynccontextmanager
    async def _consuming(self, queues: Sequence[str], lease: float) -> AsyncIterator[RedisSource]:
        keys = {queue: self.keys_of(queue) for queue in queues}
        async with RedisSource(self._link, keys, lease, secrets.token_hex(5)) as source:
            yield source

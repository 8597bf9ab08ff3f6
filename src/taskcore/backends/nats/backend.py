"""NatsBackend: queues in JetStream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self

import msgspec

from taskcore.backend import Features, Outgoing, Published
from taskcore.backends.nats.admin import NatsAdmin
from taskcore.backends.nats.diagnose import diagnose
from taskcore.backends.nats.layout import SCHEDULES_LEVEL, QueueStreams
from taskcore.backends.nats.publish import publish
from taskcore.backends.nats.settle import NatsExtender
from taskcore.backends.nats.source import NatsSource
from taskcore.connections.nats import NatsLink, read_address
from taskcore.toolkit.diagnostics import Diagnosis

__all__ = ["NatsBackend"]

FEATURES = Features(
    broker="nats",
    durability="confirmed jobs survive a killed server; a power cut only as far as sync_interval and replicas say",
    survives_worker=True,
    survives_broker=True,
    delay="native",
    delay_error=0.05,
    dedup="native",
    dedup_window=0.0,  # after an end: what is left of two minutes from publishing, which is no promise
    fencing="emulated",
    redeliveries="native",
    remove="native",
    locate="native",
    dead_letters="native",
    atomic_retry=False,
    peek="native",
)


class NatsBackend:
    """Queues in NATS JetStream: ``nats://user:password@host:4222,other:4222/?replicas=3``.

    :raises InvalidURL: it names an unknown option, or an impossible value (TC103).
    """

    silence: float | None = None  #: see :class:`taskcore.keeping.seam.LendsExtenders`

    def __init__(self, url: str = "nats://localhost:4222") -> None:
        self.url = url  #: see :class:`taskcore.keeping.seam.MadeOfURL`
        self._address = read_address(url)
        self._link = NatsLink(self._address, name="taskcore")
        self._streams = QueueStreams(self._link)
        self._emulates = self._address.max_bytes is not None

    @property
    def features(self) -> Features:
        """Say what this server can do, once connected."""
        if self._link.level < SCHEDULES_LEVEL or self._emulates:
            return msgspec.structs.replace(FEATURES, delay="emulated", delay_error=0.25)
        return FEATURES

    @property
    def admin(self) -> NatsAdmin:
        """Return the operator's view of the queues."""
        return NatsAdmin(self._link, self._streams)

    async def __aenter__(self) -> Self:
        """Connect; JetStream has to be there."""
        await self._link.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect."""
        await self._link.__aexit__(*exc)

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Published]:
        """Store the jobs; return one answer for each, in order."""
        return await publish(self._link, self._streams, batch)

    def consume(self, queues: Sequence[str], *, lease: float) -> AbstractAsyncContextManager[NatsSource]:
        """Return a source on these queues, earlier queues first."""
        return _consuming(NatsSource(self._link, self._streams, queues, lease))

    def extender(self, *, lease: float) -> NatsExtender:  # noqa: ARG002 - a ticket says how long
        """Return what extends leases of this server's jobs from another thread or process."""
        return NatsExtender(self._address)

    async def diagnose(self) -> Diagnosis:
        """Ask the server how it is set up."""
        return await diagnose(self._link)


@asynccontextmanager
async def _consuming(source: NatsSource) -> AsyncIterator[NatsSource]:
    try:
        await source.open()
        yield source
    finally:
        await source.close()

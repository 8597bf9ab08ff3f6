"""The RabbitMQ backend: its verbs, and what this broker can do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Self

import anyio
import msgspec

from taskcore.backend import Features, Outgoing, Published, Refused
from taskcore.backends.limits import too_large
from taskcore.backends.rabbitmq.admin import Connections, RabbitAdmin
from taskcore.backends.rabbitmq.diagnose import diagnose
from taskcore.backends.rabbitmq.layout import MAX_DELAY, OPTIONS, QueueOptions
from taskcore.backends.rabbitmq.messages import message_of
from taskcore.backends.rabbitmq.publish import MAX_JOB
from taskcore.backends.rabbitmq.settle import HeartbeatExtender
from taskcore.backends.rabbitmq.source import RabbitSource
from taskcore.connections.amqp import frames
from taskcore.connections.amqp.address import parse
from taskcore.connections.amqp.admin_channel import CALLS_AT_ONCE
from taskcore.connections.amqp.connection import Connector
from taskcore.connections.amqp.frame_filter import FilteredConnection
from taskcore.connections.loops import require_asyncio
from taskcore.toolkit.batching import gather_limited
from taskcore.toolkit.diagnostics import Diagnosis

__all__ = ["RabbitBackend"]

QUORUM = Features(
    broker="rabbitmq",
    durability="a confirmed job is in a quorum queue: it survives killed processes, and on three nodes the loss of one",
    survives_worker=True,
    survives_broker=True,
    delay="emulated",
    delay_error=0.25,
    dedup="absent",
    dedup_window=0.0,
    fencing="emulated",
    redeliveries="native",
    remove="absent",
    locate="absent",
    counts="absent",
    dead_letters="emulated",
    atomic_retry=False,
    pushes=True,
    new_queue=4.0,
)
CLASSIC = msgspec.structs.replace(
    QUORUM,
    broker="rabbitmq, classic queues",
    durability="a confirmed job is on the disk of one node: it survives killed processes, not the loss of that node",
    redeliveries="absent",
)


class RabbitBackend:
    """Queues on RabbitMQ 3.10 and later: ``amqp://user:password@host/vhost?option=…``.

    :raises InvalidURL: an unknown option, or an impossible value (TC103).
    """

    pulse: bytes = frames.HEARTBEAT  #: see :class:`taskcore.keeping.seam.HasLifelines`

    def __init__(self, url: str) -> None:
        address, values = parse(url, OPTIONS)
        self._options = QueueOptions(**values)
        self._connector = Connector(address)
        base = QUORUM if self._options.queue_type == "quorum" else CLASSIC
        self._features = msgspec.structs.replace(base, new_queue=self._options.min_queue_age)
        self._connections: Connections | None = None
        self._sources: set[RabbitSource] = set()

    @property
    def features(self) -> Features:
        """What RabbitMQ can do, with this kind of queue."""
        return self._features

    @property
    def admin(self) -> RabbitAdmin:
        """Counts, purging, dead letters."""
        return RabbitAdmin(self._opened(), self._sources)

    async def __aenter__(self) -> Self:
        """Connect, and declare what every app of the virtual host needs.

        :raises BrokerUnavailable: it cannot be reached, or something else has one of our names.
        :raises FeatureRefused: the loop is not asyncio's (TC501).
        """
        require_asyncio("amqp", "aio-pika")
        self._connections = connections = Connections(self._connector, self._options)
        try:
            await connections.sender.topology.declare()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect."""
        connections, self._connections = self._connections, None
        with anyio.CancelScope(shield=True):
            if connections is not None:
                await connections.close()

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Published]:
        """Store the jobs; one answer for each. The first jobs of a new queue wait until it is old enough."""
        sender = self._opened().sender
        refusals = [_refusal(job) for job in batch]
        sent = [message_of(job) for job, refusal in zip(batch, refusals, strict=True) if refusal is None]
        answers = iter(await sender.send(sent))
        return [next(answers) if refusal is None else refusal for refusal in refusals]

    def open_queues(self, queues: Sequence[str], waits: Callable[[float], None]) -> None:
        """Declare these queues in the background, because a new one gets its first job only when it is old enough."""
        sender = self._opened().sender
        sender.waits = waits
        for queue in queues:
            sender.topology.start_opening(queue)

    @property
    def silence(self) -> float:
        """See :class:`taskcore.keeping.seam.LendsExtenders`: the server closes a silent connection."""
        return 2.0 * self._connector.address.heartbeat

    def extender(self, *, lease: float) -> AbstractAsyncContextManager[HeartbeatExtender]:  # noqa: ARG002 - the connection is it
        """Return what keeps the connections of this process alive, from another thread."""
        return nullcontext(HeartbeatExtender(self._opened().all))

    def lifelines(self) -> Sequence[FilteredConnection]:
        """See :class:`taskcore.keeping.seam.HasLifelines`."""
        if self._connector.address.scheme == "amqps":  # the state of TLS is in this process alone
            return []
        current = [connection.current for connection in self._opened().all]
        return [one for one in current if one is not None and one.socket is not None]

    async def diagnose(self) -> Diagnosis:
        """Ask the server; see :class:`taskcore.toolkit.diagnostics.HasDiagnostics`."""
        return await diagnose(self._opened(), self._options, self._features.durability)

    @asynccontextmanager
    async def consume(self, queues: Sequence[str], *, lease: float) -> AsyncIterator[RabbitSource]:
        """Return a source on these queues, earlier queues first."""
        connections = self._opened()
        topology = connections.sender.topology
        await gather_limited(topology.prepare, queues, limit=CALLS_AT_ONCE)
        counts = self._features.redeliveries != "absent"
        source = RabbitSource(connections.consuming, connections.sender, queues, lease=lease, counts=counts)
        self._sources.add(source)
        try:
            yield source
        finally:
            self._sources.discard(source)
            with anyio.CancelScope(shield=True):
                await source.leave()

    def _opened(self) -> Connections:
        if self._connections is None:
            raise RuntimeError("this backend is not open: use it inside its `async with` block")
        return self._connections


def _refusal(job: Outgoing) -> Refused | None:
    """Return why a job cannot be sent, whatever the server says; None if it can."""
    if job.delay > MAX_DELAY:
        return Refused(f"a delay of more than {MAX_DELAY / 86_400:,.0f} days is too long for this broker")
    size = len(job.envelope) + len(job.trail)
    if size > MAX_JOB:
        return too_large(size, MAX_JOB)
    return None

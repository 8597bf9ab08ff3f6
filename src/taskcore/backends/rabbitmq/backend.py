"""The RabbitMQ backend: connections, what they are for, and what this broker can do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio
import msgspec

from taskcore.backend import Features, Outgoing, Published, Refused
from taskcore.backends.rabbitmq import layout as names
from taskcore.backends.rabbitmq import options
from taskcore.backends.rabbitmq.admin import RabbitAdmin
from taskcore.backends.rabbitmq.diagnose import diagnose
from taskcore.backends.rabbitmq.parts import Parts
from taskcore.backends.rabbitmq.publisher import LARGEST_JOB
from taskcore.backends.rabbitmq.source import RabbitSource
from taskcore.connections.amqp.connection import Link, parse
from taskcore.connections.loops import require_asyncio
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.diagnostics import Diagnosis
from taskcore.toolkit.logging import logger

__all__ = ["RabbitBackend"]

log = logger("taskcore.rabbitmq")

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

    def __init__(self, url: str) -> None:
        address, given = parse(url, options.KNOWN)
        self._options = options.read(url, given)
        self._link = Link(address)
        base = QUORUM if self._options.queue_type == "quorum" else CLASSIC
        self._features = msgspec.structs.replace(base, new_queue=self._options.settle)
        self._parts: Parts | None = None
        self._sources: set[RabbitSource] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._admin = RabbitAdmin(self._opened, lambda: self._sources)

    @property
    def features(self) -> Features:
        """What RabbitMQ can do, with this kind of queue."""
        return self._features

    @property
    def admin(self) -> RabbitAdmin:
        """Counts, purging, dead letters."""
        return self._admin

    async def __aenter__(self) -> Self:
        """Connect, and make what every app of the virtual host needs.

        :raises BrokerUnavailable: it cannot be reached, or something else has one of our names.
        :raises FeatureRefused: the loop is not asyncio's (TC501).
        """
        require_asyncio("amqp", "aiormq")
        self._parts = parts = Parts(self._link, self._options)
        try:
            await parts.topology.lay()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Hang up."""
        await self._close()

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Published]:
        """Store the jobs; one answer for each. The first jobs of a new queue wait until it is old enough."""
        sender = self._opened().sender
        refusals = [_refusal(job) for job in batch]
        fine = [job for job, refusal in zip(batch, refusals, strict=True) if refusal is None]
        answers = iter(await sender.send([sender.parcel(job) for job in fine]))
        return [next(answers) if refusal is None else refusal for refusal in refusals]

    def consume(self, queues: Sequence[str], *, lease: float) -> AbstractAsyncContextManager[RabbitSource]:
        """A source on these queues, earlier queues first."""
        return self._consuming(tuple(queues), lease)

    async def diagnose(self) -> Diagnosis:
        """What the server says about itself; see :class:`taskcore.toolkit.diagnostics.Diagnosable`."""
        return await diagnose(self._opened(), self._options, self._features.durability)

    @asynccontextmanager
    async def _consuming(self, queues: tuple[str, ...], lease: float) -> AsyncIterator[RabbitSource]:
        parts = self._opened()
        for queue in queues:
            await parts.sender.make(queue)
            self._start(self._open(queue))
        counts = self._features.redeliveries != "absent"
        source = RabbitSource(self._link, parts.line, parts.sender, queues, lease=lease, counts=counts)
        self._sources.add(source)
        try:
            yield source
        finally:
            self._sources.discard(source)
            with anyio.CancelScope(shield=True):
                await source.leave()

    async def _open(self, queue: str) -> None:
        try:
            await self._opened().sender.open(queue)
        except BrokerUnavailable as error:
            log.debug("queue %s is not opened now, its first sender will do it: %s", queue, error.what)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _opened(self) -> Parts:
        if self._parts is None:
            raise RuntimeError("this backend is not open: its verbs work inside of `async with` only")
        return self._parts

    async def _close(self) -> None:
        parts, self._parts = self._parts, None
        with anyio.CancelScope(shield=True):
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if parts is not None:
                await parts.close()


def _refusal(job: Outgoing) -> Refused | None:
    """Why a job cannot be sent, whatever the server says; None if it can."""
    if job.delay > names.FAR:
        return Refused(f"a delay of more than {names.FAR / 86_400:,.0f} days is too long for this broker")
    size = len(job.envelope) + len(job.trail)
    if size > LARGEST_JOB:
        return Refused(f"{size:,} bytes are more than the broker takes, whose limit is {LARGEST_JOB:,} for a job")
    return None

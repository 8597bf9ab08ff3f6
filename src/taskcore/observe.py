"""What happened, for people and machines: counters that are always on, events for whoever listens.

Nothing that the contract calls discarded, suppressed, uncertain or lost goes by without a counter and, if somebody
listens, an event with the job's id (C19). Adapters contain none of this: one wrapper around each seam reports for all.

    job.enqueued  job.duplicate  job.refused  job.uncertain            what became of a call            (client)
    job.started   job.succeeded  job.retried  job.buried               what became of a job             (worker)
    job.released  job.cancelled  job.expired  job.lost  job.parked     (skipped: done before, so not run again;
    job.skipped   job.contended  job.failed   settle.unconfirmed       failed: at most once, so without a letter)
    key.conflict  key.lost       key.unconfirmed  result.ignored       idempotency and results
    publish.*     settle.*       extend.*                              .complete or .failed, one for each batch
    broker.lost   broker.back    loop.blocked   thread.abandoned       trouble
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self

import msgspec

from taskcore.backend import Admin, Backend, Delivery, Features, Outgoing, Published, Source
from taskcore.lifecycle import Verdict
from taskcore.toolkit.logging import logger

__all__ = ["Event", "Events", "ObservedBackend"]

log = logger("taskcore.observe")


class Event(msgspec.Struct, frozen=True):
    """One thing that happened: a name from the table above, and facts such as ``job_id``, ``task``, ``queue``."""

    name: str
    facts: Mapping[str, Any]


Listener = Callable[[Event], None]


class Events:
    """Counts everything; builds an event only when somebody listens."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.listeners: list[Listener] = []

    def listen(self, listener: Listener) -> Listener:
        """Call the listener at every event from now on. What it raises is logged and harms nobody (C25)."""
        self.listeners.append(listener)
        return listener

    def emit(self, name: str, **facts: Any) -> None:
        """Count, and tell the listeners."""
        self.counters[name] += 1
        if self.listeners:
            self.tell(name, facts)

    def tell(self, name: str, facts: Mapping[str, Any]) -> None:
        """Tell the listeners without counting, for callers that count a whole batch at once."""
        event = Event(name, facts)
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:
                log.exception("a listener failed at %s; the others and the job go on", name)

    def span(self, name: str, size: int) -> _Span:
        """Around one batch: emits ``name.complete`` or ``name.failed`` with its size and duration."""
        return _Span(self, name, size)


class _Span:
    """A class, not a generator: it stands around every batch."""

    __slots__ = ("_events", "_name", "_size", "_start")

    def __init__(self, events: Events, name: str, size: int) -> None:
        self._events = events
        self._name = name
        self._size = size
        self._start = time.perf_counter()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        name = f"{self._name}.complete" if error is None else f"{self._name}.failed"
        self._events.counters[name] += 1
        if self._events.listeners:
            seconds = time.perf_counter() - self._start
            self._events.tell(name, {"size": self._size, "seconds": seconds, "error": error})


class ObservedBackend:
    """A backend that reports each batch; otherwise the same."""

    def __init__(self, backend: Backend, events: Events) -> None:
        self._backend = backend
        self._events = events

    @property
    def inner(self) -> Backend:
        """The backend itself, for what is no verb: what it can say about its server."""
        return self._backend

    @property
    def features(self) -> Features:
        """See :class:`taskcore.backend.Backend`."""
        return self._backend.features

    @property
    def admin(self) -> Admin:
        """See :class:`taskcore.backend.Backend`."""
        return self._backend.admin

    async def __aenter__(self) -> Self:
        await self._backend.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._backend.__aexit__(kind, error, traceback)

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Published]:
        """See :class:`taskcore.backend.Backend`."""
        with self._events.span("publish", len(batch)):
            return await self._backend.publish(batch)

    def consume(self, queues: Sequence[str], *, lease: float) -> AbstractAsyncContextManager[Source]:
        """See :class:`taskcore.backend.Backend`."""
        return _Consuming(self._backend.consume(queues, lease=lease), self._events)


class _Consuming:
    """The context of an observed source."""

    def __init__(self, context: AbstractAsyncContextManager[Source], events: Events) -> None:
        self._context = context
        self._events = events

    async def __aenter__(self) -> Source:
        return _ObservedSource(await self._context.__aenter__(), self._events)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._context.__aexit__(kind, error, traceback)


class _ObservedSource:
    """A source that reports each batch."""

    def __init__(self, source: Source, events: Events) -> None:
        self.receive = source.receive  # nothing to report: waiting is not work
        self._source = source
        self._events = events

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
        with self._events.span("settle", len(batch)):
            return await self._source.settle(batch)

    async def extend(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        with self._events.span("extend", len(batch)):
            return await self._source.extend(batch)

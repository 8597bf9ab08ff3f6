"""What happened, for people and machines: counters that are always on, events for listeners.

Whatever the guarantees call discarded, suppressed, uncertain or lost has a counter and, for listeners, an event with
the job's id (C19). Adapters contain none of this: one wrapper around each seam reports for all of them.

    job.enqueued  job.duplicate  job.refused  job.uncertain            what became of a call            (client)
    job.started   job.succeeded  job.retried  job.buried               what became of a job             (worker)
    job.released  job.cancelled  job.expired  job.lost  job.parked     (skipped: done before, so not run again;
    job.skipped   job.deferred   job.failed   settle.unconfirmed       failed: at most once, so without a letter)
    key.conflict  key.lost       key.unconfirmed  result.ignored       idempotency and results
    publish.*     settle.*       extend.*                              .complete or .failed, one for each batch
    store.get.*   store.put.*    store.delete.*   store.get_many.*     the same, one for each call of the store
    store.put_many.*
    schedule.fired  schedule.missed  schedule.overlapped               instants of schedules; failed: one that could
    schedule.failed                                                    not be sent, and is not tried again
    broker.lost   broker.back    loop.blocked   thread.abandoned       trouble
    slot.cancelled

Facts, where they apply:

    job_id, task, queue   which job
    attempt               1 for the first attempt
    waited                job.started: seconds since it was sent, its delay included; None when it is tried again
    seconds               how long the function, the batch or the trouble lasted
    error                 the error, or its record
    reason                why a job is dead or deferred
    size                  how many items the batch had; schedule.*: how many instants
    schedule              the id of the schedule
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias, get_args

import msgspec

from taskcore.backend import Admin, Backend, Delivery, Features, Outgoing, Published, Source
from taskcore.errors import InvalidSetting
from taskcore.lifecycle import Verdict
from taskcore.store import Conflict, Expect, Record, Store, Version, Write, largest_value
from taskcore.toolkit.capabilities import OpensQueues
from taskcore.toolkit.logging import logger
from taskcore.toolkit.units import shorten_repr
from taskcore.toolkit.values import PublicValue

__all__ = [
    "EVENT_NAMES",
    "Event",
    "EventName",
    "Events",
    "JobInHand",
    "ObservedBackend",
    "ObservedStore",
    "WorkerStatus",
]

log = logger("taskcore.observe")

EventName: TypeAlias = Literal[
    "job.enqueued",
    "job.duplicate",
    "job.refused",
    "job.uncertain",
    "job.started",
    "job.succeeded",
    "job.retried",
    "job.buried",
    "job.released",
    "job.cancelled",
    "job.expired",
    "job.lost",
    "job.parked",
    "job.skipped",
    "job.deferred",
    "job.failed",
    "settle.unconfirmed",
    "key.conflict",
    "key.lost",
    "key.unconfirmed",
    "result.ignored",
    "publish.complete",
    "publish.failed",
    "settle.complete",
    "settle.failed",
    "extend.complete",
    "extend.failed",
    "store.get.complete",
    "store.get.failed",
    "store.get_many.complete",
    "store.get_many.failed",
    "store.put.complete",
    "store.put.failed",
    "store.put_many.complete",
    "store.put_many.failed",
    "store.delete.complete",
    "store.delete.failed",
    "schedule.fired",
    "schedule.missed",
    "schedule.overlapped",
    "schedule.failed",
    "broker.lost",
    "broker.back",
    "loop.blocked",
    "slot.cancelled",
    "thread.abandoned",
]

EVENT_NAMES: Final[tuple[EventName, ...]] = get_args(EventName)


class Event(msgspec.Struct, frozen=True):
    """One thing that happened: a name from the table above, and its facts."""

    name: EventName
    facts: Mapping[str, Any]


class JobInHand(PublicValue, frozen=True):
    """A job that runs; ``since`` is when its worker got it, in seconds since the epoch."""

    id: str
    task: str
    queue: str
    since: float


class WorkerStatus(PublicValue, frozen=True, kw_only=True):
    """What a worker said of itself at its last heartbeat. Times are seconds since the epoch, by its clock.

    :param seen: when that was.
    :param utilisation: from 0 to 1: of its slots, or of one core, whichever is higher.
    :param running: how many functions run.
    :param jobs: the longest of them, 100 at most.
    """

    name: str
    host: str
    pid: int
    version: str
    queues: tuple[str, ...]
    concurrency: int
    started: float
    seen: float
    utilisation: float
    running: int
    jobs: tuple[JobInHand, ...]


Listener = Callable[[Event], None]


class Events:
    """Counts everything; builds an event only if there is a listener."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.listeners: list[Listener] = []

    def listen(self, listener: Listener) -> Listener:
        """Call the listener at every event from now on. What it raises is logged and harms no job (C25)."""
        if not callable(listener):
            raise InvalidSetting(f"{shorten_repr(listener)} is not a function", fix="@app.on_event on a function")
        self.listeners.append(listener)
        return listener

    def emit(self, name: EventName, **facts: Any) -> None:
        """Count, and tell the listeners."""
        self.counters[name] += 1
        if self.listeners:
            self.tell(name, facts)

    def tell(self, name: EventName, facts: Mapping[str, Any]) -> None:
        """Tell the listeners without counting, for callers that count a whole batch at once."""
        event = Event(name, facts)
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:
                log.exception("a listener failed at %s; the others and the job go on", name)


class _Span:
    """Goes around one batch: emits one of two events, with size and duration. Not a generator: it has to be cheap."""

    __slots__ = ("_complete", "_events", "_failed", "_size", "_start")

    def __init__(self, events: Events, complete: EventName, failed: EventName, size: int) -> None:
        self._events = events
        self._complete: EventName = complete
        self._failed: EventName = failed
        self._size = size
        self._start = time.perf_counter()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        name = self._complete if error is None else self._failed
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

    async def __aexit__(self, *exc: object) -> None:
        await self._backend.__aexit__(*exc)

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Published]:
        """See :class:`taskcore.backend.Backend`."""
        with _Span(self._events, "publish.complete", "publish.failed", len(batch)):
            return await self._backend.publish(batch)

    def open_queues(self, queues: Sequence[str], waits: Callable[[float], None]) -> None:
        """See :class:`taskcore.toolkit.capabilities.OpensQueues`; does nothing where new queues are ready at once."""
        if isinstance(self._backend, OpensQueues):
            self._backend.open_queues(queues, waits)

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
        self.inner = self._source = source
        self._events = events

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
        with _Span(self._events, "settle.complete", "settle.failed", len(batch)):
            return await self._source.settle(batch)

    async def extend(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        with _Span(self._events, "extend.complete", "extend.failed", len(batch)):
            return await self._source.extend(batch)


class ObservedStore:
    """A store that reports each call; otherwise the same."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store = store
        self._events = events
        self.watch = store.watch  #: nothing to report: waiting is not work

    @property
    def inner(self) -> Store:
        """The store itself, for what is no verb: what it can say about its server."""
        return self._store

    @property
    def max_value(self) -> int | None:
        """See :class:`taskcore.store.LimitsValues`."""
        return largest_value(self._store)

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._store.__aexit__(*exc)

    async def get(self, key: str) -> Record | None:
        """See :class:`taskcore.store.Store`."""
        with _Span(self._events, "store.get.complete", "store.get.failed", 1):
            return await self._store.get(key)

    async def get_many(self, keys: Sequence[str]) -> Sequence[Record | None]:
        """See :class:`taskcore.store.Store`."""
        with _Span(self._events, "store.get_many.complete", "store.get_many.failed", len(keys)):
            return await self._store.get_many(keys)

    async def put(self, key: str, value: bytes, *, expect: Expect, keep: float | None) -> Version | Conflict:
        """See :class:`taskcore.store.Store`."""
        with _Span(self._events, "store.put.complete", "store.put.failed", 1):
            return await self._store.put(key, value, expect=expect, keep=keep)

    async def put_many(self, writes: Sequence[Write]) -> Sequence[Version | Conflict]:
        """See :class:`taskcore.store.Store`."""
        with _Span(self._events, "store.put_many.complete", "store.put_many.failed", len(writes)):
            return await self._store.put_many(writes)

    async def delete(self, key: str, *, expect: Expect) -> bool:
        """See :class:`taskcore.store.Store`."""
        with _Span(self._events, "store.delete.complete", "store.delete.failed", 1):
            return await self._store.delete(key, expect=expect)

"""``app.events(…)``: what happens to jobs, as their workers tell it, for any program with the same store.

At most once: an event that is lost is counted in the next one, and what is not counted is that a worker died. How a job
ended stands in its outcome.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable
from functools import partial
from secrets import token_hex
from typing import Any, Self

import anyio
import msgspec

from taskcore.errors import BrokerUnavailable, InvalidSetting, NotRunning, StoreRequired, UnreadableRecord
from taskcore.events.record import JobEvent, Listed, Wanted, decode_feed, decode_listed, feed_name, with_subscriber
from taskcore.observe import EventName
from taskcore.roster import BEATS_MISSED, NAMES
from taskcore.store import Conflict, Record, Store
from taskcore.toolkit.detached import start_detached
from taskcore.toolkit.groups import unwrap_single
from taskcore.toolkit.logging import logger

__all__ = ["EventStream", "Subscribe"]

log = logger("taskcore.events")

RENEW_EVERY = 10.0  #: seconds between two requests of a subscriber to a worker
SLOW_STORE = 5.0  #: seconds for which the answers of workers may be late
TELL_TRIES = 5  #: writes into a worker's record in a row, while other subscribers write there
BUFFERED_EVENTS = 10_000  #: events that a slow reader has not taken yet


class Subscribe:
    """``app.events``: call it to hear what happens to jobs."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(
        self, *, kinds: EventName | Iterable[EventName] | None = None, queues: str | Iterable[str] | None = None
    ) -> EventStream:
        """Return a context whose value yields events, from its entry on.

        :param kinds: such as ``["job.buried", "job.retried"]``; default: all events of jobs.
        :param queues: default: all.
        :raises InvalidSetting: there is no such event, or the app has no ``heartbeat`` (TC104).
        :raises StoreRequired: the app has no store (TC105).
        """
        wanted, heartbeat = Wanted.of(kinds, queues), self._app.settings.heartbeat
        if self._app.components.store is None:
            raise StoreRequired("workers tell their events in a store, and this app has none")
        if not heartbeat:
            raise InvalidSetting(
                "subscribers are heard at the heartbeats of workers, and heartbeat=0 leaves these out",
                fix='App(…, heartbeat="10s") in this program and in its workers, or TASKCORE_HEARTBEAT=10s',
            )
        return EventStream(self._app, wanted, heartbeat)


class EventStream:
    """Events of jobs, as they come: an async context manager, and an async iterator inside of it."""

    def __init__(self, app: Any, wanted: Wanted, heartbeat: float) -> None:
        self._app = app
        self._wanted = wanted
        self._heartbeat = heartbeat
        self._id = token_hex(8)
        self._scope: anyio.CancelScope | None = None
        self._changed: anyio.Event | None = None
        self._events: deque[JobEvent] = deque()
        self._missed = 0
        self._error: Exception | None = None
        self._workers: dict[int, _HeardWorker] = {}
        self._following: dict[str, int] = {}  # by the marks of feeds, the number of the next event

    async def __aenter__(self) -> Self:
        """Subscribe; return when each worker that lives has heard of it: soon after its next heartbeat.

        A worker that died a moment ago is waited for until it is gone from the roster.

        :raises NotRunning: the app is not open, or in another loop (TC106).
        :raises BrokerUnavailable: the store cannot be reached (TC201).
        """
        self._app._host.require_open()  # noqa: SLF001 - the app's other half
        store: Store = self._app.components.store
        self._scope = anyio.CancelScope()
        await self._look(store)
        start_detached(partial(self._run, store, self._scope), name="taskcore events")
        with anyio.move_on_after(BEATS_MISSED * self._heartbeat + SLOW_STORE):
            while self._error is None and not all(worker.has_answered for worker in self._workers.values()):
                await self._news()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._scope is not None:
            self._scope.cancel()

    def __aiter__(self) -> AsyncIterator[JobEvent]:
        return self

    async def __anext__(self) -> JobEvent:
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._scope is None or self._scope.cancel_called:
                raise NotRunning("this subscription is not open", fix="async with app.events(…) as events: …")
            await self._news()
        return self._events.popleft()

    async def _news(self) -> None:
        self._changed = anyio.Event()
        await self._changed.wait()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()

    async def _run(self, store: Store, scope: anyio.CancelScope) -> None:
        try:
            with scope, unwrap_single():
                async with anyio.create_task_group() as group:
                    while True:
                        for number, worker in self._workers.items():
                            if not worker.is_followed:
                                worker.is_followed = True
                                group.start_soon(self._follow, store, number, worker)
                        await anyio.sleep(min(self._heartbeat, RENEW_EVERY))
                        try:
                            await self._look(store)
                        except BrokerUnavailable as error:
                            log.info("cannot look for workers; trying again: %s", error.what)
        except Exception as error:  # noqa: BLE001 - raised in the reader
            self._error = error
        finally:
            self._wake()

    # ── asking ──

    async def _look(self, store: Store) -> None:
        """Look which workers live, and tell them what is wanted."""
        for number, record in enumerate(await store.get_many(NAMES)):
            if record is None and number in self._workers:
                self._workers[number].has_answered = True  # it is gone
                self._wake()
            listed = None if record is None else decode_listed(record.value)
            if record is not None and listed is not None:
                await self._tell(store, number, record, listed)

    async def _tell(self, store: Store, number: int, record: Record, listed: Listed) -> None:
        worker = self._workers.setdefault(number, _HeardWorker())
        now = anyio.current_time()
        is_new = worker.identity != listed.identity
        if is_new:
            worker.identity, worker.asked_at, worker.seen = listed.identity, -RENEW_EVERY, -1.0
        # A worker that has written nothing since is dead, or has not heard yet: its record must not live for longer.
        if self._id in listed.events or listed.seen <= worker.seen or now - worker.asked_at < RENEW_EVERY:
            return
        keep = BEATS_MISSED * self._heartbeat + 1.0
        for _ in range(TELL_TRIES):
            value = with_subscriber(record.value, self._id, self._wanted)
            answer = await store.put(NAMES[number], value, expect=record.version, keep=keep)
            if not isinstance(answer, Conflict):
                worker.asked_at, worker.seen = now, listed.seen
                return
            found = None if answer.current is None else decode_listed(answer.current.value)
            if answer.current is None or found is None or found.identity != listed.identity:
                return
            record, listed = answer.current, found

    # ── hearing ──

    async def _follow(self, store: Store, number: int, worker: _HeardWorker) -> None:
        async with store.watch(feed_name(NAMES[number])) as records:
            async for record in records:
                try:
                    self._take(decode_feed(record.value), worker)
                except (UnreadableRecord, msgspec.MsgspecError) as error:
                    log.warning("the events of a worker cannot be read: %s", error)

    def _take(self, feed: Any, worker: _HeardWorker) -> None:
        """Take the events of a feed that were not seen yet, and count those that are gone already."""
        begins = feed.subscribers.get(self._id)
        if begins is None:
            return
        worker.has_answered = True
        following = self._following.get(feed.mark, begins)
        self._missed += max(feed.first - following, 0)
        for raw in feed.events[max(following - feed.first, 0) :]:
            event = msgspec.json.decode(raw, type=JobEvent)
            if self._wanted.takes(event.name, event.queue):
                self._put(event)
        self._following[feed.mark] = max(following, feed.first + len(feed.events))
        self._wake()

    def _put(self, event: JobEvent) -> None:
        if len(self._events) >= BUFFERED_EVENTS:
            self._missed += 1
            return
        if self._missed:
            event, self._missed = msgspec.structs.replace(event, missed=self._missed), 0
        self._events.append(event)


class _HeardWorker:
    """A worker that a subscriber listens to.

    :ivar seen: when the worker wrote last before the subscriber asked it, which was ``asked_at`` by the loop's clock.
    """

    def __init__(self) -> None:
        self.identity: tuple[str, int, float] | None = None
        self.asked_at = 0.0
        self.seen = -1.0
        self.is_followed = False
        self.has_answered = False

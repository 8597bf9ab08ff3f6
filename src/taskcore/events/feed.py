"""The feed of a worker: events of its jobs, written into the store while a subscriber listens, and no longer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from secrets import token_hex

import anyio
import msgspec

from taskcore.errors import BrokerUnavailable, StoreRefused
from taskcore.events.record import FEED_KEPT, Feed, JobEvent, Wanted, encode_feed, feed_name
from taskcore.observe import Event, Events
from taskcore.progress.record import clean_line
from taskcore.store import ANY, Store
from taskcore.toolkit.logging import logger

__all__ = ["EventFeed"]

log = logger("taskcore.events")

SUBSCRIPTION_TIMEOUT = 35.0  #: seconds after which a subscriber that says nothing more is forgotten, at least …
SILENT_HEARTBEATS = 4  #: … and heartbeats
WRITE_EVERY = 0.1  #: seconds between two writes
WINDOW_EVENTS, WINDOW_BYTES = 2_000, 262_144  #: that a feed has room for
TEXT_LIMIT = 500  #: characters of an error, and of a reason


class EventFeed:
    """Writes the events of one worker.

    :param worker: its name.
    :param heartbeat: seconds between two times at which it can hear subscribers.
    """

    def __init__(
        self, store: Store, events: Events, *, worker: str, clock: Callable[[], float], heartbeat: float
    ) -> None:
        self._store = store
        self._events = events
        self._name = ""
        self._worker = worker
        self._clock = clock
        self._lasts = max(SUBSCRIPTION_TIMEOUT, SILENT_HEARTBEATS * heartbeat)
        self._mark = token_hex(4)
        self._window: deque[bytes] = deque()
        self._bytes = 0
        self._next = 0  # the number of the next event
        self._subscribers: dict[str, tuple[Wanted, int, float]] = {}  # what, from which number on, until when
        self._news = anyio.Event()
        self.is_over = False  #: no subscriber is left, and the next one needs another feed

    def ask(self, asked: Mapping[str, Wanted], record: str) -> None:
        """Note who listens, and where: a worker that missed a heartbeat may have another record since."""
        self._name = feed_name(record)
        until = anyio.current_time() + self._lasts
        for subscriber, wanted in asked.items():
            _, first, _ = self._subscribers.get(subscriber, (wanted, self._next, until))
            self._subscribers[subscriber] = (wanted, first, until)
        self._news.set()

    async def run(self) -> None:
        """Write until no subscriber listens."""
        listener = self._events.listen(self._take)
        try:
            while self._subscribers:
                self._news = anyio.Event()
                await self._write()
                await anyio.sleep(WRITE_EVERY)
                with anyio.CancelScope(deadline=min(until for _, _, until in self._subscribers.values())):
                    await self._news.wait()
                now = anyio.current_time()
                self._subscribers = {key: one for key, one in self._subscribers.items() if one[2] > now}
        finally:
            self.is_over = True
            self._events.listeners.remove(listener)

    def _take(self, event: Event) -> None:
        """Keep an event that a subscriber wants."""
        name, facts = event.name, event.facts
        queue = facts.get("queue")
        if not name.startswith("job.") or not any(one[0].takes(name, queue) for one in self._subscribers.values()):
            return
        encoded = msgspec.json.encode(
            JobEvent(
                name=name,
                at=round(self._clock(), 3),
                worker=self._worker,
                job_id=str(facts.get("job_id", "")),
                task=str(facts.get("task", "")),
                queue=str(queue or ""),
                attempt=facts.get("attempt"),
                seconds=facts.get("seconds"),
                waited=facts.get("waited"),
                reason=_text(facts.get("reason")),
                error=_error(facts.get("error")),
            )
        )
        self._window.append(encoded)
        self._bytes += len(encoded)
        self._next += 1
        while len(self._window) > WINDOW_EVENTS or self._bytes > WINDOW_BYTES:
            self._bytes -= len(self._window.popleft())
        self._news.set()

    async def _write(self) -> None:
        feed = Feed(
            self._mark,
            self._next - len(self._window),
            [msgspec.Raw(one) for one in self._window],
            {key: first for key, (_, first, _) in self._subscribers.items()},
        )
        try:
            await self._store.put(self._name, encode_feed(feed), expect=ANY, keep=FEED_KEPT)
        except (BrokerUnavailable, StoreRefused) as error:
            log.debug("the events of this worker cannot be written now: %s", error.what)


def _text(value: object) -> str | None:
    return None if value is None else clean_line(str(value), TEXT_LIMIT)


def _error(error: object) -> str | None:
    """Write an error, or its record, in one line."""
    if error is None:
        return None
    kind, message = getattr(error, "type", type(error).__name__), getattr(error, "message", None)
    return _text(f"{kind}: {error if message is None else message}")

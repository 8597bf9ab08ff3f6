"""The roster: each worker says in the store, at each heartbeat, that it lives and what it does.

    worker/<number>    one record for each worker, which ends soon after its last heartbeat

A worker takes a number at random, if that is free, so that a beat is one write and workers that start at the same time
rarely want the same one. A worker that ends deletes its record; one that dies is gone when its record is.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import anyio
import anyio.abc
import msgspec

from taskcore.components import Components
from taskcore.errors import BrokerUnavailable, StoreRefused, StoreRequired, UnreadableRecord
from taskcore.observe import JobInHand, WorkerStatus
from taskcore.records.names import worker_name
from taskcore.store import ABSENT, Conflict, Store, Version
from taskcore.toolkit.logging import logger
from taskcore.worker.execution import STARTED, STARTED_ACKED, Execution
from taskcore.worker.options import WorkerOptions

__all__ = ["Roster", "read_workers"]

log = logger("taskcore.worker")

BEATS_MISSED = 3  #: heartbeats after whose time, and a second, a worker is not listed any more
WORKER_NUMBERS = 512  #: workers that can be listed
NUMBER_TRIES = 4  #: numbers that a worker tries before it reads which ones are free
SHOWN_JOBS = 100  #: jobs that a record names; the oldest ones
SHORTEST_HEARTBEAT = 0.1  #: seconds between two heartbeats, whatever is asked for
EVENTS = "taskcore.events"  #: the room that tells subscribers of events, imported when there is one
SUBSCRIBED_MEANWHILE = 5  #: writes of a record in a row, while subscribers write into it
TIME_TO_LEAVE = 1.0  #: seconds for deleting the record when the worker ends


class Roster:
    """Writes the record of one worker; a service of its own.

    :param executions: every job in hand.
    """

    def __init__(self, executions: Collection[Execution], components: Components, options: WorkerOptions) -> None:
        self._executions = executions
        self._store = components.store
        self._events = components.events
        self._clock = components.clock
        self._options = options
        self._every = max(options.heartbeat, SHORTEST_HEARTBEAT)
        self._keep = BEATS_MISSED * self._every + 1.0
        self._started = 0.0
        self._mine: tuple[str, Version] | None = None
        self._feed: Any = None  # of events, while a subscriber listens
        self._busy = (0.0, 0.0)
        self._dice = random.SystemRandom()  # not that of the program, which a job may seed

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Beat until cancelled; then leave the roster."""
        store = self._store
        if store is None:
            raise _no_store()
        self._started = self._clock()
        self._busy = (time.monotonic(), time.process_time())
        task_status.started()
        try:
            async with anyio.create_task_group() as feeds:
                while True:
                    try:
                        await self._beat(store, feeds)
                    except (BrokerUnavailable, StoreRefused, UnreadableRecord) as error:
                        log.debug("this worker is not in the roster now: %s", error.what)
                    await anyio.sleep(self._every)
        finally:
            with anyio.move_on_after(TIME_TO_LEAVE, shield=True), suppress(BrokerUnavailable, UnreadableRecord):
                if self._mine is not None:
                    await store.delete(self._mine[0], expect=self._mine[1])

    async def _beat(self, store: Store, feeds: anyio.abc.TaskGroup) -> None:
        status = self._status()
        record = msgspec.json.encode(status)
        if self._mine is not None:
            name, before = self._mine
            self._mine = None
            for _ in range(SUBSCRIBED_MEANWHILE):
                now = await store.put(name, record, expect=before, keep=self._keep)
                if not isinstance(now, Conflict):
                    self._mine = (name, now)
                    return
                if now.current is None or not self._is_asked(now.current.value, name, status, feeds):
                    break
                before = now.current.version
        for name in self._dice.sample(NAMES, NUMBER_TRIES):
            if await self._take(store, name, record):
                return
        for name, found in zip(NAMES, await store.get_many(NAMES), strict=True):
            if found is None and await self._take(store, name, record):
                return
        log.debug("this worker is not in the roster now: %d others are", WORKER_NUMBERS)

    def _is_asked(self, found: bytes, name: str, status: WorkerStatus, feeds: anyio.abc.TaskGroup) -> bool:
        """Tell the events of this worker, if it is subscribers that have written into its record."""
        asked = import_module(f"{EVENTS}.record").asked_of(found, (status.name, status.pid, status.started))
        if asked is None:
            return False
        if self._feed is None or self._feed.is_over:
            feed = import_module(f"{EVENTS}.feed").EventFeed
            self._feed = feed(self._store, self._events, worker=status.name, clock=self._clock, heartbeat=self._every)
            feeds.start_soon(self._feed.run)
        self._feed.ask(asked, name)
        return True

    async def _take(self, store: Store, name: str, record: bytes) -> bool:
        """Take a number, unless another worker has it."""
        now = await store.put(name, record, expect=ABSENT, keep=self._keep)
        if isinstance(now, Conflict):
            return False
        self._mine = (name, now)
        return True

    def _status(self) -> WorkerStatus:
        began, used = self._busy
        self._busy = (time.monotonic(), time.process_time())
        core = (self._busy[1] - used) / max(self._busy[0] - began, 0.001)
        running = [job for job in self._executions if job.state in (STARTED, STARTED_ACKED)]
        oldest = sorted(running, key=lambda job: job.received)[:SHOWN_JOBS]
        now = self._clock()
        ago = anyio.current_time() - now
        options = self._options
        return WorkerStatus(
            name=options.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=_version(),
            queues=tuple(options.queues),
            concurrency=options.concurrency,
            started=self._started,
            seen=now,
            utilisation=round(min(1.0, max(core, len(running) / max(options.concurrency, 1))), 3),
            running=len(running),
            jobs=tuple(_in_hand(job, ago) for job in oldest),
        )


NAMES = tuple(map(worker_name, range(WORKER_NUMBERS)))


def _in_hand(job: Execution, ago: float) -> JobInHand:
    labels = job.labels
    return JobInHand(labels["job_id"], labels["task"], labels["queue"], (job.started_at or job.received) - ago)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - it takes as long as all the rest

    try:
        return version("taskcore-framework")
    except PackageNotFoundError:  # a checkout that is not installed
        return ""


async def read_workers(store: Store | None) -> Sequence[WorkerStatus]:
    """Read the roster: the workers that live, by name.

    :raises StoreRequired: there is no store that could have it (TC105).
    """
    if store is None:
        raise _no_store()
    found: dict[object, WorkerStatus] = {}
    for record in await store.get_many(NAMES):
        if record is not None:
            with suppress(msgspec.MsgspecError):  # of a newer version
                status = msgspec.json.decode(record.value, type=WorkerStatus)
                same = (status.host, status.pid, status.name, status.started)  # twice, if the answer to a beat was lost
                found[same] = max(status, found.get(same, status), key=lambda one: one.seen)
    return sorted(found.values(), key=lambda worker: (worker.name, worker.pid))


def _no_store() -> StoreRequired:
    return StoreRequired("workers say in a store that they live, and this app has none")

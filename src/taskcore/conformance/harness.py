"""Harness: where a check runs. A broker, names of its own, a way to let time pass, and no traces afterwards.

    harness = Harness.at("redis://localhost:6379/15")        a real broker, real time, short leases
    harness = Harness.in_memory()                            under a virtual clock or in real time, as the loop has it

A check asks the harness for as many connections as it needs; each is a separate connection to the same broker, as of
another process. The name of every queue of a check has the harness's mark in it. Those queues, and every record written
through the harness's connections, are deleted at the end; ``traces`` lists what is left nevertheless.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Self

import anyio

from taskcore.adapters import has_store, open_backend, open_store
from taskcore.app import App
from taskcore.backend import Backend, Features, Outgoing
from taskcore.config import Settings
from taskcore.conformance.recording_store import RecordingStore
from taskcore.conformance.step_worker import StepWorker
from taskcore.records.names import NEWEST_CANCEL
from taskcore.store import Store, Write

__all__ = ["CLOCK_TOLERANCE", "Harness"]

CLOCK_TOLERANCE = 0.005  #: seconds that two clocks may differ in what they call the same moment
LONG_LEASE = 60.0  #: seconds, at least: a lease that does not end while a check plays
CLEAN_UP_TIMEOUT = 30.0  #: seconds that clearing away may take

#: The settings of every app on a harness, whatever the environment and configuration files say. Its workers are in no
#: roster: a check knows each call of its store.
DEFAULTS = {
    name: value
    for name in Settings.__struct_fields__
    if name not in {"url", "store"} and (value := getattr(Settings(), name)) is not None
} | {"heartbeat": 0}


class Harness:
    """One place for one check. Use it with ``async with``; connections live until its end.

    :param backend: makes a connection to the broker; called for each connection that a check wants.
    :param store: makes a connection to the store; None: the broker has none.
    :param lease: seconds; checks wait for leases to end, so it is short on real brokers.
    :param margin: seconds that something may come late because the machine is busy.
    """

    def __init__(
        self, backend: Callable[[], Backend], store: Callable[[], Store] | None, *, lease: float, margin: float
    ) -> None:
        self.lease = lease
        self.margin = margin
        self.mark = f"tc{secrets.token_hex(4)}"
        self.lateness: list[float] = []  #: how much too late delayed jobs came, as checks measured it
        self._make_backend = backend
        self._make_store = store
        self._exits = AsyncExitStack()
        self._queues: set[str] = set()
        self._written: dict[str, float | None] = {}
        self._wall = 0.0  # what the wall clock said when the loop's clock read zero

    @classmethod
    def in_memory(cls, *, store: str | None = None, lease: float = 30.0, margin: float = 0.0) -> Self:
        """Make one in-memory broker that all connections share, and its store, or connections to another one."""
        backend, records = open_backend("memory://"), open_store("memory://")
        if store is None or store.startswith("memory:"):
            return cls(lambda: backend, lambda: records, lease=lease, margin=margin)
        return cls(lambda: backend, lambda: open_store(store), lease=lease, margin=margin)

    @classmethod
    def at(cls, url: str, *, store: str | None = None, lease: float = 1.0, margin: float = 1.0) -> Self:
        """Make a harness for a real broker; or ``memory://``, with records here or in another store."""
        records = store or (url if has_store(url) else None)
        if url.startswith("memory:"):
            return cls.in_memory(store=store, lease=lease, margin=margin)
        return cls(
            lambda: open_backend(url),
            None if records is None else lambda: open_store(records),
            lease=lease,
            margin=margin,
        )

    async def __aenter__(self) -> Self:
        """Connect once, to learn what the broker can do."""
        backend = await self.backend()
        self.features: Features = backend.features
        if self.features.new_queue:
            await self._open_queue(backend)
        self._wall = time.time() - anyio.current_time()
        return self

    async def _open_queue(self, backend: Backend) -> None:
        """Send a new queue its first job, so that a wait for it is over before the check, which measures times."""
        queue = self.queue()
        await backend.publish([Outgoing(queue, self.mark, b"the first one")])
        await backend.admin.purge(queue)

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect, then delete what the check made: in this order, or a consumer would declare it again."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLEAN_UP_TIMEOUT):
            try:
                await self._exits.aclose()
            finally:
                await self._clear()

    # ── what a check uses ──

    @property
    def has_store(self) -> bool:
        """Tell whether there is a store."""
        return self._make_store is not None

    @property
    def long(self) -> float:
        """Seconds: a lease that does not end while a check plays."""
        return max(LONG_LEASE, 10 * self.lease)

    @property
    def beyond(self) -> float:
        """Seconds after which every lease that is not extended has expired, for the broker and for its holder."""
        return self.lease + self.margin + self.features.delay_error + CLOCK_TOLERANCE

    @property
    def timeout(self) -> float:
        """Seconds to wait for something that has to come. Costs nothing where it comes."""
        return 3.0 + 2 * (self.lease + self.margin + self.features.delay_error)

    @property
    def written(self) -> Mapping[str, float | None]:
        """Every record that was written on this harness, and how long it was to be kept."""
        return self._written

    def queue(self, name: str = "q") -> str:
        """Return the name of a queue of this harness's own."""
        queue = f"{self.mark}.{name}"
        self._queues.add(queue)
        return queue

    def name(self, name: str) -> str:
        """Return a name of this harness's own, for a task, a key or a record."""
        return f"{self.mark}.{name}"

    async def backend(self) -> Backend:
        """Open a connection to the broker."""
        return await self._exits.enter_async_context(self._make_backend())

    def connection(self) -> AbstractAsyncContextManager[Backend]:
        """Make a connection to the broker that ends when the check leaves it, as a process would."""
        return self._make_backend()

    async def store(self) -> Store:
        """Open a connection to the store."""
        return await self._exits.enter_async_context(self._records())

    async def app(
        self,
        *,
        around: Callable[[Backend], Backend] = lambda backend: backend,
        around_store: Callable[[Store], Store] = lambda store: store,
        **settings: Any,
    ) -> App:
        """Open an app with connections of its own, the harness's lease and clock, and defaults for the rest.

        :param around: wraps the connection, to record or to fail on command.
        :param around_store: wraps the connection to the store.
        """
        chosen: dict[str, Any] = {**DEFAULTS, "lease": self.lease, **settings}
        app = App(
            around(self._make_backend()),
            store=around_store(self._records()) if self.has_store else "none",
            clock=self.now,
            **chosen,
        )
        return await self._exits.enter_async_context(app)

    async def step_worker(
        self, app: App, *queues: str, name: str = "step-worker", lease: float | None = None
    ) -> StepWorker:
        """Open a worker that does one thing at a time, on this harness's queue or on those named."""
        return await self._exits.enter_async_context(StepWorker(app, queues or (self.queue(),), lease=lease, name=name))

    def now(self) -> float:
        """Return the seconds since the epoch, on the clock that ``sleep`` moves."""
        return self._wall + anyio.current_time()

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        await anyio.sleep(seconds)

    async def outlast(self, seconds: float) -> None:
        """Let so much time pass, and what a busy machine and this broker may add to it."""
        await anyio.sleep(seconds + self.margin + self.features.delay_error + CLOCK_TOLERANCE)

    # ── afterwards ──

    async def traces(self) -> list[str]:
        """Return what the check made and did not remove; asked on connections of its own, after the end."""
        async with self._make_backend() as backend:
            existing = set(await backend.admin.queues())
        left = [f"queue {queue}" for queue in sorted(self._queues & existing)]
        if self._make_store is not None and self._written:
            async with self._make_store() as store:
                left += [f"record {key}" for key in self._own_records if await store.get(key) is not None]
        return left

    async def _clear(self) -> None:
        if self._queues:
            async with self._make_backend() as backend:
                for queue in sorted(self._queues):
                    await backend.admin.delete(queue)
        if self._make_store is not None and self._written:
            async with self._make_store() as store:
                await store.put_many([Write(key=key, value=None) for key in self._own_records])

    @property
    def _own_records(self) -> list[str]:
        """The records to remove: not the one that others write and read, too, and that ends by itself."""
        return sorted(self._written.keys() - {NEWEST_CANCEL})

    def _records(self) -> Store:
        if self._make_store is None:
            raise LookupError("this harness has no store; a check that needs one says so")
        return RecordingStore(self._make_store(), self._written)

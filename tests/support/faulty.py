"""Brokers, stores and workers that fail when a test says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from taskcore import App, BrokerUnavailable
from taskcore.backends.memory import MemoryBackend
from taskcore.stores.memory import MemoryStore
from taskcore.worker.hosting import WorkerChoice, make_worker

__all__ = ["BROKER_VERBS", "STORE_VERBS", "FaultyBackend", "FaultyStore", "Log", "doomed", "eventually", "letters"]

Hook = Callable[[Sequence[Any]], Awaitable[None]]


class Faults:
    """What goes wrong: ``down`` has the verbs that cannot reach the broker, ``calls`` how often each was tried.

    ``before`` and ``after`` hold a hook for a verb; what a hook raises is what the verb raises, before or after it was
    carried out.
    """

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.calls: Counter[str] = Counter()
        self.before: dict[str, Hook] = {}
        self.after: dict[str, Hook] = {}
        self.waiting: set[anyio.CancelScope] = set()

    def fail(self, *verbs: str) -> None:
        """Let these verbs fail from now on; a call that waits in ``receive`` fails too."""
        self.down.update(verbs)
        if "receive" in verbs:
            for scope in self.waiting:
                scope.cancel()

    def heal(self) -> None:
        """End all faults."""
        self.down.clear()

    async def around(self, verb: str, items: Sequence[Any], work: Callable[[], Awaitable[Any]]) -> Any:
        """Carry a verb out, or not."""
        self.calls[verb] += 1
        if verb in self.down:
            await anyio.lowlevel.checkpoint()
            raise BrokerUnavailable(f"{verb}: the broker is gone")
        if verb in self.before:
            await self.before[verb](items)
        answer = await work()
        if verb in self.after:
            await self.after[verb](items)
        return answer

    async def outage(self, seconds: float, *verbs: str) -> None:
        """Let these verbs fail for a while."""
        self.fail(*verbs)
        await anyio.sleep(seconds)
        self.down.difference_update(verbs)


class FaultyBackend(MemoryBackend):
    """The in-memory backend with faults."""

    def __init__(self) -> None:
        super().__init__()
        self.faults = Faults()
        self.sources: list[FaultySource] = []

    async def publish(self, batch):
        """Store jobs, or fail."""
        return await self.faults.around("publish", batch, lambda: super(FaultyBackend, self).publish(batch))

    @asynccontextmanager
    async def consume(self, queues, *, lease):
        """Open a source with the same faults, and some of its own."""
        async with super().consume(queues, lease=lease) as source:
            faulty = FaultySource(source, self.faults)
            self.sources.append(faulty)
            yield faulty


class FaultySource:
    """A source with faults. ``frozen``: its leases are not extended, though ``extend`` confirms it."""

    def __init__(self, source: Any, faults: Faults) -> None:
        self._source = source
        self._faults = faults
        self.frozen = False

    async def receive(self, limit):
        """Wait for deliveries, or fail; an outage that begins meanwhile ends the wait, as a lost connection would."""

        async def receive():
            with anyio.CancelScope() as scope:
                self._faults.waiting.add(scope)
                try:
                    return await self._source.receive(limit)
                finally:
                    self._faults.waiting.discard(scope)
            raise BrokerUnavailable("receive: the broker is gone meanwhile")

        return await self._faults.around("receive", [], receive)

    async def settle(self, batch):
        """Carry out verdicts, or fail."""
        return await self._faults.around("settle", batch, lambda: self._source.settle(batch))

    async def extend(self, batch):
        """Extend leases, or fail."""
        if self.frozen:
            return []
        return await self._faults.around("extend", batch, lambda: self._source.extend(batch))


class FaultyStore(MemoryStore):
    """The in-memory store with faults."""

    def __init__(self) -> None:
        super().__init__()
        self.faults = Faults()

    async def get(self, key):
        """Read, or fail."""
        return await self.faults.around("get", [key], lambda: super(FaultyStore, self).get(key))

    async def get_many(self, keys):
        """Read, or fail."""
        return await self.faults.around("get_many", keys, lambda: super(FaultyStore, self).get_many(keys))

    async def put(self, key, value, *, expect, keep):
        """Write, or fail."""
        return await self.faults.around(
            "put", [key], lambda: super(FaultyStore, self).put(key, value, expect=expect, keep=keep)
        )

    async def delete(self, key, *, expect):
        """Delete, or fail."""
        return await self.faults.around("delete", [key], lambda: super(FaultyStore, self).delete(key, expect=expect))

    async def put_many(self, writes):
        """Write, or fail."""
        return await self.faults.around("put_many", writes, lambda: super(FaultyStore, self).put_many(writes))


STORE_VERBS = ("get", "get_many", "put", "delete", "put_many")
BROKER_VERBS = ("publish", "receive", "settle", "extend")


class Log(list):
    """What happened, in order; ``wait`` waits for so many entries."""

    async def wait(self, entries: int = 1) -> None:
        """Wait until so much has happened."""
        while len(self) < entries:  # noqa: ASYNC110 - entries come from threads, too
            await anyio.sleep(0.01)


def worker_of(app: App, queues: Any = None, concurrency: int | None = None, grace: float | None = None) -> Any:
    """Make a worker as the app does."""
    return make_worker(app.components, app.settings, app.tasks, WorkerChoice(queues, concurrency, grace))


@asynccontextmanager
async def doomed(app: App, **options: Any) -> AsyncIterator[Any]:
    """Run a worker that dies at the end of the block as if its process did: nothing settled, nothing given back."""
    async with app, anyio.create_task_group() as group:
        worker = worker_of(app, **options)
        await group.start(worker.run)
        yield worker
        group.cancel_scope.cancel()


async def eventually(true: Callable[[], Any], *, within: float = 60.0) -> None:
    """Wait until it is true."""
    with anyio.fail_after(within):
        while True:
            found = true()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return
            await anyio.sleep(0.01)


async def letters(app: App, queue: str = "default") -> list[Any]:
    """List all dead letters of a queue."""
    return [letter async for letter in app.dead_letters.read(queue)]

"""Stage: where checks play. A broker, names of its own, a way to let time pass, and no traces afterwards.

    stage = Stage.at("redis://localhost:6379/15")        a real broker, real time, short leases
    stage = Stage.in_memory()                            under a virtual clock or in real time, as the loop has it

A check asks the stage for connections as often as it likes; each is a connection of its own to the same broker, as two
processes would have. Every queue and every record that a check makes has the stage's mark in its name and is deleted at
the end.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import anyio

from taskcore.adapters import has_store, open_backend, open_store
from taskcore.app import App
from taskcore.backend import Backend, Features
from taskcore.store import Store
from taskcore.testing.hands import Hands

__all__ = ["Stage"]


class Stage:
    """One place for one check. Use it with ``async with``; connections live until its end.

    :param backend: makes a connection to the broker; called for each connection that a check wants.
    :param store: likewise for the store; None: the broker has none.
    :param lease: seconds; checks wait for leases to end, so it is short on real brokers.
    :param margin: seconds that something may come late because the machine is busy.
    """

    def __init__(
        self, backend: Callable[[], Backend], store: Callable[[], Store] | None, *, lease: float, margin: float
    ) -> None:
        self.lease = lease
        self.margin = margin
        self.mark = f"tc{secrets.token_hex(4)}"
        self._make_backend = backend
        self._make_store = store
        self._exits = AsyncExitStack()
        self._queues: set[str] = set()
        self._wall = 0.0  # what the loop's clock read when the epoch began

    @classmethod
    def in_memory(cls, *, lease: float = 30.0, margin: float = 0.0) -> Self:
        """One in-memory broker and store that all connections share."""
        backend, store = open_backend("memory://"), open_store("memory://")
        return cls(lambda: backend, lambda: store, lease=lease, margin=margin)

    @classmethod
    def at(cls, url: str, *, store: str | None = None, lease: float = 1.0, margin: float = 1.0) -> Self:
        """A real broker."""
        records = store or (url if has_store(url) else None)
        if url.startswith("memory:"):
            return cls.in_memory(lease=lease, margin=margin)
        return cls(
            lambda: open_backend(url),
            None if records is None else lambda: open_store(records),
            lease=lease,
            margin=margin,
        )

    async def __aenter__(self) -> Self:
        """Connect once, to learn what the broker can do."""
        self.features: Features = (await self.backend()).features
        self._wall = time.time() - anyio.current_time()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Delete what the check made, then disconnect."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(30):
            backend = await self.backend()
            for queue in sorted(self._queues):
                await backend.admin.delete(queue)
            await self._exits.aclose()

    # ── what a check uses ──

    @property
    def has_store(self) -> bool:
        """Whether there is a store."""
        return self._make_store is not None

    def queue(self, name: str = "q") -> str:
        """A queue of this stage's own."""
        queue = f"{self.mark}.{name}"
        self._queues.add(queue)
        return queue

    async def backend(self) -> Backend:
        """A connection to the broker."""
        return await self._exits.enter_async_context(self._make_backend())

    async def store(self) -> Store:
        """A connection to the store."""
        if self._make_store is None:
            raise LookupError("this stage has no store; a check that needs one says so")
        return await self._exits.enter_async_context(self._make_store())

    async def app(self, **settings: Any) -> App:
        """An open app with connections of its own, and the stage's lease and clock."""
        app = App(
            self._make_backend(),
            store=self._make_store() if self._make_store is not None else None,
            clock=self.now,
            **{"lease": self.lease, **settings},
        )
        return await self._exits.enter_async_context(app)

    async def hands(self, app: App, *queues: str, name: str = "hands") -> Hands:
        """A worker that does one thing at a time, on this stage's queue or on those named."""
        return await self._exits.enter_async_context(Hands(app, queues or (self.queue(),), name=name))

    def now(self) -> float:
        """Seconds since the epoch, on the clock that ``sleep`` moves."""
        return self._wall + anyio.current_time()

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        await anyio.sleep(seconds)

    async def outlast(self, seconds: float) -> None:
        """Let so much time pass, and what a busy machine and this broker may add to it."""
        await anyio.sleep(seconds + self.margin + self.features.delay_error)

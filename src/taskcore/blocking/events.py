"""``app.sync.events(…)``: what happens to jobs, for programs without an event loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio

from taskcore.events import EventStream, JobEvent
from taskcore.observe import EventName
from taskcore.toolkit.units import Duration, seconds_of

if TYPE_CHECKING:
    from taskcore.blocking.app import SyncApp

__all__ = ["SyncEventStream", "SyncSubscribe"]


class SyncSubscribe:
    """``app.sync.events``; see :class:`taskcore.events.Subscribe`."""

    def __init__(self, app: SyncApp[Any]) -> None:
        self._app = app

    def __call__(
        self, *, kinds: EventName | Iterable[EventName] | None = None, queues: str | Iterable[str] | None = None
    ) -> SyncEventStream:
        """Return a context whose value yields events, from its entry on; see :class:`taskcore.events.Subscribe`."""
        return SyncEventStream(self._app.inner.events(kinds=kinds, queues=queues), self._app)


class SyncEventStream:
    """Events of jobs, as they come, blocking; see :class:`taskcore.events.EventStream`."""

    def __init__(self, stream: EventStream, app: SyncApp[Any]) -> None:
        self._stream = stream
        self._run = app.bridge

    def __enter__(self) -> Self:
        self._run(self._stream.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run(self._stream.__aexit__, kind, error, traceback)

    def __iter__(self) -> Iterator[JobEvent]:
        while True:
            yield self._run(self._stream.__anext__)

    def get(self, timeout: Duration | None = None) -> JobEvent | None:
        """Wait for the next event; None after the timeout."""
        seconds = None if timeout is None else seconds_of("timeout", timeout)

        async def following() -> JobEvent | None:
            with anyio.move_on_after(seconds):
                return await anext(self._stream)
            return None

        return self._run(following)

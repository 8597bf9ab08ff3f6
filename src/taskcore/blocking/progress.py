"""``job.progress()`` and ``job.log()`` of blocking handles: reading what a job tells, once or as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from taskcore.errors import NotRunning
from taskcore.progress import JobLog, JobLogLine, JobProgress
from taskcore.task import Bridge, Job

if TYPE_CHECKING:
    from taskcore.blocking.handles import SyncJob

__all__ = ["SyncLogReader", "SyncProgressReader", "SyncReadLog", "SyncReadProgress"]

T = TypeVar("T")


class SyncReadProgress:
    """``job.progress`` of a blocking handle; see :class:`taskcore.progress.ReadProgress`."""

    def __init__(self, job: SyncJob[Any]) -> None:
        self._job = job

    def __call__(self) -> SyncProgressReader:
        """Return what can be read for the last progress, or iterated for each new one until the job's end."""
        return SyncProgressReader(self._job.job, self._job.bridge)


class SyncReadLog:
    """``job.log`` of a blocking handle; see :class:`taskcore.progress.ReadLog`."""

    def __init__(self, job: SyncJob[Any]) -> None:
        self._job = job

    def __call__(self) -> SyncLogReader:
        """Return what can be read for the log so far, or iterated for each line until the job's end."""
        return SyncLogReader(self._job.job, self._job.bridge)


class SyncProgressReader:
    """The progress of a job, blocking; see :class:`taskcore.progress.ProgressReader`."""

    def __init__(self, job: Job[Any], bridge: Bridge) -> None:
        self._reader = job.progress()
        self._bridge = bridge

    def read(self) -> JobProgress | None:
        """Read the last progress; None if there is none, or none any more."""
        return self._bridge(self._reader.read)

    def __iter__(self) -> Iterator[JobProgress]:
        return blocking_items(self._reader, self._bridge)


class SyncLogReader:
    """The log of a job, blocking; see :class:`taskcore.progress.LogReader`."""

    def __init__(self, job: Job[Any], bridge: Bridge) -> None:
        self._reader = job.log()
        self._bridge = bridge

    def read(self) -> JobLog:
        """Read the log; without lines if there is none, or none any more."""
        return self._bridge(self._reader.read)

    def __iter__(self) -> Iterator[JobLogLine]:
        return blocking_items(self._reader, self._bridge)


def blocking_items(items: AsyncIterable[T], bridge: Bridge) -> Iterator[T]:
    """Yield items that come in the app's event loop, and let go of their source at the end."""
    iterator: Any = None  # an async generator, or an iterator that needs no closing

    async def following() -> list[T]:
        nonlocal iterator
        if iterator is None:
            iterator = aiter(items)
        try:
            return [await anext(iterator)]
        except StopAsyncIteration:
            return []

    async def close() -> None:
        if iterator is not None and hasattr(iterator, "aclose"):
            await iterator.aclose()

    try:
        while item := bridge(following):
            yield item[0]
    finally:
        with suppress(NotRunning):  # a loop runs here, or the app is closed, and with it the watches
            bridge(close)

"""``job.progress()`` and ``job.log()``: reading what a job reports, once or as it comes, until the job has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, Self, TypeVar

import anyio

from taskcore.client.host import AppHost
from taskcore.errors import BrokerUnavailable, NotRunning, ResultNotKept, StoreRequired
from taskcore.progress.record import (
    JobLog,
    JobLogLine,
    JobProgress,
    decode_log,
    decode_progress,
    log_name,
    progress_name,
    seen_log,
    seen_progress,
)
from taskcore.records.names import outcome_name
from taskcore.store import Record, Store
from taskcore.task import Job
from taskcore.toolkit.detached import start_detached
from taskcore.toolkit.groups import unwrap_single

__all__ = ["LogReader", "ProgressReader", "ReadLog", "ReadProgress"]

T = TypeVar("T")


class ReadProgress:
    """``job.progress``: call it to read how far a job has got."""

    def __init__(self, job: Job[Any]) -> None:
        self._job = job

    def __call__(self) -> ProgressReader:
        """Return what can be awaited for the last progress, or iterated for each new one until the job's end."""
        return ProgressReader(self._job)


class ReadLog:
    """``job.log``: call it to read the log of a job."""

    def __init__(self, job: Job[Any]) -> None:
        self._job = job

    def __call__(self) -> LogReader:
        """Return what can be awaited for the log so far, or iterated for each line until the job's end."""
        return LogReader(self._job)


class _JobReader:
    """What one job has reported."""

    def __init__(self, job: Job[Any]) -> None:
        self._job = job

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._job!r}>"

    async def _fetch(self, name: str) -> bytes | None:
        record = await self._ask(lambda store: store.get(name))
        return None if record is None else record.value

    async def _ask(self, question: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        return await ask_store(self._job, question)


class ProgressReader(_JobReader):
    """The progress of a job: ``await`` it for the last one, or follow it with ``async for``.

    :raises StoreRequired: the app has no store (TC105).
    :raises ResultNotKept: to follow a job whose result is not kept, because its end cannot be seen (TC406).
    """

    def __await__(self) -> Generator[Any, Any, JobProgress | None]:
        """Read the last progress; None if there is none, or none any more."""
        return self.read().__await__()

    async def __aiter__(self) -> AsyncGenerator[JobProgress]:
        """Yield the progress as it is, then each new one as it is written; a slow reader may miss some in between."""
        async with aclosing(followed(self._job, progress_name(self._job.id))) as values:
            async for value in values:
                yield seen_progress(decode_progress(value))

    async def read(self) -> JobProgress | None:
        """Read the last progress; None if there is none, or none any more."""
        value = await self._fetch(progress_name(self._job.id))
        return None if value is None else seen_progress(decode_progress(value))


class LogReader(_JobReader):
    """The log of a job: ``await`` it for all lines so far, or follow it with ``async for``.

    :raises StoreRequired: the app has no store (TC105).
    :raises ResultNotKept: to follow a job whose result is not kept, because its end cannot be seen (TC406).
    """

    def __await__(self) -> Generator[Any, Any, JobLog]:
        """Read the log; without lines if there is none, or none any more."""
        return self.read().__await__()

    async def __aiter__(self) -> AsyncGenerator[JobLogLine]:
        """Yield the lines that are there, then each new one."""
        seen: Counter[JobLogLine] = Counter()
        async with aclosing(followed(self._job, log_name(self._job.id))) as values:
            async for value in values:
                now = seen_log(decode_log(value)).lines
                for line in now:
                    if seen[line]:
                        seen[line] -= 1
                    else:
                        yield line
                seen = Counter(now)

    async def read(self) -> JobLog:
        """Read the log; without lines if there is none, or none any more."""
        value = await self._fetch(log_name(self._job.id))
        return JobLog(()) if value is None else seen_log(decode_log(value))


async def ask_store(job: Job[Any], question: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
    """Ask the store of a job's app, where the app is open.

    :raises StoreRequired: the app has no store (TC105).
    """
    host: Any = job.task.host
    if not isinstance(host, AppHost):
        raise NotRunning(
            f"no app can be asked about job {job.id}", fix="make the handle by app.job(id) or task.job(id)"
        )

    async def ask(store: Store | None) -> T:
        if store is None:
            raise StoreRequired(f"progress and log of {job.task.name} are kept in a store, and this app has none")
        return await question(store)

    return await host.ask(lambda queries: ask(queries.store))


async def followed(job: Job[Any], name: str) -> AsyncGenerator[bytes]:
    """Yield a record of a job, and each later version of it that is seen, until the job has ended.

    :raises ResultNotKept: the end of the job cannot be seen (TC406).
    """
    if job.task.options.keep_result is None:
        raise ResultNotKept(
            f"results of {job.task.name} are not kept, so the end of job {job.id} cannot be seen",
            fix="@app.task(keep_result=3600.0) keeps them for an hour; or read it once: await job.progress()",
            job_id=job.id,
        )
    follower = await ask_store(job, partial(Follower.begin, name=name, outcome=outcome_name(job.id)))
    try:
        while (value := await ask_store(job, follower.following)) is not None:
            yield value
    finally:
        with anyio.CancelScope(shield=True), suppress(NotRunning):  # the app is closed, and with it its watches
            await ask_store(job, follower.end)


class Follower:
    """Watches one record of a job, and whether the job has ended, in a task of its own where the app is open."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._scope = anyio.CancelScope()
        self._changed = anyio.Event()
        self._unread: bytes | None = None
        self._last: bytes | None = None
        self._has_ended = self._is_done = False
        self._error: Exception | None = None

    @classmethod
    async def begin(cls, store: Store, *, name: str, outcome: str) -> Self:
        """Begin to watch; what is written from now on is seen."""
        follower, ready = cls(name), anyio.Event()
        start_detached(partial(follower._watch_both, store, outcome, ready), name="taskcore follower")
        await ready.wait()
        return follower

    async def following(self, store: Store) -> bytes | None:
        """Wait for a version that was not seen yet; None after the last one, when the job has ended.

        :raises BrokerUnavailable: the store cannot be reached.
        """
        while True:
            value, self._unread = self._unread, None
            if value is not None and value != self._last:
                self._last = value
                return value
            if self._error is not None:
                raise self._error
            if self._is_done:
                return None
            if self._has_ended:  # what was written before the end may not have been seen yet
                record = await store.get(self._name)
                self._unread = None if record is None else record.value
                self._is_done = True
                continue
            self._changed = anyio.Event()
            await self._changed.wait()

    async def end(self, _: Store) -> None:
        """Watch no more."""
        self._scope.cancel()

    async def _watch_both(self, store: Store, outcome: str, ready: anyio.Event) -> None:
        try:
            with self._scope, unwrap_single():
                async with store.watch(self._name) as reports, store.watch(outcome) as ends:
                    ready.set()
                    async with anyio.create_task_group() as group:
                        group.start_soon(self._take_reports, reports)
                        await self._take_end(ends)
                        group.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - raised in the reader
            self._error = error
        finally:
            ready.set()
            self._changed.set()

    async def _take_reports(self, records: AsyncIterator[Record]) -> None:
        async for record in records:
            self._unread = record.value
            self._changed.set()
        raise BrokerUnavailable("the store ended a watch by itself", fix="ask again")

    async def _take_end(self, records: AsyncIterator[Record]) -> None:
        async for _ in records:
            self._has_ended = True
            return
        raise BrokerUnavailable("the store ended a watch by itself", fix="ask again")

"""The writer: carries what running jobs report into the store, all jobs of an app in one batch, about once a second.

    first      at once
    then       what has changed, every WRITE_EVERY
    at the end of the start, before its outcome is settled

A write expects the version that this start wrote last. A conflict shows what stands there: of an earlier start it is
replaced, and where a later start has written, this one is silent from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol
from weakref import WeakValueDictionary

import anyio

from taskcore.errors import BrokerUnavailable, StoreRefused, UnreadableRecord
from taskcore.store import Conflict, Expect, Record, Store, Version, Write
from taskcore.toolkit.batching import GroupCommit
from taskcore.toolkit.detached import Detached, start_detached
from taskcore.toolkit.logging import logger

__all__ = ["ReportedRecord", "Reports", "Writer", "writer_of"]

log = logger("taskcore.progress")

WRITE_EVERY = 1.0  #: seconds between two batches
GATHER_FOR = 0.02  #: seconds for which the first reports of several jobs are gathered
CALLERS_PER_BATCH = 500  #: callers whose records are written together
RECORDS_PER_WRITE = 200  #: records in one write; a log may be large
WRITE_TRIES = 5  #: writes of one record in a row; two starts of a job meet no more often
FINAL_TRIES, FINAL_PAUSE = 3, 0.2  #: at the end of a job, while the store cannot be reached


class ReportedRecord(Protocol):
    """A record that a running job changes."""

    name: str
    keep: float
    expect: Expect
    is_lost: bool  #: nothing is written any more

    @property
    def is_due(self) -> bool:
        """Whether there is something to write."""
        ...

    def take(self) -> bytes:
        """Return the record, and count it as written."""
        ...

    def put_back(self) -> None:
        """Count it as not written."""
        ...

    def written(self, version: Version) -> None:
        """Note the version that was written."""
        ...

    def on_conflict(self, current: Record | None) -> None:
        """See what stands there, in order to write again.

        :raises UnreadableRecord: it is none of ours (TC408).
        """
        ...


class Reports(Protocol):
    """What one start of a job reports."""

    job_id: str

    @property
    def records(self) -> Sequence[ReportedRecord]:
        """The records that it changes."""
        ...


class Writer:
    """Writes for all jobs that run over one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[Reports, None] = {}
        self._runs = False
        self._new = anyio.Event()
        self._commits = GroupCommit[Sequence[ReportedRecord], None](self._commit, limit=CALLERS_PER_BATCH)
        self._detached = Detached()
        self._troubled = False
        self._in_flight: frozenset[ReportedRecord] = frozenset()

    def add(self, reports: Reports) -> None:
        """Write what this job reports from now on; in the event loop."""
        self._open[reports] = None
        self._new.set()
        if not self._runs:
            self._runs = True
            start_detached(self._run, name="taskcore progress")

    async def finish(self, reports: Reports) -> None:
        """Write the last of it, and no more; goes on when the caller is cancelled."""
        self._open.pop(reports, None)
        if any(record.is_due or record in self._in_flight for record in reports.records):
            await self._detached.run(partial(self._finish, reports))

    async def write(self, reports: Reports) -> None:
        """Write now what has changed; return when it is written, by whichever batch.

        :raises BrokerUnavailable: the store cannot be reached.
        """
        await self._commits.submit(reports.records)

    async def _finish(self, reports: Reports) -> None:
        for number in range(FINAL_TRIES):
            try:
                return await self.write(reports)
            except BrokerUnavailable as error:
                if number + 1 == FINAL_TRIES:
                    log.warning("the last progress of job %s is not kept: %s", reports.job_id, error.what)
                else:
                    await anyio.sleep(FINAL_PAUSE)
            except Exception:
                log.exception("the last progress of job %s is not kept", reports.job_id)
                return None
        return None

    async def _run(self) -> None:
        """Write until no job reports anything more."""
        next_tick, known = anyio.current_time() + WRITE_EVERY, set[ReportedRecord]()
        try:
            while self._open:
                with anyio.CancelScope(deadline=next_tick):
                    await self._new.wait()
                    await anyio.sleep(GATHER_FOR)
                now, self._new = anyio.current_time(), anyio.Event()
                is_tick = now >= next_tick
                records = {record for reports in self._open for record in reports.records}
                due = [record for record in records if record.is_due and (is_tick or record not in known)]
                known = records
                if due:
                    await self._try(due)
                if is_tick:
                    next_tick = now + WRITE_EVERY
        finally:
            self._runs = False

    async def _try(self, due: Sequence[ReportedRecord]) -> None:
        try:
            await self._commits.submit(due)
        except BrokerUnavailable as error:
            if not self._troubled:
                log.warning("the progress of running jobs cannot be written; trying again: %s", error.what)
            self._troubled = True
        except Exception:
            log.exception("the progress of running jobs could not be written; trying again")
        else:
            self._troubled = False

    # ── one batch ──

    async def _commit(self, batches: list[Sequence[ReportedRecord]]) -> Sequence[None]:
        due = list(dict.fromkeys(record for batch in batches for record in batch if record.is_due))
        self._in_flight = frozenset(due)
        try:
            for _ in range(WRITE_TRIES):
                if not due:
                    break
                due = await self._put(due)
        finally:
            self._in_flight = frozenset()
        for record in due:
            log.warning(
                "the record %s was changed by other writers at each of %d tries; trying again", record.name, WRITE_TRIES
            )
        return [None] * len(batches)

    async def _put(self, due: Sequence[ReportedRecord]) -> list[ReportedRecord]:
        """Write records, and return those that found another record."""
        if len(due) > RECORDS_PER_WRITE:
            parts = [due[start : start + RECORDS_PER_WRITE] for start in range(0, len(due), RECORDS_PER_WRITE)]
            return [again for part in parts for again in await self._put(part)]
        writes = [Write(key=one.name, value=one.take(), expect=one.expect, keep=one.keep) for one in due]
        try:
            answers = await self._store.put_many(writes)
        except BaseException as error:
            for one in due:
                one.put_back()
            if not isinstance(error, StoreRefused):
                raise
            return await self._put_apart(due, error)
        again = []
        for one, answer in zip(due, answers, strict=True):
            if not isinstance(answer, Conflict):
                one.written(answer)
                continue
            one.put_back()
            try:
                one.on_conflict(answer.current)
            except UnreadableRecord as error:
                _give_up(one, error)
            if not one.is_lost:
                again.append(one)
        return again

    async def _put_apart(self, due: Sequence[ReportedRecord], error: StoreRefused) -> list[ReportedRecord]:
        """Find the one that the store refuses: the others of its batch are written."""
        if len(due) == 1:
            _give_up(due[0], error)
            return []
        return [again for one in due for again in await self._put([one])]


def _give_up(record: ReportedRecord, error: StoreRefused | UnreadableRecord) -> None:
    record.is_lost = True
    log.warning("the record %s is not written any more: %s", record.name, error.what)


#: The writers by the identities of their stores; jobs that report hold them, and they hold their store.
_WRITERS: WeakValueDictionary[int, Writer] = WeakValueDictionary()


def writer_of(store: Store) -> Writer:
    """Return the writer of an app's store; in the event loop."""
    writer = _WRITERS.get(id(store))
    if writer is None:
        writer = _WRITERS[id(store)] = Writer(store)
    return writer

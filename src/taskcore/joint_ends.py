"""The outcome of a job and its end in one transaction, where queue and records are in one database.

Elsewhere an outcome is stored first, and a crash before the verdict hands the job out once more, to be settled by that
outcome. Here both are durable in one moment, for one flush of the disk. What does not go smoothly, a lost lease or an
outcome that is there already, is rolled back and done step by step as elsewhere.

An adapter has the verbs below or has them not; it imports nothing of this module.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, runtime_checkable

from taskcore.backend import Delivery, Source
from taskcore.components import Components
from taskcore.lifecycle import Verdict
from taskcore.observe import Events
from taskcore.records import Records
from taskcore.store import Version, Write
from taskcore.worker.decide import Settlement
from taskcore.worker.execution import ENDED_ACKED
from taskcore.worker.settle_records import RecordSettler

__all__ = ["InDatabase", "JoinsTransactions", "SettlesTogether", "record_settler"]


@runtime_checkable
class InDatabase(Protocol):
    """A backend or a store whose tables are in a database; equal ones share connections and transactions."""

    @property
    def database(self) -> Hashable:
        """Which database that is."""
        ...


class SettlesTogether(Protocol):
    """A source of such a backend."""

    async def settle_together(self, batch: Sequence[tuple[Delivery, Verdict]], also: Callable[..., Any]) -> Any:
        """Carry out the verdicts and other work in one transaction; return what the work answers.

        None: a lease was lost, or the work answered None, or the database refused a value; nothing was done.

        :raises BrokerUnavailable: perhaps all was done, perhaps nothing.
        """
        ...


class JoinsTransactions(Protocol):
    """A store of such a database."""

    def joining(self, writes: Sequence[Write]) -> Callable[..., Any]:
        """Make the work that does these writes in a transaction of a backend; it answers None if one conflicts.

        :raises StoreRefused: no store takes one of them.
        """
        ...

    def joined(self, writes: Sequence[Write], versions: Sequence[Version]) -> None:
        """Learn that they are durable."""
        ...


def record_settler(components: Components, records: Records) -> RecordSettler:
    """Make what settles the records of jobs: together with their ends, if that can be."""
    backend: Any = getattr(components.backend, "inner", components.backend)
    store: Any = getattr(components.store, "inner", components.store)
    if isinstance(backend, InDatabase) and isinstance(store, InDatabase) and backend.database == store.database:
        return JointRecordSettler(records, components.events, store)
    return RecordSettler(records, components.events)


class JointRecordSettler(RecordSettler):
    """Settles jobs together with their outcomes."""

    def __init__(self, records: Records, events: Events, store: Any) -> None:
        super().__init__(records, events)
        self._store: JoinsTransactions = store

    async def store_outcomes(self, batch: Sequence[Settlement]) -> None:
        """Store outcomes and tell the verdicts, in one transaction for the jobs of each source.

        A step of a workflow is not acknowledged here: what follows from its end is published before.
        """
        by_source: dict[Source, list[Settlement]] = {}
        for one in batch:
            if not one.tried and one.job.state is not ENDED_ACKED and one.job.beyond is None:
                by_source.setdefault(one.job.source, []).append(one)
        for source, ends in by_source.items():
            await self._end(source, ends)
        if left := [one for one in batch if not one.settled]:
            await super().store_outcomes(left)

    async def _end(self, source: Any, batch: Sequence[Settlement]) -> None:
        inner: SettlesTogether = getattr(source, "inner", source)
        write = self.records.outcomes.write
        writes = [write(one.job.envelope.id, one.stored or b"", one.keep or 0.0) for one in batch]
        verdicts = [(one.job.delivery, one.verdict) for one in batch]
        work = self._store.joining(writes)
        for one in batch:
            one.tried = True
        began = time.perf_counter()
        try:
            versions = await inner.settle_together(verdicts, work)
        except Exception as error:
            self._tell_span("settle.failed", batch, began, error)
            raise
        if versions is None:
            for one in batch:
                one.tried = False
            return
        self._store.joined(writes, versions)
        self._tell_span("settle.complete", batch, began, None)
        for one, version in zip(batch, versions, strict=True):
            one.written, one.settled = version, True
        if self._events.listeners:
            for one in batch:
                self._events.tell(one.event, one.facts)

    def _tell_span(self, name: Any, batch: Sequence[Settlement], began: float, error: Exception | None) -> None:
        self._events.emit(name, size=len(batch), seconds=time.perf_counter() - began, error=error)

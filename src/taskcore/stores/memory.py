"""The in-memory store: keyed records with compare-and-set and a time to live, for one process.

It is the reference for all other stores. Time is the event loop's clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from itertools import count
from typing import Self

import anyio

from taskcore.store import Conflict, Expect, Record, Version, Write, is_expected
from taskcore.stores.watches import Watch, Watches
from taskcore.toolkit.diagnostics import Diagnosis, DiagnosticCheck

__all__ = ["MemoryStore"]

MAX_STALE_TIMERS = 1_000  #: timers of records that are gone, before they are removed


ENDS_WITH_THE_PROCESS = DiagnosticCheck(
    name="durability",
    level="ok",
    text="results, keys and start markers live in this process and end with it",
    fix="name a store: store, or TASKCORE_STORE; a broker that keeps records is one already",
    clauses=("C1", "C10"),
)


class MemoryStore:
    """Records in this process; the URL's options belong to the backend of the same name."""

    def __init__(self, url: str = "memory://") -> None:  # noqa: ARG002 - every adapter takes its URL
        self._records: dict[str, tuple[Record, float]] = {}  # key → record, when it ends
        self._ends: list[tuple[float, str, Version]] = []  # heap
        self._versions = count(1)
        self.watches = Watches(begin=lambda watch: self.get(watch.key), end=lambda _: None)  # writes push

    async def __aenter__(self) -> Self:
        """Do nothing: there is no server."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Keep the records as long as this object."""

    async def diagnose(self) -> Diagnosis:
        """Report what a store inside this program cannot promise."""
        return Diagnosis(
            server="memory, in this process",
            durability="records live in this process and end with it",
            checks=(ENDS_WITH_THE_PROCESS,),
        )

    async def get(self, key: str) -> Record | None:
        """Return the record, unless it has ended."""
        self._forget_ended(anyio.current_time())
        return self._find(key)

    async def get_many(self, keys: Sequence[str]) -> Sequence[Record | None]:
        """Fetch some records, in order; None for each that is not there."""
        self._forget_ended(anyio.current_time())
        return [self._find(key) for key in keys]

    async def put(self, key: str, value: bytes, *, expect: Expect, keep: float | None) -> Version | Conflict:
        """Write if the record is as expected."""
        now = anyio.current_time()
        self._forget_ended(now)
        return self._write(key, value, expect, keep, now)

    async def delete(self, key: str, *, expect: Expect) -> bool:
        """Delete the record if it is as expected."""
        self._forget_ended(anyio.current_time())
        found = self._find(key)
        return found is not None and not isinstance(self._delete(key, expect), Conflict)

    async def put_many(self, writes: Sequence[Write]) -> Sequence[Version | Conflict]:
        """Carry out all writes, one answer each."""
        now = anyio.current_time()
        self._forget_ended(now)
        return [
            self._delete(write.key, write.expect)
            if write.value is None
            else self._write(write.key, write.value, write.expect, write.keep, now)
            for write in writes
        ]

    def watch(self, key: str) -> AbstractAsyncContextManager[Watch]:
        """Return a watch: the record as it is, then each new one."""
        return self.watches.watch(key)

    def _find(self, key: str) -> Record | None:
        found = self._records.get(key)
        return found[0] if found else None

    def _write(self, key: str, value: bytes, expect: Expect, keep: float | None, now: float) -> Version | Conflict:
        current = self._find(key)
        if not is_expected(current, expect):
            return Conflict(current)
        version = next(self._versions)
        record = Record(value, version)
        if keep is None:
            self._records[key] = record, float("inf")
        else:
            self._records[key] = record, now + keep
            heapq.heappush(self._ends, (now + keep, key, version))
            if len(self._ends) > 2 * len(self._records) + MAX_STALE_TIMERS:
                self._forget_replaced()
        self.watches.push(key, record)
        return version

    def _delete(self, key: str, expect: Expect) -> Version | Conflict:
        current = self._find(key)
        if not is_expected(current, expect):
            return Conflict(current)
        if current is None:
            return ""
        del self._records[key]
        return current.version

    def _forget_ended(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, key, version = heapq.heappop(self._ends)
            found = self._records.get(key)
            if found is not None and found[0].version == version:
                del self._records[key]

    def _forget_replaced(self) -> None:
        """Remove the timers of records that were overwritten or deleted, which would stay until the first end."""
        self._ends = [timer for timer in self._ends if (found := self._find(timer[1])) and found.version == timer[2]]
        heapq.heapify(self._ends)

"""Marks in a store: merged by compare-and-set, many groups in one round trip.

The conflict rule: a write that meets other marks merges with what is there and is tried again, at once; the answer to
a conflict brings what is there, so no read is needed. The sum of marks only grows, so who has seen a record full may
act on it, and so may all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from taskcore.errors import StoreRefused
from taskcore.store import ABSENT, Conflict, Expect, Store, Version, Write
from taskcore.workflows.marks import merge

__all__ = ["MarkRecords", "NewMarks"]

WRITE_TRIES = 1_000  #: writes of one record of marks; each loses only to another writer that got on
REMEMBERED = 4_096  #: records whose last version is remembered


class NewMarks(NamedTuple):
    """Marks to be merged into a record.

    :param keep: seconds for which the record is kept.
    """

    name: str
    marks: bytes
    keep: float


class MarkRecords:
    """The records of marks over any store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[str, tuple[Expect, bytes]] = {}
        self.writes = 0  #: how many writes were tried

    async def add(self, new: Sequence[NewMarks]) -> dict[str, bytes]:
        """Merge marks into their records; for each record the marks that it has then."""
        wanted: dict[str, NewMarks] = {}
        for one in new:
            before = wanted.get(one.name)
            wanted[one.name] = one if before is None else one._replace(marks=merge(before.marks, one.marks))
        done: dict[str, bytes] = {}
        for _ in range(WRITE_TRIES):
            if not wanted:
                return done
            tries = [(one, *self._seen.get(one.name, (ABSENT, b""))) for one in wanted.values()]
            writes = [
                Write(key=one.name, value=merge(there, one.marks), expect=expect, keep=one.keep)
                for one, expect, there in tries
            ]
            self.writes += len(writes)
            for (one, _, _), write, answer in zip(tries, writes, await self._store.put_many(writes), strict=True):
                if isinstance(answer, Conflict):
                    self._remember(one.name, answer)
                else:
                    done[one.name] = write.value or b""
                    self._note(one.name, answer, done[one.name])
                    del wanted[one.name]
        raise StoreRefused(
            f"the marks {next(iter(wanted))} had changed at each of {WRITE_TRIES} writes", fix="try again"
        )

    def _remember(self, name: str, conflict: Conflict) -> None:
        current = conflict.current
        if current is None:
            self._seen.pop(name, None)
        else:
            self._note(name, current.version, current.value)

    def _note(self, name: str, version: Version, marks: bytes) -> None:
        self._seen.pop(name, None)
        self._seen[name] = version, marks
        while len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]

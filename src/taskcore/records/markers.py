"""Start markers: they count the starts of a job that have no outcome, because such a start may have killed its process.

A worker marks a start before the function runs and clears the mark after the broker has the verdict. What stays is a
start whose process died (C12), or lost its lease and lived on. A worker that lives on says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from taskcore.envelope import CRASHES_KEPT, CrashRecord
from taskcore.store import ABSENT, Conflict, Expect, Store, Write, unreadable_record

__all__ = ["NO_STARTS", "StartMarkers", "Starts"]

MOST_STARTS = 1_000_000  #: that a marker can count
MARKER_KEPT = 7 * 86_400.0  #: seconds for which a start without an outcome is remembered


class Starts(msgspec.Struct, frozen=True, gc=False):
    """Starts of a job without an outcome: how many, and who began the last of them when.

    ``by`` begins with a start of an unknown worker where the first one of all, which is not marked, has no outcome.
    """

    count: Annotated[int, msgspec.Meta(ge=0, le=MOST_STARTS)]
    by: Annotated[tuple[CrashRecord, ...], msgspec.Meta(max_length=CRASHES_KEPT)] = ()

    def with_next(self, worker: str, now: float, *, first_lost: bool) -> tuple[tuple[CrashRecord, ...], Starts]:
        """Return who began these starts, and the starts together with the next one.

        :param first_lost: the first start of all, which is not marked, has no outcome.
        """
        by = self.by or ((CrashRecord("?", now),) if first_lost else ())
        return by, Starts(min(self.count + 1, MOST_STARTS), (*by, CrashRecord(worker, now))[-CRASHES_KEPT:])


NO_STARTS = Starts(0)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Starts).decode


class StartMarkers:
    """Counts starts over any store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def find(self, marker: str) -> tuple[Starts, Expect]:
        """Find the marked starts, and what the next mark has to expect.

        :raises UnreadableRecord: the record is no marker (TC408).
        """
        record = await self._store.get(marker)
        if record is None:
            return NO_STARTS, ABSENT
        try:
            return _decode(record.value), record.version
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise unreadable_record(f"the record {marker}", record.value, error) from error

    async def mark(self, marker: str, starts: Starts, expect: Expect) -> bool:
        """Write the starts, the one that is about to begin included.

        :returns: False if another holder of the job has marked a start since: the lease is lost.
        """
        value = _encode(starts)
        write = Write(key=marker, value=value, expect=expect, keep=MARKER_KEPT, reserve=True)
        [answer] = await self._store.put_many([write])
        if not isinstance(answer, Conflict):
            return True
        return answer.current is not None and answer.current.value == value  # ours: the first answer was lost

    async def outlive(self, marker: str) -> None:
        """Count one more start whose lease ended while its process lived."""
        found, expect = await self.find(marker)
        await self.mark(marker, Starts(min(found.count + 1, MOST_STARTS), found.by), expect)

    async def clear(self, markers: Sequence[tuple[str, Starts | None]]) -> None:
        """Write the starts without an outcome that each marker still has; delete a marker that has none."""
        if markers:
            await self._store.put_many([_left(marker, starts) for marker, starts in markers])


def _left(marker: str, starts: Starts | None) -> Write:
    if starts is None or not starts.count:
        return Write(key=marker, value=None)
    return Write(key=marker, value=_encode(starts), keep=MARKER_KEPT)

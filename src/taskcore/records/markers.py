"""Start markers: they count the starts of a job that have no outcome, because such a start may have killed its process.

A worker marks a start before the function runs and clears the mark after the broker has the verdict. What stays is a
start whose process died (C12), or lost its lease and lived on. A worker that lives on says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from taskcore.store import Store, Write, unreadable_record

__all__ = ["StartMarkers"]

MOST_STARTS = 1_000_000  #: that a marker can count
MARKER_KEPT = 7 * 86_400.0  #: seconds for which a start without an outcome is remembered


class StartMarkers:
    """Counts starts over any store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def count(self, marker: str) -> int:
        """Count the marked starts.

        :raises UnreadableRecord: the marker holds no number (TC408).
        """
        record = await self._store.get(marker)
        if record is None:
            return 0
        try:
            return min(max(int(record.value), 0), MOST_STARTS)
        except ValueError as error:
            raise unreadable_record(f"the record {marker}", record.value, "it holds no number") from error

    async def mark(self, marker: str, starts: int) -> None:
        """Write the number of starts, the one that is about to begin included."""
        await self._store.put_many([_count(marker, starts, reserve=True)])

    async def outlive(self, marker: str) -> None:
        """Count one more start whose lease ended while its process lived."""
        await self.mark(marker, await self.count(marker) + 1)

    async def clear(self, markers: Sequence[tuple[str, int]]) -> None:
        """Write how many starts without an outcome each marker still has; delete a marker that has none."""
        if markers:
            await self._store.put_many([_count(marker, starts) for marker, starts in markers])


def _count(marker: str, starts: int, *, reserve: bool = False) -> Write:
    if not starts:
        return Write(key=marker, value=None)
    return Write(key=marker, value=str(starts).encode(), keep=MARKER_KEPT, reserve=reserve)

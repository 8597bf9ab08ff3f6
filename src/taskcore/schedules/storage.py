"""Schedules in a store: reading many, changing one, and keeping the index of their ids.

The index names an id before its record is written, and forgets it after the record is gone, so no record is without a
name. A name without a record is harmless: the reader finds nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from taskcore.errors import StoreRefused, UnreadableRecord
from taskcore.schedules.record import (
    CHANGED,
    ScheduleRecord,
    decode_index,
    decode_record,
    encode_index,
    encode_record,
    index_name,
    index_names,
    record_name,
)
from taskcore.store import ABSENT, ANY, Conflict, Record, Store, Version, Write
from taskcore.toolkit.logging import logger

__all__ = ["FoundSchedule", "ScheduleStorage"]

log = logger("taskcore.schedules")

READ_BATCH = 500  #: records in one read
WRITE_TRIES = 50  #: writes of a record that others change at the same time


class FoundSchedule(NamedTuple):
    """A schedule's record and its version."""

    record: ScheduleRecord
    version: Version


class ScheduleStorage:
    """The records of schedules over any store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def find(self, schedule: str) -> FoundSchedule | None:
        """Read one schedule.

        :raises UnreadableRecord: its record cannot be read (TC408).
        """
        record = await self._store.get(record_name(schedule))
        return None if record is None else FoundSchedule(decode_record(record.value), record.version)

    async def read(self, schedules: Sequence[str]) -> list[FoundSchedule | None]:
        """Read schedules in few round trips; what cannot be read is logged, and None."""
        found: list[FoundSchedule | None] = []
        for start in range(0, len(schedules), READ_BATCH):
            names = [record_name(one) for one in schedules[start : start + READ_BATCH]]
            found += [_read(record) for record in await self._store.get_many(names)]
        return found

    async def index(self) -> dict[str, int]:
        """Read the revisions of all schedules."""
        index: dict[str, int] = {}
        for part in await self._store.get_many(index_names()):
            if part is not None:
                index.update(decode_index(part.value))
        return index

    async def write(self, changes: Iterable[tuple[ScheduleRecord, Version]]) -> list[Version | FoundSchedule | None]:
        """Write records over the versions that were read: for each its new version, or the one that stands."""
        writes = [
            Write(key=record_name(record.id), value=encode_record(record), expect=version)
            for record, version in changes
        ]
        if not writes:
            return []
        answers = await self._store.put_many(writes)
        return [
            (None if answer.current is None else _read(answer.current)) if isinstance(answer, Conflict) else answer
            for answer in answers
        ]

    async def change(
        self, schedule: str, change: Callable[[ScheduleRecord | None], ScheduleRecord | None]
    ) -> ScheduleRecord | None:
        """Change one record by a function of what stands; it returns the same object, or None, to change nothing.

        :return: what stands now.
        """
        found = await self.find(schedule)
        for _ in range(WRITE_TRIES):
            old = None if found is None else found.record
            new = change(old)
            if new is None or new is old:
                return old
            expect = ABSENT if found is None else found.version
            answer = await self._store.put(record_name(schedule), encode_record(new), expect=expect, keep=None)
            if not isinstance(answer, Conflict):
                return new
            found = (
                None
                if answer.current is None
                else FoundSchedule(decode_record(answer.current.value), answer.current.version)
            )
        raise StoreRefused(
            f"the record of schedule {schedule} was changed by other writers at each of {WRITE_TRIES} tries",
            fix="find the program that writes to this store",
        )

    async def remove(self, schedule: str) -> bool:
        """Delete a schedule; False if there is none."""
        removed = await self._store.delete(record_name(schedule), expect=ANY)
        await self.enter({schedule: None})
        return removed

    async def enter(self, revisions: Mapping[str, int | None], *, tell: bool = True) -> None:
        """Write revisions into the index; None removes an id.

        :param tell: tell the instances that watch.
        """
        parts: defaultdict[str, dict[str, int | None]] = defaultdict(dict)
        for schedule, revision in revisions.items():
            parts[index_name(schedule)][schedule] = revision
        for name, changes in parts.items():
            await self._enter_part(name, changes)
        if tell and revisions:
            await self._store.put_many([Write(key=CHANGED, value=b"{}")])

    async def _enter_part(self, name: str, changes: Mapping[str, int | None]) -> None:
        found = await self._store.get(name)
        for _ in range(WRITE_TRIES):
            old = {} if found is None else decode_index(found.value)
            new = {one: revision for one, revision in {**old, **changes}.items() if revision is not None}
            if new == old:
                return
            expect = ABSENT if found is None else found.version
            answer = await self._store.put(name, encode_index(new), expect=expect, keep=None)
            if not isinstance(answer, Conflict):
                return
            found = answer.current
        raise StoreRefused(
            f"the record {name} was changed by other writers at each of {WRITE_TRIES} tries", fix="try again"
        )


def _read(record: Record | None) -> FoundSchedule | None:
    if record is None:
        return None
    try:
        return FoundSchedule(decode_record(record.value), record.version)
    except UnreadableRecord as error:
        log.error("a schedule does not fire: %s", error)  # noqa: TRY400 - the text says it all
        return None

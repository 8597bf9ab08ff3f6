"""``app.sync.schedules``: a blocking form for each verb of schedules."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from functools import partial
from typing import Any, Unpack

from taskcore.blocking.handles import SyncJob
from taskcore.schedules import OnExists, Schedule, ScheduleOptions, Schedules
from taskcore.schedules.record import ScheduleRecord
from taskcore.task import Bridge, Call

__all__ = ["SyncSchedule", "SyncSchedules"]


class SyncSchedules:
    """``app.sync.schedules``: blocking forms of :class:`taskcore.schedules.Schedules`."""

    def __init__(self, schedules: Schedules, bridge: Bridge) -> None:
        self._schedules = schedules
        self._bridge = bridge

    def put(
        self, id: str, call: Call[Any], /, *, on_exists: OnExists = "error", **options: Unpack[ScheduleOptions]
    ) -> SyncSchedule:
        """Store a schedule that sends a call; see :meth:`taskcore.schedules.Schedules.put`."""
        put = partial(self._schedules.put, id, call, on_exists=on_exists, **options)
        return SyncSchedule(self._bridge(put), self._bridge)

    def get(self, id: str) -> SyncSchedule:
        """Read one schedule; see :meth:`taskcore.schedules.Schedules.get`."""
        return SyncSchedule(self._bridge(self._schedules.get, id), self._bridge)

    def all(self) -> Iterator[SyncSchedule]:
        """Yield every schedule, by id; see :meth:`taskcore.schedules.Schedules.all`."""
        schedules: AsyncIterator[Schedule] = self._schedules.all()

        async def following() -> Schedule | None:
            return await anext(schedules, None)

        while (schedule := self._bridge(following)) is not None:
            yield SyncSchedule(schedule, self._bridge)

    def remove(self, id: str) -> bool:
        """Delete a schedule; see :meth:`taskcore.schedules.Schedules.remove`."""
        return self._bridge(self._schedules.remove, id)

    def pause(self, id: str, note: str = "") -> SyncSchedule:
        """Let a schedule fire no more until it is resumed; see :meth:`taskcore.schedules.Schedules.pause`."""
        return SyncSchedule(self._bridge(self._schedules.pause, id, note), self._bridge)

    def resume(self, id: str, *, catch_up: bool = False) -> SyncSchedule:
        """Let a paused schedule fire again; see :meth:`taskcore.schedules.Schedules.resume`."""
        return SyncSchedule(self._bridge(partial(self._schedules.resume, id, catch_up=catch_up)), self._bridge)

    def fire(self, id: str) -> SyncJob[Any]:
        """Send the call of a schedule once, now; see :meth:`taskcore.schedules.Schedules.fire`."""
        return SyncJob(self._bridge(self._schedules.fire, id), self._bridge)

    def backfill(
        self, id: str, since: datetime, until: datetime, *, label: str, limit: int = 1_000
    ) -> list[SyncJob[Any]]:
        """Send the jobs of instants that are over; see :meth:`taskcore.schedules.Schedules.backfill`."""
        backfill = partial(self._schedules.backfill, id, since, until, label=label, limit=limit)
        return [SyncJob(job, self._bridge) for job in self._bridge(backfill)]


class SyncSchedule:
    """One schedule, as it was read; blocking.

    :ivar schedule: its asynchronous handle.
    """

    def __init__(self, schedule: Schedule, bridge: Bridge) -> None:
        self.schedule = schedule
        self._bridge = bridge

    def __repr__(self) -> str:
        return f"<Sync{repr(self.schedule).removeprefix('<')}"

    @property
    def id(self) -> str:
        """Its id."""
        return self.schedule.id

    @property
    def record(self) -> ScheduleRecord:
        """Everything that its record says."""
        return self.schedule.record

    @property
    def is_stored(self) -> bool:
        """False for one that this program declares, and that no worker has written into the store yet."""
        return self.schedule.is_stored

    @property
    def is_paused(self) -> bool:
        """Whether it is paused."""
        return self.schedule.is_paused

    @property
    def is_retired(self) -> bool:
        """Whether no code declares it any more."""
        return self.schedule.is_retired

    def explain(self) -> str:
        """Tell its timetable in English."""
        return self.schedule.explain()

    def preview(self, number: int = 5, *, after: datetime | None = None) -> list[datetime]:
        """Return the next instants; see :meth:`taskcore.schedules.Schedule.preview`."""
        return self.schedule.preview(number, after=after)

    def pause(self, note: str = "") -> None:
        """Let it fire no more until it is resumed."""
        self._bridge(self.schedule.pause, note)

    def resume(self, *, catch_up: bool = False) -> None:
        """Let it fire again, from now on."""
        self._bridge(partial(self.schedule.resume, catch_up=catch_up))

    def remove(self) -> bool:
        """Delete it; False if it is gone already."""
        return self._bridge(self.schedule.remove)

    def fire(self) -> SyncJob[Any]:
        """Send its call once, now, beside its timetable."""
        return SyncJob(self._bridge(self.schedule.fire), self._bridge)

    def backfill(self, since: datetime, until: datetime, *, label: str, limit: int = 1_000) -> list[SyncJob[Any]]:
        """Send the jobs of instants that are over; see :meth:`taskcore.schedules.Schedules.backfill`."""
        backfill = partial(self.schedule.backfill, since, until, label=label, limit=limit)
        return [SyncJob(job, self._bridge) for job in self._bridge(backfill)]

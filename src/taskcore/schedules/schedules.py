"""``app.schedules``: put, read, pause, resume, remove, fire and backfill schedules while the program runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, Final, Literal, TypeAlias, Unpack, get_args

import msgspec

from taskcore.client.host import AppHost
from taskcore.components import Components
from taskcore.envelope import NAME_LIMIT, Tick, check_name, is_safe_id, new_id
from taskcore.errors import InvalidSetting, StoreRequired
from taskcore.schedules.clocks import fires_somewhere
from taskcore.schedules.define import Definition, ScheduleOptions, define, redefine
from taskcore.schedules.errors import ScheduleExists, ScheduleNotFound
from taskcore.schedules.publish import moment, tick_call
from taskcore.schedules.record import ScheduleRecord, tick_id, tick_key
from taskcore.schedules.storage import READ_BATCH, ScheduleStorage
from taskcore.schedules.timetable import instants_of, upcoming
from taskcore.task import Call, Job, Task
from taskcore.toolkit.logging import logger
from taskcore.toolkit.units import shorten_repr

__all__ = ["OnExists", "Schedule", "Schedules"]

log = logger("taskcore.schedules")

#: What ``put`` does about a schedule with the same id and another definition.
OnExists: TypeAlias = Literal["error", "replace", "keep"]
ON_EXISTS: Final = get_args(OnExists)
MOST_SHOWN = 100_000  #: instants of one preview


class Schedules:
    """The schedules of an app: ``app.schedules``."""

    def __init__(
        self,
        host: AppHost,
        tasks: Mapping[str, Task[..., Any]],
        components: Callable[[], Components],
        declared: Mapping[str, Definition],
        release: str | None,
    ) -> None:
        self._host = host
        self._tasks = tasks
        self._components = components
        self._declared = declared
        self._release = release

    async def put(
        self, id: str, call: Call[Any], /, *, on_exists: OnExists = "error", **options: Unpack[ScheduleOptions]
    ) -> Schedule:
        """Store a schedule that sends a call; :class:`ScheduleOptions` explains the options.

        The same definition again changes nothing. Workers of apps that declare or use schedules fire it; for others
        there is the setting ``schedules``.

        :param on_exists: what to do if the id has another definition.
        :raises ScheduleExists: the id has another definition, or code declares it (TC310).
        :raises InvalidSetting: an option does not exist or cannot be (TC104).
        """
        check_name("schedule", id)
        if not isinstance(call, Call):
            raise InvalidSetting(f"schedule {id}: {shorten_repr(call)} is not a call", fix="give one: task.call(…)")
        if on_exists not in ON_EXISTS:
            what = f"schedule {id}: on_exists={shorten_repr(on_exists)}"
            raise InvalidSetting(what, fix=f"give one of {', '.join(map(repr, ON_EXISTS))}")
        definition, storage, now = define(id, call, options), self._storage(), self._now()

        def put(old: ScheduleRecord | None) -> ScheduleRecord | None:
            is_code = id in self._declared if old is None else old.origin == "code" and old.retired is None
            if is_code:
                raise ScheduleExists(f"schedule {id} is declared in code", fix="take another id, or change the code")
            if old is None:
                return redefine(None, definition, now, origin="put")
            if not definition.differs(old) or on_exists == "keep":
                return old
            if on_exists != "replace":
                raise ScheduleExists(
                    f"schedule {id} exists with another definition",
                    facts=[f"it is: {old.timetable.explain()}, {old.call.task}", f"you gave: {definition.explain()}"],
                    fix='on_exists="replace" changes it, on_exists="keep" leaves it; or take another id',
                )
            return redefine(old, definition, now, origin="put")

        if await storage.find(id) is None:
            await storage.enter({id: 0}, tell=False)
        record = await storage.change(id, put)
        if record is None:
            raise _not_found(id)
        await storage.enter({id: record.revision})
        await self._warn_if_none_fires(id)
        return Schedule(self, record)

    async def get(self, id: str) -> Schedule:
        """Read one schedule: from the store, or else from this program's code.

        :raises ScheduleNotFound: there is none with this id (TC410).
        """
        found = await self._storage().find(check_name("schedule", id))
        if found is not None:
            return Schedule(self, found.record)
        return Schedule(self, self._from_code(id), is_stored=False)

    async def all(self) -> AsyncIterator[Schedule]:
        """Yield every schedule of the store and of this program's code, by id; without those that have a new id."""
        storage = self._storage()
        ids = sorted({*await storage.index(), *self._declared})
        for start in range(0, len(ids), READ_BATCH):
            batch = ids[start : start + READ_BATCH]
            for one, found in zip(batch, await storage.read(batch), strict=True):
                if found is None and one in self._declared:
                    yield Schedule(self, self._from_code(one), is_stored=False)
                elif found is not None and not found.record.moved:
                    yield Schedule(self, found.record)

    async def remove(self, id: str) -> bool:
        """Delete a schedule; False if there was none. One that code declares comes back with the next worker."""
        return await self._storage().remove(check_name("schedule", id))

    async def pause(self, id: str, note: str = "") -> Schedule:
        """Let a schedule fire no more until it is resumed; its instants do not count as missed.

        :param note: why, for those who read it; at most 512 characters.
        :raises InvalidSetting: the note cannot be one (TC104).
        :raises ScheduleNotFound: there is none with this id (TC410).
        """
        if note != "" and not (isinstance(note, str) and is_safe_id(note)):
            raise InvalidSetting(f"note={shorten_repr(note)} is not a text", fix="give one without control characters")
        now = self._now()
        return await self._change(id, lambda old: msgspec.structs.replace(old, paused=old.paused or now, note=note))

    async def resume(self, id: str, *, catch_up: bool = False) -> Schedule:
        """Let a paused schedule fire again, from now on.

        :param catch_up: its instants since the pause count as missed, and fire as its policy says.
        :raises ScheduleNotFound: there is none with this id (TC410).
        """
        now = self._now()

        def resume(old: ScheduleRecord) -> ScheduleRecord:
            if old.paused is None:
                return old
            upto = old.upto if catch_up else max(old.upto, now)
            return msgspec.structs.replace(old, paused=None, note="", upto=upto)

        return await self._change(id, resume)

    async def fire(self, id: str) -> Job[Any]:
        """Send the call of a schedule once, now, beside its timetable.

        :raises ScheduleNotFound: there is none with this id (TC410).
        """
        record = (await self.get(id)).record
        tick = Tick(schedule=id, at=moment(self._now()), previous=_previous(record))
        return await self._host.send(self._call(record, tick, new_id(), record.call.key))

    async def backfill(
        self, id: str, since: datetime, until: datetime, *, label: str, limit: int = 1_000
    ) -> list[Job[Any]]:
        """Send the jobs of instants that are over; the same label again sends none twice.

        :param since, until: aware dates and times, both included.
        :param label: names this backfill, and is part of the jobs' ids.
        :param limit: how many instants there may be.
        :raises InvalidSetting: there are more (TC104).
        """
        if type(limit) is not int or not isinstance(label, str) or not is_safe_id(label) or len(label) > NAME_LIMIT:
            raise InvalidSetting(
                f"a backfill of {shorten_repr(limit)} instants with the label {shorten_repr(label)} cannot be",
                fix=f"give a whole number, and a label of 1 to {NAME_LIMIT} characters without control characters",
            )
        record = (await self.get(id)).record
        first, last = (round(one.timestamp() * 1000) for one in (_aware(since), _aware(until)))
        number = instants_of(record.timetable).count(first - 1, last) if first <= last else 0
        if number > limit:
            raise InvalidSetting(
                f"schedule {id} has {number} instants in this time, and the limit is {limit}",
                fix="backfill less at a time, or give a higher limit",
            )
        calls = [
            self._call(
                record,
                Tick(schedule=id, at=moment(instant), backfill=label),
                tick_id(id, instant, label),
                None if record.call.at_most_once else record.call.key or tick_key(id, instant, label),
            )
            for instant in islice(upcoming(record.timetable, first - 1), number)
        ]
        return await self._host.client.send_many(calls)

    # ── inside ──

    def _call(self, record: ScheduleRecord, tick: Tick, job_id: str, key: str | None) -> Call[Any]:
        task = self._tasks.get(record.call.task)
        if task is None:
            raise InvalidSetting(
                f"schedule {record.id} is of task {record.call.task}, which this app does not know",
                fix="import the module that declares the task",
            )
        return tick_call(record.call, task, tick, id=job_id, key=key)

    async def _change(self, id: str, change: Callable[[ScheduleRecord], ScheduleRecord]) -> Schedule:
        storage = self._storage()

        def changed(old: ScheduleRecord | None) -> ScheduleRecord | None:
            old = old or self._from_code(id)
            new = change(old)
            return old if new == old else msgspec.structs.replace(new, revision=old.revision + 1)

        if check_name("schedule", id) in self._declared and await storage.find(id) is None:
            await storage.enter({id: 0}, tell=False)
        record = await storage.change(id, changed)
        if record is None:
            raise _not_found(id)
        await storage.enter({id: record.revision})
        return Schedule(self, record)

    def _from_code(self, id: str) -> ScheduleRecord:
        """Make the record of a schedule that this program declares, as a worker would write it now."""
        definition = self._declared.get(id)
        if definition is None:
            raise _not_found(id)
        return redefine(None, definition, self._now(), origin="code", release=self._release)

    async def _warn_if_none_fires(self, id: str) -> None:
        store = self._components().store
        if store is not None and not await fires_somewhere(store):
            log.warning(
                "schedule %s is stored, and no worker that fires schedules was seen within ten minutes; start one, "
                "and if its app declares no schedule itself: App(…, schedules=True)",
                id,
            )

    def _storage(self) -> ScheduleStorage:
        store = self._components().store
        if store is None:
            raise StoreRequired("schedules are kept in a store, and this app has none")
        self._host.require_open()
        return ScheduleStorage(store)

    def _now(self) -> int:
        return int(self._components().clock() * 1000)


class Schedule:
    """One schedule, as it was read.

    :ivar record: everything that its record says.
    :ivar is_stored: False for one that this program declares, and that no worker has written into the store yet.
    """

    def __init__(self, schedules: Schedules, record: ScheduleRecord, *, is_stored: bool = True) -> None:
        self._schedules = schedules
        self.record = record
        self.is_stored = is_stored

    def __repr__(self) -> str:
        state = "paused" if self.is_paused else "retired" if self.is_retired else self.explain()
        return f"<Schedule {self.id} {self.record.call.task}, {state}>"

    @property
    def id(self) -> str:
        """Its id."""
        return self.record.id

    @property
    def is_paused(self) -> bool:
        """Whether it is paused."""
        return self.record.paused is not None

    @property
    def is_retired(self) -> bool:
        """Whether no code declares it any more."""
        return self.record.retired is not None

    def explain(self) -> str:
        """Tell its timetable in English."""
        return self.record.timetable.explain()

    def preview(self, number: int = 5, *, after: datetime | None = None) -> list[datetime]:
        """Return the next instants, in UTC; no I/O. Those of a paused one are what would fire.

        :param number: how many.
        :param after: where to begin; default: after the last instant that was decided.
        :raises InvalidSetting: one of the two cannot be that (TC104).
        """
        record = self.record
        if type(number) is not int or not 0 <= number <= MOST_SHOWN:
            what = f"number={shorten_repr(number)} is not a whole number from 0 to {MOST_SHOWN}"
            raise InvalidSetting(what, fix="give one, such as 5")
        start = record.upto if after is None else round(_aware(after).timestamp() * 1000)
        left = number if record.timetable.times is None else min(number, record.timetable.times - record.fired)
        return [moment(instant) for instant in islice(upcoming(record.timetable, start), max(left, 0))]

    async def pause(self, note: str = "") -> None:
        """Let it fire no more until it is resumed."""
        self.record = (await self._schedules.pause(self.id, note)).record

    async def resume(self, *, catch_up: bool = False) -> None:
        """Let it fire again, from now on."""
        self.record = (await self._schedules.resume(self.id, catch_up=catch_up)).record

    async def remove(self) -> bool:
        """Delete it; False if it is gone already."""
        return await self._schedules.remove(self.id)

    async def fire(self) -> Job[Any]:
        """Send its call once, now, beside its timetable."""
        return await self._schedules.fire(self.id)

    async def backfill(self, since: datetime, until: datetime, *, label: str, limit: int = 1_000) -> list[Job[Any]]:
        """Send the jobs of instants that are over, as :meth:`Schedules.backfill` does."""
        return await self._schedules.backfill(self.id, since, until, label=label, limit=limit)


def _previous(record: ScheduleRecord) -> datetime | None:
    return None if record.last is None else moment(record.last.at)


def _aware(when: datetime) -> datetime:
    if not isinstance(when, datetime) or when.utcoffset() is None:
        raise InvalidSetting(
            f"{shorten_repr(when)} is not an aware date and time", fix="give one with a zone: datetime(…, tzinfo=UTC)"
        )
    return when


def _not_found(id: str) -> ScheduleNotFound:
    return ScheduleNotFound(f"there is no schedule {shorten_repr(id)}", fix="`app.schedules.all()` lists them")

"""Declaring schedules in code, and what a new release makes of them.

    @app.schedule("nightly-report", cron="30 2 * * *", tz="Europe/Berlin")
    @app.task
    async def report() -> None: …

    app.schedule("ping", every="10s")(ping.call("eu"))
    app.schedule.renamed("old-report", to="nightly-report")
    app.schedule.retired("weekly-digest")

Each program declares when its worker starts. Of two definitions the one of the newer ``release`` wins; where no program
names its release, the one that started later. A schedule of code is fired only by programs that declare it.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, Protocol, TypeVar, Unpack

import msgspec

from taskcore.client.host import AppHost
from taskcore.components import Components
from taskcore.config import Settings
from taskcore.envelope import check_name
from taskcore.errors import InvalidArguments, InvalidSetting, StoreRequired
from taskcore.schedules.define import Definition, ScheduleOptions, define, redefine
from taskcore.schedules.record import ScheduleRecord
from taskcore.schedules.scheduler import RETIRE_AFTER, Scheduler
from taskcore.schedules.schedules import Schedules
from taskcore.schedules.storage import ScheduleStorage
from taskcore.store import Store
from taskcore.task import Call, Task
from taskcore.toolkit.logging import logger
from taskcore.toolkit.units import shorten_repr

__all__ = ["Declarations", "Schedulable", "ScheduleDecorator"]

log = logger("taskcore.schedules")

SEEN_EVERY = 1_200_000  #: milliseconds after which a program says again that it declares a schedule
DECLARE_BATCH = 500  #: schedules that are declared in one round trip


class Schedulable(Protocol):
    """A task that can be called without arguments."""

    def call(self) -> Call[Any]:
        """Check and pack no arguments."""
        ...


S = TypeVar("S", bound="Schedulable | Call[Any]")


class ScheduleDecorator(Protocol):
    """The result of ``app.schedule(…)``: takes a task without required parameters, or a call, and returns it."""

    def __call__(self, scheduled: S, /) -> S:
        """Declare the schedule."""
        ...


class Declarations:
    """``app.schedule``: what this program declares.

    :ivar ids: the schedules that it declares.
    """

    def __init__(
        self,
        host: AppHost,
        settings: Settings,
        tasks: Mapping[str, Task[..., Any]],
        components: Callable[[], Components],
    ) -> None:
        self.host = host
        self.tasks = tasks
        self.components = components
        self.ids: dict[str, Definition] = {}
        self._called: dict[str, Task[..., Any]] = {}
        self._release = settings.release
        self._source = settings.source
        self._renamed: dict[str, str] = {}
        self._retired: list[str] = []

    def __call__(self, id: str, /, **options: Unpack[ScheduleOptions]) -> ScheduleDecorator:
        """Declare a schedule: :class:`ScheduleOptions` explains the options.

        :raises InvalidSetting: an option does not exist or cannot be, the task has required parameters, or another
            schedule of this program has the id (TC104).
        :raises InvalidName: the id cannot travel (TC308).
        """
        check_name("schedule", id)

        def decorate(scheduled: S) -> S:
            call = _call_of(id, scheduled)
            definition = define(id, call, options)
            if id in self.ids and self.ids[id] != definition and not self._is_declared_again(id, call):
                raise InvalidSetting(
                    f"this program declares two schedules {id}",
                    facts=[f"one: {self.ids[id].explain()}", f"the other: {definition.explain()}"],
                    fix="give one of them another id; in a notebook, declare the task again, too",
                )
            if not self.ids:
                self.components().needs.append(f"the app declares schedules, {id} for example")
            self.ids[id], self._called[id] = definition, call.task
            return scheduled

        return decorate

    def _is_declared_again(self, id: str, call: Call[Any]) -> bool:
        """Tell whether a module was imported again: it has made its task anew."""
        before = self._called[id]
        return call.task is not before and call.task.name == before.name

    def renamed(self, old: str, *, to: str) -> None:
        """Say that a schedule has a new id: it goes on where it was, and no instant is lost or fires twice."""
        self._renamed[check_name("schedule", old)] = check_name("schedule", to)

    def retired(self, id: str) -> None:
        """Say that the code no longer declares a schedule: it fires no more, also not from older programs."""
        self._retired.append(check_name("schedule", id))

    @cached_property
    def schedules(self) -> Schedules:
        """The verbs for schedules while the program runs."""
        return Schedules(self.host, self.tasks, self.components, self.ids, self._release)

    def scheduler(self) -> Scheduler:
        """Make the service that fires schedules.

        :raises StoreRequired: the app has no store (TC105).
        """
        name = self._source or f"{socket.gethostname()}:{os.getpid()}"
        stagger = 50 + hashlib.blake2b(name.encode(), digest_size=1).digest()[0] * 200 // 255
        return Scheduler(self, self.store(), name=name, stagger=stagger)

    def store(self) -> Store:
        """Return the store of the app.

        :raises StoreRequired: it has none (TC105).
        """
        store = self.components().store
        if store is None:
            raise StoreRequired("schedules are kept in a store, and this app has none")
        return store

    # ── what a scheduler does with them ──

    async def declare(self) -> None:
        """Write what this program declares, where the record differs and this program is the newer one."""
        storage, now = ScheduleStorage(self.store()), self._now()
        for before, after in self._renamed.items():
            await self._rename(storage, before, after, now)
        for schedule in self._retired:
            await storage.change(schedule, partial(_retire, now=now))
        index = await storage.index()
        changed: dict[str, int | None] = {}
        declared = list(self.ids)
        await storage.enter(dict.fromkeys(set(declared) - index.keys(), 0), tell=False)
        for start in range(0, len(declared), DECLARE_BATCH):
            batch = declared[start : start + DECLARE_BATCH]
            for schedule, found in zip(batch, await storage.read(batch), strict=True):
                old = None if found is None else found.record
                become = partial(self._next, definition=self.ids[schedule], now=now)
                if old is None or become(old) is not old:
                    record = await storage.change(schedule, become)
                    changed[schedule] = None if record is None else record.revision
        await storage.enter({**changed, **dict.fromkeys(self._renamed)})

    async def refresh(self, now: int, *, up_since: int) -> None:
        """Say that this program still declares its schedules, and retire those that none has declared for an hour."""
        storage = ScheduleStorage(self.store())
        index = list(await storage.index())
        for start in range(0, len(index), DECLARE_BATCH):
            for found in await storage.read(index[start : start + DECLARE_BATCH]):
                if found is None or found.record.origin != "code" or found.record.retired is not None:
                    continue
                record = found.record
                if record.id in self.ids and now - record.seen > SEEN_EVERY:
                    await storage.change(record.id, partial(_see, now=now))
                elif record.id not in self.ids and now - max(record.seen, up_since) > RETIRE_AFTER:
                    log.warning("schedule %s: no program has declared it for an hour; it is retired", record.id)
                    await storage.change(record.id, partial(_retire, now=now))

    def _next(self, old: ScheduleRecord | None, definition: Definition, now: int) -> ScheduleRecord | None:
        """Return what a record becomes: the same object, if it stays."""
        if old is not None and old.origin == "put":
            log.error("schedule %s was put at run time, and code declares it, too; the code's is ignored", old.id)
            return old
        if old is not None and old.moved and old.id not in self._renamed.values():
            return old  # an older program, which does not know the new id
        if old is not None and old.retired is None and not definition.differs(old):
            return old if now - old.seen <= SEEN_EVERY else msgspec.structs.replace(old, seen=now)
        if old is not None and old.retired is None and not _is_newer(self._release, old.release):
            log.info("schedule %s: release %s has another definition, which stands", old.id, old.release)
            return old
        return redefine(old, definition, now, origin="code", release=self._release)

    async def _rename(self, storage: ScheduleStorage, old: str, new: str, now: int) -> None:
        """Retire the old record, then create the new one where the old one was; a crash in between is finished here."""
        before = await storage.change(old, lambda record: _retire(record, now, moved=new))
        if before is None or before.moved != new:
            return
        await storage.enter({new: 0}, tell=False)
        claims = tuple(msgspec.structs.replace(claim, of=claim.of or old) for claim in before.open)
        moved = msgspec.structs.replace(before, id=new, open=claims, retired=None, moved="")
        await storage.change(new, lambda record: moved if record is None or record.moved else record)

    def _now(self) -> int:
        return int(self.components().clock() * 1000)


def _see(record: ScheduleRecord | None, now: int) -> ScheduleRecord | None:
    return None if record is None else msgspec.structs.replace(record, seen=now)


def _retire(record: ScheduleRecord | None, now: int, *, moved: str = "") -> ScheduleRecord | None:
    if record is None or record.origin != "code" or (record.retired is not None and record.moved == moved):
        return record
    return msgspec.structs.replace(record, retired=record.retired or now, moved=moved, revision=record.revision + 1)


def _call_of(id: str, scheduled: object) -> Call[Any]:
    if isinstance(scheduled, Call):
        return scheduled
    if not isinstance(scheduled, Task):
        raise InvalidSetting(
            f"schedule {id}: {shorten_repr(scheduled)} is neither a task nor a call",
            fix="put @app.schedule(…) above @app.task, or give it a call: app.schedule(…)(task.call(…))",
        )
    try:
        return scheduled.call()
    except InvalidArguments as error:
        raise InvalidSetting(
            f"schedule {id}: {scheduled.name} cannot be called without arguments",
            facts=error.facts,
            fix="give the parameters defaults, or schedule a call: "
            f"app.schedule({id!r}, …)({scheduled.__name__}.call(…))",
        ) from error


def _is_newer(ours: str | None, theirs: str | None) -> bool:
    """Tell whether our definition wins: of equal releases, and without any, the program that starts later wins."""
    if ours is None:
        return theirs is None
    return theirs is None or [int(part) for part in ours.split(".")] >= [int(part) for part in theirs.split(".")]

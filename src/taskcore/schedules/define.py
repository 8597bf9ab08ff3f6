"""From what a caller wrote to a definition, and from a definition to a record."""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

from taskcore.errors import InvalidSetting
from taskcore.options import refuse_unknown
from taskcore.schedules.decide import decide
from taskcore.schedules.publish import pack_call
from taskcore.schedules.record import Missed, Overlap, PackedCall, Policies, ScheduleRecord
from taskcore.schedules.timetable import Timetable, Timing, make_timetable
from taskcore.task import Call
from taskcore.toolkit.units import Duration, seconds_of, shorten_repr

__all__ = ["Definition", "ScheduleOptions", "define", "redefine"]


class ScheduleOptions(Timing, total=False):
    """The options of a schedule: when it ticks, as :class:`taskcore.schedules.Timing` explains, and its policies.

    :param missed: which instants fire that could not fire in time, because no worker ran: the newest (``"once"``),
        none (``"skip"``) or ``"all"``; default: once.
    :param limit: how many of them fire at most, with all; default: 100.
    :param within: how old they may be, with all; default: a week.
    :param grace: how late an instant may fire without counting as missed; default: 30 seconds.
    :param overlap: what happens to an instant while the job of the one before has not ended: it is passed over
        (``"skip"``), fires all the same (``"allow"``), waits (``"queue"``), or the newest waits and takes the place of
        a job that has not started (``"latest"``); default: skip.
    :param stale_after: after this time a tick no longer holds up the next one; default: a day.
    """

    missed: Missed
    limit: int
    within: Duration
    grace: Duration
    overlap: Overlap
    stale_after: Duration


class Definition(msgspec.Struct, frozen=True):
    """What a schedule is: timetable, policies, call."""

    id: str
    timetable: Timetable
    policies: Policies
    call: PackedCall

    def differs(self, record: ScheduleRecord) -> bool:
        """Tell whether a record has another definition."""
        return (self.timetable, self.policies, _comparable(self.call)) != (
            record.timetable, record.policies, _comparable(record.call),
        )  # fmt: skip

    def explain(self) -> str:
        """Tell it in English."""
        return f"{self.timetable.explain()}, {self.call.task}"


def _comparable(call: PackedCall) -> bytes:
    return msgspec.json.encode(call)


def define(id: str, call: Call[Any], options: ScheduleOptions) -> Definition:
    """Check what a caller wrote.

    :raises InvalidSetting: an option does not exist, or cannot be (TC104).
    """
    refuse_unknown("a schedule", options, {**Timing.__annotations__, **ScheduleOptions.__annotations__})
    timing: Any = {name: value for name, value in options.items() if name in Timing.__annotations__}
    if call.options.id is not None:
        raise InvalidSetting(
            f"schedule {id}: its call has an id, so all its ticks would be one job", fix="leave out .using(id=…)"
        )
    definition = Definition(id, make_timetable(id, timing), _policies(id, options), pack_call(call))
    keeps = call.task.spec.keep_result
    if definition.call.at_most_once and keeps is None and definition.policies.overlap != "allow":
        raise InvalidSetting(
            f"schedule {id}: {call.task.name} runs at most once and keeps no results, so no end of it is known",
            fix='give the schedule overlap="allow", or let the task keep its results',
        )
    return definition


def _policies(id: str, options: ScheduleOptions) -> Policies:
    values: dict[str, Any] = {}
    for name, kinds in (("missed", get_args(Missed)), ("overlap", get_args(Overlap))):
        if name in options:
            value = options[name]  # type: ignore[literal-required]
            if value not in kinds:
                expected = ", ".join(f'"{kind}"' for kind in kinds)
                raise InvalidSetting(f"schedule {id}: {name}={shorten_repr(value)}", fix=f"give one of {expected}")
            values[name] = value
    for name in ("within", "grace", "stale_after"):
        if name in options:
            values[name] = round(seconds_of(name, options[name]) * 1000)  # type: ignore[literal-required]
    if "limit" in options:
        if type(options["limit"]) is not int or options["limit"] < 1:
            raise InvalidSetting(
                f"schedule {id}: limit={shorten_repr(options['limit'])}", fix="a whole number, at least 1"
            )
        values["limit"] = options["limit"]
    return Policies(**values)


def redefine(
    old: ScheduleRecord | None,
    definition: Definition,
    now: int,
    *,
    origin: Literal["code", "put"],
    release: str | None = None,
) -> ScheduleRecord:
    """Make the record of a definition; a schedule with the same timetable goes on where it was.

    A new timetable begins now. An instant of the old one that is due fires first, if the policies let it.
    """
    if old is not None and old.timetable == definition.timetable and old.retired is None:
        return msgspec.structs.replace(
            old,
            policies=definition.policies,
            call=definition.call,
            origin=origin,
            release=release,
            revision=old.revision + 1,
            seen=now,
        )
    timetable = definition.timetable
    upto = now if timetable.at is None else min(now, timetable.at - 1)
    record = ScheduleRecord(
        id=definition.id,
        origin=origin,
        timetable=timetable,
        policies=definition.policies,
        call=definition.call,
        release=release,
        since=now,
        upto=upto,
        seen=now,
    )
    if old is None:
        return record
    waiting = None
    if old.retired is None and old.paused is None:
        due = decide(msgspec.structs.replace(old, open=(), last=None), now, last_over=True).fire
        waiting = due[-1].at if due else None
    return msgspec.structs.replace(
        record,
        revision=old.revision + 1,
        open=() if old.retired is not None else old.open,
        last=old.last,
        waiting=waiting,
        paused=old.paused,
        note=old.note,
        missed=old.missed,
        overlapped=old.overlapped,
        lost=old.lost,
    )

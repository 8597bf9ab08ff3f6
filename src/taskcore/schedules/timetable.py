"""Timetables: at which instants a schedule ticks. Pure; instants are milliseconds since the epoch.

    cron    wall times of a zone         "30 2 * * *" in Europe/Berlin
    every   a period of a second or more; its instants are aligned to the epoch, so they never drift
    at      one instant

An instant is the tick's name. With a ``spread`` it fires up to that much later, by an offset that follows from schedule
and instant: the same on each instance, another one for each instant, never past the next instant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Protocol, TypedDict

import msgspec

from taskcore.errors import InvalidSetting
from taskcore.toolkit.units import Duration, seconds_of, shorten_repr, show_duration

__all__ = ["Instants", "Timetable", "Timing", "fires_at", "instants_of", "make_timetable", "upcoming"]

SHORTEST_PERIOD = 1_000  #: milliseconds of the shortest period


class Timing(TypedDict, total=False):
    """When a schedule ticks: one of ``cron``, ``every`` and ``at``. A time is seconds, a timedelta, or ``"5m"``.

    :param cron: five fields or a macro, such as ``"30 2 * * *"`` or ``"@hourly"``.
    :param every: a period of at least a second.
    :param at: one aware date and time.
    :param tz: the zone of ``cron``, such as ``"Europe/Berlin"``; default: UTC.
    :param start, end: aware dates and times before which, and after which, no instant counts.
    :param times: how many ticks fire at most.
    :param spread: by how much a tick fires later than its instant at most.
    :param phase: of ``every``: the offset of the first instant of the epoch; default: it follows from the id.
    """

    cron: str | None
    every: Duration | None
    at: datetime | None
    tz: str | None
    start: datetime | None
    end: datetime | None
    times: int | None
    spread: Duration | None
    phase: Duration | None


class Timetable(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """When a schedule ticks, checked. Times in milliseconds."""

    cron: str | None = None
    every: int | None = None
    at: int | None = None
    tz: str = "UTC"
    start: int | None = None
    end: int | None = None
    times: int | None = None
    spread: int = 0
    phase: int = 0

    def explain(self) -> str:
        """Tell the timetable in English."""
        parts = [self._when()]
        if self.start is not None:
            parts.append(f"from {_shown(self.start)}")
        if self.end is not None:
            parts.append(f"until {_shown(self.end)}")
        if self.times is not None:
            parts.append("once" if self.times == 1 else f"{self.times} times at most")
        if self.spread:
            parts.append(f"each up to {show_duration(self.spread / 1000)} later")
        return ", ".join(parts)

    def _when(self) -> str:
        if self.cron is not None:
            from taskcore.schedules.cron import parse_cron  # noqa: PLC0415 - other timetables need no cronsim

            return f"{parse_cron(self.cron).explain()}, {self.tz}"
        if self.every is not None:
            return f"Every {show_duration(self.every / 1000)}"
        return f"Once, at {_shown(self.at or 0)}"


class Instants(Protocol):
    """The instants of a timetable, without its start, end and spread."""

    def after(self, instant: int) -> int | None:
        """Return the first one after an instant."""
        ...

    def until(self, instant: int) -> int | None:
        """Return the last one up to an instant."""
        ...

    def count(self, after: int, until: int) -> int:
        """Count those after the first and up to the second."""
        ...


class _Cron:
    def __init__(self, timetable: Timetable) -> None:
        from taskcore.schedules import calendar  # noqa: PLC0415 - other timetables need no cronsim
        from taskcore.schedules.cron import parse_cron  # noqa: PLC0415 - the same

        self._calendar, self._cron = calendar, parse_cron(timetable.cron or "")
        self._zone = calendar.zone(timetable.tz)

    def after(self, instant: int) -> int | None:
        found = self._calendar.next_instant(self._cron, self._zone, instant // 1000)
        return None if found is None else found * 1000

    def until(self, instant: int) -> int | None:
        found = self._calendar.previous_instant(self._cron, self._zone, instant // 1000)
        return None if found is None else found * 1000

    def count(self, after: int, until: int) -> int:
        return self._calendar.count(self._cron, self._zone, after // 1000, until // 1000)


class _Every:
    def __init__(self, period: int, phase: int) -> None:
        self._period, self._phase = period, phase

    def after(self, instant: int) -> int:
        return ((instant - self._phase) // self._period + 1) * self._period + self._phase

    def until(self, instant: int) -> int:
        return (instant - self._phase) // self._period * self._period + self._phase

    def count(self, after: int, until: int) -> int:
        return (until - self._phase) // self._period - (after - self._phase) // self._period


class _At:
    def __init__(self, at: int) -> None:
        self._at = at

    def after(self, instant: int) -> int | None:
        return self._at if instant < self._at else None

    def until(self, instant: int) -> int | None:
        return self._at if instant >= self._at else None

    def count(self, after: int, until: int) -> int:
        return int(after < self._at <= until)


class _Within:
    """Instants between the start and the end of a timetable."""

    def __init__(self, inner: Instants, timetable: Timetable) -> None:
        self._inner = inner
        self._start = timetable.start if timetable.start is not None else -(10**15)
        self._end = timetable.end if timetable.end is not None else 10**15

    def after(self, instant: int) -> int | None:
        found = self._inner.after(max(instant, self._start - 1))
        return found if found is not None and found <= self._end else None

    def until(self, instant: int) -> int | None:
        found = self._inner.until(min(instant, self._end))
        return found if found is not None and found >= self._start else None

    def count(self, after: int, until: int) -> int:
        after, until = max(after, self._start - 1), min(until, self._end)
        return self._inner.count(after, until) if after < until else 0


def instants_of(timetable: Timetable) -> Instants:
    """Make the instants of a timetable.

    :raises InvalidSetting: its zone has vanished from the database of zones (TC104).
    """
    inner: Instants
    if timetable.cron is not None:
        inner = _Cron(timetable)
    elif timetable.every is not None:
        inner = _Every(timetable.every, timetable.phase)
    else:
        inner = _At(timetable.at or 0)
    return inner if timetable.start is None and timetable.end is None else _Within(inner, timetable)


def fires_at(schedule: str, timetable: Timetable, instant: int, following: int | None) -> int:
    """Return when the tick of an instant fires."""
    if not timetable.spread:
        return instant
    room = timetable.spread if following is None else min(timetable.spread, following - instant)
    return instant + _hash(f"{schedule}|{instant}") % max(room, 1)


def upcoming(timetable: Timetable, after: int) -> Iterator[int]:
    """Yield the instants after an instant, without an end if the timetable has none."""
    instants, found = instants_of(timetable), after
    while (following := instants.after(found)) is not None:
        yield (found := following)


# ── reading what a caller wrote ──────────────────────────────────────────────────────────────────


def make_timetable(schedule: str, given: Timing) -> Timetable:
    """Check what a caller wrote.

    :raises InvalidSetting: it cannot be; the text says what was probably meant (TC104).
    """
    kinds = [name for name in ("cron", "every", "at") if given.get(name) is not None]
    if len(kinds) != 1:
        raise InvalidSetting(
            f"schedule {schedule}: {' and '.join(kinds) or 'no timetable'} {'are' if kinds else 'is'} given",
            fix='give one of cron="30 2 * * *", every="10s" and at=datetime(…, tzinfo=…)',
        )
    for name, needs in (("tz", "cron"), ("phase", "every")):
        if given.get(name) is not None and needs not in kinds:
            raise InvalidSetting(
                f"schedule {schedule}: {name} has no meaning with {kinds[0]}", fix=f"it is for {needs}"
            )
    if not isinstance(given.get("cron"), str | None):
        what = f"schedule {schedule}: cron={shorten_repr(given.get('cron'))} is not a text"
        raise InvalidSetting(what, fix='give five fields, such as cron="30 2 * * *"')
    every = _every(schedule, given.get("every"))
    times = given.get("times")
    if times is not None and (type(times) is not int or times < 1):
        raise InvalidSetting(f"schedule {schedule}: times={shorten_repr(times)} is not a whole number, at least 1")
    timetable = Timetable(
        cron=given.get("cron"),
        every=every,
        at=_moment("at", given.get("at")),
        tz=_zone(given.get("tz")),
        start=_moment("start", given.get("start")),
        end=_moment("end", given.get("end")),
        times=times,
        spread=_milliseconds("spread", given.get("spread")),
        phase=_milliseconds("phase", given.get("phase")),
    )
    if every is not None and given.get("phase") is None:
        timetable = msgspec.structs.replace(timetable, phase=_hash(schedule) % every // 1000 * 1000)
    if timetable.cron is not None:
        instants_of(timetable)
    return timetable


def _every(schedule: str, given: Duration | None) -> int | None:
    if given is None:
        return None
    every = _milliseconds("every", given)
    if every < SHORTEST_PERIOD:
        raise InvalidSetting(
            f"schedule {schedule}: every={shorten_repr(given)} is under a second",
            fix="give a second or more; for more often, let one job do several rounds",
        )
    return every


def _zone(given: str | None) -> str:
    if given is None:
        return "UTC"
    from taskcore.schedules.calendar import zone  # noqa: PLC0415 - most programs that declare none need no zones

    return zone(given).name


def _milliseconds(name: str, given: Duration | None) -> int:
    return 0 if given is None else round(seconds_of(name, given) * 1000)


EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def _moment(name: str, given: datetime | None) -> int | None:
    if given is None:
        return None
    if not isinstance(given, datetime) or given.utcoffset() is None:
        why = "has no time zone" if isinstance(given, datetime) else "is not a datetime"
        raise InvalidSetting(
            f"{name}={shorten_repr(given)} {why}",
            fix='give an aware datetime, such as datetime(2027, 1, 1, 9, tzinfo=ZoneInfo("Europe/Berlin"))',
        )
    return (given - EPOCH) // timedelta(milliseconds=1)


def _shown(instant: int) -> str:
    return (EPOCH + timedelta(milliseconds=instant)).isoformat(sep=" ")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

"""Cron expressions: five fields or a macro, read with errors that say which field, which mistake, and what was meant.

    minute  hour  day-of-month  month  day-of-week
    0-59    0-23  1-31, L, LW   1-12   0-7, where 0 and 7 are Sunday; MON#1 the first Monday, 5L the last Friday

Each field takes ``*``, numbers, names, ranges ``1-5``, steps ``*/15`` and lists of these. A day matches if both day
fields match; if neither of them begins with ``*``, one of them is enough, as in Debian's cron. Times are wall times
without a zone: :mod:`taskcore.schedules.calendar` maps them to instants.
"""

from __future__ import annotations

import copy
import re
from datetime import datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from typing import NamedTuple

from taskcore.errors import AdapterMissing, InvalidSetting
from taskcore.toolkit.units import shorten_repr

try:
    from cronsim import CronSim, CronSimError
except ModuleNotFoundError as error:
    raise AdapterMissing(
        "a cron expression needs cronsim, which is not installed", fix='pip install "taskcore-framework[cron]"'
    ) from error

__all__ = ["MACROS", "Cron", "parse_cron"]

MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a wall time, which has no zone
DAY = 86_400


class _Field(NamedTuple):
    """A field: its name, its smallest and its largest number, its names, and what else a term may be."""

    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()
    special: str = ""


MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31, special=r"L|LW"),
    _Field("month", 1, 12, MONTHS),
    _Field("day of the week", 0, 7, WEEKDAYS, special=r"(?P<day>\w+)#(?P<nth>\d+)|[0-7]L"),
)


class Cron:
    """A cron expression; wall times are seconds since 1970 by the clock on the wall.

    :ivar text: the five fields as they were written, without macros.
    :ivar every_hour: the hour is not restricted, so the times go on evenly through a clock change.
    """

    def __init__(self, text: str, walk: CronSim) -> None:
        self.text = text
        self._walk = walk
        self._hours, self._minutes = sorted(walk.hours), sorted(walk.minutes)
        self.every_hour = len(self._hours) == 24  # noqa: PLR2004 - the hours of a day

    def __repr__(self) -> str:
        return f"<Cron {self.text}>"

    def next(self, wall: int) -> int | None:
        """Return the first matching wall time after this one; None if there is none in 50 years."""
        return self._step(wall, 1)

    def previous(self, wall: int) -> int | None:
        """Return the last matching wall time before this one; None if there is none in 50 years."""
        return self._step(wall, -1)

    def matches(self, wall: int) -> bool:
        """Tell whether a wall time matches."""
        when = EPOCH + timedelta(seconds=wall)
        return not wall % 60 and when.minute in self._walk.minutes and when.hour in self._walk.hours and self._day(when)

    def count(self, after: int, until: int) -> int:
        """Count the matching wall times after the first and up to the second."""
        total = 0
        for day in range(after - after % DAY, until + 1, DAY):
            if self._day(EPOCH + timedelta(seconds=day)):
                if after < day and day + DAY <= until:
                    total += len(self._hours) * len(self._minutes)
                    continue
                times = (day + hour * 3600 + minute * 60 for hour in self._hours for minute in self._minutes)
                total += sum(after < wall <= until for wall in times)
        return total

    def explain(self) -> str:
        """Tell the expression in English."""
        text: str = self._walk.explain()
        return text

    def _step(self, wall: int, direction: int) -> int | None:
        walk = copy.copy(self._walk)
        walk.tick_direction = direction
        start = wall - wall % MINUTE if direction > 0 else wall + -wall % MINUTE  # old versions keep seconds
        try:
            walk.dt = EPOCH + timedelta(seconds=start)
            return (next(walk) - EPOCH) // SECOND
        except (StopIteration, OverflowError):
            return None

    def _day(self, when: datetime) -> bool:
        return when.month in self._walk.months and self._walk.match_day(when)


SECOND = timedelta(seconds=1)
MINUTE = 60


@lru_cache(maxsize=4096)
def parse_cron(expression: str) -> Cron:
    """Read an expression.

    :raises InvalidSetting: it has a mistake; the text names the field, the mistake and what was probably meant (TC104).
    """
    text = _expand(expression)
    parts = text.split()
    if len(parts) != len(FIELDS):
        raise _wrong(expression, f"it has {len(parts)} fields, not 5", _hint_at_fields(parts))
    for field, part in zip(FIELDS, parts, strict=True):
        for term in part.split(","):
            _check_term(expression, field, term)
    try:
        cron = Cron(text, CronSim(text, EPOCH))
    except CronSimError as error:
        raise _never(expression) from error
    if cron.next(0) is None:
        raise _never(expression)
    return cron


def _expand(expression: object) -> str:
    if not isinstance(expression, str) or not expression.strip():
        raise InvalidSetting(
            f"cron={shorten_repr(expression)} is not a cron expression",
            fix='give five fields, such as "30 2 * * *", or a macro such as "@daily"',
        )
    text = " ".join(expression.split()).upper()
    if not text.startswith("@"):
        return text
    name = text.lower()
    if name in MACROS:
        return MACROS[name]
    close = get_close_matches(name, MACROS, n=1)
    raise _wrong(
        expression, f"there is no macro {name}", f'did you mean "{close[0]}"?' if close else f"use {', '.join(MACROS)}"
    )


def _hint_at_fields(parts: list[str]) -> str:
    if len(parts) == len(FIELDS) + 1:
        return f'seconds are not a field; without the first one: "{" ".join(parts[1:])}", or every="10s"'
    return "the fields are minute, hour, day of the month, month, day of the week"


def _check_term(expression: str, field: _Field, term: str) -> None:
    """Refuse a term of a field that cron does not know, and name what was meant."""
    body, slash, step = term.partition("/")
    if slash and (not step.isascii() or not step.isdecimal() or not int(step)):
        raise _wrong(
            expression, f"{field.name}: the step of {term!r} is not a number above 0", "write */5 for every fifth"
        )
    if body == "?":
        raise _wrong(expression, f"{field.name}: '?' is not known", "write * instead")
    if field.special and (special := re.fullmatch(field.special, body)):
        if slash:
            raise _wrong(expression, f"{field.name}: {body!r} takes no step", f"write {body}")
        if "day" in special.groupdict() and special["day"] is not None:
            _number(expression, field, special["day"])
            if not 1 <= int(special["nth"]) <= 5:  # noqa: PLR2004 - the weeks of a month
                raise _wrong(expression, f"{field.name}: {body!r}: a month has weeks 1 to 5", "write MON#1 to MON#5")
        return
    if body == "*":
        return
    first, dash, last = body.partition("-")
    start = _number(expression, field, first)
    if dash and _number(expression, field, last) < start:
        raise _wrong(
            expression,
            f"{field.name}: the range {body} runs backwards",
            f"write {first}-{_last(field)},{_first(field)}-{last}",
        )


def _first(field: _Field) -> str:
    return field.names[0] if field.names else str(field.least)


def _last(field: _Field) -> str:
    return field.names[-1] if field.names else str(field.most)


def _number(expression: str, field: _Field, text: str) -> int:
    """Read a number or a name of a field."""
    if text in field.names:
        return field.names.index(text) + field.least
    if not text.isascii() or not text.isdecimal():
        close = get_close_matches(text[:3], field.names, n=1, cutoff=0.5) if text else []
        fix = f"did you mean {close[0]}?" if close else f"give numbers from {field.least} to {field.most}"
        raise _wrong(expression, f"{field.name}: {text!r} is not a number" + " or name" * bool(field.names), fix)
    if not field.least <= int(text) <= field.most:
        fix = f"give numbers from {field.least} to {field.most}"
        if field.name in ("minute", "hour") and int(text) == field.most + 1:
            fix = f"write 0 for the full {'hour' if field.name == 'minute' else 'day'}"
        raise _wrong(expression, f"{field.name}: {text} is not from {field.least} to {field.most}", fix)
    return int(text)


def _wrong(expression: str, mistake: str, meant: str) -> InvalidSetting:
    return InvalidSetting(f"cron={shorten_repr(expression)} cannot be read: {mistake}", fix=meant)


def _never(expression: str) -> InvalidSetting:
    return _wrong(expression, "day of the month: no month that it names has such a day", 'for the last day write "L"')

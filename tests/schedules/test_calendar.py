"""Cron wall times become the right instants: compared with a walk through time, minute by minute, around clock changes.

``TASKCORE_ALL_ZONES=1`` compares every zone and every transition from 1970 to 2037; without it a sample is compared.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

import pytest

from taskcore.errors import InvalidSetting
from taskcore.schedules.calendar import count, next_instant, previous_instant, zone
from taskcore.schedules.cron import parse_cron

EVERYTHING = bool(os.environ.get("TASKCORE_ALL_ZONES"))
EXPRESSIONS = [
    "30 2 * * *", "0 0 * * *", "*/30 2 * * *", "*/20 * * * *", "0 */6 * * *", "15,45 0-3 * * *", "0 3 * * *",
    "5 1 * * 0", "0 * * * *", "59 23 * * *", "0 2,3 * * *", "10 0 1 * *", "0 1 * * *", "30 1 * * *", "0 2 * * *",
    "45 2 * * 1-5", "0 0-4 * * *", "*/15 0-3 * * *", "7 */2 * * *", "0 12 * * *", "30 0 * * *", "30 23 * * *",
    "*/10 * * * *", "1 * * * *", "0 0 * * 0", "0 0 1,15 * *", "0 2 * 3 0", "0 3 * 10 0", "0 2 28-31 3 *",
    "20 2 * 3-11 6,0", "0 4 * * *", "*/45 1-2 * * *", "0 22-23 * * *", "5,25,55 1,2 * * *", "0 1-5/2 * * *",
    "30 */3 * * *", "59 1 * * *", "0 0 * * 5", "*/7 2 * * *", "0 0,12 * * *",
]  # fmt: skip
KNOWN_FOR_TROUBLE = [
    "Europe/Berlin", "Africa/Cairo", "Asia/Beirut", "Australia/Lord_Howe", "Pacific/Apia", "America/New_York",
    "Africa/Casablanca", "America/Havana", "Asia/Gaza", "Antarctica/Troll", "America/Caracas", "Asia/Pyongyang",
]  # fmt: skip
AROUND = 30 * 3600  #: seconds that are walked before and after a transition


class Reference:
    """An expression as sets of numbers, read without any code of the library."""

    def __init__(self, expression: str) -> None:
        minute, hour, day, month, weekday = expression.split()
        self.minutes, self.hours = self.numbers(minute, 0, 59), self.numbers(hour, 0, 23)
        self.days, self.months = self.numbers(day, 1, 31), self.numbers(month, 1, 12)
        self.weekdays = {number % 7 for number in self.numbers(weekday, 0, 7)}
        self.both = day.startswith("*") or weekday.startswith("*")
        self.restricted = hour != "*"

    @staticmethod
    def numbers(field: str, least: int, most: int) -> set[int]:
        """Read a field."""
        found: set[int] = set()
        for term in field.split(","):
            body, _, step = term.partition("/")
            first, last = (least, most) if body == "*" else (int(body.split("-")[0]), int(body.split("-")[-1]))
            found.update(range(first, last + 1, int(step or 1)))
        return found

    def matches(self, wall: datetime) -> bool:
        """Tell whether a wall time matches."""
        if wall.minute not in self.minutes or wall.hour not in self.hours or wall.month not in self.months:
            return False
        day, weekday = wall.day in self.days, (wall.weekday() + 1) % 7 in self.weekdays
        return (day and weekday) if self.both else (day or weekday)

    def instants(self, walked: list[tuple[int, datetime]]) -> list[int]:
        """Walk through time and see folds and gaps as they happen."""
        found: list[int] = []
        seen: set[datetime] = set()
        previous = None
        minute = timedelta(minutes=1)
        for instant, wall in walked:
            if previous is not None and wall - previous > minute and self.restricted:
                skipped = previous + minute
                while skipped < wall and not self.matches(skipped):
                    skipped += minute
                if skipped < wall:
                    found.append(instant)
            if self.matches(wall):
                if (not self.restricted or wall not in seen) and (not found or found[-1] != instant):
                    found.append(instant)
                seen.add(wall)
            previous = wall
        return found


REFERENCES = {expression: Reference(expression) for expression in EXPRESSIONS}


def transitions(info: ZoneInfo, first: int, last: int) -> Iterator[int]:
    """Find where the offset of a zone changes, by looking every three hours."""
    step = 3 * 3600
    start, end = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (first, last + 1))
    offset = datetime.fromtimestamp(start, info).utcoffset()
    for probe in range(start, end, step):
        if datetime.fromtimestamp(probe + step, info).utcoffset() != offset:
            low, high = probe, probe + step
            while high - low > 1:
                middle = (low + high) // 2
                same = datetime.fromtimestamp(middle, info).utcoffset() == offset
                low, high = (middle, high) if same else (low, middle)
            yield high
            offset = datetime.fromtimestamp(high, info).utcoffset()


class Window(NamedTuple):
    """What a zone does around a transition: the offset by which each stretch of it begins, and the stretch's start."""

    since: int
    until: int
    stretches: tuple[tuple[int, int], ...]


def window_of(info: ZoneInfo, change: int) -> Window:
    """Walk around a transition by the minute, and note where the offset changes."""
    since, until = change - AROUND, change + AROUND
    stretches: list[tuple[int, int]] = []
    for at in range(since, until + 1, 60):
        offset = datetime.fromtimestamp(at, info).utcoffset()
        assert offset is not None
        if not stretches or stretches[-1][1] != offset.total_seconds():
            stretches.append((at, int(offset.total_seconds())))
    return Window(since, until, tuple(stretches))


def compare(name: str, change: int, expressions: list[str]) -> None:
    """Compare one transition of a zone with the walk, forwards, backwards and counted."""
    where, window = zone(name), window_of(ZoneInfo(name), change)
    walked = [
        (at, EPOCH + timedelta(seconds=at + offset))
        for (start, offset), (end, _) in pairwise([*window.stretches, (window.until + 1, 0)])
        for at in range(start, end, 60)
    ]
    since, until = window.since, window.until
    for expression in expressions:
        cron, at, ours = parse_cron(expression), since, []
        while (found := next_instant(cron, where, at)) is not None and found <= until:
            ours.append(found)
            at = found
        expected = [found for found in REFERENCES[expression].instants(walked) if found > since]
        assert ours == expected, (name, expression, datetime.fromtimestamp(change, UTC).isoformat())
        back, at = [], until
        while (found := previous_instant(cron, where, at)) is not None and found > since:
            back.append(found)
            at = found - 1
        assert back[::-1] == expected, (name, expression, "backwards")
        assert count(cron, where, since, until) == len(expected), (name, expression, "counted")


def is_known(name: str, window: Window) -> bool:
    """Tell whether a zone that did the same at the same time was compared before.

    The instants of an expression follow from the segments of a zone and from nothing else. So a zone whose segments are
    those of the walk needs no second comparison, and only that is looked at here.
    """
    where, segments, at = zone(name), [], window.since
    while at <= window.until:
        segment = where.segment(at)
        assert segment is not None
        if not segments or segments[-1][1] != segment.offset:
            segments.append((max(segment.start, window.since), segment.offset))
        at = segment.end
    assert tuple(segments) == window.stretches, (name, segments, window)
    known = window in COMPARED
    COMPARED.add(window)
    return known


COMPARED: set[Window] = set()  #: what zones did, of which an expression's instants are compared already
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a wall time, which has no zone


def test_clock_changes_against_a_walk_through_time() -> None:
    """In a sample of zones and transitions every expression has the instants that a walk by the minute finds."""
    dice = random.Random(7)
    others = sorted(available_timezones() - set(KNOWN_FOR_TROUBLE))
    compared = 0
    for name in [*KNOWN_FOR_TROUBLE, *dice.sample(others, 12)]:
        first = dice.randrange(1970, 2034)
        found = [change for change in transitions(ZoneInfo(name), first, first + 3) if not change % 60]
        for change in dice.sample(found, min(len(found), 2)):
            compare(name, change, dice.sample(EXPRESSIONS, 8))
            compared += 1
    for name, year in (
        ("Africa/Cairo", 2024),
        ("Asia/Beirut", 2022),
        ("Pacific/Apia", 2011),
        ("Australia/Lord_Howe", 2020),
        ("America/Caracas", 2016),
        ("Asia/Pyongyang", 2018),
    ):
        for change in transitions(ZoneInfo(name), year, year):
            compare(name, change, EXPRESSIONS)
            compared += 1
    assert compared > 20


@pytest.mark.skipif(not EVERYTHING, reason="takes a quarter of an hour of one core; TASKCORE_ALL_ZONES=1 runs it")
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", sorted(available_timezones()) if EVERYTHING else ["UTC"])
def test_every_transition_of_every_zone(name: str) -> None:
    """From 1970 to 2037 no transition of the zone differs from the walk, for forty expressions."""
    for change in transitions(ZoneInfo(name), 1970, 2037):
        if not change % 60 and not is_known(name, window_of(ZoneInfo(name), change)):
            compare(name, change, EXPRESSIONS)


def test_unknown_zones_are_refused_with_the_zone_that_was_meant() -> None:
    """A zone that does not exist is an error with the closest name, by city as well."""
    for wrong, meant in (
        ("Europe/Berln", "Europe/Berlin"),
        ("berlin", "Europe/Berlin"),
        ("new york", "America/New_York"),
    ):
        with pytest.raises(InvalidSetting, match=meant):
            zone(wrong)
    with pytest.raises(InvalidSetting, match="UTC"):
        zone("")

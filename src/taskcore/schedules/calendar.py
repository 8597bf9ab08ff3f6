"""From wall times to instants: what a schedule does when clocks change.

    wall time         hours are restricted (30 2, 0 */6)                             every hour (*/20 *)
    exists once       that instant                                                   that instant
    twice (fold)      the first one                                                  both
    not at all (gap)  one tick at the first instant after the gap, however many      none: time went on
                      wall times of the gap match; none beside a match of its own

Time is cut into segments in which the offset of a zone does not change, so each rule is about the start of a segment.
Instants are whole seconds since the epoch.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from taskcore.errors import InvalidSetting
from taskcore.schedules.cron import Cron
from taskcore.toolkit.units import shorten_repr

__all__ = ["Zone", "count", "next_instant", "previous_instant", "zone"]

PROBE_STEP = 6 * 3600  #: seconds between two looks at an offset; no zone changes it and back within this time
FIRST_YEAR, LAST_YEAR = 1900, 9990


class Segment(NamedTuple):
    """A time in which the offset is the same. ``before`` is the offset up to its start."""

    start: int
    end: int
    offset: int
    before: int


class Zone:
    """A time zone as segments, found year by year when they are needed."""

    def __init__(self, name: str, info: ZoneInfo) -> None:
        self.name = name
        self._info = info
        self._years: dict[int, tuple[list[int], list[Segment]]] = {}

    def segment(self, at: int) -> Segment | None:
        """Return the segment that holds an instant; None far outside of the calendar."""
        year = datetime.fromtimestamp(at, UTC).year
        if not FIRST_YEAR < year < LAST_YEAR:
            return None
        if year not in self._years:
            segments = self._cut(year)
            self._years[year] = [segment.start for segment in segments], segments
        starts, segments = self._years[year]
        return segments[bisect_right(starts, at) - 1]

    def _cut(self, year: int) -> list[Segment]:
        begin, end = (int(datetime(one, 1, 1, tzinfo=UTC).timestamp()) for one in (year, year + 1))
        starts = [begin]
        for probe in range(begin, end, PROBE_STEP):
            low, high = probe, min(probe + PROBE_STEP, end)
            if self._offset(low) != self._offset(high):
                starts.append(self._change(low, high))
        if starts[-1] == end:  # it belongs to the next year
            starts.pop()
        return [
            Segment(start, stop, self._offset(start), self._offset(start - 1))
            for start, stop in zip(starts, [*starts[1:], end], strict=True)
        ]

    def _change(self, low: int, high: int) -> int:
        """Find the first instant with the new offset."""
        old = self._offset(low)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._offset(middle) == old else (low, middle)
        return high

    def _offset(self, at: int) -> int:
        offset = datetime.fromtimestamp(at, self._info).utcoffset()
        return 0 if offset is None else round(offset.total_seconds())


@lru_cache(maxsize=1024)
def zone(name: str) -> Zone:
    """Return a time zone by its name.

    :raises InvalidSetting: there is no such zone; the text names the one that was probably meant (TC104).
    """
    try:
        return Zone(name, ZoneInfo(name))
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
        known = available_timezones()
        raise InvalidSetting(
            f"tz={shorten_repr(name)} is not a time zone",
            facts=[] if known else ["this machine has no time zones"],
            fix=_meant(name, known) if known else 'pip install "taskcore-framework[cron]"',
        ) from error


def _meant(name: object, known: set[str]) -> str:
    cities = {one.rpartition("/")[2].lower(): one for one in sorted(known)}
    lower = {one.lower(): one for one in known}
    text = str(name).strip().lower().replace(" ", "_")
    close = get_close_matches(text, [*lower, *cities], n=1)
    found = lower.get(close[0]) or cities.get(close[0]) if close else None
    return f'did you mean "{found}"?' if found else 'give a name such as "Europe/Berlin" or "UTC"'


def next_instant(cron: Cron, where: Zone, after: int) -> int | None:
    """Return the first instant after this one; None if there is none."""
    segment = where.segment(after)
    while segment is not None:
        found = _first_in(cron, segment, after)
        if found is not None:
            return found
        if cron.next(after + segment.offset) is None:
            return None
        after = segment.end - 1
        segment = where.segment(segment.end)
    return None


def _first_in(cron: Cron, segment: Segment, after: int) -> int | None:
    if after < segment.start:
        if _ticks_at_start(cron, segment):
            return segment.start
        after = segment.start - 1
    wall = cron.next(max(after + segment.offset, _first_wall(cron, segment) - 1))
    return wall - segment.offset if wall is not None and wall < segment.end + segment.offset else None


def previous_instant(cron: Cron, where: Zone, until: int) -> int | None:
    """Return the last instant up to this one; None if there is none."""
    segment = where.segment(until)
    while segment is not None:
        wall = cron.previous(until + 1 + segment.offset)
        if wall is None:
            return None
        if wall >= _first_wall(cron, segment):
            return wall - segment.offset
        if _ticks_at_start(cron, segment):
            return segment.start
        until = segment.start - 1
        segment = where.segment(until)
    return None


def count(cron: Cron, where: Zone, after: int, until: int) -> int:
    """Count the instants after the first and up to the second."""
    total, segment = 0, where.segment(after + 1)
    while segment is not None and segment.start <= until:
        low = max(after + segment.offset, _first_wall(cron, segment) - 1)
        total += cron.count(low, min(until, segment.end - 1) + segment.offset)
        if after < segment.start and _ticks_at_start(cron, segment) and not _matches_start(cron, segment):
            total += 1
        segment = where.segment(segment.end)
    return total


def _first_wall(cron: Cron, segment: Segment) -> int:
    """Return the first wall time of a segment that counts: not what a fold repeats, if hours are restricted."""
    return segment.start + (segment.offset if cron.every_hour else max(segment.offset, segment.before))


def _ticks_at_start(cron: Cron, segment: Segment) -> bool:
    """Tell whether wall times that the gap at the start of a segment skips are made up for there."""
    if cron.every_hour or segment.offset <= segment.before:
        return False
    skipped = cron.next(segment.start + segment.before - 1)
    return skipped is not None and skipped < segment.start + segment.offset


def _matches_start(cron: Cron, segment: Segment) -> bool:
    return cron.matches(segment.start + segment.offset)

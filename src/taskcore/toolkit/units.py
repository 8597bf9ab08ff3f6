"""Times and sizes as text.

    "1h30m"   ⇄  5400.0      w d h m s ms, in any mixture; a number alone is seconds already
    "256KiB"  ⇄  262144      B KB MB GB in thousands, KiB MiB GiB in 1024s; a number alone is bytes already

Every time that a caller gives may be a number of seconds, such a text or a timedelta: in settings, in URLs, on the
command line and in calls. Inside of the library times are seconds and sizes are bytes.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Any, TypeAlias

from taskcore.errors import InvalidSetting

__all__ = [
    "LONGEST_DURATION",
    "Duration",
    "duration",
    "seconds_of",
    "shorten_repr",
    "show_duration",
    "show_rounded",
    "show_size",
    "size",
]

#: A time as a caller may write it: ``90``, ``"1m30s"``, ``timedelta(minutes=1.5)``.
Duration: TypeAlias = float | str | timedelta

LONGEST_DURATION = 100 * 365 * 86_400.0  #: seconds; brokers count in 64 bits of nanoseconds, which end after 292 years
SHOWN_CHARACTERS = 80  #: characters of a value in an error
_SECONDS = {"w": 604_800.0, "d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
# Patterns as text: `re` compiles them when they are used, which a program that only declares tasks never does.
_TIME = r"(?a)\s*(\d+(?:\.\d+)?)\s*(ms|[wdhms])\s*"
_TIMES = r"(?a)(?:\s*\d+(?:\.\d+)?\s*(?:ms|[wdhms])\s*)+"
_BYTES = {"gib": 1024**3, "mib": 1024**2, "kib": 1024, "gb": 1000**3, "mb": 1000**2, "kb": 1000, "b": 1, "": 1}
_SIZE = r"(?ai)\s*(\d+(?:\.\d+)?)\s*((?:[kmg]i?)?b)?\s*"
_NUMBER = r"(?a)\s*\d+(?:\.\d+)?\s*"


def duration(text: Duration) -> float:
    """Read a time as seconds: ``duration("1h30m") == 5400.0``.

    :raises InvalidSetting: it is not a time, or one below 0 or above 100 years (TC104).
    """
    seconds = _seconds(text)
    if not 0 <= seconds <= LONGEST_DURATION:
        raise InvalidSetting(f"{shorten_repr(text)} is not a time", fix=GIVE_A_TIME)
    return seconds


GIVE_A_TIME = 'give seconds, a timedelta, or text such as "1h30m", "250ms", "14d"; at most 100 years'


def seconds_of(name: str, value: Duration, *, above_zero: bool = False) -> float:
    """Read the time that an option of this name was given.

    :raises InvalidSetting: it is not a time (TC104).
    """
    seconds = _seconds(value)
    if not 0 <= seconds <= LONGEST_DURATION or (above_zero and not seconds):
        least = ", above 0" if above_zero else ""
        raise InvalidSetting(f"{name}={shorten_repr(value)} is not a time{least}", fix=GIVE_A_TIME)
    return seconds


def _seconds(value: object) -> float:
    """Read a time; not a number, if it is none."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) <= LONGEST_DURATION else math.inf  # an int may be too large for a float
    if isinstance(value, str) and re.fullmatch(_NUMBER, value):
        return float(value)
    if isinstance(value, str) and re.fullmatch(_TIMES, value):
        return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_TIME, value))
    return math.nan


def shorten_repr(value: Any) -> str:
    """Write a value for an error: on one line, and not all of a long one; never raises."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - it is the user's code; an int may have too many digits
        text = f"<{type(value).__name__}>"
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def show_duration(seconds: float) -> str:
    """Write the time as ``duration`` reads it: ``"1h30m"``, ``"250ms"``."""
    if seconds != int(seconds) or not seconds:
        return f"{seconds * 1000:g}ms" if 0 < seconds < 1 else f"{seconds:.12g}s"
    text, rest = "", int(seconds)
    for unit in ("d", "h", "m", "s"):
        number, rest = divmod(rest, int(_SECONDS[unit]))
        text += f"{number}{unit}" if number else ""
    return text


def size(text: str | int) -> int:
    """Read a size as bytes: ``size("256KiB") == 262144``.

    :raises InvalidSetting: the text is not a size (TC104).
    """
    match = re.fullmatch(_SIZE, str(text))
    if match is None:
        raise InvalidSetting(f"{text!r} is not a size", fix='give bytes, or text such as "256KiB", "1MB"')
    return int(float(match[1]) * _BYTES[(match[2] or "").lower()])


def show_size(number: int) -> str:
    """Write the size as ``size`` reads it: ``"256KiB"``."""
    unit = next(unit for unit in ("GiB", "MiB", "KiB", "B") if number % _BYTES[unit.lower()] == 0)
    return f"{number // _BYTES[unit.lower()]}{unit}"


def show_rounded(number: int) -> str:
    """Write the size for people, in three digits: ``"1.23 MiB"``."""
    for unit in ("GiB", "MiB", "KiB"):
        units = number / _BYTES[unit.lower()]
        if units >= 1:
            return f"{units:.3g} {unit}" if units < 999.5 else f"{units:,.0f} {unit}"  # noqa: PLR2004 - three digits
    return f"{number} B"

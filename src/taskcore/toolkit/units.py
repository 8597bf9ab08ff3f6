"""Times and sizes as text.

    "1h30m"   ⇄  5400.0      w d h m s ms, in any mixture; a number alone is seconds already
    "256KiB"  ⇄  262144      B KB MB GB in thousands, KiB MiB GiB in 1024s; a number alone is bytes already

Text forms appear in settings, in URLs, on the command line and in messages only; in the code times are seconds and
sizes are bytes.
"""

from __future__ import annotations

import math
import re

from taskcore.errors import InvalidSetting

__all__ = ["duration", "show_duration", "show_size", "size"]

_SECONDS = {"w": 604_800.0, "d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
# Patterns as text: `re` compiles them when they are used, which a program that only declares tasks never does.
_TIME = r"(?a)\s*(\d+(?:\.\d+)?)\s*(ms|[wdhms])\s*"
_TIMES = r"(?a)(?:\s*\d+(?:\.\d+)?\s*(?:ms|[wdhms])\s*)+"
_BYTES = {"gib": 1024**3, "mib": 1024**2, "kib": 1024, "gb": 1000**3, "mb": 1000**2, "kb": 1000, "b": 1, "": 1}
_SIZE = r"(?ai)\s*(\d+(?:\.\d+)?)\s*((?:[kmg]i?)?b)?\s*"
_NUMBER = r"(?a)\s*\d+(?:\.\d+)?\s*"


def duration(text: str | float) -> float:
    """Read a time as seconds: ``duration("1h30m") == 5400.0``.

    :raises InvalidSetting: the text is not a time, or a negative or infinite one (TC104).
    """
    seconds = math.nan
    if isinstance(text, str) and re.fullmatch(_TIMES, text):
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_TIME, text))
    elif isinstance(text, int | float) or re.fullmatch(_NUMBER, text):
        seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise InvalidSetting(f"{text!r} is not a time", fix='give seconds, or text such as "1h30m", "250ms", "14d"')
    return seconds


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

"""The settings one by one: how each is read, what is expected, and how it is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from taskcore.envelope import check_name
from taskcore.toolkit.units import duration, show_duration, show_size, size
from taskcore.toolkit.urls import mask_text, mask_url

__all__ = ["KINDS", "NO_STORE", "SettingKind", "show", "show_refused"]

NO_STORE = "none"  #: the setting that means: no store, although the broker has one
MOST_SLOTS, MOST_PROCESSES, LAST_PORT = 100_000, 1_000, 65_535
MOST_CHARACTERS = 120  #: of a value in an error


class SettingKind(NamedTuple):
    """How a value is read, what to expect, the least and the largest number, how it is shown, and what None means."""

    parse: Callable[[Any], Any]
    expected: str
    least: float | None = None
    most: float = sys.float_info.max
    show: Callable[[Any], str] = str
    none: str = "-"


def _whole(raw: Any) -> int:
    if isinstance(raw, float):
        raise TypeError
    return int(raw)


def _jitter(raw: Any) -> Any:
    if raw not in ("full", "none"):
        raise ValueError
    return raw


def _truth(raw: Any) -> bool:
    known = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if not isinstance(raw, str | bool):
        raise TypeError
    return raw if isinstance(raw, bool) else known[raw.strip().lower()]


def _text(raw: Any) -> str:
    if not isinstance(raw, str) or not raw.strip():
        raise TypeError
    return raw.strip()


def _release(raw: Any) -> str:
    text = _text(raw)
    if not all(part.isascii() and part.isdecimal() for part in text.split(".")):
        raise ValueError
    return text


def _queues(raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, str | Sequence | AbstractSet):
        raise TypeError
    names = tuple(check_name("queue", name.strip()) for name in (raw.split(",") if isinstance(raw, str) else raw))
    if not names:
        raise ValueError
    return names


def _modules(raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, str | Sequence):
        raise TypeError
    names = tuple(name.strip() for name in (raw.split(",") if isinstance(raw, str) else raw))
    if not names or not all(part.isidentifier() for name in names for part in name.removesuffix(".*").split(".")):
        raise ValueError
    return names


def _limits(raw: Any) -> dict[str, int]:
    pairs = raw.items() if isinstance(raw, Mapping) else [part.split("=") for part in raw.split(",")]
    limits = {check_name("queue", queue.strip()): _whole(limit) for queue, limit in pairs}
    if not limits or not all(1 <= limit <= MOST_SLOTS for limit in limits.values()):
        raise ValueError
    return limits


def _show_limits(limits: Mapping[str, int]) -> str:
    return ",".join(f"{queue}={limit}" for queue, limit in limits.items())


def _range(raw: Any) -> tuple[int, int]:
    parts = raw if isinstance(raw, list | tuple) else str(raw).split("..")
    low, high = map(_whole, parts if len(parts) > 1 else [*parts, *parts])
    if not 1 <= low <= high <= MOST_PROCESSES:
        raise ValueError
    return low, high


def _show_range(bounds: tuple[int, int]) -> str:
    low, high = bounds
    return str(low) if low == high else f"{low}..{high}"


def _host_and_port(raw: Any) -> str:
    host, _, port = _text(raw).rpartition(":")
    if not host or not 0 <= int(port) <= LAST_PORT:
        raise ValueError
    return f"{host}:{int(port)}"


def show_refused(raw: Any) -> str:
    """Write a value that is not accepted: what could be a URL without its secrets, and never in more than a line."""
    try:
        text = repr(raw)
    except Exception:  # noqa: BLE001 - it is the user's code
        return type(raw).__name__
    text = mask_text(text)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


def _mask_store(value: str) -> str:
    return value if value == NO_STORE else mask_url(value)


def show(name: str, value: Any) -> str:
    """Write the value of a setting as a person would, without secrets."""
    kind = KINDS[name]
    return kind.none if value is None else kind.show(value)


_COUNT = SettingKind(_whole, "a whole number, at least 1", least=1)
_SLOTS = SettingKind(_whole, "a whole number from 1 to 100000", least=1, most=100_000)
_WAIT = SettingKind(duration, 'seconds, at least 0, or text such as "1h30m", "250ms"', least=0, show=show_duration)
_PERIOD = SettingKind(
    duration, 'seconds, more than 0, or text such as "1h30m", "250ms"', least=0.001, show=show_duration
)

KINDS: dict[str, SettingKind] = {
    "url": SettingKind(_text, 'a URL such as "redis://localhost:6379/0"', show=mask_url),
    "store": SettingKind(_text, 'a URL such as "redis://localhost:6379/1"', show=_mask_store, none="the broker's own"),
    "source": SettingKind(_text, "the name of a program"),
    "queues": SettingKind(
        _queues, 'names such as "mail,default"', show=",".join, none="every queue of the app's tasks"
    ),
    "concurrency": _SLOTS,
    "threads": _SLOTS,
    "processes": SettingKind(_whole, "a whole number from 1 to 1000", least=1, most=1000, none="one for each core"),
    "grace": _WAIT,
    "lease": _PERIOD,
    "max_block": _WAIT,
    "send_timeout": _PERIOD,
    "timeout": _PERIOD._replace(none="no limit"),
    "payload_limit": SettingKind(size, 'bytes, at least 1, or text such as "256KiB"', least=1, show=show_size),
    "result_limit": SettingKind(size, 'bytes, at least 1, or text such as "1MiB"', least=1, show=show_size),
    "keep_result": _WAIT,
    "key_window": _PERIOD,
    "park_for": _WAIT,
    "schedules": SettingKind(
        _truth, "true or false", show=lambda value: str(value).lower(), none="if the app has schedules"
    ),
    "release": SettingKind(_release, 'numbers with dots, such as "2.14"'),
    "strict": SettingKind(_truth, "true or false", show=lambda value: str(value).lower()),
    "app": SettingKind(_text, 'a place such as "shop.tasks:app"'),
    "include": SettingKind(_modules, 'modules such as "shop.tasks,shop.mail", or "shop.*"', show=",".join),
    "queue_limits": SettingKind(
        _limits, 'queues and numbers from 1 to 100000, such as "mail=5,default=50"', show=_show_limits
    ),
    "worker_processes": SettingKind(
        _range, 'a whole number from 1 to 1000, or a range such as "1..8"', show=_show_range, none="no supervisor"
    ),
    "max_jobs": _COUNT._replace(none="no limit"),
    "max_memory": SettingKind(
        size, 'bytes, at least 1, or text such as "512MiB"', least=1, show=show_size, none="no limit"
    ),
    "health": SettingKind(_host_and_port, 'a host and a port, such as "0.0.0.0:8080"'),
    "health_file": SettingKind(_text, "the path of a file"),
    "retry.attempts": _COUNT,
    "retry.base": _WAIT,
    "retry.factor": SettingKind(float, "a number from 1 to 1000000", least=1, most=1_000_000, show="{:g}".format),
    "retry.cap": _WAIT,
    "retry.jitter": SettingKind(_jitter, '"full" or "none"'),
}

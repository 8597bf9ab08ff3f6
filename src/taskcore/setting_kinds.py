"""The settings one by one: how each is read, what is expected, and how it is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from taskcore.envelope import check_name
from taskcore.toolkit.formats import (
    host_and_port,
    module_names,
    named_numbers,
    number_range,
    show_numbers,
    show_range,
    text,
    truth,
    whole,
)
from taskcore.toolkit.units import duration, show_duration, show_size, size
from taskcore.toolkit.urls import mask_text, mask_url

__all__ = ["KINDS", "NO_STORE", "SettingKind", "show", "show_refused"]

NO_STORE = "none"  #: the setting that means: no store, although the broker has one
MOST_CHARACTERS = 120  #: of a value in an error


class SettingKind(NamedTuple):
    """How a value is read, what to expect, the least and the largest number, how it is shown, and what None means."""

    parse: Callable[[Any], Any]
    expected: str
    least: float | None = None
    most: float = sys.float_info.max
    show: Callable[[Any], str] = str
    none: str = "-"


def _jitter(raw: Any) -> Any:
    if raw not in ("full", "none"):
        raise ValueError
    return raw


def _release(raw: Any) -> str:
    name = text(raw)
    if not all(part.isascii() and part.isdecimal() for part in name.split(".")):
        raise ValueError
    return name


def _queues(raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, str | Sequence | AbstractSet):
        raise TypeError
    names = tuple(check_name("queue", name.strip()) for name in (raw.split(",") if isinstance(raw, str) else raw))
    if not names:
        raise ValueError
    return names


def _limits(raw: Any) -> dict[str, int]:
    return {check_name("queue", queue): limit for queue, limit in named_numbers(raw).items()}


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


_COUNT = SettingKind(whole, "a whole number, at least 1", least=1)
_SLOTS = SettingKind(whole, "a whole number from 1 to 100000", least=1, most=100_000)
_WAIT = SettingKind(duration, 'seconds, at least 0, or text such as "1h30m", "250ms"', least=0, show=show_duration)
_PERIOD = SettingKind(
    duration, 'seconds, more than 0, or text such as "1h30m", "250ms"', least=0.001, show=show_duration
)

KINDS: dict[str, SettingKind] = {
    "url": SettingKind(text, 'a URL such as "redis://localhost:6379/0"', show=mask_url),
    "store": SettingKind(text, 'a URL such as "redis://localhost:6379/1"', show=_mask_store, none="the broker's own"),
    "source": SettingKind(text, "the name of a program"),
    "queues": SettingKind(
        _queues, 'names such as "mail,default"', show=",".join, none="every queue of the app's tasks"
    ),
    "concurrency": _SLOTS,
    "threads": _SLOTS,
    "processes": SettingKind(whole, "a whole number from 1 to 1000", least=1, most=1000, none="one for each core"),
    "grace": _WAIT,
    "lease": _PERIOD,
    "max_block": _WAIT,
    "heartbeat": _WAIT._replace(show=lambda value: show_duration(value) if value else "never"),
    "send_timeout": _PERIOD,
    "timeout": _PERIOD._replace(none="no limit"),
    "payload_limit": SettingKind(size, 'bytes, at least 1, or text such as "256KiB"', least=1, show=show_size),
    "result_limit": SettingKind(size, 'bytes, at least 1, or text such as "1MiB"', least=1, show=show_size),
    "keep_result": _WAIT,
    "key_window": _PERIOD,
    "park_for": _WAIT,
    "schedules": SettingKind(
        truth, "true or false", show=lambda value: str(value).lower(), none="if the app has schedules"
    ),
    "release": SettingKind(_release, 'numbers with dots, such as "2.14"'),
    "strict": SettingKind(truth, "true or false", show=lambda value: str(value).lower()),
    "app": SettingKind(text, 'a place such as "shop.tasks:app"'),
    "include": SettingKind(module_names, 'modules such as "shop.tasks,shop.mail", or "shop.*"', show=",".join),
    "queue_limits": SettingKind(
        _limits, 'queues and numbers from 1 to 100000, such as "mail=5,default=50"', show=show_numbers
    ),
    "worker_processes": SettingKind(
        number_range, 'a whole number from 1 to 1000, or a range such as "1..8"', show=show_range, none="no supervisor"
    ),
    "max_jobs": _COUNT._replace(none="no limit"),
    "max_memory": SettingKind(
        size, 'bytes, at least 1, or text such as "512MiB"', least=1, show=show_size, none="no limit"
    ),
    "max_leaked_threads": SettingKind(whole, "a whole number, at least 0", least=0, none="as many as threads"),
    "health": SettingKind(host_and_port, 'a host and a port, such as "0.0.0.0:8080"'),
    "health_file": SettingKind(text, "the path of a file"),
    "retry.attempts": _COUNT,
    "retry.base": _WAIT,
    "retry.factor": SettingKind(float, "a number from 1 to 1000000", least=1, most=1_000_000, show="{:g}".format),
    "retry.cap": _WAIT,
    "retry.jitter": SettingKind(_jitter, '"full" or "none"'),
}

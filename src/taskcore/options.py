"""Options: what a task says about all its calls, and what ``using()`` says about one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Literal, TypeAlias

import msgspec

from taskcore.envelope import check_name
from taskcore.errors import InvalidSetting
from taskcore.lifecycle import Rules

__all__ = ["DEFAULTS", "CallOptions", "DeliveryMode", "Key", "Options", "RunsIn", "call_options"]

Key: TypeAlias = str | tuple[str, ...] | Callable[..., str | None]
RunsIn: TypeAlias = Literal["loop", "thread", "process"]
DeliveryMode: TypeAlias = Literal["at_least_once", "at_most_once"]

TEXT_LIMIT = 512  #: characters that a key or an id may have
HEADERS_LIMIT = 8_192  #: bytes that the headers of one job may have, names and values together


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The policies of a task: what the decorator said, and the app's settings for the rest. Times in seconds."""

    queue: str
    rules: Rules
    timeout: float | None
    key: Key | None
    key_window: float
    keep_result: float | None
    delivery: DeliveryMode
    runs_in: RunsIn


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What ``using()`` says about one call."""

    delay: float = 0.0
    key: str | None = None
    queue: str | None = None
    headers: Mapping[str, str] = {}
    expires: float | None = None
    id: str | None = None
    correlation_id: str | None = None


DEFAULTS = CallOptions()


def call_options(
    *,
    delay: float | None,
    at: datetime | None,
    key: str | None,
    queue: str | None,
    headers: Mapping[str, str] | None,
    expires: float | None,
    id: str | None,
    correlation_id: str | None,
) -> CallOptions:
    """The options of one call, checked; :meth:`taskcore.Task.using` explains them.

    :raises InvalidSetting: a value is impossible (TC104).
    :raises InvalidName: the queue's name cannot travel (TC308).
    """
    return CallOptions(
        delay=_delay(delay, at),
        key=_text("key", key),
        queue=None if queue is None else check_name("queue", queue),
        headers=_headers(headers),
        expires=None if expires is None else _seconds("expires", expires),
        id=_text("id", id),
        correlation_id=_text("correlation_id", correlation_id),
    )


def _seconds(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise InvalidSetting(f"{name}={value!r} is not a time", fix="give seconds as a number, at least 0")
    return float(value)


def _delay(delay: float | None, at: datetime | None) -> float:
    if at is None:
        return 0.0 if delay is None else _seconds("delay", delay)
    if delay is not None:
        raise InvalidSetting("both delay and at are given", fix="say either how long or until when")
    if at.utcoffset() is None:
        raise InvalidSetting(
            f"at={at!r} has no time zone, so nobody can say when that is",
            fix='give an aware datetime, such as datetime(2027, 1, 1, 9, tzinfo=ZoneInfo("Europe/Berlin"))',
        )
    # Not now(at.tzinfo): within one zone Python subtracts what clocks show, and those are put forward and back.
    return max((at - datetime.now(UTC)).total_seconds(), 0.0)


def _text(name: str, value: str | None) -> str | None:
    if value is None or (isinstance(value, str) and 0 < len(value) <= TEXT_LIMIT):
        return value
    raise InvalidSetting(f"{name}={value!r} cannot be used", fix=f"give a text of 1 to {TEXT_LIMIT} characters")


def _headers(headers: Mapping[str, str] | None) -> Mapping[str, str]:
    if headers is None:
        return {}
    wrong = [
        f"{name!r}: {value!r}"
        for name, value in headers.items()
        if not isinstance(name, str) or not isinstance(value, str)
    ]
    if wrong:
        raise InvalidSetting("headers are strings to strings", facts=wrong, fix="put other values into the arguments")
    size = sum(len(name.encode()) + len(value.encode()) for name, value in headers.items())
    if size > HEADERS_LIMIT:
        raise InvalidSetting(
            f"the headers have {size} bytes, the limit is {HEADERS_LIMIT}", fix="headers are for small things"
        )
    return dict(headers)

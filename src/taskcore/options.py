"""Options: what a task says about all its calls, and what ``using()`` says about one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, Literal, TypeAlias, TypedDict

import msgspec

from taskcore.config import Settings
from taskcore.envelope import check_name
from taskcore.errors import InvalidSetting
from taskcore.lifecycle import Rules
from taskcore.policy import Retry

__all__ = [
    "DEFAULT",
    "NO_OPTIONS",
    "CallOptions",
    "Default",
    "DeliveryMode",
    "Key",
    "Options",
    "RunsIn",
    "TaskSpec",
    "UseDefault",
    "UsingOptions",
    "call_options",
    "refuse_unknown",
]

Key: TypeAlias = str | tuple[str, ...] | Callable[..., str | None]
RunsIn: TypeAlias = Literal["loop", "thread", "process"]
DeliveryMode: TypeAlias = Literal["at_least_once", "at_most_once"]

TEXT_LIMIT = 512  #: characters that a key or an id may have
HEADERS_LIMIT = 8_192  #: bytes that the headers of one job may have, names and values together


class Default(Enum):
    """The type of :data:`DEFAULT`."""

    DEFAULT = "default"

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT: Final = Default.DEFAULT  #: the value of an option that the app's settings decide
CRASHES = 3  #: starts that may kill their process before a job is poison; no setting of an app changes it
UseDefault: TypeAlias = Literal[Default.DEFAULT]


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The options that a decorator was given. An app completes them with its settings."""

    queue: str = "default"
    retry: Retry | UseDefault = DEFAULT
    crashes: int | UseDefault = DEFAULT
    timeout: float | None = None
    key: Key | None = None
    key_window: float | UseDefault = DEFAULT
    keep_result: float | UseDefault | None = DEFAULT
    delivery: DeliveryMode = "at_least_once"
    runs_in: RunsIn = "loop"

    def complete(self, settings: Settings, *, has_store: bool) -> Options:
        """Return the options of the task in an app with these settings."""
        retry = settings.retry if self.retry is DEFAULT else self.retry
        if self.delivery == "at_most_once":
            retry = Retry(attempts=1)
        crashes = CRASHES if self.crashes is DEFAULT else self.crashes
        kept = settings.keep_result if has_store else None
        return Options(
            queue=self.queue,
            rules=Rules(retry=retry, crashes=crashes, park_for=settings.park_for),
            timeout=self.timeout,
            key_window=settings.key_window if self.key_window is DEFAULT else self.key_window,
            keep_result=kept if self.keep_result is DEFAULT else self.keep_result,
            delivery=self.delivery,
            runs_in=self.runs_in,
        )


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a task in an app: those of the decorator, completed by the app's settings. Times in seconds."""

    queue: str
    rules: Rules
    timeout: float | None
    key_window: float
    keep_result: float | None
    delivery: DeliveryMode
    runs_in: RunsIn


# ── one call ─────────────────────────────────────────────────────────────────────────────────────


class UsingOptions(TypedDict, total=False):
    """The options of :meth:`taskcore.Task.using`. Times in seconds."""

    delay: float | None  #: before the job may start
    at: datetime | None  #: the aware date and time before which the job may not start; instead of ``delay``
    key: str | None  #: idempotency key: within its window the same key means the same job
    queue: str | None  #: another queue than the task's own
    headers: Mapping[str, str] | None  #: strings for your own use, such as a tenant or a trace; at most 8 KiB
    expires: float | None  #: from now; after it the job may not start any more
    id: str | None  #: the job id to use, to repeat an enqueue whose answer was lost
    correlation_id: str | None  #: what this job belongs to


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one call, checked."""

    delay: float = 0.0
    key: str | None = None
    queue: str | None = None
    headers: Mapping[str, str] = {}
    expires: float | None = None
    id: str | None = None
    correlation_id: str | None = None


NO_OPTIONS = CallOptions()


def call_options(given: UsingOptions) -> CallOptions:
    """Check the options of one call.

    :raises InvalidSetting: an option does not exist, or its value is impossible (TC104).
    :raises InvalidName: the queue's name cannot travel (TC308).
    """
    refuse_unknown("using()", given, UsingOptions.__annotations__)
    queue, expires = given.get("queue"), given.get("expires")
    return CallOptions(
        delay=_delay(given.get("delay"), given.get("at")),
        key=_text("key", given.get("key")),
        queue=None if queue is None else check_name("queue", queue),
        headers=_headers(given.get("headers")),
        expires=None if expires is None else _seconds("expires", expires),
        id=_text("id", given.get("id")),
        correlation_id=_text("correlation_id", given.get("correlation_id")),
    )


def refuse_unknown(what: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse the names of options that do not exist.

    :raises InvalidSetting: there is one; the text names the option that was probably meant (TC104).
    """
    names = list(known)
    unknown = [name for name in given if name not in names]
    if not unknown:
        return
    from difflib import get_close_matches  # noqa: PLC0415 - for this error only

    close = get_close_matches(unknown[0], names, n=1)
    raise InvalidSetting(
        f"{what} has no option {', '.join(map(repr, unknown))}",
        facts=[f"its options: {', '.join(names)}"],
        fix=f"did you mean {close[0]!r}?" if close else None,
    )


def _seconds(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise InvalidSetting(f"{name}={value!r} is not a time", fix="give seconds as a number, at least 0")
    return float(value)


def _delay(delay: float | None, at: datetime | None) -> float:
    if at is None:
        return 0.0 if delay is None else _seconds("delay", delay)
    if delay is not None:
        raise InvalidSetting("both delay and at are given", fix="give one of them")
    if at.utcoffset() is None:
        raise InvalidSetting(
            f"at={at!r} has no time zone, so its moment is unknown",
            fix='give an aware datetime, such as datetime(2027, 1, 1, 9, tzinfo=ZoneInfo("Europe/Berlin"))',
        )
    # Not now(at.tzinfo): within one zone Python subtracts wall-clock times, and those jump when summer time changes.
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
        raise InvalidSetting("headers map strings to strings", facts=wrong, fix="put other values into the arguments")
    size = sum(len(name.encode()) + len(value.encode()) for name, value in headers.items())
    if size > HEADERS_LIMIT:
        raise InvalidSetting(
            f"the headers have {size} bytes, the limit is {HEADERS_LIMIT}", fix="put large values into the arguments"
        )
    return dict(headers)

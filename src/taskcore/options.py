"""Options: what a task says about all its calls, and what ``using()`` says about one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, Literal, TypeAlias, TypedDict

import msgspec

from taskcore.config import Settings
from taskcore.envelope import HEADERS_LIMIT, ID_LIMIT, KEY_LIMIT, CallRetry, check_name, is_safe_id, size_of_headers
from taskcore.errors import InvalidSetting
from taskcore.lifecycle import Rules
from taskcore.policy import Retry
from taskcore.toolkit.units import Duration, seconds_of, shorten_repr

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
    "is_encodable",
    "refuse_unknown",
]

Key: TypeAlias = str | tuple[str, ...] | Callable[..., str | None]
RunsIn: TypeAlias = Literal["loop", "thread", "process"]
DeliveryMode: TypeAlias = Literal["at_least_once", "at_most_once"]


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
    timeout: float | UseDefault | None = DEFAULT
    expires: float | None = None
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
            timeout=settings.timeout if self.timeout is DEFAULT else self.timeout,
            expires=self.expires,
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
    expires: float | None
    key_window: float
    keep_result: float | None
    delivery: DeliveryMode
    runs_in: RunsIn


# ── one call ─────────────────────────────────────────────────────────────────────────────────────


class UsingOptions(TypedDict, total=False):
    """The options of :meth:`taskcore.Task.using`. A time is seconds, a timedelta, or text such as ``"5m"``.

    None is the same as leaving an option out: what the task says holds.
    """

    delay: Duration | None  #: before the job may start
    at: datetime | None  #: the aware date and time before which the job may not start; instead of ``delay``
    key: str | None  #: idempotency key: within its window the same key means the same job
    queue: str | None  #: another queue than the task's own
    headers: Mapping[str, str] | None  #: strings for your own use, such as a tenant or a trace; at most 8 KiB
    expires: Duration | None  #: from now; after it the job may not start any more
    id: str | None  #: the job id to use, to repeat an enqueue whose answer was lost
    correlation_id: str | None  #: what this job belongs to; a job hands its own on to the jobs that it sends
    timeout: Duration | None  #: how long one attempt may take, instead of the task's
    soft_timeout: Duration | None  #: after which ``SoftTimeout`` is raised in the function, instead of the task's
    retry: (
        Retry | int | None
    )  #: instead of the numbers of the task's policy, whose errors (``on``) stay; 1: one attempt


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one call, checked.

    :param rare: further fields of the envelope; None for nearly all calls.
    """

    delay: float = 0.0
    key: str | None = None
    queue: str | None = None
    headers: Mapping[str, str] = {}
    expires: float | None = None
    id: str | None = None
    correlation_id: str | None = None
    timeout: float | None = None
    retry: CallRetry | None = None
    rare: Mapping[str, Any] | None = None


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
        key=_key(given.get("key")),
        queue=None if queue is None else check_name("queue", queue),
        headers=_headers(given.get("headers")),
        expires=None if expires is None else seconds_of("expires", expires),
        id=_id("id", given.get("id")),
        correlation_id=_id("correlation_id", given.get("correlation_id")),
        timeout=_timeout("timeout", given.get("timeout")),
        retry=_retry(given.get("retry")),
        rare=_rare(given.get("soft_timeout"), given.get("timeout")),
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


def _timeout(name: str, value: Duration | None) -> float | None:
    if value is None:
        return None
    if not (seconds := seconds_of(name, value)):
        raise InvalidSetting(f"{name}=0 leaves no time to run", fix="give a time above 0")
    return seconds


def _rare(soft: Duration | None, hard: Duration | None) -> Mapping[str, Any] | None:
    if (seconds := _timeout("soft_timeout", soft)) is None:
        return None
    if hard is not None and seconds_of("timeout", hard) <= seconds:
        raise InvalidSetting("soft_timeout is not below timeout, and would never be raised", fix="give a shorter one")
    return {"soft_timeout": seconds}


def _retry(retry: object) -> CallRetry | None:
    if retry is None:
        return None
    if type(retry) is int and retry > 0:
        return CallRetry(attempts=retry)
    if not isinstance(retry, Retry):
        what = f"retry={shorten_repr(retry)} is neither a policy nor a number of attempts"
        raise InvalidSetting(what, fix="give a Retry(…), or a number: retry=1 is a single attempt")
    if (retry.on, retry.give_up_on) != (Retry().on, Retry().give_up_on):
        raise InvalidSetting(
            "the errors of a policy cannot travel with one call",
            fix="name them in the task: @app.task(retry=Retry(on=…))",
        )
    return CallRetry(retry.attempts, retry.base, retry.factor, retry.cap, retry.jitter)


def _delay(delay: Duration | None, at: datetime | None) -> float:
    if at is None:
        return 0.0 if delay is None else seconds_of("delay", delay)
    if delay is not None:
        raise InvalidSetting("both delay and at are given", fix="give one of them")
    if not isinstance(at, datetime) or at.utcoffset() is None:
        why = "has no time zone, so its moment is unknown" if isinstance(at, datetime) else "is not a datetime"
        raise InvalidSetting(
            f"at={shorten_repr(at)} {why}",
            fix='give an aware datetime, such as datetime(2027, 1, 1, 9, tzinfo=ZoneInfo("Europe/Berlin"))',
        )
    # Not now(at.tzinfo): within one zone Python subtracts wall-clock times, and those jump when summer time changes.
    return max((at - datetime.now(UTC)).total_seconds(), 0.0)


def _id(name: str, value: str | None) -> str | None:
    """Check an id, by the rule for ids that arrive."""
    if value is None or (isinstance(value, str) and is_safe_id(value)):
        return value
    raise InvalidSetting(
        f"{name}={shorten_repr(value)} cannot be used",
        fix=f"give a text of 1 to {ID_LIMIT} characters without control characters",
    )


def _key(value: str | None) -> str | None:
    if value is None or (isinstance(value, str) and 0 < len(value) <= KEY_LIMIT and is_encodable(value)):
        return value
    raise InvalidSetting(
        f"key={shorten_repr(value)} cannot be used",
        fix=f"give a text of 1 to {KEY_LIMIT} characters, without halves of surrogate pairs",
    )


def is_encodable(text: str) -> bool:
    """Tell whether a text can be encoded: it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _headers(headers: Mapping[str, str] | None) -> Mapping[str, str]:
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise InvalidSetting(
            f"headers={shorten_repr(headers)} is not a mapping", fix='for example headers={"tenant": "7"}'
        )
    wrong = [
        f"{shorten_repr(name)}: {shorten_repr(value)}"
        for name, value in headers.items()
        if not all(isinstance(text, str) and is_encodable(text) for text in (name, value))
    ]
    if wrong:
        raise InvalidSetting(
            "headers map strings to strings without halves of surrogate pairs",
            facts=wrong,
            fix="put other values into the arguments",
        )
    size = size_of_headers(headers)
    if size > HEADERS_LIMIT:
        raise InvalidSetting(
            f"the headers have {size} bytes, the limit is {HEADERS_LIMIT}", fix="put large values into the arguments"
        )
    return dict(headers)

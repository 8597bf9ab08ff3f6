"""Settings, and where each of them came from.

    argument  >  TASKCORE_* variable  >  taskcore.toml  >  [tool.taskcore] in pyproject.toml  >  default

The files are looked for in the working directory and then upwards; the first directory that has one of them is the
place, and no other is read. A variable is called as its setting: ``TASKCORE_CONCURRENCY``, ``TASKCORE_RETRY_ATTEMPTS``;
an empty one counts as absent. Times are seconds or text such as ``"1h30m"``, sizes are bytes or text such as
``"256KiB"``. A name in a file that does not exist is an error: a setting with a typo would be ignored in silence.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import msgspec

from taskcore.envelope import check_name
from taskcore.errors import InvalidSetting
from taskcore.policy import Retry
from taskcore.toolkit.units import duration, show_duration, show_size, size
from taskcore.toolkit.urls import mask_url

if TYPE_CHECKING:  # imported when an app is made: declaring tasks reads no file
    from pathlib import Path

__all__ = ["AppSettings", "Loaded", "Settings", "duration", "load", "mask_url", "show"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of an app. All times in seconds, all sizes in bytes.

    :param url: the broker.
    :param store: where keys and results are kept; None = in the broker's own store, if it has one; "none" = nowhere.
    :param source: the name of this program, written into envelopes.
    :param queues: what a worker listens to, earlier queues first; None = every queue of the app's tasks.
    :param concurrency: how many jobs a worker runs at once.
    :param threads: how many of them may be plain functions, each in a thread.
    :param processes: how many may be functions that run in a process of their own; None = one for each core.
    :param grace: how long running jobs may go on after a worker was asked to stop.
    :param lease: after this time without a renewal another worker gets the job.
    :param send_timeout: how long ``enqueue`` waits for the broker.
    :param timeout: how long one attempt of a task that sets no limit may take; None = no limit.
    :param payload_limit: the largest arguments that are sent.
    :param result_limit: the largest result that is kept; a job with a larger one fails.
    :param keep_result: how long results can be fetched.
    :param key_window: how long an idempotency key is remembered after its job has ended.
    :param park_for: how long a job waits for a worker that knows its task.
    :param strict: whether to refuse to open on a broker or store whose settings break a guarantee.
    :param app: ``"module:attribute"``, the app of commands that name none.
    :param retry: the retry policy of tasks that set none.
    """

    url: str = "memory://"
    store: str | None = None
    source: str | None = None
    queues: tuple[str, ...] | None = None
    concurrency: int = 100
    threads: int = 16
    processes: int | None = None
    grace: float = 30.0
    lease: float = 60.0
    send_timeout: float = 3.0
    timeout: float | None = None
    payload_limit: int = 262_144
    result_limit: int = 1_048_576
    keep_result: float = 3600.0
    key_window: float = 86_400.0
    park_for: float = 86_400.0
    strict: bool = False
    app: str | None = None
    retry: Retry = Retry()


class AppSettings(TypedDict, total=False):
    """The settings that an app takes as keyword arguments; :class:`Settings` explains them.

    A time may be text such as ``"1h30m"``, a size text such as ``"256KiB"``. None means: not given.
    """

    source: str | None
    queues: Sequence[str] | str | None
    concurrency: int | None
    threads: int | None
    processes: int | None
    grace: float | str | None
    lease: float | str | None
    send_timeout: float | str | None
    timeout: float | str | None
    payload_limit: int | str | None
    result_limit: int | str | None
    keep_result: float | str | None
    key_window: float | str | None
    park_for: float | str | None
    strict: bool | str | None
    app: str | None
    retry: Retry | int | Mapping[str, Any] | None


class Loaded(msgspec.Struct, frozen=True):
    """The settings, and for each one (``"lease"``, ``"retry.cap"``) where it came from.

    A source reads ``argument``, ``env TASKCORE_LEASE``, ``taskcore.toml:7``, ``pyproject.toml:41`` or ``default``.
    """

    settings: Settings
    sources: dict[str, str]


class _Given(NamedTuple):
    """A value as it was written, and where."""

    name: str
    raw: Any
    source: str


_NOTHING: Mapping[str, Any] = MappingProxyType({})


def load(
    *,
    arguments: Mapping[str, Any] = _NOTHING,
    environ: Mapping[str, str] | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> Loaded:
    """Load the settings that hold here.

    :param arguments: what the program passes; None means: not given.
    :param environ: the variables; default: those of the process.
    :param directory: where the search for files begins; default: the working directory.
    :raises InvalidSetting: values that cannot be, names that do not exist; all of them at once (TC104).
    """
    from pathlib import Path  # noqa: PLC0415 - declaring tasks reads no file

    environ = os.environ if environ is None else environ
    problems: list[str] = []
    given: dict[str, _Given] = {}
    files = _from_files(Path(directory or ".").resolve())
    for one in chain(files, _from_environment(environ), _from_arguments(arguments)):  # a later layer wins
        if one.name in _KINDS:
            given[one.name] = one
        else:
            problems.append(_unknown(one))
    values = {name: _value(one, problems) for name, one in given.items()}
    if problems:
        what = "a setting is wrong" if len(problems) == 1 else f"{len(problems)} settings are wrong"
        raise InvalidSetting(what, facts=problems, fix="help(taskcore.config.Settings) explains them all")
    retry = {name.removeprefix("retry."): values.pop(name) for name in given if name.startswith("retry.")}
    whole = arguments.get("retry")  # it may name error classes, which no file can
    merged = msgspec.structs.replace(whole if isinstance(whole, Retry) else Retry(), **retry)
    sources = {name: given[name].source if name in given else "default" for name in _KINDS}
    return Loaded(Settings(**values, retry=merged), sources)


def _value(one: _Given, problems: list[str]) -> Any:
    kind = _KINDS[one.name]
    try:
        value = kind.parse(one.raw)
        if (isinstance(value, bool) or not isinstance(one.raw, bool)) and (
            kind.least is None or kind.least <= value < math.inf
        ):
            return value
    except (TypeError, ValueError, KeyError, OverflowError):
        pass
    got = mask_url(one.raw) if isinstance(one.raw, str) else one.raw
    problems.append(f"{one.source}: {one.name}: expected {kind.expected}, got {got!r}")
    return None


def _unknown(one: _Given) -> str:
    close = _close(one.name, _KINDS, 0.6)
    return f'{one.source}: there is no setting "{one.name}"' + (f', did you mean "{close[0]}"?' if close else "")


def _close(name: str, known: Iterable[str], cutoff: float) -> list[str]:
    from difflib import get_close_matches  # noqa: PLC0415 - for names that do not exist

    return get_close_matches(name, known, n=1, cutoff=cutoff)


# ── layers, lowest first ─────────────────────────────────────────────────────────────────────────


def _from_files(start: Path) -> list[_Given]:
    for directory in (start, *start.parents):
        project = _read(directory / "pyproject.toml", start, "tool", "taskcore")
        own = _read(directory / "taskcore.toml", start)
        if project is not None or own is not None:
            return [*(project or ()), *(own or ())]
    return []


def _read(path: Path, start: Path, *table: str) -> list[_Given] | None:
    """Read this table of a file; None if there is no such file or table."""
    label = os.path.relpath(path, start)
    try:
        data = path.read_bytes()
        if table and table[-1].encode() not in data:
            return None  # a file of other tools: do not even parse it
        import tomllib  # noqa: PLC0415 - many programs have no such table

        content: Any = tomllib.loads(text := data.decode())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"{label} cannot be read", facts=[str(error)]) from error
    for name in table:
        content = content.get(name) if isinstance(content, dict) else None
    if not isinstance(content, dict):
        return None
    lines = _lines(text)
    return [_Given(name, raw, f"{label}:{_line_of((*table, name), lines)}") for name, raw in _flat(content)]


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Given]:
    known = {name.upper().replace(".", "_"): name for name in _KINDS}
    for variable, raw in environ.items():
        if not variable.startswith("TASKCORE_") or not raw:
            continue
        short = variable.removeprefix("TASKCORE_")
        # Other programs may have variables that begin like ours; only what looks like a typo is our business.
        if short in known or _close(short, known, 0.75):
            yield _Given(known.get(short, short.lower()), raw, f"env {variable}")


def _from_arguments(arguments: Mapping[str, Any]) -> list[_Given]:
    return [_Given(name, raw, "argument") for name, raw in _flat(arguments) if raw is not None]


def _flat(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the values by their dotted names; ``retry = 8`` is short for eight attempts."""
    for name, value in content.items():
        if name != "retry" or value is None:
            yield name, value
        elif isinstance(value, Mapping):
            yield from ((f"retry.{part}", inner) for part, inner in value.items())
        elif isinstance(value, Retry):
            parts = [known.removeprefix("retry.") for known in _KINDS if known.startswith("retry.")]
            yield from ((f"retry.{part}", getattr(value, part)) for part in parts)
        else:
            yield "retry.attempts", value


_PART = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_HEADER = r"\s*\[\[?([^\[\]]+)\]"
_KEY = rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*="


def _lines(text: str) -> dict[str, int]:
    """Find the line where each table and each key begins. A scan, not a parser: tomllib does not tell."""
    lines: dict[str, int] = {}
    table, in_text = "", False
    for number, line in enumerate(text.split("\n"), 1):
        header, key = (None, None) if in_text else (re.match(_HEADER, line), re.match(_KEY, line))
        name = re.sub(r"[\s\"']", "", header[1] if header else f"{table}.{key[1]}" if key else "")
        table = name if header else table
        lines.setdefault(name.removeprefix("."), number)
        in_text ^= (line.count('"""') + line.count("'''")) % 2 == 1
    return lines


def _line_of(name: tuple[str, ...], lines: Mapping[str, int]) -> int:
    """Find the line of a key, or of the innermost table around it that has a line."""
    parts = ".".join(name).split(".")
    paths = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((lines[path] for path in paths if path in lines), 1)


# ── kinds of values ──────────────────────────────────────────────────────────────────────────────


class _Kind(NamedTuple):
    """How a value is read, what to expect, the least number, how it is shown, and what None means."""

    parse: Callable[[Any], Any]
    expected: str
    least: float | None = None
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


def _queues(raw: Any) -> tuple[str, ...]:
    names = raw.split(",") if isinstance(raw, str) else raw
    if not names or isinstance(names, Mapping):
        raise TypeError
    return tuple(check_name("queue", name.strip()) for name in names)


def show(name: str, value: Any) -> str:
    """Write the value of a setting as a person would, without secrets."""
    kind = _KINDS[name]
    return kind.none if value is None else kind.show(value)


_COUNT = _Kind(_whole, "a whole number, at least 1", least=1)
_WAIT = _Kind(duration, 'seconds, at least 0, or text such as "1h30m", "250ms"', least=0, show=show_duration)
_PERIOD = _Kind(duration, 'seconds, more than 0, or text such as "1h30m", "250ms"', least=0.001, show=show_duration)

_KINDS: dict[str, _Kind] = {
    "url": _Kind(_text, 'a URL such as "redis://localhost:6379/0"', show=mask_url),
    "store": _Kind(_text, 'a URL such as "redis://localhost:6379/1"', show=mask_url, none="the broker's own"),
    "source": _Kind(_text, "the name of a program"),
    "queues": _Kind(_queues, 'names such as "mail,default"', show=",".join, none="every queue of the app's tasks"),
    "concurrency": _COUNT,
    "threads": _COUNT,
    "processes": _COUNT._replace(none="one for each core"),
    "grace": _WAIT,
    "lease": _PERIOD,
    "send_timeout": _PERIOD,
    "timeout": _PERIOD._replace(none="no limit"),
    "payload_limit": _Kind(size, 'bytes, at least 1, or text such as "256KiB"', least=1, show=show_size),
    "result_limit": _Kind(size, 'bytes, at least 1, or text such as "1MiB"', least=1, show=show_size),
    "keep_result": _WAIT,
    "key_window": _PERIOD,
    "park_for": _WAIT,
    "strict": _Kind(_truth, "true or false", show=lambda value: str(value).lower()),
    "app": _Kind(_text, 'a place such as "shop.tasks:app"'),
    "retry.attempts": _COUNT,
    "retry.base": _WAIT,
    "retry.factor": _Kind(float, "a number, at least 1", least=1, show="{:g}".format),
    "retry.cap": _WAIT,
    "retry.jitter": _Kind(_jitter, '"full" or "none"'),
}

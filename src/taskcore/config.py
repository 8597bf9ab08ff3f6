"""Settings, and where each of them came from.

    argument  >  TASKCORE_* variable  >  taskcore.toml  >  [tool.taskcore] in pyproject.toml  >  default

The files are looked for in the working directory and then upwards; the first directory that has one of them is the
place, and no other is read. A variable is called as its setting: ``TASKCORE_CONCURRENCY``, ``TASKCORE_RETRY_ATTEMPTS``;
an empty one counts as absent. Times are seconds or text such as ``"1h30m"``, sizes are bytes or text such as
``"256KiB"``. A name in a file that does not exist is an error: a setting with a typo would be ignored in silence.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import msgspec

from taskcore.errors import InvalidSetting
from taskcore.policy import Retry
from taskcore.setting_kinds import KINDS, NO_STORE, show, show_refused
from taskcore.toolkit.units import Duration, duration
from taskcore.toolkit.urls import mask_text

if TYPE_CHECKING:  # imported when an app is made: declaring tasks reads no file
    from pathlib import Path

__all__ = [
    "NO_STORE", "AppSettings", "Duration", "Loaded", "Settings", "check", "duration", "hint_at_unused_variables",
    "load", "show",
]  # fmt: skip


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
    :param max_block: how long leases are kept while a task blocks the event loop; then other workers get its jobs.
    :param heartbeat: how often a worker tells the store what it does, for ``app.workers()``, ``events()``; 0 = never.
    :param send_timeout: how long ``enqueue`` waits for the broker.
    :param timeout: how long one attempt of a task that sets no limit may take; None = no limit.
    :param payload_limit: the largest arguments that are sent.
    :param result_limit: the largest result that is kept; a job with a larger one fails.
    :param keep_result: how long results can be fetched.
    :param key_window: how long an idempotency key is remembered after its job has ended.
    :param park_for: how long a job waits for a worker that knows its task.
    :param schedules: whether workers fire schedules; None = if the app declares some, or uses ``app.schedules``.
    :param release: of this program, such as ``"2.14"``: of two programs that declare a schedule the newer one wins.
    :param strict: whether to refuse to open on a broker or store whose settings break a guarantee.
    :param app: ``"module:attribute"``, the app of commands that name none.
    :param include: modules that commands import beside the app's; ``"shop.*"`` stands for all modules in a package.
    :param queue_limits: how many jobs of a queue a worker runs at once; the other queues share ``concurrency``.
    :param worker_processes: the least and the largest number of processes of ``taskcore worker``; None = no supervisor.
    :param max_jobs: after so many jobs a process of ``taskcore worker`` is replaced.
    :param max_memory: above this size a process of ``taskcore worker`` is replaced.
    :param max_leaked_threads: with more threads than this that run functions whose jobs have ended a process of
        ``taskcore worker`` is replaced, or ends; None = as many as ``threads``.
    :param health: ``"host:port"`` where ``taskcore worker`` answers health checks.
    :param health_file: the file that ``taskcore worker`` renews while it is alive.
    :param retry: the retry policy of tasks that set none.
    """

    url: str = "memory://"
    store: str | None = None
    source: str | None = None
    queues: tuple[str, ...] | None = None
    concurrency: int = 100
    threads: int = 16
    processes: int | None = None
    grace: float = 20.0
    lease: float = 15.0
    max_block: float = 600.0
    heartbeat: float = 10.0
    send_timeout: float = 3.0
    timeout: float | None = None
    payload_limit: int = 262_144
    result_limit: int = 1_048_576
    keep_result: float = 3600.0
    key_window: float = 86_400.0
    park_for: float = 86_400.0
    schedules: bool | None = None
    release: str | None = None
    strict: bool = False
    app: str | None = None
    include: tuple[str, ...] | None = None
    queue_limits: Mapping[str, int] | None = None
    worker_processes: tuple[int, int] | None = None
    max_jobs: int | None = None
    max_memory: int | None = None
    max_leaked_threads: int | None = None
    health: str | None = None
    health_file: str | None = None
    retry: Retry = Retry()

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        values = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return [(name, show(name, value) if name in _URLS else value) for name, value in values]

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


class AppSettings(TypedDict, total=False):
    """The settings that an app takes as keyword arguments; :class:`Settings` explains them.

    A time is seconds, a timedelta, or text such as ``"1h30m"``; a size is bytes or text. None: not given.
    """

    source: str | None
    queues: Sequence[str] | str | None
    concurrency: int | None
    threads: int | None
    processes: int | None
    grace: Duration | None
    lease: Duration | None
    max_block: Duration | None
    heartbeat: Duration | None
    send_timeout: Duration | None
    timeout: Duration | None
    payload_limit: int | str | None
    result_limit: int | str | None
    keep_result: Duration | None
    key_window: Duration | None
    park_for: Duration | None
    schedules: bool | str | None
    release: str | None
    strict: bool | str | None
    app: str | None
    include: Sequence[str] | str | None
    queue_limits: Mapping[str, int] | str | None
    worker_processes: int | str | tuple[int, int] | None
    max_jobs: int | None
    max_memory: int | str | None
    max_leaked_threads: int | None
    health: str | None
    health_file: str | None
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


_URLS = ("url", "store")
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
    environ = os.environ if environ is None else environ
    problems: list[str] = []
    given: dict[str, _Given] = {}
    files = _from_files(_here(directory))
    for one in chain(files, _from_environment(environ), _from_arguments(arguments)):  # a later layer wins
        if one.name in KINDS:
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
    sources = {name: given[name].source if name in given else "default" for name in KINDS}
    return Loaded(Settings(**values, retry=merged), sources)


def hint_at_unused_variables(sources: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> None:
    """Log a hint if a variable names a broker or a store, and the program names another."""
    for name in _URLS:
        variable = f"TASKCORE_{name.upper()}"
        if sources[name] == "argument" and environ.get(variable):
            from taskcore.toolkit.logging import logger  # noqa: PLC0415 - settings are read where nothing is logged

            log = logger("taskcore.config")
            log.warning("%s is set and not used: the program gives App() a %s of its own", variable, name)


def _value(one: _Given, problems: list[str]) -> Any:
    kind = KINDS[one.name]
    with suppress(Exception):  # an argument may be anything, and bring its own code
        value = kind.parse(one.raw)
        if (isinstance(value, bool) or not isinstance(one.raw, bool)) and (
            kind.least is None or kind.least <= value <= kind.most
        ):
            return value
    problems.append(f"{one.source}: {one.name}: expected {kind.expected}, got {show_refused(one.raw)}")
    return None


def check(name: str, value: Any) -> Any:
    """Read one value as the setting of this name; what a method takes is checked like a setting.

    :raises InvalidSetting: it cannot be (TC104).
    """
    problems: list[str] = []
    checked = _value(_Given(name, value, "argument"), problems)
    if problems:
        raise InvalidSetting("an argument is wrong", facts=problems)
    return checked


def _unknown(one: _Given) -> str:
    close, name = _close(one.name, KINDS, 0.6), mask_text(one.name)
    return f'{one.source}: there is no setting "{name}"' + (f', did you mean "{close[0]}"?' if close else "")


def _close(name: str, known: Iterable[str], cutoff: float) -> list[str]:
    from difflib import get_close_matches  # noqa: PLC0415 - for names that do not exist

    return get_close_matches(name, known, n=1, cutoff=cutoff)


# ── layers, lowest first ─────────────────────────────────────────────────────────────────────────


def _here(directory: str | os.PathLike[str] | None) -> Path | None:
    """Return where the search begins; None if there is no such place, because the working directory was deleted."""
    from pathlib import Path  # noqa: PLC0415 - as above

    try:
        return Path(directory or ".").resolve()
    except OSError:
        return None


def _from_files(start: Path | None) -> list[_Given]:
    if start is None:
        return []
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
    known = {name.upper().replace(".", "_"): name for name in KINDS}
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
            parts = [known.removeprefix("retry.") for known in KINDS if known.startswith("retry.")]
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

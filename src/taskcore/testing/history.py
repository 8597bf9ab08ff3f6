"""History: what was asked, answered, started and ended, written down independently of whatever is being tested.

    history = History(clock=harness.now)                                  in this process
    history = History.to_file("worker-1.jsonl", who="worker-1")         survives kill -9 of the process that writes it
    backend = RecordingBackend(await harness.backend(), history, "w1")    writes down enqueues and settling

    @app.task
    async def work(key: str) -> None:
        with history.run(current()):                                    start and end of each run
            history.effect(key, current().job_id)                       something the world can see

Kinds of entries:

    invoke    ok  duplicate  refused  uncertain      an enqueue: called, and how it was answered
    start     end                                    a run of the function; ``outcome``: returned, raised, interrupted
    effect                                           something that a run did to the world, by its ``key``
    settled   lost                                   a verdict that was carried out, or not because the lease was lost
    cancelled replayed                               taken back before it started; its dead letter became a new job
    died                                             a worker (``who``) was killed; job is empty
    event                                            anything else, by its ``name``

``checker.judge`` reads only this and what is left in the broker; so a fault in the library cannot hide itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeAlias

import msgspec

__all__ = ["EntryKind", "History", "HistoryEntry", "Running", "error_text"]

EntryKind: TypeAlias = Literal[
    "invoke", "ok", "duplicate", "refused", "uncertain",
    "start", "end", "effect",
    "settled", "lost",
    "cancelled", "replayed", "died", "event",
]  # fmt: skip

MESSAGE_CHARACTERS = 200  #: characters of an error's message that are written down


class HistoryEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happened. ``at`` in seconds, on the history's clock; ``facts`` depend on the kind."""

    at: float
    who: str
    kind: EntryKind
    job: str
    facts: dict[str, Any] = {}

    def __str__(self) -> str:
        facts = " ".join(f"{name}={_short(value)}" for name, value in self.facts.items())
        return f"{self.who:<10} {self.kind:<9} {facts}".rstrip()


class Running(Protocol):
    """What a run has to know of itself; :func:`taskcore.current` gives it."""

    @property
    def job_id(self) -> str:
        """The job's id."""
        ...

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""
        ...

    @property
    def fence(self) -> int:
        """Grows with each holder."""
        ...


class Observable(Protocol):
    """What tells events; an :class:`taskcore.App` does."""

    def on_event(self, listener: Callable[[Any], None]) -> Any:
        """Call the listener at every event."""
        ...


class History:
    """Entries in the order in which they were recorded.

    :param who: the name of each entry's author, unless ``record`` gives another.
    :param clock: seconds; histories that are merged have to share it. ``time.time`` for several processes,
        ``harness.now`` or ``anyio.current_time`` where time is virtual.
    """

    def __init__(self, *, who: str = "test", clock: Callable[[], float] = time.time) -> None:
        self.who = who
        self._clock = clock
        self._entries: list[HistoryEntry] = []
        self._runs = count(1)
        self._file: int | None = None
        self._sync = False

    @classmethod
    def to_file(
        cls, path: str | Path, *, who: str | None = None, clock: Callable[[], float] = time.time, sync: bool = False
    ) -> Self:
        """Make a history that is also appended to a file, one JSON line for each entry, each with a single write.

        What was recorded survives ``kill -9``, because the kernel has it. ``sync`` writes through to the disk each
        time, for tests that pull the plug.

        :param who: default: the process, as ``pid-123``.
        """
        history = cls(who=who or f"pid-{os.getpid()}", clock=clock)
        history._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        history._sync = sync
        return history

    @classmethod
    def load(cls, paths: Iterable[str | Path]) -> Self:
        """Load the entries of several files as one history, in the order of their times. A missing file is empty.

        :raises ValueError: a line is not an entry; a last line that was cut by a kill is left out, not an error.
        """
        history = cls(who="loaded")
        for path in map(Path, paths):
            data = path.read_bytes() if path.exists() else b""
            whole, _, _ = data.rpartition(b"\n")  # behind the last newline is what a kill cut short, or nothing
            for number, line in enumerate(whole.splitlines(), 1):
                try:
                    history._entries.append(_decode(line))
                except msgspec.MsgspecError as error:
                    raise ValueError(f"{path}:{number} is not an entry of a history: {error}") from error
        history._entries.sort(key=lambda entry: entry.at)  # stable: each file's own order stays
        return history

    @property
    def entries(self) -> Sequence[HistoryEntry]:
        """Everything so far."""
        return self._entries

    @property
    def tasks(self) -> dict[str, str]:
        """Job id → name of its task, of all jobs whose enqueue was recorded."""
        return {entry.job: str(entry.facts.get("task", "")) for entry in self._entries if entry.kind == "invoke"}

    def now(self) -> float:
        """Return the seconds on this history's clock."""
        return self._clock()

    def record(self, kind: EntryKind, job: str, *, who: str | None = None, **facts: Any) -> HistoryEntry:
        """Write one entry down; facts are plain data (what is not becomes its text)."""
        entry = HistoryEntry(self._clock(), self.who if who is None else who, kind, job, facts)
        self._entries.append(entry)
        if self._file is not None:
            os.write(self._file, _encode(entry) + b"\n")
            if self._sync:
                os.fsync(self._file)
        return entry

    def extend(self, entries: Iterable[HistoryEntry]) -> None:
        """Take in entries that were recorded elsewhere on the same clock; the whole is in the order of times again."""
        self._entries.extend(entries)
        self._entries.sort(key=lambda entry: entry.at)

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    # ── what a task records ──

    @contextmanager
    def run(self, running: Running, *, who: str | None = None) -> Iterator[None]:
        """Record the start of a task function around its body, and how it ended if it came to that.

        A kill leaves a start without an end.
        """
        number, job = next(self._runs), running.job_id
        self.record("start", job, who=who, run=number, attempt=running.attempt, fence=running.fence)
        try:
            yield
        except BaseException as error:
            outcome = "interrupted" if type(error).__name__ in _INTERRUPTIONS else "raised"
            facts = {} if outcome == "interrupted" else {"error": error_text(_type_name(error), _message(error))}
            self.record("end", job, who=who, run=number, attempt=running.attempt, outcome=outcome, **facts)
            raise
        self.record("end", job, who=who, run=number, attempt=running.attempt, outcome="returned")

    def effect(self, key: str, job: str, *, who: str | None = None) -> None:
        """Record that a run did something that the world can see; the same key twice is a double effect."""
        self.record("effect", job, who=who, key=key)

    # ── what an app says about itself ──

    def listen(self, app: Observable, *, who: str | None = None) -> None:
        """Record the app's events. From now on the checker expects that this app is silent about nothing (C19)."""
        self.record("event", "", who=who, name="listening")

        def hear(event: Any) -> None:
            if event.name.endswith((".complete", ".failed")) and "job_id" not in event.facts:
                return  # batches: no job is named, so nothing could be checked
            facts: Mapping[str, Any] = event.facts
            plain = {name: value if isinstance(value, _PLAIN) else str(value) for name, value in facts.items()}
            job = str(plain.pop("job_id", ""))
            plain.pop("name", None)
            self.record("event", job, who=who, name=event.name, **{key: plain[key] for key in plain if key != "who"})

        app.on_event(hear)


# ── text and bytes ───────────────────────────────────────────────────────────────────────────────

_PLAIN = (str, int, float, bool, type(None))
_INTERRUPTIONS = ("CancelledError", "Cancelled", "GeneratorExit")  # asyncio's, trio's, a closed coroutine's

_encode = msgspec.json.Encoder(enc_hook=str).encode
_decode = msgspec.json.Decoder(HistoryEntry).decode


def error_text(kind: str, message: str) -> str:
    """Write an error down: its type and the beginning of its message, the same for runs and for letters."""
    return f"{kind}: {message}"[:MESSAGE_CHARACTERS]


def _type_name(error: BaseException) -> str:
    """Name an error's type as trails do: builtins without their module."""
    kind = type(error)
    if kind.__module__.partition(".")[0] in ("builtins", "__main__", "taskcore"):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return str(error).encode("utf-8", "backslashreplace").decode()
    except BaseException as second:  # noqa: BLE001 - the error's own code runs here, and may be what is tested
        return f"<no text: __str__ raised {type(second).__qualname__}>"


def _short(value: Any) -> str:
    text = f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return text if len(text) <= MESSAGE_CHARACTERS else f"{text[:MESSAGE_CHARACTERS]}…"

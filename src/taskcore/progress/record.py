"""The records of a job's progress and of its log: what a store keeps, and what readers get. No input or output here.

    progress/<id>    the last position that an attempt has reported, with the attempt's fence
    log/<id>         the first lines and the last lines that its attempts wrote

The progress says which start of the job wrote it, by the start's fence, and a later start has a higher one. Where a
broker does not count hand-outs two starts may have the same; then the later write stands. Lines of a log are never
taken back, so all starts add theirs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from taskcore.store import record_decoder
from taskcore.toolkit.logging import visible
from taskcore.toolkit.urls import mask_text
from taskcore.toolkit.values import PublicValue

__all__ = [
    "KEPT_AFTER_CHANGE",
    "LINE_LIMIT",
    "JobLog",
    "JobLogLine",
    "JobProgress",
    "KeptLines",
    "Quantity",
    "StoredLine",
    "StoredLog",
    "StoredProgress",
    "clean_line",
    "decode_log",
    "decode_progress",
    "encode_log",
    "encode_progress",
    "log_name",
    "progress_name",
    "seen_log",
    "seen_progress",
]

Quantity: TypeAlias = int | float

KEPT_AFTER_CHANGE = 86_400.0  #: seconds for which both are kept after the last change; longer, if results are
LINE_LIMIT = 4_096  #: characters of one line of a log
FIRST_BYTES, LAST_BYTES = 16_384, 49_152  #: of the first and of the last lines that are kept
FIRST_LINES, LAST_LINES = 200, 800


def progress_name(job_id: str) -> str:
    """Name the record of a job's progress."""
    return f"progress/{job_id}"


def log_name(job_id: str) -> str:
    """Name the record of a job's log."""
    return f"log/{job_id}"


# ── what readers get ─────────────────────────────────────────────────────────────────────────────


class JobProgress(PublicValue, frozen=True, kw_only=True):
    """How far a job has got, as it was reported last.

    :param value: the position.
    :param total: where it ends; None if that is not known.
    :param message: what the job does now.
    :param attempt: the attempt that reported it.
    :param at: when, in seconds since the epoch, by the worker's clock.
    :param rate: how much of ``value`` this attempt has done per second; None before it is known.
    """

    value: Quantity
    total: Quantity | None
    message: str
    attempt: int
    at: float
    rate: float | None

    @property
    def fraction(self) -> float | None:
        """From 0 to 1; None without a total."""
        return min(max(self.value / self.total, 0.0), 1.0) if self.total else None

    @property
    def remaining(self) -> float | None:
        """Seconds until the end at this rate; None if that is not known."""
        if not self.rate or self.total is None:
            return None
        return max(self.total - self.value, 0) / self.rate

    def __str__(self) -> str:
        parts = [f"{self.value:g}" if self.total is None else f"{self.value:g}/{self.total:g}"]
        if self.fraction is not None:
            parts.append(f"({self.fraction:.0%})")
        return " ".join(filter(None, [*parts, self.message]))


class JobLogLine(PublicValue, frozen=True):
    """One line of a job's log: when it was written, in seconds since the epoch, and by which attempt."""

    at: float
    attempt: int
    text: str


class JobLog(PublicValue, frozen=True):
    """The log of a job.

    :param lines: the first lines and the last lines, in order.
    :param left_out: how many lines between these two are not kept.
    """

    lines: tuple[JobLogLine, ...]
    left_out: int = 0


# ── what a store keeps ───────────────────────────────────────────────────────────────────────────


class StoredProgress(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The record of a job's progress.

    :param fence: of the start that wrote it.
    :param start: the value at which this start began, ``since`` when.
    """

    value: Quantity = 0
    total: Quantity | None = None
    message: str = ""
    attempt: int = 1
    fence: int = 0
    at: float = 0.0
    start: Quantity = 0
    since: float = 0.0


class StoredLine(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One line of a log, and the mark of the start that wrote it."""

    at: float
    attempt: int
    mark: str
    text: str


class StoredLog(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record of a job's log: ``left_out`` lines are missing after the ``first`` ones."""

    first: list[StoredLine] = []
    last: list[StoredLine] = []
    left_out: int = 0


encode_progress = msgspec.json.Encoder().encode
encode_log = msgspec.json.Encoder().encode
decode_progress = record_decoder(StoredProgress, "the progress of a job")
decode_log = record_decoder(StoredLog, "the log of a job")


def seen_progress(stored: StoredProgress) -> JobProgress:
    """Make what readers get."""
    seconds, done = stored.at - stored.since, stored.value - stored.start
    rate = done / seconds if seconds > 0 and done > 0 else None
    return JobProgress(
        value=stored.value,
        total=stored.total,
        message=stored.message,
        attempt=stored.attempt,
        at=stored.at,
        rate=rate if rate is not None and math.isfinite(rate) else None,
    )


def seen_log(stored: StoredLog) -> JobLog:
    """Make what readers get."""
    lines = tuple(JobLogLine(line.at, line.attempt, line.text) for line in (*stored.first, *stored.last))
    return JobLog(lines, stored.left_out)


def clean_line(text: str, limit: int = LINE_LIMIT) -> str:
    """Make one line of any text: bounded, without control characters and without the logins of URLs."""
    text = mask_text(text.encode("utf-8", "backslashreplace").decode())
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text) - limit:,} characters more)"
    return visible(text)


class KeptLines:
    """Lines of a log, bounded in number and size: the first ones stay, and so do the last ones.

    :ivar left_out: how many lines between them are gone.
    """

    def __init__(self, lines: Iterable[StoredLine] = (), *, left_out: int = 0) -> None:
        self.first: list[StoredLine] = []
        self.last: deque[StoredLine] = deque()
        self.left_out = 0
        self._first_bytes = self._last_bytes = 0
        for line in lines:
            self.add(line)
        self.left_out += left_out

    def add(self, line: StoredLine) -> None:
        """Add a line at the end."""
        size = len(line.text.encode())
        if not self.last and len(self.first) < FIRST_LINES and self._first_bytes + size <= FIRST_BYTES:
            self.first.append(line)
            self._first_bytes += size
            return
        self.last.append(line)
        self._last_bytes += size
        while len(self.last) > LAST_LINES or self._last_bytes > LAST_BYTES:
            self._last_bytes -= len(self.last.popleft().text.encode())
            self.left_out += 1

    def behind(self, earlier: StoredLog, mark: str) -> KeptLines:
        """Put the lines of one start, by its mark, behind those that others have written."""
        found = [*earlier.first, *earlier.last]
        others = [line for line in found if line.mark != mark]
        own = [line for line in (*self.first, *self.last) if line.mark == mark]
        both_counted = len(others) < len(found)  # some of its own lines are there: the answer to their write was lost
        missing = max(earlier.left_out, self.left_out) if both_counted else earlier.left_out + self.left_out
        return KeptLines([*others, *own], left_out=missing)

    def stored(self) -> StoredLog:
        """Make the record."""
        return StoredLog(list(self.first), list(self.last), self.left_out)

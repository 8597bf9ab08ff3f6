"""``current().progress(…)``: how far a running function has got. Reporting costs no input or output."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Iterator, Sequence, Sized
from itertools import islice
from threading import Lock
from typing import Any, Generic, Protocol, Self, TypeVar

from taskcore.errors import InvalidArguments, NotRunning
from taskcore.progress.record import Quantity, StoredProgress
from taskcore.toolkit.logging import visible
from taskcore.toolkit.units import shorten_repr

__all__ = ["MESSAGE_LIMIT", "AsyncTracked", "Progress", "ProgressHost", "Tracked", "length_of"]

T = TypeVar("T")

MESSAGE_LIMIT = 500  #: characters of a message


class ProgressHost(Protocol):
    """Where a function runs, as its progress needs it."""

    def now(self) -> float:
        """Return seconds since the epoch, by the worker's clock."""
        ...

    async def saved(self) -> StoredProgress | None:
        """Read what earlier starts have reported, in the event loop."""
        ...

    def saved_now(self) -> StoredProgress | None:
        """Read the same, blocking.

        :raises NotRunning: an event loop runs here (TC106).
        """
        ...


class Progress:
    """How far the running job has got. Reporting changes memory only; the worker writes it about once a second.

    :ivar start: the value at which this start of the job began.
    :ivar changed: whether the worker has something to write.
    """

    def __init__(self, place: ProgressHost, *, attempt: int, fence: int) -> None:
        self._place = place
        self._attempt, self._fence = attempt, fence
        self._lock = Lock()  # a function may tell from several threads of its own
        self._value: Quantity = 0
        self._total: Quantity | None = None
        self._message = ""
        self._since = place.now()
        self._resumes: bool | None = None  # True: what was saved is to be read, None: it is not asked for
        self.start: Quantity = 0
        self.changed = True

    def __repr__(self) -> str:
        return f"<Progress {self._value}/{'?' if self._total is None else self._total}>"

    def __await__(self) -> Generator[Any, Any, Self]:
        """Read the saved position, if it is to be resumed."""
        yield from self.read_saved().__await__()
        return self

    @property
    def value(self) -> Quantity:
        """The position: of an earlier attempt, if it was resumed, plus what this one has done since.

        :raises NotRunning: the saved position is not read yet (TC106).
        """
        self._require_read()
        return self._value

    @property
    def total(self) -> Quantity | None:
        """Where it ends; None if that is not known."""
        return self._total

    @property
    def message(self) -> str:
        """What the job does now."""
        return self._message

    def advance(self, by: Quantity = 1, message: str | None = None) -> None:
        """Move the position.

        :param message: what the job does now; None leaves it as it is.
        :raises InvalidArguments: a number or a text that cannot be (TC302).
        :raises NotRunning: the saved position is not read yet (TC106).
        """
        if by.__class__ is not int:
            by = _number("by", by)
        if message is not None:
            message = _message(message)
        if self._resumes:
            self._require_read()
        with self._lock:
            self._value += by
            if message is not None:
                self._message = message
            self.changed = True

    def update(
        self, value: Quantity | None = None, *, total: Quantity | None = None, message: str | None = None
    ) -> None:
        """Set the position, the total or the message; None leaves each as it is.

        :raises InvalidArguments: a number or a text that cannot be (TC302).
        """
        if value is not None:
            value = _number("value", value)
            self._require_read()
        if total is not None:
            total = _number("total", total)
            if total < 0:
                raise InvalidArguments(f"total={total} of progress() is below 0", fix="leave it out if it is not known")
        message = None if message is None else _message(message)
        with self._lock:
            self._value = self._value if value is None else value
            self._total = self._total if total is None else total
            self._message = self._message if message is None else message
            self.changed = True

    # ── resuming ──

    def ask_to_resume(self) -> None:
        """Let the next read of the value go on from the saved position; before the first report only."""
        if self._resumes is None:
            self._resumes = True
            self.changed = False  # what is saved must not be overwritten before it is read

    def resume_now(self) -> None:
        """Read the saved position, blocking, if it is to be resumed."""
        if self._resumes:
            self._take(self._place.saved_now())

    async def read_saved(self) -> None:
        """Read the saved position, if it is to be resumed."""
        if self._resumes:
            self._take(await self._place.saved())

    def _take(self, saved: StoredProgress | None) -> None:
        with self._lock:
            self._resumes = False
            self.changed = True
            if saved is not None:
                self._value = self.start = saved.value
                self._total = saved.total if self._total is None else self._total
                self._message = self._message or saved.message

    def _require_read(self) -> None:
        if self._resumes:
            raise NotRunning(
                "progress(resume=True) has not read yet where the last attempt was",
                fix="progress = await current().progress(resume=True); or: async for row in "
                'current().progress(rows, resume=True). A plain function reads at once in runs_in="thread"',
            )

    # ── for the worker ──

    def take_change(self) -> StoredProgress:
        """Return what is to be written, and count it as written."""
        with self._lock:
            self.changed = False
            return StoredProgress(
                value=self._value,
                total=self._total,
                message=self._message,
                attempt=self._attempt,
                fence=self._fence,
                at=self._place.now(),
                start=self.start,
                since=self._since,
            )

    def copy_from(self, reported: StoredProgress) -> None:
        """Take over what the function reports in another process."""
        with self._lock:
            self._value, self._total, self._message = reported.value, reported.total, reported.message
            self.start, self._since = reported.start, reported.since
            self.changed = True


class Tracked(Generic[T]):
    """Items whose number is the progress: an item counts when the next one is asked for. ``for`` and ``async for``.

    :ivar progress: the number of them that are done.
    """

    def __init__(self, items: Iterable[T], progress: Progress) -> None:
        self._items = items
        self.progress = progress

    def __iter__(self) -> Iterator[T]:
        self.progress.resume_now()
        for item in self._rest():
            yield item
            self.progress.advance()

    async def __aiter__(self) -> AsyncIterator[T]:
        await self.progress.read_saved()
        for item in self._rest():
            yield item
            self.progress.advance()

    def _rest(self) -> Iterable[T]:
        """Leave out what earlier attempts have done."""
        done = int(self.progress.value)
        if not done:
            return self._items
        if isinstance(self._items, Sequence):
            return (self._items[index] for index in range(done, len(self._items)))
        return islice(self._items, done, None)


class AsyncTracked(Generic[T]):
    """Items that come one by one, as :class:`Tracked`.

    :ivar progress: the number of them that are done.
    """

    def __init__(self, items: AsyncIterable[T], progress: Progress) -> None:
        self._items = items
        self.progress = progress

    async def __aiter__(self) -> AsyncIterator[T]:
        await self.progress.read_saved()
        skipped, done = 0, int(self.progress.value)
        async for item in self._items:
            if skipped < done:
                skipped += 1
                continue
            yield item
            self.progress.advance()


def length_of(items: object) -> int | None:
    """Return how many items there are, if they can be counted."""
    try:
        return len(items) if isinstance(items, Sized) else None
    except Exception:  # noqa: BLE001 - the user's code; a total is a help, and no need
        return None


def _number(name: str, value: object) -> Quantity:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    raise InvalidArguments(
        f"{name}={shorten_repr(value)} of progress() is not a number that can be reported", fix="give a finite number"
    )


def _message(message: object) -> str:
    if isinstance(message, str) and len(message) <= MESSAGE_LIMIT:
        return visible(message.encode("utf-8", "backslashreplace").decode())
    what = f"has {len(message):,} characters" if isinstance(message, str) else f"is {shorten_repr(message)}"
    raise InvalidArguments(
        f"the message of progress() {what}, and the limit is a text of {MESSAGE_LIMIT} characters",
        fix="tell the rest with current().log(…); keep large things elsewhere, and tell where",
    )

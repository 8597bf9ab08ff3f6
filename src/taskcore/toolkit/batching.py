"""Group commit: items that arrive while one batch is in flight form the next.

No timer and no linger: on an idle system a lone item leaves at once; under load full batches form by themselves.

    GroupCommit      callers wait for the answer to their own item (client, single enqueues)
    Buffer           callers put items and go on; one task takes them in batches (worker, settling)
    gather_limited   batches that exist already: the next is prepared while the last is under way
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

import anyio

from taskcore.toolkit.detached import Detached

__all__ = ["Buffer", "GroupCommit", "gather_limited"]

T = TypeVar("T")
R = TypeVar("R")


class GroupCommit(Generic[T, R]):
    """Turns many single submissions into few batches, without a task of its own.

    The first caller leads: it commits a batch of all waiting items, then passes the lead to the first caller that has
    arrived meanwhile. A batch is detached from its leader, because its items belong to other callers too.

    :param commit: stores a batch and answers each item, in order; has to end by itself.
    :param limit: how many items a batch may have.
    :param in_place: commit a lone item in the caller's task: cheaper, and cancelled with it.
    """

    def __init__(
        self, commit: Callable[[list[T]], Awaitable[Sequence[R]]], *, limit: int, in_place: bool = False
    ) -> None:
        self._commit = commit
        self._limit = limit
        self._in_place = in_place
        self._waiting: deque[_Entry[T, R]] = deque()
        self._led = False
        self._detached = Detached()

    async def submit(self, item: T) -> R:
        """Return the answer to this item. If cancelled before its batch has left, the item is surely not committed.

        :raises Exception: whatever ``commit`` raised for the batch.
        """
        entry: _Entry[T, R] = _Entry(item)  # _Entry[T, R](item) would cost as much as the rest of this function
        self._waiting.append(entry)
        if self._led:
            await self._follow(entry)
        if not entry.ended:
            await self._lead()
        return entry.take()

    async def wait_closed(self) -> None:
        """Wait for batches whose callers were cancelled."""
        await self._detached.wait_closed()

    async def _follow(self, entry: _Entry[T, R]) -> None:
        """Wait until another caller has committed the entry, or has passed the lead to this one."""
        entry.woken = anyio.Event()
        try:
            await entry.woken.wait()
        except BaseException:
            if not entry.ended and entry in self._waiting:
                appointed = entry.woken.is_set()
                self._waiting.remove(entry)
                if appointed:
                    self._pass_on()
            raise

    async def _lead(self) -> None:
        """Commit one batch; this caller's entry is the first of it."""
        self._led = True
        if len(self._waiting) <= self._limit:
            batch = list(self._waiting)
            self._waiting.clear()
        else:
            batch = [self._waiting.popleft() for _ in range(self._limit)]
        if self._in_place and len(batch) == 1:
            await self._carry(batch)
        else:
            await self._detached.run(lambda: self._carry(batch))

    async def _carry(self, batch: list[_Entry[T, R]]) -> None:
        try:
            answers = await self._commit([entry.item for entry in batch])
            for entry, answer in zip(batch, answers, strict=True):
                entry.succeed(answer)
        except BaseException as error:
            for entry in batch:
                entry.fail(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        self._led = bool(self._waiting)
        if self._waiting and not self._waiting[0].wake():
            self._pass_on_to_living()

    def _pass_on_to_living(self) -> None:
        """Pass the lead to the first caller whose event loop has not ended."""
        while self._waiting and not (first := self._waiting[0]).wake():
            with suppress(ValueError):  # it has left by itself meanwhile
                self._waiting.remove(first)
        self._led = bool(self._waiting)


class _Entry(Generic[T, R]):
    """One submission: an item that waits for its answer or error."""

    __slots__ = ("_answer", "_error", "ended", "item", "woken")

    def __init__(self, item: T) -> None:
        self.item = item
        self.woken: anyio.Event | None = None
        self.ended = False
        self._answer: R | None = None
        self._error: BaseException | None = None

    def succeed(self, answer: R) -> None:
        self._answer = answer
        self.ended = True
        self.wake()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self.ended = True
        self.wake()

    def wake(self) -> bool:
        """Wake the caller; False if its event loop is closed."""
        if self.woken is not None:
            try:
                self.woken.set()
            except RuntimeError:
                return False
        return True

    def take(self) -> R:
        if self._error is not None:
            raise self._error
        return self._answer  # type: ignore[return-value]  # ended without error: the answer is there


class Buffer(Generic[T]):
    """Gathers items from many callers; one task takes all that have gathered since its last call.

    :param full: the number of waiting items at which ``is_full`` asks callers to pause.
    """

    def __init__(self, *, full: int) -> None:
        self._items: list[T] = []
        self._full = full
        self._arrival: anyio.Event | None = None
        self._closed = False

    @property
    def is_full(self) -> bool:
        """Whether the task that takes the items has fallen behind."""
        return len(self._items) >= self._full

    def put(self, item: T) -> None:
        """Add an item; never wait."""
        self._items.append(item)
        if self._arrival is not None:
            self._arrival.set()
            self._arrival = None

    def close(self) -> None:
        """Declare that no more items will come; ``take`` then returns an empty list after the last one."""
        self._closed = True
        if self._arrival is not None:
            self._arrival.set()

    async def take(self, ahead: Sequence[T] = ()) -> list[T]:
        """Return these and all items that have gathered; wait for at least one. Empty when closed and done."""
        while not (self._items or ahead or self._closed):
            self._arrival = anyio.Event()
            await self._arrival.wait()
        items, self._items = self._items, []
        return [*ahead, *items] if ahead else items


async def gather_limited(work: Callable[[T], Awaitable[R]], items: Sequence[T], *, limit: int) -> list[R]:
    """Run ``work`` on each item, at most ``limit`` at a time, begun in order; return the results in order.

    :raises Exception: the first error of ``work``; items behind it are not begun.
    """
    if len(items) == 1:
        return [await work(items[0])]
    results: dict[int, R] = {}
    waiting = iter(enumerate(items))
    failures: list[Exception] = []

    async def run_next() -> None:
        for number, item in waiting:
            if failures:
                return
            try:
                results[number] = await work(item)
            except Exception as error:  # noqa: BLE001 - raised below, without the group's wrapper
                failures.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(min(limit, len(items))):
            group.start_soon(run_next)
    if failures:
        raise failures[0]
    return [results[number] for number in range(len(items))]

"""A thread with a connection of its own, which carries out all items that have arrived since its last batch.

The event loop is never blocked by a disk or a lock, and concurrent code forms batches: items that arrive while one
transaction is written join the next. Works with either event loop.

    thread = SqliteThread(…, work=work)     work(file, [item, …]) → [answer, …], in the thread
    answer = await thread.ask(item)         never takes longer than the address allows

The thread is a daemon: a disk that hangs cannot keep a process alive. A thread that does not answer in time is given
up, and the next call gets a new one with a new connection. A forked child has none of its parent's threads and makes
new ones; it leaves the parent's connections untouched, because closing one in the wrong process harms the file.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, NamedTuple, TypeVar

import anyio
import anyio.lowlevel

from taskcore.connections.sqlite.address import SqliteAddress
from taskcore.connections.sqlite.file import SqliteFile, SqliteUncertain, is_locked, sqlite_unavailable
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.call_soon import call_soon_in_loop
from taskcore.toolkit.logging import logger

__all__ = ["SqliteThread"]

log = logger("taskcore.connections.sqlite")

T = TypeVar("T")
R = TypeVar("R")

BATCH_LIMIT = 1_000  #: items in one batch


class SqliteThread(Generic[T, R]):
    """A thread that works, and callers that wait.

    :param begin: is called with a file that was just opened.
    :param work: carries out a list of items and answers each, in order; its error is raised for all of them.
    :param idle_work: is called after each batch, and after ``idle_after()`` seconds without one (None: never then).
    """

    def __init__(
        self,
        name: str,
        address: SqliteAddress,
        *,
        begin: Callable[[SqliteFile], None],
        work: Callable[[SqliteFile, list[T]], Sequence[R]],
        idle_work: Callable[[SqliteFile], None],
        idle_after: Callable[[], float | None],
    ) -> None:
        self._name = name
        self._address = address
        self._hooks = _Hooks(begin, work, idle_work, idle_after)
        self._thread: _WorkerThread[T, R] | None = None
        self._pid = os.getpid()

    async def ask(self, item: T) -> R:
        """Return the answer to this item. If cancelled before its batch begins, the item is surely not carried out.

        :raises BrokerUnavailable: the item was not carried out; after a timeout it may have been.
        """
        thread = self._alive()
        entry = _PendingItem[T, R](item)
        thread.entries.put(entry)
        try:
            with anyio.move_on_after(self._address.timeout):
                await entry.ended.wait()
        finally:
            if not entry.ended.is_set():
                entry.withdrawn = True
        if not entry.ended.is_set():
            self._give_up(thread)
            raise SqliteUncertain(
                f"the SQLite file {self._address.path} did not answer within {self._address.timeout:g} s",
                facts=["the call may have been carried out"],
                fix="see whether its disk hangs, or allow more with ?timeout=",
            )
        return entry.take()

    def submit_nowait(self, item: T) -> None:
        """Give the thread an item whose answer is dropped; without a thread do nothing."""
        if self._thread is not None and self._pid == os.getpid():
            self._thread.entries.put(_PendingItem(item))

    async def close(self) -> None:
        """End the thread, which carries out earlier items and closes its connection."""
        thread, self._thread = self._thread, None
        if thread is not None and self._pid == os.getpid():
            thread.entries.put(None)
            with anyio.CancelScope(shield=True), anyio.move_on_after(self._address.timeout):
                await thread.ended.wait()

    def _alive(self) -> _WorkerThread[T, R]:
        if self._pid != os.getpid():
            self._thread, self._pid = None, os.getpid()
        if self._thread is None:
            self._thread = _WorkerThread(self._name, self._address, self._hooks)
        return self._thread

    def _give_up(self, thread: _WorkerThread[T, R]) -> None:
        """Abandon a thread that may hang for ever; if it ever goes on, it ends."""
        if self._thread is thread:
            self._thread = None
            thread.entries.put(None)


class _PendingItem(Generic[T, R]):
    """One item that waits for its answer or error."""

    __slots__ = ("_answer", "_error", "ended", "item", "withdrawn")

    def __init__(self, item: T) -> None:
        self.item = item
        self.ended = anyio.Event()
        self.withdrawn = False
        self._answer: R | None = None
        self._error: BaseException | None = None

    def succeed(self, answer: R) -> None:
        self._answer = answer
        self.ended.set()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self.ended.set()

    def take(self) -> R:
        if self._error is not None:
            raise self._error
        return self._answer  # type: ignore[return-value]  # ended without error: the answer is there


class _Hooks(NamedTuple, Generic[T, R]):
    begin: Callable[[SqliteFile], None]
    work: Callable[[SqliteFile, list[T]], Sequence[R]]
    idle_work: Callable[[SqliteFile], None]
    idle_after: Callable[[], float | None]


class _WorkerThread(threading.Thread, Generic[T, R]):
    """Keeps its connection in a local variable: a forked child cannot reach it, so it cannot close it."""

    def __init__(self, name: str, address: SqliteAddress, hooks: _Hooks[T, R]) -> None:
        super().__init__(name=f"taskcore-{name}", daemon=True)
        self.entries: SimpleQueue[_PendingItem[T, R] | None] = SimpleQueue()
        self.ended = anyio.Event()
        self._address = address
        self._hooks = hooks
        self._call_soon = call_soon_in_loop()
        self._closing = False
        self._failing = False
        self.start()

    def run(self) -> None:
        file: SqliteFile | None = None
        while not self._closing:
            batch = self._next()
            if file is not None and not file.is_there:
                file.close()
                file = None
            try:
                if file is None and (batch or (not self._closing and self._hooks.idle_after() is not None)):
                    file = self._open()
                if file is not None and batch:
                    self._answer(batch, self._hooks.work(file, [entry.item for entry in batch]))
            except BaseException as error:  # noqa: BLE001 - raised in the waiting callers
                self._fail(batch, error)
                file = _unless_broken(file, error)
                continue
            if file is not None and not self._closing:
                file = self._do_idle_work(file)
        if file is not None:
            file.close()
        self._call_soon(self.ended.set)

    def _open(self) -> SqliteFile:
        file = SqliteFile(self._address)
        try:
            self._hooks.begin(file)
        except BaseException:
            file.close()
            raise
        return file

    def _next(self) -> list[_PendingItem[T, R]]:
        """Return all items that have arrived; wait for one, or until the idle work is due."""
        batch: list[_PendingItem[T, R]] = []
        try:
            entry = self.entries.get(timeout=self._hooks.idle_after())
            while True:
                if entry is None:
                    self._closing = True
                    break
                if not entry.withdrawn:
                    batch.append(entry)
                if len(batch) >= BATCH_LIMIT:
                    break
                entry = self.entries.get_nowait()
        except Empty:
            pass
        return batch

    def _answer(self, batch: list[_PendingItem[T, R]], answers: Sequence[R]) -> None:
        self._failing = False

        def answer() -> None:
            for entry, one in zip(batch, answers, strict=True):
                entry.succeed(one)

        self._call_soon(answer)

    def _fail(self, batch: list[_PendingItem[T, R]], error: BaseException) -> None:
        known = error
        if isinstance(error, sqlite3.Error | OSError) and not isinstance(error, BrokerUnavailable):
            known = sqlite_unavailable(error, self._address)
        if not batch:
            self._warn(known)

        def fail() -> None:
            for entry in batch:
                entry.fail(known)

        self._call_soon(fail)

    def _do_idle_work(self, file: SqliteFile) -> SqliteFile | None:
        """Do the idle work; if it fails, it is tried again the next time."""
        try:
            self._hooks.idle_work(file)
        except (sqlite3.Error, OSError) as error:
            self._warn(error)
            return _unless_broken(file, error)
        return file

    def _warn(self, error: BaseException) -> None:
        """Log the first of several errors in a row."""
        if not self._failing:
            log.warning("%s: %s; trying again", self._address.path, str(error).partition("\n")[0])
            self._failing = True


def _unless_broken(file: SqliteFile | None, error: BaseException) -> SqliteFile | None:
    """Close a connection that met more than a lock: it may be damaged."""
    if file is not None and isinstance(error, sqlite3.Error) and not is_locked(error):
        file.close()
        return None
    return file

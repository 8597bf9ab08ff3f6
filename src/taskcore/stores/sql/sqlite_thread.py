"""Lane: a thread with a connection of its own, which does in one go whatever has arrived since it last looked.

So the event loop is never blocked by a disk or a lock, and ordinary concurrent code makes batches: while one
transaction is on its way to the disk, what arrives joins the next. Works with either event loop.

    lane = Lane(…, work=work)           work(file, [item, …]) → [answer, …], in the thread
    answer = await lane.ask(item)       never longer than the address allows

The thread is a daemon, so that a disk that hangs cannot keep a process alive, and is given up when it does not answer
in time: the next call gets a new one with a new connection. A forked child has none of its parent's threads, and makes
new ones too; the parent's connections stay untouched in it: closing one in the wrong process harms the file.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, NamedTuple, TypeVar

import anyio
import anyio.lowlevel

from taskcore.connections.sqlite.connection import SqliteAddress, SqliteFile, is_locked, sqlite_unavailable
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.logging import logger

__all__ = ["Lane", "Post", "poster"]

log = logger("taskcore.stores.sql")

T = TypeVar("T")
R = TypeVar("R")

LIMIT = 1_000  #: callers whose work may be done in one go

#: Calls a function in the event loop, soon; may be used in any thread.
Post = Callable[[Callable[[], object]], object]


def poster() -> Post:
    """For the loop that runs here. Once that loop has ended nobody waits, and what is posted is dropped."""
    native = anyio.lowlevel.current_token().native_token
    soon: Post = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon  # type: ignore[attr-defined]

    def post(function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # each loop's way to say that it has ended; trio's derives from it
            soon(function)

    return post


class Lane(Generic[T, R]):
    """A thread that works, and callers that wait.

    :param begin: called with a file that was just opened.
    :param work: does everything that its list holds and answers each item, in order; what it raises is for all of them.
    :param chores: called after each batch, and when there was nothing to do for ``rest()`` seconds (None: for ever).
    """

    def __init__(
        self,
        name: str,
        address: SqliteAddress,
        *,
        begin: Callable[[SqliteFile], None],
        work: Callable[[SqliteFile, list[T]], Sequence[R]],
        chores: Callable[[SqliteFile], None],
        rest: Callable[[], float | None],
    ) -> None:
        self._name = name
        self._address = address
        self._parts = _Parts(begin, work, chores, rest)
        self._thread: _Thread[T, R] | None = None
        self._pid = os.getpid()

    async def ask(self, item: T) -> R:
        """The answer to this item. Cancelled before its turn, it is surely not done.

        :raises BrokerUnavailable: it was not done; after a timeout nobody knows.
        """
        thread = self._alive()
        errand = _Errand[T, R](item)
        thread.errands.put(errand)
        try:
            with anyio.move_on_after(self._address.timeout):
                await errand.ended.wait()
        finally:
            if not errand.ended.is_set():
                errand.withdrawn = True
        if not errand.ended.is_set():
            self._give_up(thread)
            raise BrokerUnavailable(
                f"the SQLite file {self._address.path} did not answer within {self._address.timeout:g} s",
                facts=["whether it was done is not known"],
                fix="look whether its disk hangs, or allow more with ?timeout=",
            )
        return errand.take()

    def tell(self, item: T) -> None:
        """Let the thread do this; nobody waits for the answer, and without a thread nothing happens."""
        if self._thread is not None and self._pid == os.getpid():
            self._thread.errands.put(_Errand(item))

    async def close(self) -> None:
        """End the thread, which closes its connection when it has done what was asked before."""
        thread, self._thread = self._thread, None
        if thread is not None and self._pid == os.getpid():
            thread.errands.put(None)
            with anyio.CancelScope(shield=True), anyio.move_on_after(self._address.timeout):
                await thread.ended.wait()

    def _alive(self) -> _Thread[T, R]:
        if self._pid != os.getpid():
            self._thread, self._pid = None, os.getpid()
        if self._thread is None:
            self._thread = _Thread(self._name, self._address, self._parts)
        return self._thread

    def _give_up(self, thread: _Thread[T, R]) -> None:
        """It may hang for ever; should it come to itself again, it ends."""
        if self._thread is thread:
            self._thread = None
            thread.errands.put(None)


class _Errand(Generic[T, R]):
    """One item on its way to an answer or an error."""

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


class _Parts(NamedTuple, Generic[T, R]):
    begin: Callable[[SqliteFile], None]
    work: Callable[[SqliteFile, list[T]], Sequence[R]]
    chores: Callable[[SqliteFile], None]
    rest: Callable[[], float | None]


class _Thread(threading.Thread, Generic[T, R]):
    """The connection is a local variable of its own frame: in a forked child nobody can reach it, nor close it."""

    def __init__(self, name: str, address: SqliteAddress, parts: _Parts[T, R]) -> None:
        super().__init__(name=f"taskcore-{name}", daemon=True)
        self.errands: SimpleQueue[_Errand[T, R] | None] = SimpleQueue()
        self.ended = anyio.Event()
        self._address = address
        self._parts = parts
        self._post = poster()
        self._closing = False
        self._troubled = False
        self.start()

    def run(self) -> None:
        file: SqliteFile | None = None
        while not self._closing:
            batch = self._next()
            if file is not None and not file.is_there:
                file.close()
                file = None
            try:
                if file is None and (batch or (not self._closing and self._parts.rest() is not None)):
                    file = self._open()
                if file is not None and batch:
                    self._answer(batch, self._parts.work(file, [errand.item for errand in batch]))
            except BaseException as error:  # noqa: BLE001 - it belongs to those who wait
                self._fail(batch, error)
                file = _unless_broken(file, error)
                continue
            if file is not None and not self._closing:
                file = self._do_chores(file)
        if file is not None:
            file.close()
        self._post(self.ended.set)

    def _open(self) -> SqliteFile:
        file = SqliteFile(self._address)
        try:
            self._parts.begin(file)
        except BaseException:
            file.close()
            raise
        return file

    def _next(self) -> list[_Errand[T, R]]:
        """Everything that has arrived; waits for something, or for as long as it may rest."""
        batch: list[_Errand[T, R]] = []
        try:
            errand = self.errands.get(timeout=self._parts.rest())
            while True:
                if errand is None:
                    self._closing = True
                    break
                if not errand.withdrawn:
                    batch.append(errand)
                if len(batch) >= LIMIT:
                    break
                errand = self.errands.get_nowait()
        except Empty:
            pass
        return batch

    def _answer(self, batch: list[_Errand[T, R]], answers: Sequence[R]) -> None:
        self._troubled = False

        def answer() -> None:
            for errand, one in zip(batch, answers, strict=True):
                errand.succeed(one)

        self._post(answer)

    def _fail(self, batch: list[_Errand[T, R]], error: BaseException) -> None:
        known = error
        if isinstance(error, sqlite3.Error | OSError) and not isinstance(error, BrokerUnavailable):
            known = sqlite_unavailable(error, self._address)
        if not batch:
            self._complain(known)

        def fail() -> None:
            for errand in batch:
                errand.fail(known)

        self._post(fail)

    def _do_chores(self, file: SqliteFile) -> SqliteFile | None:
        """What nobody waits for; it harms nobody if it fails, and is tried again the next time."""
        try:
            self._parts.chores(file)
        except (sqlite3.Error, OSError) as error:
            self._complain(error)
            return _unless_broken(file, error)
        return file

    def _complain(self, error: BaseException) -> None:
        """Once for each time of trouble."""
        if not self._troubled:
            log.warning("%s: %s; trying again", self._address.path, str(error).partition("\n")[0])
            self._troubled = True


def _unless_broken(file: SqliteFile | None, error: BaseException) -> SqliteFile | None:
    """A connection that met more than a lock is not used again: what is wrong with it is not known."""
    if file is not None and isinstance(error, sqlite3.Error) and not is_locked(error):
        file.close()
        return None
    return file

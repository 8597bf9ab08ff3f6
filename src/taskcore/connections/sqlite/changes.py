"""Waiting for changes of a file, by whatever program.

SQLite cannot push. While anything of this program sleeps here, a thread asks 200 times a second whether the file has
changed, which reads a counter in shared memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio

from taskcore.connections.sqlite.address import SqliteAddress
from taskcore.connections.sqlite.file import SqliteFile
from taskcore.connections.sqlite.thread import SqliteThread
from taskcore.toolkit.call_soon import CallSoon, call_soon_in_loop

__all__ = ["SqliteChanges"]

POLL_SECONDS: Final = 0.005  #: seconds between two questions whether the file has changed, while something sleeps


class SqliteChanges:
    """What sleeps until a file has changed.

    :param prepare: is called, in the thread, with a file that was just opened.
    """

    def __init__(self, address: SqliteAddress, prepare: Callable[[SqliteFile], None]) -> None:
        self._prepare = prepare
        self._thread: SqliteThread[None, None] = SqliteThread(
            "queue changes",
            address,
            begin=self._begin,
            work=lambda _, items: items,
            idle_work=self._look,
            idle_after=lambda: POLL_SECONDS if self._sleepers else None,
        )
        self._sleepers: set[anyio.Event] = set()
        self._call_soon: CallSoon | None = None
        self._seen: int | None = None  # in the thread: the data version at the last look

    async def close(self) -> None:
        """End the thread."""
        await self._thread.close()

    async def sleep(self) -> anyio.Event:
        """Return an event that is set when the file has changed; give it back to ``awake``."""
        self._call_soon = call_soon_in_loop()
        event = anyio.Event()
        is_first = not self._sleepers
        self._sleepers.add(event)
        if is_first:
            await self._thread.ask(None)
        return event

    def awake(self, event: anyio.Event) -> None:
        """Forget a sleeper."""
        self._sleepers.discard(event)

    def wake(self) -> None:
        """Wake whatever sleeps in this program."""
        for event in self._sleepers:
            event.set()

    # ── in the thread ──

    def _begin(self, file: SqliteFile) -> None:
        self._prepare(file)
        self._seen = None

    def _look(self, file: SqliteFile) -> None:
        change = file.connection.execute("PRAGMA data_version").fetchone()[0]  # another one after each commit of others
        if change != self._seen and self._call_soon is not None:
            self._seen = change
            self._call_soon(self.wake)

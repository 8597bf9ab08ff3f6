"""One worker process, as its supervisor sees it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic

import anyio
import anyio.abc
import msgspec

from taskcore.supervisor.messages import LineReader, Order, WorkerReport, read_report, write_line
from taskcore.supervisor.spawning import start
from taskcore.toolkit.logging import logger

__all__ = ["SupervisedProcess"]

log = logger("taskcore.supervisor")

READ_BYTES = 65_536


class SupervisedProcess:
    """A process that runs ``taskcore worker``, from its start to its end.

    :ivar report: what it said last.
    :ivar heard: when it said that; None before its first word.
    :ivar has_worked: a job has run in it.
    :ivar leaving: what it was told last, if it was told to end.
    """

    def __init__(self, process: anyio.abc.Process, connection: socket.socket, changed: Callable[[], None]) -> None:
        self.pid = process.pid
        self.began = anyio.current_time()
        self.report = WorkerReport()
        self.heard: float | None = None
        self.was_ready = False
        self.has_worked = False
        self.leaving: Order | None = None
        self.code: int | None = None
        self._process = process
        self._connection = connection
        self._changed = changed

    @classmethod
    async def start(cls, arguments: Sequence[str], changed: Callable[[], None]) -> SupervisedProcess:
        """Start one.

        :param changed: called when it has become ready, or has ended.
        """
        return cls(*await start(arguments), changed)

    @property
    def is_settled(self) -> bool:
        """Whether it takes jobs, and was not told to end."""
        return self.was_ready and self.leaving is None and self.code is None

    async def run(self) -> None:
        """Listen until it has ended. When cancelled, kill it."""
        try:
            await self._listen()
            self.code = await self._process.wait()
        finally:
            if self.code is None:
                self.kill()
            self._connection.close()
            with anyio.CancelScope(shield=True):
                await self._process.aclose()
            self._changed()

    async def _listen(self) -> None:
        lines = LineReader()
        while True:
            try:
                data = self._connection.recv(READ_BYTES)
            except BlockingIOError:
                await anyio.wait_readable(self._connection)
                continue
            except OSError:
                return
            if not data:
                return
            for line in lines.feed(data):
                with suppress(msgspec.DecodeError):  # a job has written into the descriptor
                    self._note(read_report(line))

    def _note(self, report: WorkerReport) -> None:
        self.report, self.heard = report, monotonic()
        self.has_worked = self.has_worked or report.running > 0 or report.ended > 0
        if report.ready and not self.was_ready:
            self.was_ready = True
            log.info("process %d is ready", self.pid)
            self._changed()

    def order(self, order: Order) -> None:
        """Tell it to end; a later order is at least as strict as an earlier one."""
        self.leaving = order
        with suppress(OSError):  # it has ended, and run() notices
            self._connection.send(write_line(order))

    def kill(self) -> None:
        """End it at once; its leases run out."""
        with suppress(OSError, ProcessLookupError):
            self._process.kill()

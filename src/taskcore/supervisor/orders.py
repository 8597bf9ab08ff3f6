"""In a worker process: the supervisor's orders, received in a thread, which a blocked event loop cannot delay."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

import anyio
import anyio.from_thread
import anyio.lowlevel
import msgspec

from taskcore.supervisor.messages import Lines, Order, WorkerReport, read_order, write_line
from taskcore.worker.signals import CLEANUP_TIMEOUT, watchdog

__all__ = ["SupervisorLine"]

PORTION = 4096


class SupervisorLine:
    """The worker's end of the line: reads orders, sends reports.

    When the supervisor is gone, that counts as the order to stop.

    :param grace: the seconds that running jobs have to finish.
    """

    def __init__(self, connection: socket.socket, grace: float) -> None:
        self._connection = connection
        self._grace = grace
        self._obey: Callable[[Order], None] = lambda _: None
        self._token = anyio.lowlevel.current_token()
        self._limit = ExitStack()
        self._is_stopping = False

    def listen(self, obey: Callable[[Order], None]) -> None:
        """Call a function in the event loop with each order, from now on."""
        self._obey = obey
        threading.Thread(target=self._read, name="taskcore-orders", daemon=True).start()

    def report(self, report: WorkerReport) -> None:
        """Send a report; none if the supervisor is gone or does not read."""
        with suppress(OSError):
            self._connection.send(write_line(report), getattr(socket, "MSG_DONTWAIT", 0))

    # ── in the thread ──

    def _read(self) -> None:
        lines = Lines()
        while True:
            try:
                data = self._connection.recv(PORTION)
            except OSError:
                data = b""
            if not data:
                self._pass_on("stop")
                return
            for line in lines.feed(data):
                with suppress(msgspec.DecodeError):
                    self._pass_on(read_order(line))

    def _pass_on(self, order: Order) -> None:
        if order != "retire" and not self._is_stopping:
            self._is_stopping = True
            self._limit.enter_context(watchdog(self._grace + CLEANUP_TIMEOUT))
        with suppress(RuntimeError, anyio.RunFinishedError):  # the loop has ended
            anyio.from_thread.run_sync(self._obey, order, token=self._token)

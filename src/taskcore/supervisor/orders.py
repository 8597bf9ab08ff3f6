"""In a worker process: the supervisor's orders, received in a thread, which a blocked event loop cannot delay."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import anyio
import anyio.from_thread
import anyio.lowlevel
import msgspec

from taskcore.supervisor.messages import LineReader, Order, WorkerReport, read_order, write_line
from taskcore.toolkit.stop_limit import StopLimit

__all__ = ["SupervisorChannel"]

READ_BYTES = 4096


class SupervisorChannel:
    """The worker's end of the line: reads orders, sends reports.

    When the supervisor is gone, that counts as the order to stop.

    :param limit: ends the process if it does not end in time after an order to stop.
    """

    def __init__(self, connection: socket.socket, limit: StopLimit) -> None:
        self.limit = limit
        self._connection = connection
        self._obey: Callable[[Order], None] = lambda _: None
        self._token = anyio.lowlevel.current_token()

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
        lines = LineReader()
        while True:
            try:
                data = self._connection.recv(READ_BYTES)
            except OSError:
                data = b""
            if not data:
                self._pass_on("stop")
                return
            for line in lines.feed(data):
                with suppress(msgspec.DecodeError):
                    self._pass_on(read_order(line))

    def _pass_on(self, order: Order) -> None:
        if order != "retire":
            self.limit.begin()
        with suppress(RuntimeError, anyio.RunFinishedError):  # the loop has ended
            anyio.from_thread.run_sync(self._obey, order, token=self._token)

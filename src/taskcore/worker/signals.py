"""Signals: the first asks to stop, the second insists, the third ends the process."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import TYPE_CHECKING

import anyio
import anyio.abc

if TYPE_CHECKING:
    from taskcore.worker.worker import Worker

__all__ = ["stop_on_signals"]

log = logging.getLogger("taskcore.worker")


async def stop_on_signals(
    worker: Worker, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Wait for SIGTERM and SIGINT and tell the worker; only the main thread of a process gets any."""
    if threading.current_thread() is not threading.main_thread():
        task_status.started()
        return
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        received = 0
        async for number in signals:
            received += 1
            name = signal.Signals(number).name
            if received == 1:
                log.info("%s: stopping; nothing new starts. Once more to interrupt what runs", name)
                worker.stop()
            elif received == 2:  # noqa: PLR2004 - the second one
                log.warning("%s again: interrupting what runs and giving it back", name)
                worker.interrupt()
            else:
                log.error("%s a third time: ending at once; leases will run out", name)
                os._exit(130)

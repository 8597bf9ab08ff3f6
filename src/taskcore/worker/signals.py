"""Signals: the first asks to stop, the second insists, the third ends the process.

A function may ignore its cancellation or never return from C code, and nothing inside the process can end it. So a
stopping process has a last resort: when grace and patience are over it ends at once, and its leases run out.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from taskcore.toolkit.logging import logger

if TYPE_CHECKING:
    from taskcore.worker.worker import Worker

__all__ = ["stop_on_signals"]

log = logger("taskcore.worker")

PATIENCE = 15.0  #: seconds after the grace in which interrupted jobs may clean up and outcomes may be settled
INTERRUPTED = 130  #: exit code of a process that was told three times


async def stop_on_signals(
    worker: Worker, grace: float, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Wait for SIGTERM and SIGINT and tell the worker; only the main thread of a process gets any."""
    if threading.current_thread() is not threading.main_thread():
        task_status.started()
        return
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        received = (signal.Signals(number).name async for number in signals)
        name = await anext(received)
        log.info("%s: stopping; nothing new starts. Once more to interrupt what runs", name)
        worker.stop()
        with _watchdog(grace + PATIENCE):
            name = await anext(received)
            log.warning("%s again: interrupting what runs and giving it back", name)
            worker.interrupt()
            name = await anext(received)
            log.error("%s a third time: ending at once; leases will run out", name)
            os._exit(INTERRUPTED)


@contextmanager
def _watchdog(seconds: float) -> Iterator[None]:
    """End the process if it is still here after so many seconds; a thread, because the event loop may be blocked."""

    def end() -> None:
        log.error("still running %g s after being told to stop: ending at once; leases will run out", seconds)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

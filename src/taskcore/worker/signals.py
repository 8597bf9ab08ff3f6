"""Signals: the first stops the worker, the second interrupts its jobs, the third ends the process.

A function may ignore its cancellation or never return from C code, and nothing inside the process can end it. A
watchdog therefore ends a stopping process when its grace and a margin are over; its leases run out.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from taskcore.toolkit.logging import logger
from taskcore.worker.signal_receiver import receive_signals

if TYPE_CHECKING:
    from taskcore.worker.worker import Worker

__all__ = ["CLEANUP_TIMEOUT", "INTERRUPTED", "received_signals", "stop_on_signals", "watchdog"]

log = logger("taskcore.worker")

CLEANUP_TIMEOUT = 15.0  #: seconds after the grace in which interrupted jobs may clean up and outcomes may be settled
LOOK_AFTER = 1.0  #: seconds between two looks whether the handlers are still the worker's
STOPPING = (signal.SIGTERM, signal.SIGINT)
INTERRUPTED = 130  #: exit code of a process that got three signals


async def stop_on_signals(
    worker: Worker, grace: float, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Stop the worker at SIGTERM and SIGINT; only the main thread of a process gets any."""
    if threading.current_thread() is not threading.main_thread():
        task_status.started()
        return
    received = received_signals(task_status)
    async with aclosing(received):
        name = await anext(received)
        log.info("%s: stopping; no new job starts. Send it again to interrupt the running jobs", name)
        worker.stop()
        with watchdog(grace + CLEANUP_TIMEOUT):
            name = await anext(received)
            log.warning("%s again: interrupting the running jobs and giving them back", name)
            worker.interrupt()
            name = await anext(received)
            log.error("%s a third time: ending the process at once; its leases will run out", name)
            os._exit(INTERRUPTED)


async def received_signals(task_status: anyio.abc.TaskStatus[None]) -> AsyncGenerator[str]:
    """Yield the name of each signal; install the handlers again if a job has replaced them."""
    started = False
    while True:
        with receive_signals(*STOPPING) as signals:
            ours = [signal.getsignal(number) for number in STOPPING]
            if not started:
                task_status.started()
                started = True
            while ours == [signal.getsignal(number) for number in STOPPING]:
                number = None
                with anyio.move_on_after(LOOK_AFTER):
                    number = await anext(signals)
                if number is not None:
                    yield signal.Signals(number).name
        log.error("a job has replaced the worker's handlers of signals; the worker has installed its own again")


@contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    """End the process if it still runs after so many seconds; in a thread, because the event loop may be blocked."""

    def end() -> None:
        log.error("still running %g s after the order to stop: ending the process at once; its leases run out", seconds)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

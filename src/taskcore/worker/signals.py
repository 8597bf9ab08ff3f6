"""Signals: the first stops the worker, the second interrupts its jobs, the third ends the process.

A function may ignore its cancellation, never return from C code, or block the event loop. A limit that is counted in a
thread therefore ends a stopping process when its grace and a margin are over; its leases run out.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import anyio
import anyio.abc

from taskcore.toolkit.logging import logger
from taskcore.toolkit.stop_limit import INTERRUPTED, StopLimit
from taskcore.worker.signal_receiver import receive_signals
from taskcore.worker.worker import Worker

__all__ = ["CLEANUP_TIMEOUT", "received_signals", "stop_on_signals"]

log = logger("taskcore.worker")

#: Seconds after the grace in which interrupted jobs may clean up, outcomes are settled, and connections closed. With
#: the default grace and a supervisor's second it ends within the 30 s after which Kubernetes kills.
CLEANUP_TIMEOUT = 7.0
LOOK_AFTER = 1.0  #: seconds between two looks whether the handlers are still the worker's
STOPPING = (signal.SIGTERM, signal.SIGINT)


async def stop_on_signals(
    worker: Worker,
    grace: float,
    *,
    limit: StopLimit | None = None,
    task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Stop the worker at SIGTERM and SIGINT; only the main thread of a process gets any.

    :param limit: ends the process if that takes too long; default: one that is lifted when the worker has ended.
    """
    if threading.current_thread() is not threading.main_thread():
        task_status.started()
        return
    ours = limit or StopLimit(grace + CLEANUP_TIMEOUT)
    received = received_signals(task_status, ours.note_signal)
    try:
        async with aclosing(received):
            name = await anext(received)
            log.info("%s: stopping; no new job starts. Send it again to interrupt the running jobs", name)
            worker.stop()
            name = await anext(received)
            log.warning("%s again: interrupting the running jobs and giving them back", name)
            worker.interrupt()
            name = await anext(received)
            log.error("%s a third time: ending the process at once; its leases will run out", name)
            os._exit(INTERRUPTED)
    finally:
        if limit is None:
            ours.lift()


async def received_signals(
    task_status: anyio.abc.TaskStatus[None], noticed: Callable[[], None] = lambda: None
) -> AsyncGenerator[str]:
    """Yield the name of each signal; install the handlers again if a job has replaced them.

    :param noticed: called at each signal, also while the event loop is blocked; see :meth:`StopLimit.note_signal`.
    """
    started = False
    while True:
        with receive_signals(*STOPPING) as signals:
            ours = [_also(number, noticed) for number in STOPPING]
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


def _also(number: signal.Signals, noticed: Callable[[], None]) -> Any:
    """Let the handler of a signal call a function, too, also while the loop is blocked; return what stands there."""
    before = signal.getsignal(number)

    def handle(received: int, frame: Any) -> None:
        noticed()
        if callable(before):
            before(received, frame)

    signal.signal(number, handle)
    return handle

"""Signals to a supervisor: the first lets running jobs finish, the second interrupts them, the third kills."""

from __future__ import annotations

from contextlib import aclosing

import anyio
from anyio.abc import ObjectSendStream, TaskStatus

from taskcore.supervisor.supervisor import Supervisor
from taskcore.toolkit.logging import logger
from taskcore.toolkit.stop_limit import INTERRUPTED
from taskcore.worker.signals import CLEANUP_TIMEOUT, received_signals

__all__ = ["stop_at_signals"]

log = logger("taskcore.supervisor")

KILL_MARGIN = 1.0  #: seconds in which a process may say its last words before it is killed
MOST_SIGNALS = 100  #: that wait to be noticed


async def stop_at_signals(supervisor: Supervisor, *, task_status: TaskStatus[None]) -> None:
    """Stop at the first signal, interrupt at the second or after the grace, kill at the third or at the very end."""
    send, names = anyio.create_memory_object_stream[str](MOST_SIGNALS)
    async with send, names, anyio.create_task_group() as group:
        await group.start(_receive, send)
        task_status.started()
        name = await names.receive()
        log.info("%s: stopping; no new job starts. Send it again to interrupt the running jobs", name)
        supervisor.stop()
        with anyio.move_on_after(supervisor.options.grace):
            name = await names.receive()
            log.warning("%s again: interrupting the running jobs and giving them back", name)
        supervisor.stop("interrupt")
        with anyio.move_on_after(CLEANUP_TIMEOUT + KILL_MARGIN):
            name = await names.receive()
            supervisor.code = INTERRUPTED
            log.error("%s a third time: ending the processes at once; their leases will run out", name)
        supervisor.kill()


async def _receive(send: ObjectSendStream[str], *, task_status: TaskStatus[None]) -> None:
    """Pass signals on; in a task of its own, because a wait with a time limit would end the generator."""
    async with aclosing(received_signals(task_status)) as received:
        async for name in received:
            await send.send(name)

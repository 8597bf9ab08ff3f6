"""``taskcore worker`` in one process: alone, or under a supervisor that tells it what to do."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import anyio

from taskcore.cli.banner import farewell
from taskcore.cli.last_moments import end_process_soon
from taskcore.cli.worker_choices import WorkerChoices
from taskcore.errors import BrokerUnavailable
from taskcore.supervisor import Notifier, SupervisedWorkerControl, SupervisorChannel, WorkerControl, announce, answering
from taskcore.toolkit.groups import unwrap_single
from taskcore.toolkit.stop_limit import StopLimit
from taskcore.worker.signals import CLEANUP_TIMEOUT

if TYPE_CHECKING:
    from taskcore.app import App

__all__ = ["serve"]

ASK_AGAIN = 1.0  #: seconds between two attempts to count jobs


async def serve(app: App, choices: WorkerChoices, tell: Callable[[str], None]) -> int:
    """Connect, say so, and work until a signal, an order, or until the queues are empty; return the exit code."""
    control: WorkerControl | None = None
    code = 1  # of an error
    try:
        with unwrap_single():
            async with anyio.create_task_group() as group:
                control = _control_of(app, choices, group.cancel_scope)
                await group.start(control.run)
                is_alone = choices.supervised is None
                with answering(choices.health, control.judge):
                    if is_alone:
                        group.start_soon(announce, control.judge, choices.health_file, Notifier())
                    await _work(app, choices, control, tell if is_alone else _say_nothing)
                group.cancel_scope.cancel()
        code = control.code if control is not None else code
    finally:
        end_process_soon(code, math.inf if control is None else control.limit.lift())
    return code


def _control_of(app: App, choices: WorkerChoices, scope: anyio.CancelScope) -> WorkerControl:
    limit = StopLimit(choices.options(app).grace + CLEANUP_TIMEOUT)
    if choices.supervised is None:
        most = choices.max_leaked_threads
        return WorkerControl(limit, app.settings.threads if most is None else most)
    from taskcore.supervisor.spawning import adopt

    return SupervisedWorkerControl(SupervisorChannel(adopt(choices.supervised), limit), app.counters, scope)


async def _work(app: App, choices: WorkerChoices, control: WorkerControl, tell: Callable[[str], None]) -> None:
    began = time.monotonic()
    ready = False
    queues, concurrency, grace, limits, _ = choices.worker
    async with app:
        try:
            with unwrap_single():
                async with anyio.create_task_group() as group:
                    work = partial(
                        app.run_worker,
                        queues=queues,
                        concurrency=concurrency,
                        grace=grace,
                        queue_limits=limits,
                        attend=control.attend,
                    )
                    await group.start(work)
                    if choices.drain:
                        group.start_soon(_finish_when_empty, app, choices, control)
                    ready = True
                    took = time.monotonic() - began
                    tell(f"ready in {took:.2f}s. Ctrl-C once to let running jobs finish, twice to stop at once")
        finally:
            if ready:
                tell(farewell(app.counters, time.monotonic() - began))


async def _finish_when_empty(app: App, choices: WorkerChoices, control: WorkerControl) -> None:
    queues = choices.options(app).queues
    while True:
        try:
            await app.drain(*queues)
        except BrokerUnavailable:
            await anyio.sleep(ASK_AGAIN)
        else:
            control.finish()
            return


def _say_nothing(_: str) -> None:
    """Leave it to the supervisor to speak."""

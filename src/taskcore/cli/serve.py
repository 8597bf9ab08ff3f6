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
from taskcore.supervisor import Attendant, Notifier, SupervisedAttendant, SupervisorLine, announce, answering
from taskcore.toolkit.groups import unwrap_single
from taskcore.toolkit.stop_limit import StopLimit
from taskcore.worker.signals import CLEANUP_TIMEOUT

if TYPE_CHECKING:
    from taskcore.app import App

__all__ = ["serve"]

ASK_AGAIN = 1.0  #: seconds between two attempts to count jobs


async def serve(app: App, choices: WorkerChoices, tell: Callable[[str], None]) -> int:
    """Connect, say so, and work until a signal, an order, or until the queues are empty; return the exit code."""
    attendant: Attendant | None = None
    code = 1  # of an error
    try:
        with unwrap_single():
            async with anyio.create_task_group() as group:
                attendant = _attendant(app, choices, group.cancel_scope)
                await group.start(attendant.run)
                is_alone = choices.supervised is None
                with answering(choices.health, attendant.judge):
                    if is_alone:
                        group.start_soon(announce, attendant.judge, choices.health_file, Notifier())
                    await _work(app, choices, attendant, tell if is_alone else _say_nothing)
                group.cancel_scope.cancel()
        code = attendant.code if attendant is not None else code
    finally:
        end_process_soon(code, math.inf if attendant is None else attendant.limit.lift())
    return code


def _attendant(app: App, choices: WorkerChoices, scope: anyio.CancelScope) -> Attendant:
    limit = StopLimit(choices.options(app).grace + CLEANUP_TIMEOUT)
    if choices.supervised is None:
        most = choices.max_leaked_threads
        return Attendant(limit, app.settings.threads if most is None else most)
    from taskcore.supervisor.spawning import adopt

    return SupervisedAttendant(SupervisorLine(adopt(choices.supervised), limit), app.counters, scope)


async def _work(app: App, choices: WorkerChoices, attendant: Attendant, tell: Callable[[str], None]) -> None:
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
                        attend=attendant.attend,
                    )
                    await group.start(work)
                    if choices.drain:
                        group.start_soon(_finish_when_empty, app, choices, attendant)
                    ready = True
                    took = time.monotonic() - began
                    tell(f"ready in {took:.2f}s. Ctrl-C once to let running jobs finish, twice to stop at once")
        finally:
            if ready:
                tell(farewell(app.counters, time.monotonic() - began))


async def _finish_when_empty(app: App, choices: WorkerChoices, attendant: Attendant) -> None:
    queues = choices.options(app).queues
    while True:
        try:
            await app.drain(*queues)
        except BrokerUnavailable:
            await anyio.sleep(ASK_AGAIN)
        else:
            attendant.finish()
            return


def _say_nothing(_: str) -> None:
    """Leave it to the supervisor to speak."""

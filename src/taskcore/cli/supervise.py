"""``taskcore worker`` as a supervisor of worker processes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from taskcore.cli.banner import farewell
from taskcore.cli.worker_choices import WorkerChoices
from taskcore.errors import BrokerUnavailable, InvalidSetting
from taskcore.supervisor import Limits, Notifier, Supervisor, SupervisorOptions, announce, answering, stop_at_signals
from taskcore.supervisor.exits import show_memory
from taskcore.supervisor.memory import can_measure, occupied
from taskcore.supervisor.reload import reload_on_change, require_watchfiles
from taskcore.supervisor.scaling import scale
from taskcore.toolkit.groups import unwrap_single

if TYPE_CHECKING:
    from taskcore.app import App

__all__ = ["supervise"]

ASK_AGAIN = 1.0  #: seconds between two attempts to connect for counting jobs


async def supervise(app: App, choices: WorkerChoices, tell: Callable[[str], None]) -> int:
    """Run worker processes until a signal; return the exit code.

    :raises InvalidSetting: the port for health is taken, or an option cannot work here (TC104).
    :raises AdapterMissing: ``--reload`` without watchfiles (TC102).
    """
    _check(choices)
    options = choices.options(app)
    least, most = choices.processes or (1, 1)
    leaked = choices.max_leaked_threads
    limits = Limits(choices.max_jobs, choices.max_memory, app.settings.threads if leaked is None else leaked)
    supervisor = Supervisor(
        SupervisorOptions(choices.arguments(), least, most, options.grace, limits, is_patient=choices.reload)
    )
    began = time.monotonic()
    with unwrap_single(), answering(choices.health, supervisor.judge):
        async with anyio.create_task_group() as group:
            await group.start(stop_at_signals, supervisor)
            group.start_soon(announce, supervisor.judge, choices.health_file, Notifier())
            group.start_soon(_say_ready, supervisor, tell, began)
            if choices.reload:
                group.start_soon(reload_on_change, supervisor, Path(choices.app_dir))
            if least < most:
                group.start_soon(_when_connected, app, supervisor, scaling(app, choices))
            if choices.drain:
                group.start_soon(_when_connected, app, supervisor, draining(app, choices))
            await supervisor.run()
            group.cancel_scope.cancel()
    if supervisor.ready.is_set():
        tell(farewell(supervisor.counters, time.monotonic() - began))
    return supervisor.code


def _check(choices: WorkerChoices) -> None:
    if choices.reload:
        require_watchfiles()
    if choices.max_memory is None:
        return
    if not can_measure():
        raise InvalidSetting("--max-memory does not work here: this system does not say how much memory a process has")
    if choices.max_memory < occupied():
        raise InvalidSetting(
            f"--max-memory {show_memory(choices.max_memory)}: each process would be replaced at once",
            facts=[f"this one has loaded the app, runs no jobs, and occupies {show_memory(occupied())}"],
            fix="give what a process may grow to, such as twice as much",
        )


async def _say_ready(supervisor: Supervisor, tell: Callable[[str], None], began: float) -> None:
    await supervisor.ready.wait()
    took = time.monotonic() - began
    tell(f"ready in {took:.2f}s. Ctrl-C once to let running jobs finish, twice to stop at once")


def scaling(app: App, choices: WorkerChoices) -> Callable[[Supervisor], Awaitable[None]]:
    """Make what sets the number of processes."""
    options = choices.options(app)

    async def run(supervisor: Supervisor) -> None:
        await scale(supervisor, options.concurrency, options.queues, app.components.backend.admin.stats)

    return run


def draining(app: App, choices: WorkerChoices) -> Callable[[Supervisor], Awaitable[None]]:
    """Make what stops the processes when the queues are empty."""
    options = choices.options(app)

    async def run(supervisor: Supervisor) -> None:
        await app.drain(*options.queues)
        supervisor.stop()

    return run


async def _when_connected(app: App, supervisor: Supervisor, use: Callable[[Supervisor], Awaitable[None]]) -> None:
    """Connect once a process works, as a client, and again if the broker goes away."""
    await supervisor.ready.wait()
    while True:
        try:
            async with app:
                await use(supervisor)
                return
        except BrokerUnavailable:
            await anyio.sleep(ASK_AGAIN)

"""From an app to its worker: making it, and running it beside a program, or as the program until a signal stops it."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeAlias

import anyio
from anyio.abc import TaskStatus

from taskcore.components import Components, Services
from taskcore.config import Settings, check
from taskcore.errors import InvalidSetting
from taskcore.preflight import warn_if_unsafe
from taskcore.task import Task
from taskcore.toolkit.background import run_in_background
from taskcore.toolkit.groups import unwrap_single
from taskcore.toolkit.logging import logger
from taskcore.toolkit.units import Duration
from taskcore.worker.options import WorkerOptions
from taskcore.worker.signals import stop_on_signals
from taskcore.worker.worker import Worker

__all__ = ["Attend", "WorkerChoice", "make_worker", "work_until_signalled", "worker_options", "working"]

log = logger("taskcore.worker")

STRANGE_LOGGED = 5  #: queues that no task waits in, each with a line of its own


class WorkerChoice(NamedTuple):
    """What a caller chooses for one worker; None: as the settings say.

    :param queues: where the worker looks, most urgent first; in the end every queue of the tasks, in their order.
    :param concurrency: how many jobs run at once.
    :param grace: how long running jobs have to finish when the worker stops.
    :param queue_limits: how many jobs of a queue run at once, beside ``concurrency`` of the queues without a limit.
    :param services: further parts that run as long as the worker does.
    """

    queues: Sequence[str] | str | None = None
    concurrency: int | None = None
    grace: Duration | None = None
    queue_limits: Mapping[str, int] | str | None = None
    services: Services = ()


#: Stops a worker when it is time, with the seconds that its running jobs have then; says by ``task_status.started()``
#: when the worker may begin, and is cancelled when the worker has ended.
Attend: TypeAlias = Callable[..., Coroutine[Any, Any, None]]


def make_worker(
    components: Components,
    settings: Settings,
    tasks: Mapping[str, Task[..., Any]],
    choice: WorkerChoice = WorkerChoice(),  # noqa: B008 - a tuple
) -> Worker:
    """Make the worker of an app.

    :raises InvalidSetting: it has no queue, may not run a single job, or cannot run one of its tasks here (TC104).
    """
    options = worker_options(settings, tasks, choice)
    _warn_of_strange_queues(options.queues, [task.spec.queue for task in tasks.values()])
    return Worker(components, tasks, options, services=choice.services)


def worker_options(settings: Settings, tasks: Mapping[str, Task[..., Any]], choice: WorkerChoice) -> WorkerOptions:
    """Complete a choice by the settings of an app.

    :raises InvalidSetting: the worker would have no queue, or may not run a single job (TC104).
    """
    known = tuple(dict.fromkeys(task.spec.queue for task in tasks.values()))
    names = settings.queues or known if choice.queues is None else check("queues", choice.queues)
    limit = settings.concurrency if choice.concurrency is None else check("concurrency", choice.concurrency)
    if not names:
        raise InvalidSetting(
            "this worker has nothing to do",
            facts=[f"queues: {', '.join(names) or 'none, because the app has no tasks'}", f"concurrency: {limit}"],
            fix="import the modules that declare the tasks, or name queues; run at least one job at once",
        )
    limits = settings.queue_limits if choice.queue_limits is None else check("queue_limits", choice.queue_limits)
    limits = {name: most for name, most in (limits or {}).items() if name in names}
    return WorkerOptions(
        queues=names,
        concurrency=(0 if len(limits) == len(names) else limit) + sum(limits.values()),
        queue_limits=limits,
        threads=settings.threads,
        processes=settings.processes or os.cpu_count() or 1,
        lease=settings.lease,
        max_block=settings.max_block,
        heartbeat=settings.heartbeat,
        grace=grace_of(settings, choice),
        park_for=settings.park_for,
        keep_result=settings.keep_result,
        result_limit=settings.result_limit,
        name=settings.source or f"{socket.gethostname()}:{os.getpid()}",
    )


def _warn_of_strange_queues(names: Sequence[str], known: Sequence[str]) -> None:
    """Warn of a queue that no task of the app waits in: a name with a typo would be watched in silence."""
    strange = [name for name in names if name not in known]
    for name in strange[:STRANGE_LOGGED]:
        from difflib import get_close_matches  # noqa: PLC0415 - for this warning only

        close = get_close_matches(name, known, n=1)
        hint = (
            f'did you mean "{close[0]}"?'
            if close
            else f"the queues of its tasks: {', '.join(dict.fromkeys(known)) or 'none'}"
        )
        log.warning('this worker watches queue "%s", and no task of this app waits there; %s', name, hint)
    if len(strange) > STRANGE_LOGGED:
        log.warning("this worker watches %d more queues where no task of this app waits", len(strange) - STRANGE_LOGGED)


def grace_of(settings: Settings, choice: WorkerChoice) -> float:
    """Return the seconds that running jobs have to finish when the worker stops."""
    return settings.grace if choice.grace is None else float(check("grace", choice.grace))


async def _warned_worker(
    components: Components, settings: Settings, tasks: Mapping[str, Task[..., Any]], choice: WorkerChoice
) -> Worker:
    """Make a worker, and warn of unsafe settings; a strict app has refused them already."""
    worker = make_worker(components, settings, tasks, choice)
    if not settings.strict:
        await warn_if_unsafe(components.backend, components.store)
    return worker


@asynccontextmanager
async def working(
    components: Components, settings: Settings, tasks: Mapping[str, Task[..., Any]], choice: WorkerChoice
) -> AsyncIterator[None]:
    """Run a worker beside the body; at its end running jobs get their grace."""
    worker = await _warned_worker(components, settings, tasks, choice)
    async with run_in_background(worker.run, worker.stop):
        yield


async def work_until_signalled(
    components: Components,
    settings: Settings,
    tasks: Mapping[str, Task[..., Any]],
    choice: WorkerChoice,
    task_status: TaskStatus[None] | None,
    attend: Attend | None = None,
) -> None:
    """Run a worker until it is stopped, by SIGTERM or SIGINT unless something else attends to it."""
    worker = await _warned_worker(components, settings, tasks, choice)
    grace = grace_of(settings, choice)
    with unwrap_single():
        async with anyio.create_task_group() as group:
            await group.start(attend or stop_on_signals, worker, grace)
            await worker.run(task_status=task_status or anyio.TASK_STATUS_IGNORED)
            group.cancel_scope.cancel()

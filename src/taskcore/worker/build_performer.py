"""The half of a worker that runs jobs, built from its parts; ``build_settler.py`` has the half that settles them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from taskcore.components import Components
from taskcore.middleware import around_run
from taskcore.records import Records
from taskcore.store import largest_value
from taskcore.task import Task
from taskcore.toolkit.decimals import giving_decimals
from taskcore.worker.admission import Admission, KnowsFirstStarts
from taskcore.worker.execution import Execution, Slot
from taskcore.worker.failures import Failures
from taskcore.worker.options import WorkerOptions
from taskcore.worker.perform import Performer
from taskcore.worker.runners import Runners

__all__ = ["build_performer"]


def build_performer(
    tasks: Mapping[str, Task[..., Any]],
    components: Components,
    records: Records | None,
    first_starts: KnowsFirstStarts | None,
    options: WorkerOptions,
    *,
    watch: Callable[[Slot, float], None],
    ack_early: Callable[[Execution], Awaitable[bool]],
    behind: Callable[[], float],
) -> Performer:
    """Build a performer, with middleware around its runs.

    :param first_starts: where a job may be cancelled that was never handed out.

    :raises InvalidSetting: this system cannot run a task as its ``runs_in`` says (TC104).
    """
    clock, worker = components.clock, options.name
    admission = Admission(
        records,
        components.backend.features,
        first_starts,
        lease=options.lease,
        clock=clock,
        worker=worker,
        behind=behind,
    )
    performer = Performer(
        tasks,
        components,
        admission,
        Runners(tasks.values(), threads=options.threads, processes=options.processes, clock=clock, worker=worker),
        failures=Failures(components.events, clock=clock, worker=worker),
        watch=watch,
        ack_early=ack_early,
        result_limit=min(options.result_limit, largest_value(components.store) or options.result_limit),
    )
    if first_starts is not None:
        performer.run_with = first_starts.around(performer.run_with, performer.overdue)
    run = around_run(components.middleware, performer.run_with, performer.failures.raised)
    performer.run_with = giving_decimals(run)
    return performer

"""The parts of a worker and how they know each other, built once for real workers and for the test kit's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from taskcore.components import Components
from taskcore.middleware import around_commit, around_run
from taskcore.records import Records
from taskcore.task import Task
from taskcore.worker.decide import Decider
from taskcore.worker.execution import Execution, Slot
from taskcore.worker.leases import LeaseKeeper
from taskcore.worker.options import WorkerOptions
from taskcore.worker.outages import OutageTracker
from taskcore.worker.perform import Performer
from taskcore.worker.settle import Settler

__all__ = ["Hooks", "WorkerParts", "build_parts"]


class WorkerParts(NamedTuple):
    """What a worker is made of, without its loops."""

    performer: Performer
    decider: Decider
    settler: Settler
    keeper: LeaseKeeper
    broker: OutageTracker


class Hooks(NamedTuple):
    """What the parts call.

    :param lost: with a job whose lease is lost.
    :param forget: with jobs that are no longer in hand.
    """

    lost: Callable[[Execution], None]
    forget: Callable[[Sequence[Execution]], None]


def build_parts(
    components: Components,
    tasks: Mapping[str, Task[..., Any]],
    options: WorkerOptions,
    hooks: Hooks,
    *,
    slots: Iterable[Slot],
    executions: set[Execution],
) -> WorkerParts:
    """Build the parts.

    :param executions: every job from its receipt to its settling; its owner fills it.
    """
    events, middleware = components.events, components.middleware
    records = Records.over(components.store) if components.store is not None else None
    broker, store = OutageTracker("broker", events), OutageTracker("store", events)
    keeper = LeaseKeeper(
        executions,
        records.keys if records is not None else None,
        events,
        lease=options.lease,
        lost=hooks.lost,
        clock=components.clock,
        outage=broker.member(),
    )
    settler = Settler(
        records, events, forget=hooks.forget, lease=options.lease, holds=keeper.holds, outage=broker.member()
    )
    settler.commit_with = around_commit(middleware, settler.commit)
    performer = Performer(tasks, components, records, options, settler=settler, slots=slots, outage=store.member())
    performer.run_with = around_run(middleware, performer.run_with, performer.failures.raised)
    decider = Decider(park_for=options.park_for, keep_result=options.keep_result if records is not None else None)
    return WorkerParts(performer, decider, settler, keeper, broker)

"""The parts of a worker and how they know each other, built once for real workers and for the test kit's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from taskcore.components import Components
from taskcore.records import Records
from taskcore.store import largest_value
from taskcore.task import Task
from taskcore.worker.admission import Admission
from taskcore.worker.decide import Decider
from taskcore.worker.execution import Execution, Slot
from taskcore.worker.leases import LeaseKeeper
from taskcore.worker.options import WorkerOptions
from taskcore.worker.outages import OutageTracker
from taskcore.worker.perform import Performer
from taskcore.worker.runners import Executors
from taskcore.worker.settle import Settler
from taskcore.worker.timeouts import Deadlines

__all__ = ["Hooks", "WorkerParts", "build_parts"]


class WorkerParts(NamedTuple):
    """What a worker is made of, without its loops."""

    performer: Performer
    decider: Decider
    settler: Settler
    keeper: LeaseKeeper
    deadlines: Deadlines
    executors: Executors
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
    in_hand: set[Execution],
) -> WorkerParts:
    """Build the parts.

    :param in_hand: every job from its receipt to its settling; its owner fills it.
    """
    store, events = components.store, components.events
    records = Records.over(store) if store is not None else None
    largest = largest_value(store)
    if largest is not None and largest < options.result_limit:
        options = msgspec.structs.replace(options, result_limit=largest)
    broker = OutageTracker("broker", events)
    keeper = LeaseKeeper(
        in_hand,
        records.keys if records is not None else None,
        events,
        lease=options.lease,
        lost=hooks.lost,
        clock=components.clock,
        outage=broker.member(),
    )
    settler = Settler(records, components, forget=hooks.forget, keeper=keeper, outage=broker.member())
    executors = Executors(threads=options.threads, processes=options.processes)
    deadlines = Deadlines(slots)
    performer = Performer(
        tasks,
        components,
        options,
        admission=Admission(records, components.backend.features, lease=options.lease, clock=components.clock),
        settler=settler,
        executors=executors,
        deadlines=deadlines,
        outage=OutageTracker("store", events).member(),
    )
    decider = Decider(park_for=options.park_for, keep_result=options.keep_result if store is not None else None)
    return WorkerParts(performer, decider, settler, keeper, deadlines, executors, broker)

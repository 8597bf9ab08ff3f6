"""The parts of a worker and how they know each other, built once for real workers and for the test kit's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from taskcore.components import Components
from taskcore.records import Records
from taskcore.task import Task
from taskcore.worker.build_performer import build_performer
from taskcore.worker.build_settler import build_settler
from taskcore.worker.decide import Decider
from taskcore.worker.execution import Execution, Slot
from taskcore.worker.leases import LeaseKeeper
from taskcore.worker.options import WorkerOptions
from taskcore.worker.outages import Outage, OutageTracker
from taskcore.worker.perform import Performer
from taskcore.worker.settle import Settler

__all__ = ["Hooks", "WorkerParts", "build_parts"]

CANCELLING = "taskcore.cancelling"  #: the feature room that keeps cancelled jobs from starting, if the broker cannot
KEEPING = "taskcore.keeping"  #: the feature room that keeps keys, and leases while the event loop stands still
ROSTER = "taskcore.roster"  #: the feature that tells the store which workers live
WORKFLOWS = "taskcore.workflows.worker"  #: the feature room that performs the steps of workflows
PARKING = "taskcore.parking"  #: the feature room that tells of jobs of unknown tasks


class WorkerParts(NamedTuple):
    """What a worker is made of, without its loops.

    :ivar services: those of feature rooms; they run as long as the worker does.
    :ivar first_starts: knows which jobs may start that were never handed out; None where all of them may.
    """

    performer: Performer
    decider: Decider
    settler: Settler
    keeper: LeaseKeeper
    broker: OutageTracker
    store: Outage
    services: Sequence[Any]
    first_starts: Any


class Hooks(NamedTuple):
    """What the parts call.

    :param lost: with a job whose lease is lost.
    :param watch: interrupts what runs in a slot at a time of the event loop's clock.
    :param forget: with jobs that are no longer in hand.
    """

    lost: Callable[[Execution], None]
    watch: Callable[[Slot, float], None]
    forget: Callable[[Sequence[Execution]], None]


def build_parts(
    components: Components,
    tasks: Mapping[str, Task[..., Any]],
    options: WorkerOptions,
    hooks: Hooks,
    *,
    executions: set[Execution],
) -> WorkerParts:
    """Build the parts.

    :param executions: every job from its receipt to its settling; its owner fills it.
    """
    events = components.events
    records = Records.over(components.store) if components.store is not None else None
    broker, store = OutageTracker("broker", events), OutageTracker("store", events)
    keeper = LeaseKeeper(
        executions,
        records,
        lease=options.lease,
        lost=hooks.lost,
        clock=components.clock,
        outage=broker.member(),
    )
    settler = build_settler(components, records, forget=hooks.forget, keeper=keeper, outage=broker.member())
    first_starts = None
    if records is not None and components.backend.features.remove == "absent":
        first_starts = import_module(CANCELLING).FirstStarts(records, tasks)
    performer = build_performer(
        tasks,
        components,
        records,
        first_starts,
        options,
        watch=hooks.watch,
        ack_early=settler.ack_early,
        behind=keeper.behind,
    )
    parking = import_module(PARKING).Parking(tasks.keys(), components, options)
    if records is not None:
        performer.admission.workflows = lambda: import_module(WORKFLOWS).room(performer, settler, components, options)
    decider = Decider(
        park_for=options.park_for,
        keep_result=options.keep_result if records is not None else None,
        tell_parked=parking.tell,
    )
    keeping = import_module(KEEPING)
    services = [keeping.KeeperThread(keeper, components, options.max_block), keeping.WaitingJobs(keeper), parking]
    if records is not None:
        services.append(keeping.KeyKeeper(keeper, records, store.member()))
    if options.heartbeat and components.store is not None:
        services.append(import_module(ROSTER).Roster(executions, components, options))
    return WorkerParts(performer, decider, settler, keeper, broker, store.member(), services, first_starts)

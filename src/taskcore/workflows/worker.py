"""Workflows in a worker: built when the first job of one comes, so that a worker without workflows pays nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from taskcore.backend import Features
from taskcore.components import Components
from taskcore.lifecycle import Ack, Bury, Outcome, Reschedule
from taskcore.results import decode_outcome, stored_outcome
from taskcore.task import Task
from taskcore.worker.decide import Settlement
from taskcore.worker.perform import Performer
from taskcore.worker.settle_records import RecordSettler
from taskcore.workflows.advance import AFTER_DEADLINE, Advancer, StepEnd
from taskcore.workflows.marks import FAILED, SUCCEEDED
from taskcore.workflows.perform import REFUSED_AGAIN, StepInHand, StepPerformer
from taskcore.workflows.publish import StepSender
from taskcore.workflows.reading import Reader

__all__ = ["StepSettler", "StepTasks", "WorkflowRoom"]


class StepTasks(Mapping[str, Task[..., Any]]):
    """The tasks of a worker as steps need them: how a step ends is always kept."""

    def __init__(self, tasks: Mapping[str, Task[..., Any]]) -> None:
        self._tasks = tasks
        self._kept: dict[str, Task[..., Any]] = {}

    def __getitem__(self, name: str) -> Task[..., Any]:
        kept, task = self._kept.get(name), self._tasks[name]
        if kept is None or kept.contract is not task.contract:
            kept = self._kept[name] = keeping_outcomes(task)
        return kept

    def __iter__(self) -> Any:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)


def keeping_outcomes(task: Task[..., Any]) -> Task[..., Any]:
    """Return the task with outcomes that are kept."""
    kept = copy.copy(task)
    kept.options = msgspec.structs.replace(task.options, keep_result=task.options.keep_result or AFTER_DEADLINE)
    return kept


class WorkflowRoom:
    """Performs and settles jobs of workflows for one worker.

    :param performer: of the worker.
    :param records: what settles its records.
    """

    def __init__(self, performer: Performer, records: RecordSettler, components: Components, source: str) -> None:
        store = components.store
        assert store is not None  # noqa: S101 - the caller looks
        reader, sender = Reader(store), StepSender(components, source)
        steps = copy.copy(performer)
        steps.tasks = StepTasks(performer.tasks)
        self._steps = StepPerformer(steps.perform, store, reader, sender, components.clock)
        advancer = Advancer(store, reader, sender, spread=deals_one_by_one(components.backend.features))
        self.settler = StepSettler(records, advancer, reader, components)

    async def perform(self, job: Any, slot: Any) -> Outcome | None:
        """Perform a job of a workflow."""
        return await self._steps.perform(job, slot)


def deals_one_by_one(features: Features) -> bool:
    """Tell whether a broker deals neighbours to different workers: one that pushes jobs does."""
    return features.dedup == "absent"


class StepSettler:
    """Settles records as :class:`RecordSettler` does, and sets going what follows from the ends of steps."""

    def __init__(self, records: RecordSettler, advancer: Advancer, reader: Reader, components: Components) -> None:
        self._records = records
        self._advancer = advancer
        self._reader = reader
        self._events = components.events
        self._clock = components.clock

    async def before(self, batch: Sequence[Settlement]) -> None:
        """Store outcomes, then advance workflows; done again, it does what is not done yet."""
        now = self._clock()
        steps = [one for one in batch if type(one.job.beyond) is StepInHand and not one.settled]
        for one in steps:
            _keep_outcome(one, one.job.beyond, now)
        await self._records.before(batch)
        ended = [one for one in steps if one.job.beyond.advances and isinstance(one.verdict, Ack | Bury)]
        if not ended:
            return
        await self._take_standing(ended)
        refused = await self._advancer.advance([_end_of(one) for one in ended], now)
        for one in ended:
            one.written = None  # the next steps are built on it: it stands, whatever becomes of the lease
            if one.job.id in refused:
                one.overrule(Reschedule(REFUSED_AGAIN, one.job.delivery.trail), self._events)

    async def after(self, batch: Sequence[Settlement]) -> None:
        """Clear what settled jobs leave behind."""
        await self._records.after(batch)

    async def _take_standing(self, ended: Sequence[Settlement]) -> None:
        """Take the outcomes of steps that another worker ended before: these stand."""
        found = [one for one in ended if one.stored is not None and one.written is None]
        if found:
            from taskcore.records.names import outcome_name  # noqa: PLC0415

            names = [outcome_name(one.job.id) for one in found]
            for one, data in zip(found, await self._reader.values(names), strict=True):
                one.stored = data or one.stored


def _keep_outcome(one: Settlement, hand: StepInHand, now: float) -> None:
    """Let the outcome of a step be stored for as long as its workflow may run; an expansion has none."""
    if hand.of.part in ("expand", "begin"):
        one.stored = None
        return
    if one.stored is None and isinstance(one.verdict, Ack | Bury):
        one.stored = stored_outcome(one.outcome, one.verdict, one.job.envelope.task, None)
    one.keep = max(hand.plan.deadline - now, 0.0) + hand.plan.keep + AFTER_DEADLINE


def _end_of(one: Settlement) -> StepEnd:
    hand: StepInHand = one.job.beyond
    how = hand.how
    if how is None:
        how = SUCCEEDED if one.stored is not None and decode_outcome(one.stored).state == "succeeded" else FAILED
    return StepEnd(one.job.id, hand.plan, hand.of, how, one.stored or b"")

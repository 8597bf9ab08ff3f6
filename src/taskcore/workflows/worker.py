"""Workflows in a worker: built when the first job of one comes, so that a worker without workflows pays nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

from taskcore.backend import Features
from taskcore.components import Components
from taskcore.errors import StoreRefused
from taskcore.lifecycle import Ack, Bury, DeadlinePassed, Outcome, Reschedule
from taskcore.records.keys import BUSY_RETRY, Acquired, Completed, Lost
from taskcore.records.names import outcome_name
from taskcore.results import EXPIRED, StoredOutcome, decode_outcome, encode_outcome, stored_outcome, verdict_of_stored
from taskcore.task import Task
from taskcore.toolkit.failpoints import failpoint
from taskcore.toolkit.logging import logger
from taskcore.worker.decide import Settlement
from taskcore.worker.execution import Execution
from taskcore.worker.options import WorkerOptions
from taskcore.worker.perform import Performer
from taskcore.worker.settle import Settler
from taskcore.worker.settle_records import RecordSettler
from taskcore.workflows.advance import Advancer
from taskcore.workflows.batch_closing import look_after_batch
from taskcore.workflows.ending import StepEnd
from taskcore.workflows.marks import FAILED
from taskcore.workflows.perform import NOTHING, REFUSED_AGAIN, StepInHand, StepPerformer
from taskcore.workflows.publish import StepSender
from taskcore.workflows.record_reader import RecordReader, how_of, skipped_outcome
from taskcore.workflows.rest import Rest, RestSettler, leaves_rest
from taskcore.workflows.result_types import keeping_outcomes
from taskcore.workflows.saga import Sagas

__all__ = ["StepSettler", "StepTasks", "WorkflowRoom", "room"]

log = logger("taskcore.workflows")


def room(performer: Performer, settler: Settler, components: Components, options: WorkerOptions) -> WorkflowRoom:
    """Build the part of a worker that performs workflows, when it is asked for first; then find it."""
    if isinstance(settler.records, StepSettler):
        return settler.records.room
    return WorkflowRoom(performer, settler, components, options.name)


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


class WorkflowRoom:
    """Performs and settles jobs of workflows for one worker.

    :param performer: of the worker.
    :param settler: of the worker; workflows put their own part in front of its records.
    :param source: the worker's name, for the jobs that it sends.
    """

    def __init__(self, performer: Performer, settler: Settler, components: Components, source: str) -> None:
        store = components.store
        assert store is not None  # noqa: S101 - the caller looks
        assert settler.records is not None  # noqa: S101 - the same
        reader, sender = RecordReader(store), StepSender(components, source)
        steps = copy.copy(performer)
        steps.tasks = StepTasks(performer.tasks)
        twins = has_twins(components.backend.features)
        advancer = Advancer(store, reader, sender, spread=twins, result_limit=performer.result_limit)
        keys = settler.records.records.keys
        sagas = Sagas(store, reader, sender, keys, components.clock, twins=twins)
        look_after = partial(look_after_batch, store, advancer, components.clock)
        self.perform = StepPerformer(
            steps, store, reader, sender, components.clock, twins=twins, look_after=look_after, sagas=sagas
        ).perform
        self.clock = components.clock
        rests = RestSettler(store, reader, sender)
        settler.records = StepSettler(settler.records, advancer, rests, reader, components, self)

    def go_on(self, job: Execution) -> Outcome:
        """Let a job that was handed out again go on as the plan says that it left."""
        job.beyond = Rest(plan_stands=True)
        return NOTHING


def has_twins(features: Features) -> bool:
    """Tell whether a broker may have a job twice; it is also the one that deals neighbours to different workers."""
    return features.dedup == "absent"


class StepSettler(RecordSettler):
    """Settles records as another :class:`RecordSettler` does, and sets going what follows from the ends of steps."""

    def __init__(
        self,
        records: RecordSettler,
        advancer: Advancer,
        rests: RestSettler,
        reader: RecordReader,
        components: Components,
        room: WorkflowRoom,
    ) -> None:
        self.room = room
        self._inner = records
        self._advancer = advancer
        self._rests = rests
        self._reader = reader
        self._events = components.events
        self._clock = components.clock

    async def before(self, batch: Sequence[Settlement]) -> None:
        """Store outcomes, then advance workflows; done again, it does what is not done yet."""
        now = self._clock()
        steps = [one for one in batch if type(one.job.beyond) is StepInHand and not one.settled]
        for one in steps:
            _keep_outcome(one, one.job.beyond, now)
        going_on = [one for one in batch if one.job.beyond is not None and not one.settled and leaves_rest(one)]
        for one in going_on:
            one.stored = None  # so its key is released, too, and stays claimed by the job
        fenced = [one for one in steps if is_fenced(one)]
        if fenced:
            await self._commit_fenced(fenced)
        await self._inner.before(batch)
        if going_on:
            await self._go_on(going_on, now)
        ended = [one for one in steps if _advances(one)]
        if not ended:
            return
        await self._take_standing(ended)
        failpoint("workflow.ended")
        for one in ended:
            one.written = None  # what follows is built on it: it stands, whatever becomes of the lease
        await self._advance(ended, now)

    async def _commit_fenced(self, ended: Sequence[Settlement]) -> None:
        """Commit the ends of steps that have compensations, each under its fence; without its key one has none."""
        keys = self._inner.records.keys
        answers = await keys.commit([(cast("Acquired", one.job.key), one.stored) for one in ended])
        failpoint("settle.committed")
        for one, answer in zip(ended, answers, strict=True):
            one.committed = True
            if isinstance(answer, Completed):
                one.stored = answer.outcome
                one.overrule(verdict_of_stored(answer.outcome, one.verdict, one.job.trail), self._events)
            elif isinstance(answer, Lost):
                one.overrule(Reschedule(BUSY_RETRY, one.job.delivery.trail), self._events)
                one.stored = None

    async def _go_on(self, going_on: Sequence[Settlement], now: float) -> None:
        """Let jobs that have ended go on as workflows; one that has lost its key leaves nothing."""
        held = [one for one in going_on if isinstance(one.verdict, Ack)]
        refused = await self._rests.begin(held, now) if held else {}
        self._bring_again(held, refused)

    async def _advance(self, ended: Sequence[Settlement], now: float) -> None:
        try:
            refused = await self._advancer.advance([_end_of(one) for one in ended], now)
        except StoreRefused as error:
            if len(ended) > 1 or not ended[0].job.beyond.refused:
                for one in ended:
                    one.job.beyond.refused = True
                raise
            text = "nothing follows from the end of job %s, and its workflow waits until its deadline: %s"
            log.error(text, ended[0].job.id, error)  # noqa: TRY400 - its text is for people
            return
        self._bring_again(ended, refused)

    def _bring_again(self, ended: Sequence[Settlement], refused: Mapping[str, str]) -> None:
        """Let jobs come again that have ended, and of which the broker refuses what follows; say so."""
        for one in ended:
            if one.job.id in refused:
                text = "job %s has ended, and the broker refuses what follows: %s; again in %g s"
                log.warning(text, one.job.id, refused[one.job.id], REFUSED_AGAIN, extra=one.job.extra)
                one.overrule(Reschedule(REFUSED_AGAIN, one.job.delivery.trail), self._events)

    async def after(self, batch: Sequence[Settlement]) -> None:
        """Clear what settled jobs leave behind."""
        await self._inner.after(batch)

    async def _take_standing(self, ended: Sequence[Settlement]) -> None:
        """Take the outcomes of steps that another worker ended before: these stand."""
        found = [one for one in ended if one.stored is not None and one.written is None]
        if found:
            names = [outcome_name(one.job.id) for one in found]
            for one, data in zip(found, await self._reader.values(names), strict=True):
                one.stored = data or one.stored


def _advances(one: Settlement) -> bool:
    """Tell whether something follows from an end; a step that is dead for any reason ends its workflow."""
    if isinstance(one.verdict, Bury):
        return True
    return isinstance(one.verdict, Ack) and one.job.beyond.advances and not leaves_rest(one)


def is_fenced(one: Settlement) -> bool:
    """Tell whether a step has ended whose end counts only under the fence of its key."""
    hand: StepInHand = one.job.beyond
    if hand.of.part != "step" or one.job.key is None or one.committed or one.stored is None:
        return False
    return hand.plan.steps[hand.of.step].undo is not None and isinstance(one.verdict, Ack | Bury)


def _keep_outcome(one: Settlement, hand: StepInHand, now: float) -> None:
    """Let the outcome of a step be stored for as long as its workflow may run; an expansion has none."""
    if hand.of.part in ("expand", "begin", "guard", "compensate", "deadline"):
        one.stored = None
        return
    if hand.skipped:
        one.stored = skipped_outcome(hand.skipped)
    elif isinstance(one.verdict, Bury) and one.stored is None:
        one.stored = encode_outcome(StoredOutcome("dead", reason=one.verdict.reason, task=one.job.envelope.task))
    elif isinstance(one.verdict, Ack) and one.stored is None:
        one.stored = stored_outcome(one.outcome, one.verdict, one.job.envelope.task, None)
    one.keep = hand.plan.life(now) + hand.plan.keep


def _end_of(one: Settlement) -> StepEnd:
    hand: StepInHand = one.job.beyond
    outcome = one.stored
    if outcome is None and isinstance(one.outcome, DeadlinePassed):
        outcome = EXPIRED
    elif outcome is None and isinstance(one.verdict, Bury):
        outcome = encode_outcome(StoredOutcome("dead", reason=one.verdict.reason))
    how = hand.how
    if hand.of.part in ("step", "child") or how is None:
        how = FAILED if outcome is None else how_of(decode_outcome(outcome))
    return StepEnd(one.job.id, hand.plan, hand.of, how, outcome or b"")

"""How a workflow ends: the outcome that its steps give it, or the one of the step by which it fails."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from taskcore.records.names import outcome_name
from taskcore.results import CANCELLED, EXPIRED, NO_BYTES, StoredOutcome, decode_outcome, encode_outcome
from taskcore.workflows.decide import StepKey
from taskcore.workflows.marks import LEAF, SKIPPED, Mark, MarkCounts
from taskcore.workflows.names import map_name, step_id, width_name
from taskcore.workflows.plan import MAP_LIMIT, OPEN_WIDTH, PartOf, Plan
from taskcore.workflows.record_reader import ListTooLarge, RecordReader

__all__ = ["Endings", "StepEnd", "failure_of"]


class StepEnd(NamedTuple):
    """A job of a workflow that has ended.

    :param job_id: its id; of a job that goes on as a workflow, that of the workflow.
    :param how: how it counts.
    :param outcome: encoded; empty for an expansion.
    :param by: the id of the job in hand, if that is another one: its end ends workflows within each other.
    """

    job_id: str
    plan: Plan
    of: PartOf
    how: Mark
    outcome: bytes
    by: str = ""

    @property
    def in_hand(self) -> str:
        """The id of the job whose settling this belongs to."""
        return self.by or self.job_id


class Endings:
    """Finds the outcomes of workflows whose steps have all ended.

    :param result_limit: bytes that the result of a workflow may have.
    """

    def __init__(self, reader: RecordReader, result_limit: int) -> None:
        self._reader = reader
        self._result_limit = result_limit

    async def outcome(self, end: StepEnd) -> bytes:
        """Find the outcome of a workflow whose steps have all ended: the first result of its last steps."""
        plan, workflow = end.plan, end.of.workflow
        if len(plan.value):
            return encode_outcome(StoredOutcome("succeeded", plan.value))
        for number in plan.results:
            step = plan.steps[number]
            if step.over is not None and step.over.is_open:
                return encode_outcome(StoredOutcome("succeeded", msgspec.Raw(await self._counts(workflow))))
            if step.over is not None:
                outcome = await self._outcome_of_map(workflow, plan, number)
                if outcome is not None:
                    return outcome
                continue
            job_id = step_id(workflow, StepKey(number))
            data: bytes | None = end.outcome
            if end.job_id != job_id:
                [data] = await self._reader.values([outcome_name(job_id)])
            stored = None if not data else decode_outcome(data)
            if stored is not None and stored.state == "succeeded":
                return encode_outcome(msgspec.structs.replace(stored, task=""))
            if step.has_default:
                return encode_outcome(StoredOutcome("succeeded", step.default))
        return CANCELLED

    async def _counts(self, workflow: str) -> bytes:
        """Count the jobs of a batch that has ended, for the handle of the batch."""
        [data] = await self._reader.values([width_name(workflow, 0)])
        counts = await self.tally(PartOf(workflow=workflow, width=OPEN_WIDTH))
        failed, added = counts.failed + counts.skipped, int(data or 0)
        return msgspec.json.encode({"added": added, "succeeded": added - failed, "failed": failed})

    async def _outcome_of_map(self, workflow: str, plan: Plan, number: int) -> bytes | None:
        """Join the results of the children of the last step; None if it is skipped."""
        width = await self._reader.width(workflow, plan, number)
        wants = plan.steps[number].at_least is not None
        try:
            ended = width and await self._reader.children(workflow, plan, number, width, outcomes=wants)
        except ListTooLarge as error:
            return encode_outcome(StoredOutcome("dead", reason=f"step {plan.steps[number].name}: {error}"))
        if width == 0:
            return encode_outcome(StoredOutcome("succeeded", msgspec.Raw(b"[]")))
        if not ended or ended.how is SKIPPED:
            return None
        if len(ended.result) > self._result_limit:
            size = f"its results have {len(ended.result):,} bytes together, the limit is {self._result_limit:,}"
            return encode_outcome(StoredOutcome("dead", reason=f"step {plan.steps[number].name}: {size}"))
        return encode_outcome(StoredOutcome("succeeded", msgspec.Raw(ended.result)))

    async def tally(self, of: PartOf) -> MarkCounts:
        """Count the children of a map by all of its leaves."""
        width = of.width
        if width > MAP_LIMIT:  # an open map: as many as were sent
            [data] = await self._reader.values([width_name(of.workflow, of.step)])
            width = int(data or 0)
        leaves = [map_name(of.workflow, of.step, leaf) for leaf in range(-(-width // LEAF))]
        tallies = [MarkCounts.of(marks or b"") for marks in await self._reader.values(leaves)] if leaves else []
        return MarkCounts(*map(sum, zip(MarkCounts(0, 0, 0), *tallies, strict=True)))


def failure_of(end: StepEnd) -> bytes:
    """Make the outcome of a workflow that fails because of a step."""
    step = end.plan.steps[end.of.step]
    name = step.name if end.of.part != "child" else f"{step.name}[{end.of.index}]"
    stored = decode_outcome(end.outcome) if end.outcome else StoredOutcome("dead", reason="it cannot run")
    if stored.state == "expired":
        return EXPIRED
    if stored.state == "succeeded":
        return encode_outcome(StoredOutcome("dead", reason=f"step {step.name}: too few of its children succeeded"))
    if stored.state == "cancelled":
        return encode_outcome(StoredOutcome("dead", reason=f"step {name} was cancelled"))
    error = stored.error if end.of.step == end.plan.last and end.of.part == "step" else NO_BYTES
    reason = f"step {name}: {stored.reason}"
    return encode_outcome(StoredOutcome("dead", reason=reason, error=error, record=stored.record))

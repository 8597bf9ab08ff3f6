"""The advance: what the end of a step sets going, after its outcome is stored and before the broker forgets it.

    1. marks        merged into the gates and maps of which it is a member; a full leaf is marked in its root
    2. the end      of the workflow, if this was the last step or one that fails it: why no step starts, its outcome
    3. next steps   published; stored or noticed as there already counts

Everything has a name that follows from the workflow alone, so each line may be done again: by this worker after an
outage, by the next one after a crash. A step is settled only when it has seen its own mark, and, where that was the
last one, what follows from it. So some worker always sees the last mark, and is not done before it has acted on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from taskcore.backend import Outgoing
from taskcore.records.names import outcome_name
from taskcore.results import decode_outcome
from taskcore.store import ABSENT, Conflict, Store, Write
from taskcore.toolkit.failpoints import failpoint
from taskcore.toolkit.logging import logger
from taskcore.workflows.decide import (
    Consequence,
    MarkToSet,
    StepKey,
    after_child,
    after_children,
    after_no_children,
    after_step,
)
from taskcore.workflows.ending import Endings, StepEnd, failure_of
from taskcore.workflows.job_keys import complete_key
from taskcore.workflows.mark_records import MarkRecords, NewMarks
from taskcore.workflows.marks import LEAF, SUCCEEDED, MarkCounts, is_full, mark, marks_from, place_of
from taskcore.workflows.names import gate_name, map_name, stop_name
from taskcore.workflows.plan import MAP_LIMIT, OPEN_WIDTH, PartOf, Plan
from taskcore.workflows.publish import StepSender
from taskcore.workflows.record_reader import RecordReader, how_of

__all__ = ["UNDOING", "Advancer"]


log = logger("taskcore.workflows")


UNDOING = b"undoing "  #: with this begins the stop of a saga; the outcome that it has for callers follows


class _Group(NamedTuple):
    """A record of marks that an end has to appear in.

    :param gate: of this step; None for the children of the end's own map.
    :param leaf: the leaf of these children; None for the root, or for the only record.
    """

    end: StepEnd
    new: NewMarks
    members: int
    gate: int | None = None
    leaf: int | None = None


class _Found:
    """What an advance has found to do."""

    def __init__(self) -> None:
        self.groups: list[_Group] = []
        self.publish: list[tuple[StepEnd, StepKey]] = []
        self.over: list[StepEnd] = []
        self.failed: list[StepEnd] = []
        self.messages: list[tuple[StepEnd, Outgoing]] = []
        self.stopped = set[str]()


class Advancer:
    """Sets going what follows from ended steps, many at a time.

    :param spread: the broker deals jobs to workers one by one.
    :param result_limit: bytes that the result of a workflow may have.
    """

    def __init__(
        self, store: Store, reader: RecordReader, sender: StepSender, *, spread: bool, result_limit: int
    ) -> None:
        self._store = store
        self._reader = reader
        self._sender = sender
        self._spread = spread
        self._endings = Endings(reader, result_limit)
        self.marks = MarkRecords(store)

    async def advance(self, ends: Sequence[StepEnd], now: float) -> dict[str, str]:
        """Do the three lines for steps that have ended.

        :param now: seconds since the epoch.
        :return: why the broker refuses what follows, by the ids of the jobs that ended; they have to come again.
        :raises BrokerUnavailable: doing all of it again is safe.
        """
        refused: dict[str, str] = {}
        while ends:
            ends, more = await self._advance(ends, now)
            refused |= more
        return refused

    async def _advance(self, ends: Sequence[StepEnd], now: float) -> tuple[list[StepEnd], dict[str, str]]:
        """Do the three lines; return also the jobs that have ended with the workflows that ended here."""
        found = _Found()
        for end in ends:
            self._begin(found, end, now)
        return await self._follow(found, now)

    async def close_open(self, workflow: str, plan: Plan, size: int, now: float) -> dict[str, str]:
        """Close the open map of a batch: mark the places that no job has; if all have ended, do what follows.

        :return: why the broker refuses what follows; closing again is safe.
        :raises BrokerUnavailable: the same.
        """
        found = _Found()
        of = PartOf(workflow=workflow, part="child", width=OPEN_WIDTH)
        end = StepEnd(workflow, plan, of, SUCCEEDED, b"")
        used, leaves = -(-size // LEAF), OPEN_WIDTH // LEAF
        if size % LEAF:
            new = NewMarks(map_name(workflow, 0, used - 1), marks_from(size % LEAF, LEAF), plan.life(now))
            found.groups.append(_Group(end, new, LEAF, leaf=used - 1))
        new = NewMarks(map_name(workflow, 0), marks_from(used, leaves), plan.life(now))
        found.groups.append(_Group(end, new, leaves))
        ended, refused = await self._follow(found, now)
        return refused | (await self.advance(ended, now) if ended else {})

    async def _follow(self, found: _Found, now: float) -> tuple[list[StepEnd], dict[str, str]]:
        while found.groups:
            groups, found.groups = found.groups, []
            marked = await self.marks.add([group.new for group in groups])
            failpoint("workflow.counted")
            for group in groups:
                if is_full(marked[group.new.name], group.members):
                    await self._full(found, group, marked[group.new.name], now)
        ended = await self._close(found, now)
        return ended, await self._publish(found)

    def _begin(self, found: _Found, end: StepEnd, now: float) -> None:
        plan, of = end.plan, end.of
        if of.part == "child":
            key = StepKey(of.step, of.index)
            consequence = after_child(plan, key, end.how)
            self._take(found, end, consequence, now)
            if not consequence.fails:
                spread = self._spread and of.width <= MAP_LIMIT  # who closes an open map fills few leaves
                place = place_of(of.index, of.width, spread=spread)
                name = map_name(of.workflow, of.step, place.leaf)
                new = NewMarks(name, mark(place.position, end.how), plan.life(now))
                found.groups.append(_Group(end, new, place.members, leaf=place.leaf))
        elif of.part == "expand":
            self._take(found, end, after_no_children(plan, of.step, end.how), now)
        elif of.part in ("guard", "compensate", "deadline"):
            return
        elif of.part == "undo":
            found.messages.append((end, self._sender.compensation(of.workflow, plan, of.index, behind=of.step)))
        elif of.part == "begin":
            found.failed.append(end)
        else:
            self._take(found, end, after_step(plan, of.step, end.how), now)

    def _take(self, found: _Found, end: StepEnd, consequence: Consequence, now: float) -> None:
        """Note what follows."""
        found.publish += [(end, key) for key in consequence.publish]
        found.groups += [self._gate(end, one, now) for one in consequence.marks]
        if consequence.over:
            found.over.append(end)
        if consequence.fails:
            found.failed.append(end)

    def _gate(self, end: StepEnd, one: MarkToSet, now: float) -> _Group:
        new = NewMarks(gate_name(end.of.workflow, one.gate), mark(one.position, one.how), end.plan.life(now))
        return _Group(end, new, one.members, gate=one.gate)

    async def _full(self, found: _Found, group: _Group, marks: bytes, now: float) -> None:
        """Note what follows from a full record: a gate opens, a leaf is marked in its root, a map has ended."""
        end = group.end
        plan, of = end.plan, end.of
        if group.gate is not None:
            if group.gate == len(plan.steps):
                found.over.append(end)
            else:
                found.publish.append((end, StepKey(group.gate)))
            return
        if group.leaf is not None:
            leaves = -(-of.width // LEAF)
            new = NewMarks(map_name(of.workflow, of.step), mark(group.leaf, SUCCEEDED), plan.life(now))
            found.groups.append(_Group(end, new, leaves))
            return
        tally = MarkCounts.of(marks) if of.width <= LEAF else await self._endings.tally(of)
        self._take(found, end, after_children(plan, of.step, tally), now)

    async def _close(self, found: _Found, now: float) -> list[StepEnd]:
        """End workflows: no step starts any more, and the outcome is there; return the jobs that went on as them."""
        await self._stop_sagas(found, now)
        ends = [*found.failed, *found.over]
        writes: list[Write] = []
        for end in found.failed:
            writes += self._ending(end, "failed", failure_of(end), now)
        for end in found.over:
            writes += self._ending(end, "ended", await self._endings.outcome(end), now)
        if not writes:
            return []
        answers = await self._store.put_many(writes)
        failpoint("workflow.closed")
        ended: list[StepEnd] = []
        for end, write, answer in zip(ends, writes[1::2], answers[1::2], strict=True):
            if end.plan.goes_on:
                standing = answer.current.value if isinstance(answer, Conflict) and answer.current else write.value
                ended += await self._end_job(end, standing or b"")
        return ended

    async def _stop_sagas(self, found: _Found, now: float) -> None:
        """Let sagas that fail be undone, and leave those to it that were stopped before their last step ended."""
        sagas = [(end, UNDOING + failure_of(end)) for end in found.failed if end.plan.is_saga]
        sagas += [(end, b"ended") for end in found.over if end.plan.is_saga]
        if not sagas:
            return
        writes = [
            Write(key=stop_name(end.of.workflow), value=why, expect=ABSENT, keep=end.plan.life(now), reserve=True)
            for end, why in sagas
        ]
        answers = await self._store.put_many(writes)
        failpoint("saga.stopped")
        for (end, why), answer in zip(sagas, answers, strict=True):
            current = answer.current if isinstance(answer, Conflict) else None
            stop = why if current is None else current.value
            if stop.startswith(UNDOING):
                found.over = [one for one in found.over if one is not end]
                found.messages.append((end, self._sender.compensation(end.of.workflow, end.plan, 0)))
            if end in found.failed:
                found.stopped.add(end.of.workflow)
        found.failed = [end for end in found.failed if not end.plan.is_saga]

    async def _end_job(self, end: StepEnd, outcome: bytes) -> list[StepEnd]:
        """Complete the key of a job that went on as a workflow which has ended; return its end, if it is a step."""
        plan, job_id = end.plan, end.of.workflow
        if plan.key:
            await complete_key(self._store, plan, job_id, outcome)
        if plan.within is None:
            return []
        above = await self._reader.plan(plan.within.workflow)
        if above is None:
            log.error("job %s has ended, and the plan of its workflow %s is gone", job_id, plan.within.workflow)
            return []
        return [StepEnd(job_id, above, plan.within, how_of(decode_outcome(outcome)), outcome, end.in_hand)]

    def _ending(self, end: StepEnd, why: str, outcome: bytes, now: float) -> list[Write]:
        workflow, plan = end.of.workflow, end.plan
        return [
            Write(key=stop_name(workflow), value=why.encode(), expect=ABSENT, keep=plan.life(now), reserve=True),
            Write(key=outcome_name(workflow), value=outcome, expect=ABSENT, keep=plan.keep, reserve=True),
        ]

    async def _publish(self, found: _Found) -> dict[str, str]:
        """Publish the next steps, unless their workflow ends here."""
        stopped = {end.of.workflow for end in found.failed} | found.stopped
        ended_by: dict[str, str] = {}
        messages: dict[str, Outgoing] = {}
        for end, key in found.publish:
            if end.of.workflow not in stopped:
                message = self._sender.message(end.of.workflow, end.plan, key, width=end.of.width)
                messages[message.id] = message
                ended_by[message.id] = end.in_hand
        for end, message in found.messages:
            messages[message.id] = message
            ended_by[message.id] = end.in_hand
        if not messages:
            return {}
        refused = await self._sender.publish(list(messages.values()))
        failpoint("workflow.continued")
        return {ended_by[job_id]: why for job_id, why in refused.items()}

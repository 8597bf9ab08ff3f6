"""Reading what the steps of workflows need: plans, which are remembered, and outcomes, many in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import msgspec

from taskcore.records.names import outcome_name
from taskcore.results import StoredOutcome, decode_outcome, encode_outcome
from taskcore.store import Store
from taskcore.toolkit.batching import GroupCommit
from taskcore.workflows.decide import EndedStep, StepKey, element_of, list_of
from taskcore.workflows.marks import FAILED, SKIPPED, SUCCEEDED, Mark
from taskcore.workflows.names import list_name, plan_name, step_id, width_name
from taskcore.workflows.outcomes import child_outcome
from taskcore.workflows.plan import CHUNK, Plan, decode_plan

__all__ = ["SKIPPED_MAP", "ListTooLarge", "RecordReader", "ended_step", "how_of", "skipped_outcome"]

PLANS = 1_000  #: plans that are remembered; a plan never changes
LISTS = 4  #: lists of results that are remembered; they never change either
READS = 200  #: questions that share a round trip
SKIPPED_MAP = -1  #: stands for the number of children of a map that is skipped
LIST_BYTES = 8 * 1024 * 1024  #: bytes that the list of a map's results may have
PAGE, PAGE_BYTES = 64, 2 * 1024 * 1024  #: children in the first page of them, and bytes that a later one should have


class ListTooLarge(Exception):
    """The results of a map are too large for one argument."""


class Question(NamedTuple):
    """Records that one caller asks for together."""

    names: Sequence[str]


class RecordReader:
    """Reads the records of workflows from any store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._plans: dict[str, Plan] = {}
        self._lists: dict[tuple[str, int, bool], EndedStep] = {}
        self._reads = GroupCommit(self._answer, limit=READS, in_place=True)

    async def values(self, names: Sequence[str]) -> Sequence[bytes | None]:
        """Read records together with those that others ask for at this moment."""
        return await self._reads.submit(Question(names))

    async def _answer(self, questions: list[Question]) -> list[list[bytes | None]]:
        names = [name for question in questions for name in question.names]
        found = iter([None if record is None else record.value for record in await self._store.get_many(names)])
        return [list(islice(found, len(question.names))) for question in questions]

    async def plan(self, workflow: str) -> Plan | None:
        """Read a plan; None if there is none.

        :raises UnreadableRecord: it cannot be read (TC408).
        """
        plan = self._plans.get(workflow)
        if plan is None:
            [data] = await self.values([plan_name(workflow)])
            if data is None:
                return None
            plan = decode_plan(data)
            self.remember(workflow, plan)
        return plan

    def remember(self, workflow: str, plan: Plan) -> None:
        """Keep a plan in mind."""
        self._plans[workflow] = plan
        while len(self._plans) > PLANS:
            del self._plans[next(iter(self._plans))]

    async def width(self, workflow: str, plan: Plan, number: int) -> int | None:
        """Find how many children a map has: ``SKIPPED_MAP`` if it is skipped, None if that is not decided."""
        while plan.is_paired(number) and (over := plan.steps[number].over) is not None:
            number = over.step or 0
        [data] = await self.values([width_name(workflow, number)])
        return None if data is None else int(data)

    async def chunk(self, workflow: str, number: int, chunk: int, lists: str = "") -> list[bytes] | None:
        """Read a part of a list that was known when the workflow was sent; None if it is gone."""
        [data] = await self.values([list_name(workflow, number, chunk, lists)])
        return None if data is None else [bytes(raw) for raw in msgspec.json.decode(data, type=list[msgspec.Raw])]

    async def children(self, workflow: str, plan: Plan, number: int, width: int, *, outcomes: bool) -> EndedStep | None:
        """Join what the children of a map came to into one list; None if an outcome is not there.

        :param outcomes: how each ended, in place of the results of those that have one.
        :raises ListTooLarge: it is too large for one argument.
        """
        if width == SKIPPED_MAP:
            return EndedStep(SKIPPED)
        known = self._lists.get((workflow, number, outcomes))
        if known is not None:
            return known
        step, parts, size, index, page = plan.steps[number], list[bytes](), 0, 0, PAGE
        while index < width:
            indices = range(index, min(index + page, width))
            read = 0
            for data in await self.values([outcome_name(step_id(workflow, StepKey(number, one))) for one in indices]):
                if data is None:
                    return None
                stored = decode_outcome(data)
                part = child_outcome(stored) if outcomes else element_of(step, ended_step(stored))
                read += len(data)
                if part is not None:
                    parts.append(part)
                    size += len(part) + 1
            if size > LIST_BYTES:
                raise ListTooLarge(f"the results of {step.name} have more than {LIST_BYTES:,} bytes together")
            index = indices.stop
            page = max(min(CHUNK, PAGE_BYTES * len(indices) // max(read, 1)), 1)
        known = self._lists[workflow, number, outcomes] = EndedStep(SUCCEEDED, list_of(parts))
        while len(self._lists) > LISTS:
            del self._lists[next(iter(self._lists))]
        return known


SKIPPED_BECAUSE = "skipped: "  #: with this begins the reason of an outcome that is no cancellation by itself


def skipped_outcome(why: str) -> bytes:
    """Encode the outcome of a step that does not run; for callers it is cancelled."""
    return encode_outcome(StoredOutcome("cancelled", reason=SKIPPED_BECAUSE + why))


def how_of(stored: StoredOutcome) -> Mark:
    """Tell how a step counts that has this outcome; the same outcome always counts the same."""
    if stored.state == "succeeded":
        return SUCCEEDED
    return SKIPPED if stored.state == "cancelled" and stored.reason.startswith(SKIPPED_BECAUSE) else FAILED


def ended_step(stored: StoredOutcome) -> EndedStep:
    """Translate how a step's job ended into what its followers ask for."""
    return EndedStep(how_of(stored), bytes(stored.result) or b"null")

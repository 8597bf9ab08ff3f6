"""Replaying: a workflow that has ended goes on as a new one, in which the steps that succeeded have ended already.

Their outcomes are copied under the names of the new workflow before its plan is written. Its jobs find them when they
start, as a job does that was handed out again, so nothing else in this room knows of replays.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from taskcore.records.names import outcome_name
from taskcore.results import decode_outcome
from taskcore.store import ABSENT, Store, Write
from taskcore.workflows.decide import StepKey
from taskcore.workflows.errors import InvalidWorkflow
from taskcore.workflows.names import list_name, replay_id, step_id
from taskcore.workflows.plan import CHUNK, Plan
from taskcore.workflows.record_reader import RecordReader

__all__ = ["continued", "copy_ended"]

COPIES = 200  #: outcomes in one write


async def copy_ended(store: Store, reader: RecordReader, workflow: str, plan: Plan, keep: float) -> str:
    """Copy what a workflow has come to for the one that goes on; return the id of that one.

    The id follows from the first one's: of a workflow there is one continuation, however often it is asked for.
    """
    new = replay_id(workflow)
    async for names in _records(reader, workflow, new, plan):
        values = await reader.values([old for old, _ in names])
        writes = [
            Write(key=name, value=value, expect=ABSENT, keep=keep)
            for (_, name), value in zip(names, values, strict=True)
            if value is not None and (name.startswith("workflow/") or decode_outcome(value).state == "succeeded")
        ]
        if writes:
            await store.put_many(writes)
    return new


async def _records(reader: RecordReader, workflow: str, new: str, plan: Plan) -> AsyncIterator[list[tuple[str, str]]]:
    """Yield the names of records that are copied, from and to, some at a time."""
    page: list[tuple[str, str]] = []
    for number, step in enumerate(plan.steps):
        keys = [StepKey(number)]
        if step.over is not None:
            width = await reader.width(workflow, plan, number) or 0
            keys = [StepKey(number, child) for child in range(width)]
            if step.over.items:
                parts = range(-(-step.over.items // CHUNK))
                lists = step.over.lists
                page += [
                    (list_name(workflow, number, part, lists), list_name(new, number, part, lists)) for part in parts
                ]
        for key in keys:
            page.append((outcome_name(step_id(workflow, key)), outcome_name(step_id(new, key))))
            if len(page) >= COPIES:
                yield page
                page = []
    yield page


def continued(plan: Plan, deadline: float) -> Plan:
    """Make the plan of the workflow that goes on; of a job that went on, it is not the job's any more.

    :raises InvalidWorkflow: it is a batch, whose jobs its sender has (TC311).
    """
    if any(step.over is not None and step.over.is_open for step in plan.steps):
        raise InvalidWorkflow(f"{plan.name} is a batch, and cannot be replayed", fix="send its jobs as a new batch")
    return msgspec.structs.replace(plan, deadline=deadline, key="", goes_on=False, within=None, above=())

"""Closing a batch: its sender decides how many jobs it has, or the guard that it is given up; one record, written once.

    width       the number of jobs, or GIVEN_UP; who comes second finds what the first has decided
    marks       the places that no job has are marked, so that the last place is marked by a job or by who closes
    callbacks   published by the one that finds the last place marked

The guard is a job that is published when the batch is opened, and due after ``open_for``. It finishes what a sender
that died had begun.
"""

from __future__ import annotations

from collections.abc import Callable

from taskcore.records.names import outcome_name
from taskcore.results import CANCELLED
from taskcore.store import ABSENT, Conflict, Store, Write
from taskcore.toolkit.failpoints import failpoint
from taskcore.toolkit.logging import logger
from taskcore.workflows.advance import Advancer
from taskcore.workflows.names import stop_name, width_name
from taskcore.workflows.plan import AFTER_DEADLINE, Plan

__all__ = ["GIVEN_UP", "close_batch", "decide_size", "give_up", "look_after_batch"]

log = logger("taskcore.workflows")

GIVEN_UP = -1  #: stands for the number of jobs of a batch that was not closed in time


async def decide_size(store: Store, workflow: str, plan: Plan, size: int, now: float) -> int:
    """Decide how many jobs a batch has; return what was decided first."""
    [answer] = await store.put_many(
        [Write(key=width_name(workflow, 0), value=str(size).encode(), expect=ABSENT, keep=_life(plan, now))]
    )
    if isinstance(answer, Conflict) and answer.current is not None:
        return int(answer.current.value)
    return size


async def close_batch(advancer: Advancer, workflow: str, plan: Plan, size: int, now: float) -> dict[str, str]:
    """Do what follows once the number of jobs is decided; return why the broker refuses it. Closing again is safe."""
    failpoint("batch.decided")
    refused = await advancer.close_open(workflow, plan, size, now)
    failpoint("batch.closed")
    return refused


async def give_up(store: Store, workflow: str, plan: Plan, now: float) -> None:
    """End a batch as cancelled: none of its jobs starts any more, and none of its callbacks."""
    failpoint("batch.given_up")
    await store.put_many(
        [
            Write(key=stop_name(workflow), value=b"cancelled", expect=ABSENT, keep=_life(plan, now), reserve=True),
            Write(key=outcome_name(workflow), value=CANCELLED, expect=ABSENT, keep=plan.keep, reserve=True),
        ]
    )


async def look_after_batch(
    store: Store, advancer: Advancer, clock: Callable[[], float], workflow: str, plan: Plan
) -> dict[str, str]:
    """Give up a batch that is not closed by now, or close it to the end; return why the broker refuses what follows."""
    now = clock()
    if await store.get(outcome_name(workflow)) is not None:
        return {}
    size = await decide_size(store, workflow, plan, GIVEN_UP, now)
    if size != GIVEN_UP:
        return await close_batch(advancer, workflow, plan, size, now)
    log.warning("the batch %s %s was not closed in time, and is cancelled", plan.name, workflow)
    await give_up(store, workflow, plan, now)
    return {}


def _life(plan: Plan, now: float) -> float:
    return max(plan.deadline - now, 0.0) + AFTER_DEADLINE

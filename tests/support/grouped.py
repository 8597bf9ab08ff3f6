"""Tasks that fail inside exception groups, in the loop, in a thread and in a process."""

from __future__ import annotations

from collections import Counter

import anyio
import anyio.lowlevel

from taskcore import Reject, Retry, RetryLater, Router, Snooze, current
from taskcore.task import Task

__all__ = ["Declined", "router", "starts_of", "tasks_in"]

router = Router()
starts_of: Counter[str] = Counter()


class Declined(Exception):
    """An error that the tasks declare."""


def throw(*errors: Exception) -> None:
    """Raise the errors in nested groups, with a traceback of their own."""
    raised = []
    for error in errors:
        try:
            raise error  # noqa: TRY301 - for its traceback
        except Exception as caught:
            raised.append(caught)
    raise ExceptionGroup("outer", [ExceptionGroup("unhandled errors in a TaskGroup", raised)])


def started() -> int:
    """Count this start; return its number, in whichever process it is."""
    job = current()
    starts_of[job.job_id] += 1
    return max(starts_of[job.job_id], job.attempt)


def on() -> None:
    """Fail with what is worth another attempt."""
    started()
    throw(ConnectionError("the partner is down"))


def give_up() -> None:
    """Fail with what is not."""
    started()
    throw(ConnectionError("the partner is down"), ValueError("no such customer"))


def reject() -> None:
    """Say that no attempt can help."""
    started()
    throw(ConnectionError("the partner is down"), Reject("there is no such city"))


def snooze() -> None:
    """Sleep five times."""
    if started() <= 5:
        throw(Snooze(after=0.001))


def later() -> None:
    """Ask for another time once."""
    if started() == 1:
        throw(Snooze(after=60), RetryLater(after=0.001, why="too soon"))


def declared() -> None:
    """Fail with a declared error beside another one."""
    started()
    throw(ConnectionError("the partner is down"), Declined("stolen"))


def sibling() -> None:
    """Fail with several signals."""
    started()
    throw(Snooze(after=60), RetryLater(after=60), Reject("never"))


#: The settings of each function.
FUNCTIONS = {
    on: Retry(attempts=3, base=0.001, on=(ConnectionError,)),
    give_up: Retry(attempts=3, base=0.001, give_up_on=(ValueError,)),
    reject: Retry(attempts=3, base=0.001),
    snooze: Retry(attempts=3, base=0.001),
    later: Retry(attempts=3, base=0.001),
    declared: Retry(attempts=3, base=0.001),
    sibling: Retry(attempts=3, base=0.001),
}


def _in_loop(function):
    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(_child, function)

    return run


async def _child(function) -> None:
    await anyio.lowlevel.checkpoint()
    function()


TASKS: dict[str, list[Task]] = {"loop": [], "thread": [], "process": []}
for each, policy in FUNCTIONS.items():
    name = each.__name__
    TASKS["loop"].append(router.task(name=f"loop.{name}", retry=policy, raises=(Declined,))(_in_loop(each)))
    TASKS["thread"].append(router.task(name=f"thread.{name}", retry=policy, raises=(Declined,))(each))
    options = {"retry": policy, "raises": (Declined,), "runs_in": "process"}
    TASKS["process"].append(router.task(name=f"process.{name}", **options)(each))
for task in TASKS["process"]:
    globals()[task.__name__] = task  # a process finds its task by module and name


def tasks_in(place: str) -> list[Task]:
    """List the tasks that run there: on, give_up, reject, snooze, later, declared, sibling."""
    return TASKS[place]

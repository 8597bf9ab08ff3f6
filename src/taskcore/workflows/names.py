"""The names of the records of workflows, and the ids of their jobs: all of them follow from the workflow's id alone.

    workflow/<id>                    its plan                                          plan.py
    workflow/<id>/stop               why no further step starts; written once          stops.py
    workflow/<id>/list/<step>/<k>    500 elements of a list that was known             submit.py
    workflow/<id>/width/<step>       how many children a map has                       expand.py
    workflow/<id>/gate/<step>        marks of the steps that one step waits for        marks.py
    workflow/<id>/map/<step>[/<leaf>] marks of the children of a map                   marks.py
    workflows/recent/<number>        one of the newest, for lists                      workflows.py
    job/<id>                         how it ended: the outcome of an ordinary job
    job/<id of a step>               how a step ended, for as long as the workflow may run

So whatever a worker writes or publishes may be written or published again by any other.
"""

from __future__ import annotations

import hashlib
import zlib
from functools import cache
from uuid import UUID

from taskcore.records.names import workflow_name as plan_name
from taskcore.workflows.decide import StepKey

__all__ = [
    "batch_id",
    "begin_id",
    "compensate_id",
    "deadline_id",
    "expand_id",
    "gate_name",
    "guard_id",
    "list_name",
    "map_name",
    "pivot_name",
    "plan_name",
    "recent_name",
    "recent_names",
    "replay_id",
    "rounds_name",
    "step_id",
    "stop_name",
    "undo_id",
    "undo_name",
    "width_name",
]

RECENT = 512  #: workflows that are remembered for lists


def stop_name(workflow: str) -> str:
    """Name the record that says why no further step starts."""
    return f"workflow/{workflow}/stop"


def list_name(workflow: str, step: int, chunk: int, lists: str = "") -> str:
    """Name a part of a list that was known when the workflow was sent.

    :param lists: tells the lists of one plan of a job from those of another one.
    """
    return f"workflow/{workflow}/list{lists}/{step}/{chunk}"


def width_name(workflow: str, step: int) -> str:
    """Name the record of how many children a map has."""
    return f"workflow/{workflow}/width/{step}"


def gate_name(workflow: str, gate: int) -> str:
    """Name the marks of the steps that one step waits for."""
    return f"workflow/{workflow}/gate/{gate}"


def map_name(workflow: str, step: int, leaf: int | None = None) -> str:
    """Name the marks of the children of a map, or of one leaf of them."""
    return f"workflow/{workflow}/map/{step}" + ("" if leaf is None else f"/{leaf}")


def step_id(workflow: str, key: StepKey) -> str:
    """Derive the id of a step's job."""
    return _derived(f"step|{workflow}|{key.step}|{'' if key.child is None else key.child}")


def expand_id(workflow: str, step: int, chunk: int) -> str:
    """Derive the id of the job that publishes a part of a map's children."""
    return _derived(f"expand|{workflow}|{step}|{chunk}")


def guard_id(workflow: str) -> str:
    """Derive the id of the job that looks after a batch."""
    return _derived(f"guard|{workflow}")


def batch_id(job_id: str, name: str) -> str:
    """Derive the id of a batch that a job opens."""
    return _derived(f"batch|{job_id}|{name}")


def pivot_name(workflow: str) -> str:
    """Name the record in which a saga's pivot and who cancels it decide which of them comes first."""
    return f"workflow/{workflow}/pivot"


def undo_name(workflow: str) -> str:
    """Name the list of what is undone, in order."""
    return f"workflow/{workflow}/undo"


def rounds_name(workflow: str) -> str:
    """Name the count of how often compensation was begun anew."""
    return f"workflow/{workflow}/rounds"


def undo_id(workflow: str, step: int, turn: int | None = None) -> str:
    """Derive the id of the job that undoes a step; without a turn the key that all turns share."""
    return _derived(f"undo|{workflow}|{step}|{'' if turn is None else turn}")


def compensate_id(workflow: str, turn: int, behind: int | None) -> str:
    """Derive the id of the job that finds out what is to be undone next, behind the end of a compensation."""
    return _derived(f"compensate|{workflow}|{turn}|{'' if behind is None else behind}")


def deadline_id(workflow: str) -> str:
    """Derive the id of the job that comes when the deadline of a saga passes."""
    return _derived(f"deadline|{workflow}")


def begin_id(workflow: str) -> str:
    """Derive the id of the job that publishes the first steps."""
    return _derived(f"begin|{workflow}")


def replay_id(workflow: str) -> str:
    """Derive the id of the workflow that goes on with one that has ended."""
    return _derived(f"replay|{workflow}")


def recent_name(workflow: str) -> str:
    """Name the record in which a workflow is remembered for lists, until a newer one takes its place."""
    return recent_names()[zlib.crc32(workflow.encode()) % RECENT]


@cache
def recent_names() -> tuple[str, ...]:
    """Name all records in which workflows are remembered for lists."""
    return tuple(f"workflows/recent/{number}" for number in range(RECENT))


def _derived(text: str) -> str:
    """Make a UUID of version 8 that follows from a text."""
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return str(UUID(int=int.from_bytes(digest, "big") & ~(0xF << 76) & ~(0b11 << 62) | 8 << 76 | 0b10 << 62))

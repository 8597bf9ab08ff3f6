"""The names of the records of workflows, and the ids of their jobs: all of them follow from the workflow's id alone.

    workflow/<id>                    its plan                                          plan.py
    workflow/<id>/stop               why no further step starts; written once          stops.py
    workflow/<id>/list/<step>/<k>    500 elements of a list that was known             submit.py
    workflow/<id>/width/<step>       how many children a map has                       expand.py
    workflow/<id>/gate/<step>        marks of the steps that one step waits for        marks.py
    workflow/<id>/map/<step>[/<leaf>] marks of the children of a map                   marks.py
    workflows/recent/<number>        one of the newest, for lists                      workflows.py
    workflows/of/<12 digits>         the workflow whose jobs have these digits first   family.py
    job/<id>                         how it ended: the outcome of an ordinary job
    job/<id of a step>               how a step ended, for as long as the workflow may run

So whatever a worker writes or publishes may be written or published again by any other. The first digits of a job's id
are those of its workflow's hash, which leads from a job to the workflow that it is a part of.
"""

from __future__ import annotations

import hashlib
import zlib
from functools import cache, lru_cache

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
    "owner_name",
    "owner_name_of",
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
    return _derived(workflow, f"step|{workflow}|{key.step}|{'' if key.child is None else key.child}")


def expand_id(workflow: str, step: int, chunk: int) -> str:
    """Derive the id of the job that publishes a part of a map's children."""
    return _derived(workflow, f"expand|{workflow}|{step}|{chunk}")


def guard_id(workflow: str) -> str:
    """Derive the id of the job that looks after a batch."""
    return _derived(workflow, f"guard|{workflow}")


def batch_id(job_id: str, name: str) -> str:
    """Derive the id of a batch that a job opens."""
    return _derived(job_id, f"batch|{job_id}|{name}")


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
    return _derived(workflow, f"undo|{workflow}|{step}|{'' if turn is None else turn}")


def compensate_id(workflow: str, turn: int, behind: int | None) -> str:
    """Derive the id of the job that finds out what is to be undone next, behind the end of a compensation."""
    return _derived(workflow, f"compensate|{workflow}|{turn}|{'' if behind is None else behind}")


def deadline_id(workflow: str) -> str:
    """Derive the id of the job that comes when the deadline of a saga passes."""
    return _derived(workflow, f"deadline|{workflow}")


def begin_id(workflow: str) -> str:
    """Derive the id of the job that publishes the first steps."""
    return _derived(workflow, f"begin|{workflow}")


def replay_id(workflow: str) -> str:
    """Derive the id of the workflow that goes on with one that has ended."""
    return _derived(workflow, f"replay|{workflow}")


def recent_name(workflow: str) -> str:
    """Name the record in which a workflow is remembered for lists, until a newer one takes its place."""
    return recent_names()[zlib.crc32(workflow.encode()) % RECENT]


@cache
def recent_names() -> tuple[str, ...]:
    """Name all records in which workflows are remembered for lists."""
    return tuple(f"workflows/recent/{number}" for number in range(RECENT))


def owner_name(workflow: str) -> str:
    """Name the record that says of which workflow the jobs are whose ids begin as those of this one."""
    return _owner_name(_first_digits(workflow))


def owner_name_of(job_id: str) -> str | None:
    """Name the record that tells of which workflow a job is; None if the id cannot be that of such a job."""
    digits = job_id.replace("-", "")[:OWNER_DIGITS]
    return _owner_name(digits) if len(digits) == OWNER_DIGITS and DIGITS.issuperset(digits) else None


OWNER_DIGITS = 12  #: of a job's id
DIGITS = frozenset("0123456789abcdef")


def _owner_name(digits: str) -> str:
    return f"workflows/of/{digits}"


@lru_cache(maxsize=1_000)
def _first_digits(workflow: str) -> str:
    return hashlib.blake2b(workflow.encode(), digest_size=OWNER_DIGITS // 2).hexdigest()


def _derived(workflow: str, text: str) -> str:
    """Make a UUID of version 8 that follows from a text, behind the digits that all jobs of a workflow share."""
    digits = hashlib.blake2b(text.encode(), digest_size=10).hexdigest()
    first = _first_digits(workflow)
    return f"{first[:8]}-{first[8:]}-8{digits[:3]}-{VARIANT[digits[3]]}{digits[4:7]}-{digits[7:19]}"


#: the digit of a UUID's variant, whatever the hash has there
VARIANT = {digit: "89ab"[number % 4] for number, digit in enumerate("0123456789abcdef")}

"""The names of all records that the core keeps in a store, in one table.

    job/<id>                how a job ended                       outcomes.py
    cancel/<id>             a request that a job does not start   cancels.py
    cancels/newest          that there are such requests          cancels.py
    start/<id>/<copies>     starts of a job without an outcome    markers.py
    outlived/<id>/<copies>  such starts whose process lived on    markers.py
    key/<task>/<digest>     an idempotency key                    keys.py
    owner/<id>              the task of an id that a caller chose id_owners.py
    workflow/<id>           the plan of a workflow; <id> may be the job that went on as it
    parked/<digest>         a task that a worker does not know    parked.py
    parked-in/<queue>       how many jobs of such tasks wait      parked.py
    worker/<number>         a worker that lives                   roster.py

No other module spells these names.
"""

from __future__ import annotations

import hashlib

__all__ = [
    "NEWEST_CANCEL",
    "OUTCOME",
    "cancel_name",
    "is_start_name",
    "key_name",
    "outcome_name",
    "outlived_name",
    "owner_name",
    "parked_in_name",
    "parked_name",
    "start_name",
    "worker_name",
    "workflow_name",
]

NEWEST_CANCEL = "cancels/newest"  #: one record for all requests
OUTCOME = "job/"  #: with the job's id behind it: the one name that is made for nearly every job


def outcome_name(job_id: str) -> str:
    """Name the record of how a job ended."""
    return OUTCOME + job_id


def cancel_name(job_id: str) -> str:
    """Name the request that a job does not start."""
    return f"cancel/{job_id}"


def start_name(job_id: str, copies: int) -> str:
    """Name the count of starts of one copy of a job; each retry makes a new copy."""
    return f"start/{job_id}/{copies}"


def outlived_name(job_id: str, copies: int) -> str:
    """Name the count of those of its starts whose processes lived on."""
    return f"outlived/{job_id}/{copies}"


def is_start_name(name: str) -> bool:
    """Tell whether a record counts starts."""
    return name.startswith("start/")


def key_name(task: str, key: str) -> str:
    """Name the record of a key: hashed, because keys are free text and record names are not."""
    return f"key/{task}/{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}"


def parked_name(task: str) -> str:
    """Name what a worker says about a task that it does not know: hashed, because its name comes from elsewhere."""
    return f"parked/{hashlib.blake2b(task.encode(errors='replace'), digest_size=16).hexdigest()}"


def parked_in_name(queue: str) -> str:
    """Name the count of the jobs of a queue that wait for a worker that knows their tasks."""
    return f"parked-in/{queue}"


def worker_name(number: int) -> str:
    """Name what a worker says of itself; each takes a number that is free."""
    return f"worker/{number}"


def workflow_name(job_id: str) -> str:
    """Name the plan of a workflow, or of the one as which a job goes on."""
    return f"workflow/{job_id}"


def owner_name(job_id: str) -> str:
    """Name the record of which task has an id."""
    return f"owner/{job_id}"

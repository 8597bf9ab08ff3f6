"""The idempotency key of a job that went on as a workflow: it stays claimed, and is completed with the outcome."""

from __future__ import annotations

from taskcore.errors import UnreadableRecord
from taskcore.records.keys import Acquired, IdempotencyKeys, decode_key_record
from taskcore.results import decode_outcome
from taskcore.store import Store
from taskcore.toolkit.logging import logger
from taskcore.workflows.plan import Plan

__all__ = ["complete_key"]

log = logger("taskcore.workflows")


async def complete_key(store: Store, plan: Plan, job_id: str, outcome: bytes) -> None:
    """Complete the key of a job with its outcome; if it did not succeed, release the key for another job.

    A key that another job has got meanwhile is left to it.
    """
    record = await store.get(plan.key)
    if record is None:
        return
    try:
        claim = decode_key_record(record.value)
    except UnreadableRecord as error:
        log.warning("the key of job %s is not completed: %s", job_id, error.what)
        return
    if claim.job != job_id or claim.state == "done":
        return
    held = Acquired(plan.key, claim, record.version, plan.key_keep, plan.key_keep)
    if decode_outcome(outcome).state == "succeeded":
        await store.put_many([IdempotencyKeys.complete(held, outcome)])
    elif claim.state != "sent":
        await store.put_many([IdempotencyKeys.release(held)])

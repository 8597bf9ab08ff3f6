"""The functions of the jobs. Each of them writes down that it started, and how it ended."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import uuid4

import anyio
import msgspec

from benchmarks.soak.kinds import INNOCENT_CRASHES, KINDS, POISON_CRASHES
from benchmarks.soak.ledger import from_environment, note
from taskcore import Depends, Reject, RetryLater, Router, Snooze, SoftTimeout, current
from taskcore.conformance.checking.recorder import digest
from taskcore.testing.history import error_text

__all__ = ["LEAK", "POISONED", "result_digest", "router"]

T = TypeVar("T")

LEAK = "SOAK_LEAK"  #: a variable: the bytes that each job of this process leaves in its memory
POISONED = 86  #: the exit code of a worker that a job of the kind ``poison`` has ended
WAIT = 0.4  #: seconds for which a job asks when it wants to come later
SOFT = 0.3  #: seconds after which a job of the kinds ``soft`` hears that its time is over
TOO_LONG = 20.0  #: seconds that it would take without that
STEP = 0.02  #: seconds between two points at which it can be told in a thread
BULK = 0.4  #: seconds that a job of a burst takes

NO_VERDICT = ("CancelledError", "GeneratorExit")  #: how an interruption looks to the function

router = Router()
leaked: list[bytes] = []


def result_digest(value: Any) -> str:
    """Return the digest of a result as a store keeps it."""
    return digest(msgspec.json.encode(value))


class Run:
    """One start of a function."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}

    def returns(self, value: T) -> T:
        """Note what the function returns."""
        self.facts = {"outcome": "returned", "result": result_digest(value)}
        return value


@contextmanager
def run(**facts: Any) -> Iterator[Run]:
    """Write down the start of a function and its end; a kill leaves a start without an end."""
    job, noted, number = current(), Run(), uuid4().hex[:8]
    ledger = from_environment()
    place = {"run": number, "copies": job.trail.copies}
    ledger.write("started", job.job_id, **place, attempt=job.attempt, fence=job.fence, **facts)
    if size := int(os.environ.get(LEAK, "0")):
        leaked.append(b"x" * size)
    try:
        yield noted
    except BaseException as error:
        name = type(error).__name__
        if name in NO_VERDICT:
            noted.facts = {"outcome": "interrupted"}
        else:
            noted.facts = {"outcome": "raised", "error": error_text(name, str(error))}
            if isinstance(error, Snooze | RetryLater):
                noted.facts["after"] = error.after
        raise
    finally:
        ledger.write("finished", job.job_id, **place, **noted.facts)
        ledger.close()


# ── one task for each kind ───────────────────────────────────────────────────────────────────────


@router.task(name="fast", crashes=INNOCENT_CRASHES)
async def fast(number: int) -> int:
    """Return at once."""
    with run() as noted:
        return noted.returns(number + 1)


@router.task(name="slow", crashes=INNOCENT_CRASHES)
async def slow(seconds: float) -> float:
    """Take a while: longer than the grace of a stop, and longer than a lease."""
    with run() as noted:
        await anyio.sleep(seconds)
        return noted.returns(seconds)


@router.task(name="thread", crashes=INNOCENT_CRASHES)
def thread(number: int) -> int:
    """Block a thread for a moment."""
    with run() as noted:
        time.sleep(number % 7 * 0.03)
        return noted.returns(number + 1)


@router.task(name="process", runs_in="process", timeout=60.0, crashes=INNOCENT_CRASHES)
def process(number: int) -> int:
    """Compute in a process."""
    with run() as noted:
        return noted.returns(sum(range(number % 50_000)))


@router.task(name="retried", crashes=INNOCENT_CRASHES)
async def retried(number: int) -> int:
    """Fail twice, then succeed."""
    with run() as noted:
        if current().attempt <= KINDS["retried"].attempts - 3:
            raise ConnectionError(f"attempt {current().attempt} fails")
        return noted.returns(number + 1)


@router.task(name="rejected", crashes=INNOCENT_CRASHES)
async def rejected(number: int) -> int:
    """End as a dead letter at once."""
    with run():
        raise Reject(f"number {number} is not wanted")


@router.task(name="snoozed", crashes=INNOCENT_CRASHES)
async def snoozed(number: int) -> int:
    """Come again later, without an attempt."""
    with run() as noted:
        if current().trail.copies < 2:
            raise Snooze(WAIT)
        return noted.returns(number + 1)


@router.task(name="later", crashes=INNOCENT_CRASHES)
async def later(number: int) -> int:
    """Come again after a time of its own choice, with an attempt."""
    with run() as noted:
        if current().attempt == 1:
            raise RetryLater(WAIT, "not yet")
        return noted.returns(number + 1)


@router.task(name="keyed", key="key", crashes=INNOCENT_CRASHES)
async def keyed(key: str) -> str:
    """Return what no other start returns: of all starts with one key, one is recorded."""
    with run(key=key) as noted:
        await anyio.sleep(0.02)
        return noted.returns(f"{key} by {uuid4().hex}")


@router.task(name="delayed", crashes=INNOCENT_CRASHES)
async def delayed(number: int) -> int:
    """Return at once; the delay is the broker's."""
    with run() as noted:
        return noted.returns(number + 1)


@router.task(name="expiring", crashes=INNOCENT_CRASHES)
async def expiring(number: int) -> int:
    """Return at once, if it starts."""
    with run() as noted:
        return noted.returns(number + 1)


@router.task(name="cancelled", crashes=INNOCENT_CRASHES)
async def cancelled(number: int) -> int:
    """Return at once, if it starts."""
    with run() as noted:
        return noted.returns(number + 1)


@router.task(name="once", delivery="at_most_once")
async def once(number: int) -> int:
    """Return after a moment, in which its worker may die."""
    with run() as noted:
        await anyio.sleep(0.05)
        return noted.returns(number + 1)


@router.task(name="large", crashes=INNOCENT_CRASHES)
async def large(text: str) -> str:
    """Send a large argument back."""
    with run() as noted:
        return noted.returns(text[::-1])


@router.task(name="awaited", crashes=INNOCENT_CRASHES)
async def awaited(number: int) -> int:
    """Return what its caller waits for."""
    with run() as noted:
        await anyio.sleep(0.01)
        return noted.returns(number * 3)


@router.task(name="poison", crashes=POISON_CRASHES)
async def poison(number: int) -> int:
    """End the worker."""
    with run(poison=number):
        os._exit(POISONED)


@router.task(name="blocking", crashes=INNOCENT_CRASHES)
async def blocking(seconds: float) -> float:
    """Hold up the event loop, as code does that belongs into a thread."""
    with run(blocks=seconds) as noted:
        time.sleep(seconds)  # noqa: ASYNC251 - that is the point
        return noted.returns(seconds)


async def open_pool() -> AsyncIterator[str]:
    """Open what all jobs of a worker share."""
    name = uuid4().hex[:8]
    note("pool opened", pool=name)
    yield name
    note("pool closed", pool=name)


async def open_unit(pool: str = Depends(open_pool, scope="app")) -> AsyncIterator[str]:
    """Open what belongs to one attempt of one job."""
    name, job = uuid4().hex[:8], current().job_id
    note("unit opened", job, unit=name, pool=pool)
    try:
        yield name
    finally:
        note("unit closed", job, unit=name)


@router.task(name="depends", crashes=INNOCENT_CRASHES)
async def depends(number: int, unit: str = Depends(open_unit)) -> int:
    """Fail once, with its dependencies open."""
    with run(unit=unit) as noted:
        await anyio.sleep(0.01)
        if current().attempt == 1 and number % 2:
            raise ConnectionError("the first attempt fails")
        return noted.returns(number + 1)


@router.task(name="soft", soft_timeout=SOFT, timeout=60.0, crashes=INNOCENT_CRASHES)
async def soft(number: int) -> int:
    """Wait until it hears that its time is over."""
    with run() as noted:
        try:
            await anyio.sleep(TOO_LONG)
        except SoftTimeout:
            return noted.returns(number + 1)
        raise Reject("the soft time limit was not told")


@router.task(name="softthread", soft_timeout=SOFT, timeout=60.0, crashes=INNOCENT_CRASHES)
def softthread(number: int) -> int:
    """Work until it hears that its time is over, in a thread."""
    return _work_softly(number)


@router.task(name="softprocess", runs_in="process", soft_timeout=SOFT, timeout=60.0, crashes=INNOCENT_CRASHES)
def softprocess(number: int) -> int:
    """Work until it hears that its time is over, in a process."""
    return _work_softly(number)


def _work_softly(number: int) -> int:
    with run() as noted:
        began = time.monotonic()
        try:
            while time.monotonic() - began < TOO_LONG:
                time.sleep(STEP)
        except SoftTimeout:
            return noted.returns(number + 1)
        raise Reject("the soft time limit was not told")


@router.task(name="bulk", crashes=INNOCENT_CRASHES)
async def bulk(number: int) -> int:
    """Take a slot for a moment; sixty of these at once need more processes."""
    with run() as noted:
        await anyio.sleep(BULK)
        return noted.returns(number + 1)


@router.task(name="tick", crashes=INNOCENT_CRASHES)
async def tick() -> str:
    """Note for which instant of the schedule it is."""
    found = current().tick
    instant = "" if found is None else found.at.isoformat()
    with run(instant=instant) as noted:
        return noted.returns(instant)

"""What checks on the seam share: jobs made of any bytes, waiting for deliveries, and for their absence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio

from taskcore.backend import Backend, Delivery, Outgoing, Source, Stored
from taskcore.conformance.checks import require
from taskcore.conformance.clauses import ClauseViolated
from taskcore.conformance.harness import CLOCK_TOLERANCE, Harness
from taskcore.envelope import new_id
from taskcore.lifecycle import Verdict

__all__ = ["CLOCK_TOLERANCE", "eventually", "job", "nothing_from", "put", "receive", "settle", "stays_away", "took"]


def job(queue: str, envelope: bytes | None = None, *, trail: bytes = b"", delay: float = 0.0) -> Outgoing:
    """Make a job for the seam, which does not care what its bytes mean."""
    job_id = new_id()
    return Outgoing(queue, job_id, f"job {job_id}".encode() if envelope is None else envelope, trail, delay)


async def put(backend: Backend, *jobs: Outgoing) -> None:
    """Publish; every job has to be stored."""
    for one, answer in zip(jobs, await backend.publish(jobs), strict=True):
        require(isinstance(answer, Stored), f"publishing job {one.id} was answered with {answer!r}")


async def receive(harness: Harness, source: Source, count: int = 1, *, within: float | None = None) -> list[Delivery]:
    """Receive so many deliveries.

    :raises ClauseViolated: they did not come in time.
    """
    found: list[Delivery] = []
    began = anyio.current_time()
    with anyio.move_on_after(harness.timeout if within is None else within):
        while len(found) < count:
            found += await source.receive(count - len(found))
    if len(found) != count:
        waited = anyio.current_time() - began
        raise ClauseViolated(f"{len(found)} of {count} deliveries came within {waited:.1f} s")
    return found


async def nothing_from(source: Source, seconds: float, why: str) -> None:
    """Check that nothing is handed out for so many seconds.

    :raises ClauseViolated: something was; the text is ``why``.
    """
    with anyio.move_on_after(seconds):
        found = await source.receive(1)
        raise ClauseViolated(f"{why}: {found[0].envelope[:80]!r} was handed out, {found[0].redeliveries} redeliveries")


async def stays_away(harness: Harness, source: Source, why: str) -> None:
    """Check that nothing is handed out, not even after every lease has run out."""
    await nothing_from(source, harness.beyond, why)


async def settle(source: Source, *batch: tuple[Delivery, Verdict]) -> None:
    """Settle; no lease may be lost."""
    lost = await source.settle(batch)
    require(not lost, f"{len(lost)} of {len(batch)} leases were lost, although they had not run out")


async def eventually(harness: Harness, question: Callable[[], Awaitable[object]], sentence: str) -> None:
    """Check that it becomes true soon; counts may lag a little behind what they count."""
    with anyio.move_on_after(harness.timeout):
        while not await question():  # noqa: ASYNC110 - brokers do not tell when a count changes
            await anyio.sleep(0.02)
        return
    raise ClauseViolated(sentence)


def took(deliveries: Sequence[Delivery]) -> list[bytes]:
    """Return the envelopes, sorted, because order is not promised."""
    return sorted(delivery.envelope for delivery in deliveries)

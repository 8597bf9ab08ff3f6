"""Checks of time: nothing early, little late, and a schedule outlives connections."""

from __future__ import annotations

import anyio

from taskcore.backend import Outgoing, Source
from taskcore.conformance.checks import BACKEND_CHECKS, check, require
from taskcore.conformance.guarantees.deliveries import (
    CLOCK_TOLERANCE,
    eventually,
    job,
    nothing_from,
    put,
    receive,
    settle,
)
from taskcore.conformance.harness import Harness
from taskcore.lifecycle import ACK, Reschedule
from taskcore.toolkit.units import LONGEST_DURATION


async def _watch(harness: Harness, source: Source, due: dict[bytes, float]) -> None:
    """Take jobs as they come; each has to come in time, and once."""
    error = harness.features.delay_error
    left = dict(due)
    with anyio.move_on_after(max(due.values()) - anyio.current_time() + harness.timeout):
        while left:
            for delivery in await source.receive(1):
                late = anyio.current_time() - due[delivery.envelope]
                require(left.pop(delivery.envelope, None) is not None, "a delayed job came twice")
                require(late >= -error - CLOCK_TOLERANCE, f"a job came {-late:.3f} s too early; δ is {error:g} s")
                require(
                    late <= error + harness.margin + CLOCK_TOLERANCE,
                    f"a job came {late:.3f} s too late; δ is {error:g} s",
                )
                harness.lateness.append(late)
                await settle(source, (delivery, ACK))
    require(not left, f"{len(left)} of {len(due)} delayed jobs never came")


def _due(jobs: list[Outgoing]) -> dict[bytes, float]:
    """Compute when each has to come; to be called before they are published."""
    now = anyio.current_time()
    return {one.envelope: now + one.delay for one in jobs}


@check(BACKEND_CHECKS, "C16", needs="delay")
async def a_delay_is_kept_within_its_tolerance(harness: Harness) -> None:
    """A delayed job is delivered between its time minus δ and its time plus δ."""
    queue, backend = harness.queue(), await harness.backend()
    jobs = [job(queue, delay=harness.lease * part) for part in (0.3, 0.8, 1.0, 1.4, 2.0)]
    async with backend.consume([queue], lease=harness.long) as source:
        due = _due(jobs)
        await put(backend, *jobs)
        await _watch(harness, source, due)


@check(BACKEND_CHECKS, "C16", needs="delay")
async def a_long_delay_does_not_block_a_short_one(harness: Harness) -> None:
    """Jobs come in the order of their times, not in the order in which they were published."""
    queue, backend = harness.queue(), await harness.backend()
    long, short, none = job(queue, delay=harness.lease * 2), job(queue, delay=harness.lease / 2), job(queue)
    async with backend.consume([queue], lease=harness.long) as source:
        due = _due([long, short, none])
        for one in (long, short, none):
            await put(backend, one)
        await _watch(harness, source, due)


@check(BACKEND_CHECKS, "C16", "C1", needs="delay")
async def a_schedule_survives_a_reconnect(harness: Harness) -> None:
    """Delayed jobs arrive on time and once, although their sender has disconnected and no worker was connected."""
    queue, other = harness.queue(), harness.queue("other")
    jobs = [job(queue, delay=harness.lease * part) for part in (0.5, 1.0, 1.5)]
    async with harness.connection() as sender:
        due = _due(jobs)
        await put(sender, *jobs)
        async with sender.consume([other], lease=harness.long) as source:
            await nothing_from(source, CLOCK_TOLERANCE, "an empty queue")
    async with (await harness.backend()).consume([queue], lease=harness.long) as source:
        await _watch(harness, source, due)


@check(BACKEND_CHECKS, "C16", "C4", needs="delay")
async def overdue_jobs_are_delivered_at_once(harness: Harness) -> None:
    """Jobs that became due while no worker was connected go to the first worker that asks."""
    queue = harness.queue()
    async with harness.connection() as sender:
        await put(sender, *(job(queue, delay=harness.lease / 2) for _ in range(3)))
    await harness.outlast(harness.lease / 2)
    async with (await harness.backend()).consume([queue], lease=harness.long) as source:
        found = await receive(harness, source, 3)
        await settle(source, *((delivery, ACK) for delivery in found))


@check(BACKEND_CHECKS, "C17", needs="delay")
async def a_retry_waits_for_its_delay(harness: Harness) -> None:
    """After ``Retry(after)`` a job is delivered between ``after`` minus δ and ``after`` plus δ."""
    queue, backend, other = harness.queue(), await harness.backend(), await harness.backend()
    jobs = [job(queue) for _ in range(3)]
    waits = dict(zip((one.envelope for one in jobs), (0.4, 0.9, 1.5), strict=True))
    await put(backend, *jobs)
    async with backend.consume([queue], lease=harness.long) as source:
        found = await receive(harness, source, 3)
        now = anyio.current_time()
        due = {envelope: now + harness.lease * part for envelope, part in waits.items()}
        await settle(source, *((one, Reschedule(harness.lease * waits[one.envelope], b"again")) for one in found))
    async with other.consume([queue], lease=harness.long) as source:
        await _watch(harness, source, due)


@check(BACKEND_CHECKS, "C16", "C17", needs="delay")
async def any_delay_above_zero_is_one(harness: Harness) -> None:
    """The shortest delays there are end at once, and 100 years hold up no other job."""
    queue, backend = harness.queue(), await harness.backend()
    waits = (5e-324, 1e-12, 1e-7, LONGEST_DURATION)
    jobs = [job(queue), *(job(queue, delay=wait) for wait in waits[:-1])]
    await put(backend, *jobs)
    async with backend.consume([queue], lease=harness.long) as source:
        found = await receive(harness, source, len(jobs))
        later = [Reschedule(wait, b"again") for wait in waits]
        await settle(source, *zip(found, later, strict=True))
        for delivery in await receive(harness, source, len(jobs) - 1):
            await settle(source, (delivery, ACK))


@check(BACKEND_CHECKS, "C16", needs=("delay", "dedup"))
async def a_repeated_schedule_is_stored_once(harness: Harness) -> None:
    """Publishing a delayed job again, even with another delay, neither duplicates it nor makes it early."""
    queue, backend = harness.queue(), await harness.backend()
    one = job(queue, delay=harness.lease)
    due = _due([one])
    await put(backend, one)
    sooner = Outgoing(queue, one.id, one.envelope, one.trail, 0.0)
    await backend.publish([sooner, one])
    async with backend.consume([queue], lease=harness.long) as source:
        await _watch(harness, source, due)
        await nothing_from(source, harness.lease, "a second copy of a delayed job")


@check(BACKEND_CHECKS, "C16", "C1", needs=("delay", "counts"))
async def a_delayed_job_is_counted_as_scheduled(harness: Harness) -> None:
    """A delayed job is counted as scheduled until its time has come."""
    queue, backend = harness.queue(), await harness.backend()
    await put(backend, job(queue, delay=harness.lease), job(queue, delay=harness.long))

    async def scheduled(count: int) -> bool:
        return (await backend.admin.stats([queue]))[0].scheduled == count

    await eventually(harness, lambda: scheduled(2), "two delayed jobs are not counted as scheduled")
    async with backend.consume([queue], lease=harness.long) as source:
        [delivery] = await receive(harness, source, within=harness.lease + harness.timeout)
        await settle(source, (delivery, ACK))
    await eventually(harness, lambda: scheduled(1), "a delayed job that came and ended is still counted as scheduled")

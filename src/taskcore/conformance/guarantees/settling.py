"""Checks of settling: each verdict has its effect once, and a lost lease has none."""

from __future__ import annotations

import anyio

from taskcore.backend import Delivery, Source
from taskcore.conformance.checks import BACKEND_CHECKS, Check, check, require
from taskcore.conformance.guarantees.deliveries import job, nothing_from, put, receive, settle, stays_away, took
from taskcore.conformance.harness import Harness
from taskcore.lifecycle import ACK, RELEASE, Ack, Bury, Reschedule, Verdict


@check(BACKEND_CHECKS, "C18", "C8")
async def an_acknowledged_job_is_never_delivered_again(harness: Harness) -> None:
    """After Ack a job is never delivered again."""
    queue, backend, other = harness.queue(), await harness.backend(), await harness.backend()
    await put(backend, *(job(queue) for _ in range(10)))
    async with (
        backend.consume([queue], lease=harness.lease) as source,
        other.consume([queue], lease=harness.lease) as successor,
    ):
        found = await receive(harness, source, 10)
        await settle(source, *((delivery, ACK) for delivery in found))
        await stays_away(harness, successor, "an acknowledged job")


@check(BACKEND_CHECKS, "C5", "C8")
async def a_retry_carries_the_new_trail(harness: Harness) -> None:
    """After Retry the same envelope comes back once, with the new trail and without redeliveries."""
    queue, backend = harness.queue(), await harness.backend()
    one = job(queue, trail=b"before")
    await put(backend, one)
    async with backend.consume([queue], lease=harness.long) as source:
        for number in range(5):
            [delivery] = await receive(harness, source)
            require(delivery.envelope == one.envelope, "a retry changed the envelope")
            wanted = b"trail %d" % (number - 1) if number else b"before"
            require(delivery.trail == wanted, f"the trail is {delivery.trail!r}, it should be {wanted!r}")
            require(delivery.redeliveries == 0, "a retry counts as a redelivery")
            await settle(source, (delivery, Reschedule(0.0, b"trail %d" % number)))
        [delivery] = await receive(harness, source)
        await nothing_from(source, harness.margin, "a second copy of a retried job")
        await settle(source, (delivery, ACK))


@check(BACKEND_CHECKS, "C21", "C5")
async def a_released_job_is_available_at_once(harness: Harness) -> None:
    """A released job goes to another worker within a second, with its trail and without using an attempt."""
    queue, backend, other = harness.queue(), await harness.backend(), await harness.backend()
    await put(backend, *(job(queue, trail=b"so far") for _ in range(5)))
    async with backend.consume([queue], lease=harness.long) as leaving:
        found = await receive(harness, leaving, 5)
        await settle(leaving, *((delivery, RELEASE) for delivery in found))
    async with other.consume([queue], lease=harness.long) as source:
        again = await receive(harness, source, 5, within=1.0 + harness.margin)
        require(took(again) == took(found), "other jobs came than were given back")
        require({delivery.trail for delivery in again} == {b"so far"}, "giving back changed a trail")
        require({delivery.redeliveries for delivery in again} == {0}, "giving back counts as a redelivery")
        await settle(source, *((delivery, ACK) for delivery in again))


@check(BACKEND_CHECKS, "C7", "C8")
async def each_verdict_of_a_batch_has_its_own_effect(harness: Harness) -> None:
    """Each verdict of a batch has its own effect; deliveries of several queues may be in one batch."""
    backend, queues = await harness.backend(), [harness.queue("a"), harness.queue("b")]
    jobs = [job(queue, b"%d" % number) for number, queue in enumerate(queues * 3)]
    await put(backend, *jobs)
    async with backend.consume(queues, lease=harness.long) as source:
        by_name = {delivery.envelope: delivery for delivery in await receive(harness, source, 6)}
        verdicts: dict[bytes, Verdict] = {
            b"0": ACK,
            b"1": RELEASE,
            b"2": Reschedule(0.0, b"again"),
            b"3": ACK,
            b"4": RELEASE,
        }
        verdicts[b"5"] = Reschedule(0.0, b"again")
        await settle(source, *((by_name[name], verdict) for name, verdict in verdicts.items()))
        again = {delivery.envelope: delivery for delivery in await receive(harness, source, 4)}
        require(sorted(again) == [b"1", b"2", b"4", b"5"], f"these came back: {sorted(again)}")
        require([again[name].trail for name in (b"1", b"2", b"4", b"5")] == [b"", b"again"] * 2, "trails were mixed up")
        require(not list(await source.settle([])), "an empty batch was answered with something")
        await settle(source, *((delivery, ACK) for delivery in again.values()))


@check(BACKEND_CHECKS, "C7", "C18", needs="fencing")
async def settling_again_has_no_effect(harness: Harness) -> None:
    """Repeating a verdict is safe; a different verdict after the first changes nothing."""
    queue, backend = harness.queue(), await harness.backend()
    await put(backend, job(queue))
    async with backend.consume([queue], lease=harness.lease) as source:
        [delivery] = await receive(harness, source)
        await settle(source, (delivery, ACK))
        for verdict in (ACK, RELEASE, Reschedule(0.0, b"zombie"), Bury("zombie", b"")):
            await source.settle([(delivery, verdict)])
            await source.extend([delivery])
        await stays_away(harness, source, "a job that was acknowledged, then settled again,")
        require(
            (await backend.admin.stats([queue]))[0].dead == 0, "a job that was acknowledged became a dead letter later"
        )


# ── too late ─────────────────────────────────────────────────────────────────────────────────────


async def _take_over(harness: Harness, queue: str, silent: Source, successor: Source) -> tuple[Delivery, Delivery]:
    """Return a delivery whose lease is lost, and the one that its successor holds."""
    [stale] = await receive(harness, silent)
    [held] = await receive(harness, successor, within=harness.lease + harness.timeout)
    require(held.envelope == stale.envelope, f"another job came out of {queue}")
    return stale, held


async def _settle_too_late(harness: Harness, verdict: Verdict) -> None:
    """Send a verdict for a job that another worker holds: it must change nothing and be reported as lost."""
    what = type(verdict).__name__
    queue, first, second = harness.queue(), await harness.backend(), await harness.backend()
    await put(first, job(queue, trail=b"as it was"))
    async with (
        first.consume([queue], lease=harness.lease) as silent,
        second.consume([queue], lease=harness.lease) as successor,
    ):
        stale, held = await _take_over(harness, queue, silent, successor)
        lost = await silent.settle([(stale, verdict)])
        require(len(lost) == 1 and lost[0] is stale, f"{what} under a lost lease was not reported as lost")
        require(not await successor.extend([held]), f"{what} under a lost lease took the job away from its holder")
        await nothing_from(successor, harness.lease / 10, f"{what} under a lost lease let a second copy out")
        await settle(successor, (held, Reschedule(0.0, b"by its holder")))
        [again] = await receive(harness, successor)
        require(again.trail == b"by its holder", f"after a late {what} the trail is {again.trail!r}")
        await settle(successor, (again, ACK))
        await stays_away(harness, successor, f"after a late {what} a second copy of the job")
    require((await second.admin.stats([queue]))[0].dead == 0, f"a late {what} made a dead letter")


def _too_late(verdict: Verdict) -> Check:
    """Make a check for each kind of verdict."""

    async def settle_late(harness: Harness) -> None:
        await _settle_too_late(harness, verdict)

    kind = type(verdict).__name__
    settle_late.__name__ = f"a_late_{kind.lower()}_changes_nothing"
    settle_late.__doc__ = f"{kind} under a lease that another worker now holds is reported as lost and has no effect."
    return check(BACKEND_CHECKS, "C7", needs=("fencing", "survives_worker"))(settle_late)


LATE_VERDICT_CHECKS = [
    _too_late(verdict) for verdict in (Ack(), Reschedule(0.0, b"late"), RELEASE, Bury("late", b"late"))
]


@check(BACKEND_CHECKS, "C7", "C6", needs=("fencing", "survives_worker"))
async def a_late_extend_changes_nothing(harness: Harness) -> None:
    """Extending a lease that another worker now holds is reported as lost and does not restore it."""
    queue, first, second = harness.queue(), await harness.backend(), await harness.backend()
    await put(first, job(queue))
    async with (
        first.consume([queue], lease=harness.lease) as silent,
        second.consume([queue], lease=harness.lease) as successor,
    ):
        stale, held = await _take_over(harness, queue, silent, successor)
        lost = await silent.extend([stale])
        require(len(lost) == 1 and lost[0] is stale, "extending a lost lease was not reported as lost")
        await settle(successor, (held, ACK))
        lost = await silent.extend([stale])
        require(len(lost) == 1, "extending a lease on a job that has ended was not reported as lost")
        await stays_away(harness, successor, "a job that was settled by its holder")


@check(BACKEND_CHECKS, "C7", needs=("fencing", "survives_worker"))
async def a_lost_lease_fails_only_its_own_verdict(harness: Harness) -> None:
    """In one batch, verdicts under valid leases take effect and verdicts under lost leases do not."""
    queue, kept, first, second = (
        harness.queue(),
        harness.queue("kept"),
        await harness.backend(),
        await harness.backend(),
    )
    await put(first, job(queue))
    async with (
        first.consume([queue, kept], lease=harness.lease) as silent,
        second.consume([queue], lease=harness.lease) as successor,
    ):
        stale, held = await _take_over(harness, queue, silent, successor)
        await put(first, job(kept), job(kept))
        mine = await receive(harness, silent, 2)
        lost = await silent.settle([(mine[0], ACK), (stale, ACK), (mine[1], ACK)])
        require(len(lost) == 1 and lost[0] is stale, f"one of three leases was lost, {len(lost)} were reported")
        await settle(successor, (held, ACK))


@check(BACKEND_CHECKS, "C7", "C6", needs=("fencing", "survives_worker"))
async def settling_at_the_end_of_a_lease_counts_once(harness: Harness) -> None:
    """When a worker and its successor settle around the end of the lease, exactly one verdict takes effect."""
    queue, first, second = harness.queue(), await harness.backend(), await harness.backend()
    jobs = [job(queue) for _ in range(24)]
    await put(first, *jobs)
    believed = {one.envelope: 0 for one in jobs}

    async with (
        first.consume([queue], lease=harness.lease) as holder,
        second.consume([queue], lease=harness.lease) as successor,
    ):

        async def settle_around(end: float, number: int, delivery: Delivery) -> None:
            await anyio.sleep_until(end + (number - 12) * 0.001)
            lost = await holder.settle([(delivery, ACK)])  # not in the sum: it would be begun before and end behind
            believed[delivery.envelope] += not lost

        async def inherit() -> None:
            while True:
                for delivery in await successor.receive(4):
                    lost = await successor.settle([(delivery, ACK)])
                    believed[delivery.envelope] += not lost

        asked = anyio.current_time()
        held = await receive(harness, holder, len(jobs))
        async with anyio.create_task_group() as group:
            group.start_soon(inherit)
            async with anyio.create_task_group() as settling:
                for number, delivery in enumerate(held):
                    settling.start_soon(settle_around, asked + harness.lease, number, delivery)
            with anyio.move_on_after(harness.lease + harness.timeout):
                while not all(believed.values()):  # noqa: ASYNC110 - the successor counts
                    await anyio.sleep(0.02)
            group.cancel_scope.cancel()
    require(max(believed.values()) == 1, f"{sum(n > 1 for n in believed.values())} jobs were settled by two holders")
    require(min(believed.values()) == 1, f"{sum(n < 1 for n in believed.values())} jobs were settled by no worker")

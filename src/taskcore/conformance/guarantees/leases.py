"""Checks of leasing: one holder at a time, and an expired lease needs no caller to end it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import anyio

from taskcore.backend import Backend, Delivery, Source
from taskcore.conformance.checks import BACKEND_CHECKS, check, require
from taskcore.conformance.clauses import ClauseViolated
from taskcore.conformance.guarantees.deliveries import job, nothing_from, put, receive, settle, stays_away, took
from taskcore.conformance.harness import Harness
from taskcore.lifecycle import ACK, RELEASE


@check(BACKEND_CHECKS, "C4")
async def a_waiting_receive_gets_the_next_job(harness: Harness) -> None:
    """A worker that waits on an empty queue gets the next published job."""
    queue, backend, other = harness.queue(), await harness.backend(), await harness.backend()
    one = job(queue)

    async def publish_later() -> None:
        await anyio.sleep(0.3)
        await put(other, one)

    async with backend.consume([queue], lease=harness.long) as source, anyio.create_task_group() as group:
        group.start_soon(publish_later)
        [delivery] = await receive(harness, source)
        require(delivery.envelope == one.envelope, "another job came than was published")
        await settle(source, (delivery, ACK))


@check(BACKEND_CHECKS, "C6")
async def a_batch_stays_within_its_limit(harness: Harness) -> None:
    """``receive(limit)`` returns at least one job and at most ``limit``, each once."""
    queue, backend = harness.queue(), await harness.backend()
    jobs = [job(queue) for _ in range(10)]
    await put(backend, *jobs)
    found: list[Delivery] = []
    async with backend.consume([queue], lease=harness.long) as source:
        with anyio.move_on_after(harness.timeout):
            while len(found) < len(jobs):
                batch = await source.receive(3)
                require(1 <= len(batch) <= 3, f"receive(3) gave {len(batch)} deliveries")
                found += batch
        require(took(found) == sorted(one.envelope for one in jobs), "jobs are missing or came twice")


@check(BACKEND_CHECKS, "C6")
async def a_job_has_one_lease_at_a_time(harness: Harness) -> None:
    """When many workers receive at the same time, no job is delivered twice while its lease lasts."""
    queue, connections = harness.queue(), [await harness.backend() for _ in range(3)]
    jobs = [job(queue) for _ in range(60)]
    seen: Counter[bytes] = Counter()

    async def take(backend: Backend, limit: int) -> None:
        async with backend.consume([queue], lease=harness.long) as source:
            while True:
                seen.update(delivery.envelope for delivery in await source.receive(limit))

    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(take, connections[number % 3], 1 + number)
        for start in range(0, 60, 10):
            await put(connections[start % 3], *jobs[start : start + 10])
        with anyio.move_on_after(harness.timeout):
            while len(seen) < len(jobs):  # noqa: ASYNC110 - the takers count
                await anyio.sleep(0.01)
        await anyio.sleep(harness.margin)
        group.cancel_scope.cancel()
    require(len(seen) == len(jobs), f"{len(seen)} of {len(jobs)} jobs were handed out")
    require(max(seen.values()) == 1, f"{sum(count > 1 for count in seen.values())} jobs had two holders at once")


@check(BACKEND_CHECKS, "C4", "C1", needs="survives_worker")
async def a_lease_expires_when_its_worker_is_silent(harness: Harness) -> None:
    """A job whose worker has gone silent goes to a waiting worker, without any new traffic."""
    queue, silent, successor = harness.queue(), await harness.backend(), await harness.backend()
    one = job(queue, trail=b"so far")
    await put(silent, one)
    async with (
        silent.consume([queue], lease=harness.lease) as first,
        successor.consume([queue], lease=harness.lease) as second,
    ):
        [held] = await receive(harness, first)
        [again] = await receive(harness, second, within=harness.lease + harness.timeout)
        require((again.envelope, again.trail) == (held.envelope, held.trail), "the job came back changed")
        await settle(second, (again, ACK))
        await stays_away(harness, second, "a job that was taken over and settled")


@check(BACKEND_CHECKS, "C1", "C4", needs="survives_worker")
async def a_lease_expires_when_its_worker_is_gone(harness: Harness) -> None:
    """Jobs of a worker that has disconnected go to a waiting worker."""
    queue, backend = harness.queue(), await harness.backend()
    jobs = [job(queue) for _ in range(5)]
    await put(backend, *jobs)
    async with (await harness.backend()).consume([queue], lease=harness.lease) as dying:
        await receive(harness, dying, len(jobs))
    async with backend.consume([queue], lease=harness.lease) as source:
        found: list[Delivery] = []
        with anyio.move_on_after(harness.lease + harness.timeout):
            while len(found) < len(jobs):
                batch = await source.receive(10)
                await settle(source, *((delivery, ACK) for delivery in batch))
                found += batch
        require(took(found) == sorted(one.envelope for one in jobs), f"{len(found)} of {len(jobs)} jobs came back")


@check(BACKEND_CHECKS, "C5", "C12", needs=("redeliveries", "survives_worker"))
async def expired_leases_are_counted(harness: Harness) -> None:
    """Each lease that expires without a verdict counts as one redelivery; a release does not count."""
    queue, backend = harness.queue(), await harness.backend()
    await put(backend, job(queue))
    counted: list[int] = []
    async with backend.consume([queue], lease=harness.lease) as source:
        for _ in range(2):
            [delivery] = await receive(harness, source, within=harness.lease + harness.timeout)
            counted.append(delivery.redeliveries)
        [delivery] = await receive(harness, source, within=harness.lease + harness.timeout)
        counted.append(delivery.redeliveries)
        await settle(source, (delivery, RELEASE))
        [delivery] = await receive(harness, source)
        counted.append(delivery.redeliveries)
        await settle(source, (delivery, ACK))
    require(counted == [0, 1, 2, 2], f"two leases ran out and one was given back; redeliveries were told as {counted}")


@check(BACKEND_CHECKS, "C6")
async def extending_keeps_a_lease(harness: Harness) -> None:
    """A lease that is extended in time stays with its holder, also beyond its first length."""
    queue, holder, other = harness.queue(), await harness.backend(), await harness.backend()
    await put(holder, *(job(queue) for _ in range(3)))
    async with (
        holder.consume([queue], lease=harness.lease) as first,
        other.consume([queue], lease=harness.lease) as second,
    ):
        held = await receive(harness, first, 3)
        with anyio.move_on_after(2.5 * harness.lease):
            async with anyio.create_task_group() as group:

                async def no_other_worker() -> None:
                    found = await second.receive(1)
                    raise ClauseViolated(
                        f"{found[0].envelope[:80]!r} went to another holder while its lease was being extended"
                    )

                group.start_soon(no_other_worker)
                while True:
                    await anyio.sleep(harness.lease / 4)
                    lost = await first.extend(held)
                    require(not lost, f"{len(lost)} of 3 leases were lost although they were extended in time")
        await settle(first, *((delivery, ACK) for delivery in held))
        await stays_away(harness, second, "a job whose lease was extended and which was then settled")


@check(BACKEND_CHECKS, "C1", "C22")
async def a_cancelled_receive_loses_nothing(harness: Harness) -> None:
    """A receive that is cancelled while jobs arrive loses none of them."""
    queue, backend, other = harness.queue(), await harness.backend(), await harness.backend()
    jobs = [job(queue) for _ in range(30)]
    seen: set[bytes] = set()
    async with backend.consume([queue], lease=harness.lease) as source:
        for number, one in enumerate(jobs):
            async with anyio.create_task_group() as group:
                group.start_soon(put, other, one)
                with anyio.move_on_after(number * 0.0005):
                    batch = await source.receive(1)
                    await _settle_all(source, batch, seen)
        with anyio.move_on_after(harness.lease + harness.timeout):
            while len(seen) < len(jobs):
                await _settle_all(source, await source.receive(10), seen)
    require(len(seen) == len(jobs), f"{len(jobs) - len(seen)} of {len(jobs)} jobs were lost by cancelled receives")


async def _settle_all(source: Source, batch: Sequence[Delivery], seen: set[bytes]) -> None:
    """Settle all, uninterrupted: this check is about receiving."""
    with anyio.CancelScope(shield=True):
        await source.settle([(delivery, ACK) for delivery in batch])
    seen.update(delivery.envelope for delivery in batch)


@check(BACKEND_CHECKS, "C22")
async def a_waiting_receive_blocks_no_other_call(harness: Harness) -> None:
    """While one task waits for work, others settle and extend through the same source, and publish."""
    queue, backend = harness.queue(), await harness.backend()
    await put(backend, job(queue), job(queue))
    async with backend.consume([queue], lease=harness.long) as source:
        first, second = await receive(harness, source, 2)
        async with anyio.create_task_group() as group:
            group.start_soon(source.receive, 1)
            await anyio.sleep(0.05)
            began = anyio.current_time()
            with anyio.move_on_after(harness.timeout) as limit:
                require(not await source.extend([first, second]), "a lease was lost")
                await settle(source, (first, ACK))
                await settle(source, (second, RELEASE))
            require(not limit.cancelled_caught, "a waiting receive blocked settle or extend of its source")
            require(anyio.current_time() - began <= 1.0 + harness.margin, "a waiting receive held up settle or extend")
            group.cancel_scope.cancel()


@check(BACKEND_CHECKS, "C22")
async def cancelling_a_receive_is_immediate(harness: Harness) -> None:
    """A cancelled receive returns at once, and so does leaving a source; neither waits for the broker's next answer."""
    backend = await harness.backend()
    began = anyio.current_time()
    async with backend.consume([harness.queue()], lease=harness.long) as source:
        await nothing_from(source, 0.1, "an empty queue")
    took_so_long = anyio.current_time() - began
    require(took_so_long <= 1.1 + harness.margin, f"leaving an idle source took {took_so_long:.1f} s")

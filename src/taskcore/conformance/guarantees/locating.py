"""Checks of looking and of taking back: every job is in one place, and what was removed never starts."""

from __future__ import annotations

import anyio

from taskcore.backend import QueueStats
from taskcore.conformance.checks import BACKEND_CHECKS, check, require
from taskcore.conformance.clauses import ClauseViolated
from taskcore.conformance.guarantees.deliveries import eventually, job, put, receive, settle, stays_away
from taskcore.conformance.harness import Harness
from taskcore.lifecycle import ACK, Bury, Reschedule


@check(BACKEND_CHECKS, "C1", needs=("delay", "dead_letters", "counts"))
async def a_job_at_rest_is_in_one_place(harness: Harness) -> None:
    """Through its whole life a job is counted in exactly one place: scheduled, ready, leased, dead."""
    queue, backend = harness.queue(), await harness.backend()

    async def counted(**places: int) -> None:
        wanted = {"ready": 0, "leased": 0, "scheduled": 0, "dead": 0} | places
        seen = QueueStats(ready=-1, leased=-1, scheduled=-1, dead=-1)

        async def as_wanted() -> bool:
            nonlocal seen
            [seen] = await backend.admin.stats([queue])
            return all(getattr(seen, place) == count for place, count in wanted.items())

        try:
            await eventually(harness, as_wanted, "")
        except ClauseViolated:
            raise ClauseViolated(f"the jobs should be counted as {wanted}, they are counted as {seen}") from None

    await counted()
    await put(backend, *(job(queue) for _ in range(4)))
    await counted(ready=4)
    async with backend.consume([queue], lease=harness.long) as source:
        one, two, three, four = await receive(harness, source, 4)
        await counted(leased=4)
        await settle(source, (one, ACK), (two, Reschedule(harness.long, b"later")), (three, Bury("why not", b"")))
        await counted(leased=1, scheduled=1, dead=1)
        await settle(source, (four, ACK))
        await counted(scheduled=1, dead=1)


@check(BACKEND_CHECKS, "C4", needs="counts")
async def the_age_of_the_oldest_job_is_known(harness: Harness) -> None:
    """The age of the oldest ready job grows as time passes; a queue without ready jobs has none."""
    queue, backend = harness.queue(), await harness.backend()
    require((await backend.admin.stats([queue]))[0].oldest is None, "an empty queue has an oldest job")
    await put(backend, job(queue))
    await harness.outlast(harness.lease)
    await put(backend, job(queue))
    oldest = (await backend.admin.stats([queue]))[0].oldest
    slack = 1.0 + harness.margin + harness.features.delay_error
    if oldest is None or not -slack <= oldest - harness.lease <= 2 * slack:
        raise ClauseViolated(
            f"a job was ready for {harness.lease:g} s and some; the age of the oldest is given as {oldest}"
        )


@check(BACKEND_CHECKS, "C14", needs=("remove", "delay"))
async def a_removed_job_is_never_delivered(harness: Harness) -> None:
    """A ready or scheduled job can be removed, once; a leased or ended job cannot."""
    queue, backend, other = harness.queue(), await harness.backend(), await harness.backend()
    ready, later, held, ended = (job(queue), job(queue, delay=harness.lease / 2), job(queue), job(queue))
    admin = other.admin
    await put(backend, ended)
    async with backend.consume([queue], lease=harness.long) as source:
        [delivery] = await receive(harness, source)
        await settle(source, (delivery, ACK))
        await put(backend, held)
        [delivery] = await receive(harness, source)
        await put(backend, ready, later)
        require(await admin.remove(queue, ready.id), "a ready job could not be taken back")
        require(await admin.remove(queue, later.id), "a scheduled job could not be taken back")
        for one, what in ((ready.id, "was removed"), (held.id, "is held"), (ended.id, "has ended"), ("x", "never was")):
            require(not await admin.remove(queue, one), f"a job that {what} was taken back")
        require(not await admin.remove(harness.queue("nothing"), held.id), "a job was taken back from a foreign queue")
        await stays_away(harness, source, "a job that was taken back")
        await settle(source, (delivery, ACK))


@check(BACKEND_CHECKS, "C14", needs="remove")
async def a_job_is_removed_or_received(harness: Harness) -> None:
    """When a job is removed and received at the same time, exactly one of the two succeeds."""
    queue, backend, other = harness.queue(), await harness.backend(), await harness.backend()
    jobs = [job(queue) for _ in range(60)]
    await put(backend, *jobs)
    received: set[bytes] = set()
    removed: set[bytes] = set()

    async def remove() -> None:
        for one in reversed(jobs):
            if await other.admin.remove(queue, one.id):
                removed.add(one.envelope)
            await anyio.lowlevel.checkpoint()

    async with backend.consume([queue], lease=harness.long) as source, anyio.create_task_group() as group:
        group.start_soon(remove)
        with anyio.move_on_after(harness.timeout):
            while len(received) + len(removed) < len(jobs):
                with anyio.move_on_after(0.3):
                    received.update(delivery.envelope for delivery in await source.receive(1))
    require(not received & removed, f"{len(received & removed)} jobs were taken back and handed out too")
    lost = len(jobs) - len(received | removed)
    require(not lost, f"{lost} jobs were neither taken back nor handed out")


@check(BACKEND_CHECKS, "C1", needs=("locate", "delay"))
async def a_job_can_be_found(harness: Harness) -> None:
    """The place of a job is known while it has one: scheduled, ready, leased, then none."""
    queue, backend = harness.queue(), await harness.backend()
    ready, later = job(queue), job(queue, delay=harness.long)
    await put(backend, ready, later)

    async def found(id: str, place: str | None) -> None:
        async def there() -> bool:
            return await backend.admin.locate(queue, id) == place

        now = await backend.admin.locate(queue, id)
        await eventually(harness, there, f"a job should be {place or 'nowhere'}, it was located {now or 'nowhere'}")

    await found(ready.id, "ready")
    await found(later.id, "scheduled")
    await found("unknown", None)
    async with backend.consume([queue], lease=harness.long) as source:
        [delivery] = await receive(harness, source)
        await found(ready.id, "leased")
        await settle(source, (delivery, Reschedule(harness.long, b"")))
        await found(ready.id, "scheduled")
    async with backend.consume([harness.queue("other")], lease=harness.long) as source:
        await put(backend, one := job(harness.queue("other")))
        [delivery] = await receive(harness, source)
        await settle(source, (delivery, ACK))
        require(await backend.admin.locate(harness.queue("other"), one.id) is None, "a job that has ended is located")


@check(BACKEND_CHECKS, "C22")
async def every_verb_returns_in_time(harness: Harness) -> None:
    """Every verb returns within its time limit, also for queues, jobs and letters that do not exist."""
    backend, nothing = await harness.backend(), harness.queue("nothing")
    admin, limit = backend.admin, 5.0 + harness.margin
    with anyio.move_on_after(limit) as scope:
        require(await admin.purge(nothing) == 0, "jobs were purged from a queue that does not exist")
        require(not await admin.remove(nothing, "nothing"), "a job was removed that does not exist")
        require(await admin.letter("nothing") is None, "a letter was found that does not exist")
        require(not await admin.drop("nothing"), "a letter was dropped that does not exist")
        require(not list(await admin.letters(nothing, limit=10)), "a queue that does not exist has letters")
        require(await admin.locate(nothing, "nothing") is None, "a job was located that does not exist")
        [stats] = await admin.stats([nothing])
        told = (
            {"leased": 0, "scheduled": 0}
            if harness.features.counts != "absent"
            else {"leased": None, "scheduled": None}
        )
        require(stats == QueueStats(ready=0, dead=0, **told), f"an absent queue counts {stats}")
        await admin.delete(nothing)
        await admin.queues()
        async with backend.consume([nothing], lease=harness.long) as source:
            await source.settle([])
            await source.extend([])
    require(not scope.cancelled_caught, f"verbs on things that do not exist took longer than {limit:g} s")


# ── storage ──────────────────────────────────────────────────────────────────────────────────────


@check(BACKEND_CHECKS, "C23")
async def draining_leaves_an_empty_queue(harness: Harness) -> None:
    """When all jobs of a queue have ended, whatever their outcome, its counts are zero again."""
    queue, backend = harness.queue(), await harness.backend()
    await put(backend, *(job(queue) for _ in range(60)))
    async with backend.consume([queue], lease=harness.long) as source:
        for round_number in range(2):
            found = await receive(harness, source, 60)
            verdicts = [ACK if round_number else Reschedule(0.0, b"again") for _ in found]
            await settle(source, *zip(found, verdicts, strict=True))

        async def empty() -> bool:
            [stats] = await backend.admin.stats([queue])
            return not stats.unfinished + stats.dead

        await eventually(harness, empty, "all jobs have ended, and the counts of their queue are not zero")


@check(BACKEND_CHECKS, "C23")
async def a_deleted_queue_is_gone(harness: Harness) -> None:
    """Deleting a queue deletes its jobs, its schedule, its dead letters and the queue itself."""
    queue, backend = harness.queue(), await harness.backend()
    within_reach = harness.features.delay != "absent" and harness.features.counts != "absent"
    delayed = [job(queue, delay=harness.lease / 2)] * within_reach
    await put(backend, *(job(queue) for _ in range(3)), *delayed)
    require(queue in await backend.admin.queues(), "a queue with jobs is not listed")
    if harness.features.dead_letters != "absent":
        async with backend.consume([queue], lease=harness.lease) as source:
            [delivery] = await receive(harness, source)
            await settle(source, (delivery, Bury("for this check", b"")))
    await backend.admin.delete(queue)
    require(queue not in await backend.admin.queues(), "a queue that was deleted is still listed")
    [stats] = await backend.admin.stats([queue])
    require(not stats.unfinished + stats.dead, f"a queue that was deleted counts {stats}")
    async with (await harness.backend()).consume([queue], lease=harness.lease) as source:
        await stays_away(harness, source, "a job of a queue that was deleted")


@check(BACKEND_CHECKS, "C23", "C13", needs=("delay", "dead_letters"))
async def purging_keeps_leased_jobs_and_dead_letters(harness: Harness) -> None:
    """Purging deletes ready and scheduled jobs and returns their number; leased jobs and dead letters stay."""
    queue, backend = harness.queue(), await harness.backend()
    await put(backend, job(queue, b"dies"), job(queue, b"runs"))
    async with backend.consume([queue], lease=harness.long) as source:
        found = {delivery.envelope: delivery for delivery in await receive(harness, source, 2)}
        await settle(source, (found[b"dies"], Bury("for this check", b"")))
        jobs = [*(job(queue) for _ in range(3)), job(queue, delay=harness.lease / 2)]
        if harness.features.counts == "absent":
            jobs.pop()  # what is scheduled there is out of reach
        await put(backend, *jobs)
        purged = await backend.admin.purge(queue)
        require(purged == len(jobs), f"{len(jobs)} jobs, ready or scheduled, were purged, {purged} were counted")
        await stays_away(harness, source, "a purged job")
        await settle(source, (found[b"runs"], ACK))
    require((await backend.admin.stats([queue]))[0].dead == 1, "purging took a dead letter away")

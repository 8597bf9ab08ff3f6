"""Checks of publishing: what was stored is there, as it was, once."""

from __future__ import annotations

from collections import Counter

import anyio

from taskcore.backend import Duplicate, Published, Stored
from taskcore.conformance.checks import BACKEND_CHECKS, check, require
from taskcore.conformance.guarantees.deliveries import (
    CLOCK_TOLERANCE,
    job,
    nothing_from,
    put,
    receive,
    settle,
    stays_away,
    took,
)
from taskcore.conformance.harness import Harness
from taskcore.lifecycle import ACK, Bury

STORE_SECONDS = 0.3  #: seconds in which a broker that has time stores a job

#: Bytes that protocols, encodings and careless parsers trip over.
UNUSUAL_BYTES = (
    b"",
    b"\x00",
    b"\r\n",
    b"\xff\xfe\x80",
    b"plain text",
    b'{"v": 2, "v": 1}',
    b"[" * 10_000,
    bytes(range(256)) * 40,
    "¿ñandú? 任务 🧵".encode(),
)


@check(BACKEND_CHECKS, "C1")
async def a_stored_job_outlives_its_publisher(harness: Harness) -> None:
    """A job that was answered with Stored is visible to all connections, also after its publisher has disconnected."""
    queue, jobs = harness.queue(), [job(harness.queue()) for _ in range(20)]
    async with harness.connection() as publisher:
        await put(publisher, *jobs)
    backend = await harness.backend()
    async with backend.consume([queue], lease=harness.long) as source:
        found = await receive(harness, source, len(jobs))
        require(took(found) == sorted(one.envelope for one in jobs), "other jobs came out than were put in")
        await settle(source, *((delivery, ACK) for delivery in found))


@check(BACKEND_CHECKS, "C2")
async def bytes_arrive_unchanged(harness: Harness) -> None:
    """Envelope and trail arrive byte for byte."""
    queue, backend = harness.queue(), await harness.backend()
    pairs = [(bytes([number]) + nasty, nasty) for number, nasty in enumerate((*UNUSUAL_BYTES, bytes(200_000)))]
    pairs.append((b"", b""))
    await put(backend, *(job(queue, envelope, trail=trail) for envelope, trail in pairs))
    async with backend.consume([queue], lease=harness.long) as source:
        found = await receive(harness, source, len(pairs))
        require(
            sorted((delivery.envelope, delivery.trail) for delivery in found) == sorted(pairs),
            "envelopes or trails changed on their way",
        )
        require({delivery.queue for delivery in found} == {queue}, "a delivery names another queue")
        require(not any(delivery.redeliveries for delivery in found), "a first delivery calls itself a redelivery")


@check(BACKEND_CHECKS, "C1", "C2")
async def every_item_of_a_batch_is_answered(harness: Harness) -> None:
    """A batch of jobs for several queues gets one answer for each job, in order."""
    backend, queues = await harness.backend(), [harness.queue(f"q{number}") for number in range(3)]
    jobs = [job(queues[number % 3]) for number in range(150)]
    answers = await backend.publish(jobs)
    require(len(answers) == len(jobs), f"{len(jobs)} jobs were published, {len(answers)} answers came")
    require(
        all(isinstance(answer, Stored) for answer in answers), f"not all were stored: {Counter(map(repr, answers))}"
    )
    require(not list(await backend.publish([])), "an empty batch was answered with something")
    for queue in queues:
        async with backend.consume([queue], lease=harness.long) as source:
            found = await receive(harness, source, 50)
            require(took(found) == sorted(one.envelope for one in jobs if one.queue == queue), "queues were mixed up")
            await settle(source, *((delivery, ACK) for delivery in found))


@check(BACKEND_CHECKS, "C2")
async def earlier_queues_are_served_first(harness: Harness) -> None:
    """A source on several queues hands out jobs of the queues it was asked for, those of earlier queues first."""
    backend, urgent, other, foreign = (
        await harness.backend(),
        harness.queue("a"),
        harness.queue("b"),
        harness.queue("c"),
    )
    await put(backend, *(job(queue) for queue in (foreign, other, urgent) for _ in range(3)))
    async with backend.consume([urgent, other], lease=harness.long) as source:
        order = [(await receive(harness, source))[0].queue for _ in range(6)]
        require(order == [urgent] * 3 + [other] * 3, f"the order of the queues was {order}")
        await nothing_from(source, harness.margin + CLOCK_TOLERANCE, "a job of a queue that was not asked for")


@check(BACKEND_CHECKS, "C4", "C22")
async def a_repeated_enqueue_reaches_a_new_queue(harness: Harness) -> None:
    """A sender that times out before a new queue is ready succeeds by repeating: no try undoes an earlier one."""
    queue, backend = harness.queue(), await harness.backend()
    with anyio.move_on_after(harness.timeout + 3 * harness.features.new_queue):
        while True:
            with anyio.move_on_after(max(harness.features.new_queue * 0.6, STORE_SECONDS)):
                await put(backend, job(queue))
                break
    async with backend.consume([queue], lease=harness.long) as source:
        for delivery in await receive(harness, source):
            await settle(source, (delivery, ACK))


@check(BACKEND_CHECKS, "C2", needs="dedup")
async def a_repeated_id_is_stored_once(harness: Harness) -> None:
    """Publishing an id again is answered Duplicate and stores nothing while the job waits, runs, or has ended."""
    queue, backend, other = harness.queue(), await harness.backend(), await harness.backend()
    one, later = job(queue), job(queue, delay=harness.long)
    await put(backend, one, later)

    async def repeat(moment: str) -> None:
        for answer in [*await other.publish([one]), *await backend.publish([one, one])]:
            require(isinstance(answer, Duplicate), f"an id that {moment} was published again and answered {answer!r}")

    await repeat("is ready")
    [answer] = await other.publish([later])
    require(isinstance(answer, Duplicate), f"an id that is scheduled was published again and answered {answer!r}")
    async with backend.consume([queue], lease=harness.long) as source:
        [delivery] = await receive(harness, source)
        await repeat("is leased")
        await settle(source, (delivery, ACK))
        await repeat("has just ended")
        await stays_away(harness, source, "the repeated job came a second time")


@check(BACKEND_CHECKS, "C2", needs=("dedup", "dead_letters"))
async def a_repeated_id_does_not_revive_a_dead_job(harness: Harness) -> None:
    """Publishing the id of a job that was just buried stores nothing."""
    queue, backend = harness.queue(), await harness.backend()
    one = job(queue)
    await put(backend, one)
    async with backend.consume([queue], lease=harness.long) as source:
        [delivery] = await receive(harness, source)
        await settle(source, (delivery, Bury("tired", b"")))
        [answer] = await backend.publish([one])
        require(isinstance(answer, Duplicate), f"the id of a dead letter was published again and answered {answer!r}")
        await nothing_from(source, harness.margin + CLOCK_TOLERANCE, "the dead job came back")


@check(BACKEND_CHECKS, "C2", needs="dedup")
async def concurrent_repeats_are_stored_once(harness: Harness) -> None:
    """Of many clients that publish one id at once, one gets Stored and the others Duplicate."""
    queue, connections = harness.queue(), [await harness.backend() for _ in range(3)]
    one = job(queue)
    answers: list[Published] = []

    async def publish(number: int) -> None:
        answers.extend(await connections[number % 3].publish([one]))

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(publish, number)
    told = Counter(type(answer).__name__ for answer in answers)
    require(told == {"Stored": 1, "Duplicate": 11}, f"twelve times the same id was answered with {dict(told)}")
    async with connections[0].consume([queue], lease=harness.long) as source:
        await receive(harness, source)
        await nothing_from(source, harness.margin + CLOCK_TOLERANCE, "a second copy of one id")


@check(BACKEND_CHECKS, "C2", "C1", needs="dedup")
async def an_interrupted_publish_can_be_repeated(harness: Harness) -> None:
    """A caller that was cancelled in the middle of publishing repeats it, and there is one job."""
    queue, backend = harness.queue(), await harness.backend()
    jobs = [job(queue) for _ in range(20)]
    for number, one in enumerate(jobs):
        with anyio.move_on_after(number * 0.0002):
            await backend.publish([one])
        [answer] = await backend.publish([one])
        require(isinstance(answer, Stored | Duplicate), f"a repeated publish was answered with {answer!r}")
    async with backend.consume([queue], lease=harness.long) as source:
        found = await receive(harness, source, len(jobs))
        require(took(found) == sorted(one.envelope for one in jobs), "jobs are missing or doubled")
        await nothing_from(source, harness.margin + CLOCK_TOLERANCE, "a job came twice")

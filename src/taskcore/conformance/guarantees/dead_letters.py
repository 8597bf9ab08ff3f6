"""Checks of dead letters: the whole history, the exact bytes, and a way back."""

from __future__ import annotations

from collections import Counter

import anyio
import msgspec

from taskcore.backend import Backend, Letter, Outgoing, Refused
from taskcore.conformance.checks import LETTER_CHECKS, check, require
from taskcore.conformance.clauses import ClauseViolated
from taskcore.conformance.guarantees.deliveries import job, nothing_from, put, receive, settle, stays_away
from taskcore.conformance.guarantees.helpers import letters_of, open_app, outcome_of, take, until, work, working
from taskcore.conformance.guarantees.publishing import UNUSUAL_BYTES
from taskcore.conformance.harness import Harness
from taskcore.control import Reject
from taskcore.envelope import decode_trail
from taskcore.lifecycle import ACK, Bury
from taskcore.policy import Retry
from taskcore.results import Dead, Succeeded
from taskcore.router import Router
from taskcore.worker.context import current


async def _bury(harness: Harness, queue: str, *jobs: Outgoing) -> None:
    """Publish, take and bury these jobs, one after the other."""
    backend = await harness.backend()
    async with backend.consume([queue], lease=harness.long) as source:
        for one in jobs:
            await put(backend, one)
            [delivery] = await receive(harness, source)
            await settle(source, (delivery, Bury(f"because of {one.id}", b"history of " + one.id.encode())))


@check(LETTER_CHECKS, "C13", "C8", needs="dead_letters")
async def a_dead_letter_keeps_the_bytes_unchanged(harness: Harness) -> None:
    """A dead letter has envelope and trail byte for byte, the reason, the queue and the time."""
    queue, jobs = harness.queue(), [job(harness.queue(), nasty) for nasty in (*UNUSUAL_BYTES, bytes(100_000))]
    before = harness.now()
    await _bury(harness, queue, *jobs)
    backend = await harness.backend()
    letters = {letter.reason: letter for letter in await backend.admin.letters(queue, limit=100)}
    require(len(letters) == len(jobs), f"{len(jobs)} jobs were buried, there are {len(letters)} letters")
    for one in jobs:
        letter = letters.get(f"because of {one.id}")
        if letter is None:
            raise ClauseViolated("a letter lost its reason")
        require(letter.envelope == one.envelope, f"the envelope {one.envelope[:40]!r} is not in its letter as it was")
        require(
            letter.trail == b"history of " + one.id.encode(), "the trail of a letter is not the one it was buried with"
        )
        require(letter.queue == queue, f"a letter of {queue} says that it is of {letter.queue}")
        require(abs(letter.when - before) < 3600, f"a letter was written at {letter.when}, which is not now")
        require(
            await backend.admin.letter(letter.id) == letter, "a letter looks different when it is fetched by its id"
        )
    require((await backend.admin.stats([queue]))[0].dead == len(jobs), "dead letters are counted wrongly")
    async with backend.consume([queue], lease=harness.lease) as source:
        await stays_away(harness, source, "a job that was buried")


@check(LETTER_CHECKS, "C13", needs="dead_letters")
async def dead_letters_are_read_in_pages(harness: Harness) -> None:
    """Pages list the oldest letters first and miss none, also after a letter that has been deleted meanwhile."""
    queue, jobs, backend = harness.queue(), [job(harness.queue()) for _ in range(8)], await harness.backend()
    await _bury(harness, queue, *jobs)
    seen: list[Letter] = []
    after: str | None = None
    while page := await backend.admin.letters(queue, limit=3, after=after):
        require(len(page) <= 3, f"a page of 3 has {len(page)} letters")
        seen += page
        after = page[-1].id
        require(await backend.admin.drop(after), "a letter that was just read could not be dropped")
        require(len(seen) <= len(jobs), "pages of letters do not end")
    require(
        [letter.envelope for letter in seen] == [one.envelope for one in jobs], "letters are missing or out of order"
    )


@check(LETTER_CHECKS, "C13", needs="dead_letters")
async def a_dropped_letter_is_deleted(harness: Harness) -> None:
    """A dropped letter is no longer read, counted or replayed, and cannot be dropped again."""
    queue, backend = harness.queue(), await harness.backend()
    await _bury(harness, queue, job(queue), job(queue))
    first, second = await backend.admin.letters(queue, limit=10)
    require(await backend.admin.drop(first.id), "a letter could not be dropped")
    require(not await backend.admin.drop(first.id), "a letter was dropped twice")
    require(await backend.admin.letter(first.id) is None, "a letter that was dropped can be read")
    left = await backend.admin.letters(queue, limit=10)
    require([letter.id for letter in left] == [second.id], "dropping a letter touched another one")
    require((await backend.admin.stats([queue]))[0].dead == 1, "a letter that was dropped is still counted")


@check(LETTER_CHECKS, "C13", "C18", needs=("dead_letters", "dedup"))
async def a_replay_makes_one_job(harness: Harness) -> None:
    """Replaying publishes the job and drops the letter; many concurrent replays make one job."""
    queue, backend, other = harness.queue(), await harness.backend(), await harness.backend()
    await _bury(harness, queue, job(queue), job(queue))
    first, second = await backend.admin.letters(queue, limit=10)
    again = job(queue, b"the same again", trail=b"linked")

    async def replay(connection: Backend) -> None:
        answer = await connection.admin.replay(first.id, again)
        require(not isinstance(answer, Refused), f"a replay was answered with {answer!r}")

    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(replay, (backend, other)[number % 2])
    left = await backend.admin.letters(queue, limit=10)
    require([letter.id for letter in left] == [second.id], "a replayed letter is still there, or another one is gone")
    async with backend.consume([queue], lease=harness.long) as source:
        [delivery] = await receive(harness, source)
        require((delivery.envelope, delivery.trail) == (again.envelope, b"linked"), "the replay is another job")
        require(delivery.redeliveries == 0, "a replay begins with redeliveries")
        await nothing_from(source, harness.margin + 0.01, "a replay came twice")
        await settle(source, (delivery, ACK))


@check(LETTER_CHECKS, "C23", "C13", needs="dead_letters")
async def letters_stay_until_dropped(harness: Harness) -> None:
    """Dead letters stay in their own queue, and stay there after their reader has disconnected."""
    queues = [harness.queue("a"), harness.queue("b")]
    jobs = [job(queue) for queue in queues for _ in range(2)]
    for queue in queues:
        await _bury(harness, queue, *(one for one in jobs if one.queue == queue))
    await harness.outlast(harness.lease)
    async with harness.connection() as backend:
        for queue in queues:
            letters = await backend.admin.letters(queue, limit=10)
            wanted = [one.envelope for one in jobs if one.queue == queue]
            require([letter.envelope for letter in letters] == wanted, f"the letters of {queue} are others")


# ── through an app ───────────────────────────────────────────────────────────────────────────────


@check(LETTER_CHECKS, "C13", "C5", "C3", needs="dead_letters")
async def a_dead_letter_has_the_error_history(harness: Harness) -> None:
    """After 30 failed attempts: the first 5 and the last 20 errors with type, text, time, worker and attempt."""
    router, queue = Router(), harness.queue()
    bytes_seen: set[bytes] = set()

    @router.task(name=harness.name("fail"), queue=queue, retry=Retry(attempts=30, base=0.0))
    async def fail(number: int) -> None:
        raise ConnectionError(f"attempt {current().attempt} of {number}")

    app = await open_app(harness, router)
    sent = await fail.using(headers={"tenant": "7"}).enqueue(7)
    step_worker = await harness.step_worker(app, name="the unlucky", lease=harness.long)
    for _ in range(30):
        done = await work(harness, step_worker)
        bytes_seen.add(done.delivery.envelope)
    letters = await letters_of(app, queue)
    require(len(letters) == 1, f"a job that failed 30 times left {len(letters)} letters")
    letter, errors = letters[0], letters[0].trail.errors
    require(bytes_seen == {letter.raw}, "the envelope changed from attempt to attempt, or on its way into the letter")
    require((letter.job_id, letter.task, letter.queue) == (sent.id, fail.name, queue), "a letter names another job")
    require(letter.reason == "exhausted", f"the reason of the letter is {letter.reason!r}")
    require(letter.trail.attempts == 30, f"after 30 attempts the letter counts {letter.trail.attempts}")
    kept = [*range(1, 6), *range(11, 31)]
    require(
        [error.attempt for error in errors] == kept,
        f"errors kept: {[e.attempt for e in errors]}",
    )
    for error in errors:
        require(
            error.type == "ConnectionError" and error.message == f"attempt {error.attempt} of 7", f"not told: {error}"
        )
        require(error.worker == "the unlucky" and abs(error.when - harness.now()) < 3600, f"worker or time: {error}")
    require(errors[-1].traceback != "", "the last error has no traceback")


@check(LETTER_CHECKS, "C13", "C18", needs=("dead_letters", "dedup"), store=True)
async def a_replay_is_a_new_job_linked_to_the_old(harness: Harness) -> None:
    """A replay has a new id, the same arguments and no attempts, and names the old job, whose outcome stays."""
    router, queue = Router(), harness.queue()
    mended = False

    @router.task(name=harness.name("charge"), queue=queue, retry=2)
    async def charge(number: int) -> int:
        if not mended:
            raise Reject("not yet")
        require(current().attempt == 1, f"a replay begins with attempt {current().attempt}")
        return number

    app = await open_app(harness, router)
    old = await charge.enqueue(7)
    step_worker = await harness.step_worker(app, lease=harness.long)
    await work(harness, step_worker)
    [letter] = await letters_of(app, queue)
    require(letter.reason == "rejected: not yet", f"the reason of the letter is {letter.reason!r}")
    mended = True
    new_id = await app.dead_letters.replay(letter.id)
    require(new_id != old.id, "a replay has the id of the old job")
    require(not await letters_of(app, queue), "a letter that was replayed is still there")
    taken = await take(harness, step_worker)
    require(decode_trail(taken.delivery.trail).replay_of == old.id, "a replay does not name the job that it replays")
    require(await step_worker.work(taken), "the lease of a replay was lost")
    require(taken.envelope.correlation_id == old.id, "a replay does not belong to the job that it replays")
    require(msgspec.json.decode(taken.envelope.args) == {"number": 7}, "a replay has other arguments")
    ended = await outcome_of(harness, charge.job(new_id))
    require(ended == Succeeded(7), f"the replay ended as {ended}")
    require(isinstance(await outcome_of(harness, old), Dead), "a replay changed the outcome of the job that it replays")


@check(LETTER_CHECKS, "C20", "C13", "C25", needs="dead_letters")
async def undecodable_bytes_do_not_affect_other_jobs(harness: Harness) -> None:
    """Undecodable bytes become dead letters, an envelope of a newer format is parked, and the other jobs are run."""
    router, queue = Router(), harness.queue()
    done: list[int] = []

    @router.task(name=harness.name("good"), queue=queue)
    async def good(number: int) -> None:
        done.append(number)

    app = await open_app(harness, router)
    newer = b'{"v": 99, "id": "x", "task": "t", "args": {}, "enqueued_at": 0}'
    foreign = [*UNUSUAL_BYTES, b"null", b"{}", b'{"v": 1}', b'{"celery": "task"}', b"NaN", b'"' + b"9" * 100_000 + b'"']
    async with working(harness, app):
        await put(app.components.backend, job(queue, newer))
        for number, raw in enumerate(foreign):
            await put(app.components.backend, job(queue, raw))
            await good.enqueue(number)
        await until(harness, lambda: app.counters["job.parked"], "an envelope of a newer format was not parked")
        await until(harness, lambda: len(done) >= len(foreign), "jobs beside foreign bytes were not done")

        async def all_buried() -> bool:
            return await app.dead_letters.count(queue) == len(foreign)

        await until(harness, all_buried, "foreign bytes did not become dead letters")
    require(sorted(done) == list(range(len(foreign))), "jobs beside foreign bytes were done twice")
    letters = await letters_of(app, queue)
    require(Counter(letter.raw for letter in letters) == Counter(foreign), "foreign bytes changed on their way")
    require(all(letter.reason.startswith("malformed: ") for letter in letters), "a letter has another reason")
    require(app.counters["job.buried"] == len(foreign), f"{app.counters['job.buried']} burials were counted")


@check(LETTER_CHECKS, "C20", "C22", needs="dead_letters")
async def an_oversized_message_is_refused_or_buried(harness: Harness) -> None:
    """A message far above the size limit is refused at once, or buried whole; other jobs are not affected."""
    queue, backend = harness.queue(), await harness.backend()
    router = Router()
    done: list[int] = []

    @router.task(name=harness.name("good"), queue=queue)
    async def good(number: int) -> None:
        done.append(number)

    app, huge = await open_app(harness, router), b"\xff" * 3_000_000
    [answer] = await backend.publish([job(queue, huge)])
    [small] = [job(queue, b"small")]
    await put(backend, small)
    await good.enqueue(1)
    stored = not isinstance(answer, Refused)
    async with working(harness, app):
        await until(harness, lambda: done, "a job behind an oversized one was not done")

        async def all_buried() -> bool:
            return await app.dead_letters.count(queue) == 1 + stored

        await until(harness, all_buried, "an oversized message was stored and did not become a dead letter")
    letters = await letters_of(app, queue)
    wanted = sorted([small.envelope, *[huge] * stored])
    require(sorted(letter.raw for letter in letters) == wanted, "an oversized message is not whole in its letter")


@check(LETTER_CHECKS, "C20", "C19", "C1", needs="delay")
async def a_job_of_an_unknown_task_waits(harness: Harness) -> None:
    """A job of an unknown task is parked without using attempts, until a worker knows the task."""
    queue, known, unknown = harness.queue(), Router(), Router()
    started: list[int] = []

    @known.task(name=harness.name("new"), queue=queue, retry=None)
    async def new(number: int) -> None:
        started.append(current().attempt)

    @unknown.task(name=harness.name("old"), queue=queue)
    async def old() -> None: ...

    older = await open_app(harness, unknown)
    newer = await open_app(harness, known)
    await new.enqueue(7)
    async with working(harness, older):
        await until(harness, lambda: older.counters["job.parked"], "a job of an unknown task was not put aside")
    async with working(harness, newer):
        await until(harness, lambda: started, "a job that had been put aside never started")
    require(started == [1], f"putting a job aside used attempts; it started with {started}")
    require(not await newer.dead_letters.count(queue), "a job that was put aside became a dead letter")


@check(LETTER_CHECKS, "C8", "C13", "C25", needs="dead_letters", store=True)
async def a_job_with_an_unencodable_result_is_not_run_again(harness: Harness) -> None:
    """A job whose result cannot be encoded becomes a dead letter and is not run again."""
    router, queue = Router(), harness.queue()
    starts: list[str] = []

    @router.task(name=harness.name("odd"), queue=queue)
    async def odd() -> int:
        starts.append(current().job_id)
        return object()  # type: ignore[return-value]  # that is what this check is about

    app = await open_app(harness, router)
    async with working(harness, app):
        sent = await odd.enqueue()
        ended = await outcome_of(harness, sent)
    require(
        isinstance(ended, Dead) and ended.reason == "result", f"work with a result that does not fit ended as {ended}"
    )
    require(starts == [sent.id], f"work with a result that does not fit was done {len(starts)} times")
    require([took_it.reason for took_it in await letters_of(app, queue)] == ["result"], "there is no letter for it")

"""Checks of passes over dead letters, of jobs that are looked at, and of counts that a broker cannot tell."""

from __future__ import annotations

from collections import Counter

import anyio

from taskcore.backend import Backend, Letter, Outgoing, Refused, Uncertain
from taskcore.conformance.checks import BACKEND_CHECKS, LETTER_CHECKS, check, require
from taskcore.conformance.guarantees.deliveries import job, put, receive, settle, took
from taskcore.conformance.guarantees.helpers import letters_of, open_app, until, work, working
from taskcore.conformance.harness import Harness
from taskcore.control import Reject
from taskcore.deadletter import DeadLetter, LetterVerdict
from taskcore.lifecycle import Bury, Reschedule
from taskcore.router import Router
from taskcore.toolkit.capabilities import Peeks

MANY = 12  #: letters, in several pages


async def _bury(harness: Harness, backend: Backend, queue: str, count: int) -> list[Outgoing]:
    """Publish, take and bury so many jobs."""
    jobs = [job(queue) for _ in range(count)]
    await put(backend, *jobs)
    async with backend.consume([queue], lease=harness.long) as source:
        found = await receive(harness, source, count)
        await settle(source, *((delivery, Bury("for this check", b"")) for delivery in found))
    return jobs


@check(LETTER_CHECKS, "C13", needs="dead_letters")
async def a_pass_settles_letters_as_it_reads_them(harness: Harness) -> None:
    """In one pass each letter is kept, dropped or replayed; a letter that is buried meanwhile is left to the next."""
    queue, backend, other = harness.queue(), await harness.backend(), await harness.backend()
    jobs = await _bury(harness, backend, queue, MANY)
    again = [job(queue, b"again %d" % number) for number in range(MANY // 3)]
    seen: list[Letter] = []
    async with backend.admin.walk(queue) as walk:
        [late] = await _bury(harness, other, queue, 1)
        while page := await walk.page(3):
            require(len(page) <= 3, f"a page of 3 has {len(page)} letters")
            dropped = await walk.drop(page[:1])
            require(dropped == 1, f"of one letter {dropped} were dropped")
            answers = await walk.replay([(page[1], again[len(seen) // 3])]) if len(page) > 1 else []
            require(not any(isinstance(one, Refused | Uncertain) for one in answers), f"a replay: {answers}")
            seen += page
            require(len(seen) <= MANY, "a pass reads letters that were buried after it had begun")
    require(
        Counter(letter.envelope for letter in seen) == Counter(one.envelope for one in jobs),
        "a pass does not read each letter once",
    )
    left = {letter.envelope for letter in await backend.admin.letters(queue, limit=100)}
    kept = {letter.envelope for letter in seen[2::3]} | {late.envelope}
    require(left == kept, f"{len(kept)} letters should be left after a pass, there are {len(left)}")
    async with backend.consume([queue], lease=harness.long) as source:
        found = await receive(harness, source, len(again))
        require(took(found) == sorted(one.envelope for one in again), "a pass published other jobs than it was told")


@check(LETTER_CHECKS, "C13", "C21", needs="dead_letters")
async def a_pass_that_is_cut_hides_no_letter(harness: Harness) -> None:
    """A pass or a read that is cancelled anywhere gives back every letter at once; what it dropped is gone."""
    queue, backend = harness.queue(), await harness.backend()
    await _bury(harness, backend, queue, MANY)
    dropped = 0
    for cut in range(6):
        with anyio.CancelScope() as scope:
            if cut < 3:  # at a page, between two pages, while a letter is dropped
                async with backend.admin.walk(queue) as walk:
                    page = await walk.page(2)
                    scope.cancel()
                    if cut == 0:
                        await walk.page(2)
                    elif cut == 1:
                        await anyio.sleep(60)
                    dropped += 1
                    await walk.drop(page[:1])
                    await walk.page(2)
            else:
                scope.deadline = anyio.current_time() + (0.0, 0.002, 0.02)[cut - 3]
                await backend.admin.letters(queue, limit=100)
        left = len(await backend.admin.letters(queue, limit=100))
        dead = (await backend.admin.stats([queue]))[0].dead
        require(left in {MANY - dropped, MANY}, f"cut {cut}: {left} of {MANY - dropped} letters can be read")
        require(dead == left, f"cut {cut}: {left} letters can be read, {dead} are counted")


@check(LETTER_CHECKS, "C13", "C18", needs="dead_letters")
async def a_letter_is_dropped_by_one_pass(harness: Harness) -> None:
    """Of several passes at the same time only one drops a letter, and none misses one."""
    queue, backend, other = harness.queue(), await harness.backend(), await harness.backend()
    await _bury(harness, backend, queue, MANY)
    dropped: list[int] = []

    async def drop_all(connection: Backend) -> None:
        async with connection.admin.walk(queue) as walk:
            while page := await walk.page(4):
                dropped.append(await walk.drop(page))

    async with anyio.create_task_group() as group:
        for connection in (backend, other, backend):
            group.start_soon(drop_all, connection)
    require(sum(dropped) == MANY, f"{MANY} letters were dropped {sum(dropped)} times")
    require(not await backend.admin.letters(queue, limit=100), "letters are left")


@check(LETTER_CHECKS, "C13", "C5", needs="dead_letters")
async def replays_are_counted(harness: Harness) -> None:
    """Letters that died of the same are one cause, and each knows how many replays led to it."""
    router, queue = Router(), harness.queue()

    @router.task(name=harness.name("ship"), queue=queue, retry=None)
    async def ship(number: int) -> None:
        raise Reject("closed") if number else LookupError(f"order {number} at 10:4{number}")

    app = await open_app(harness, router)
    step_worker = await harness.step_worker(app, lease=harness.long)
    for number in (0, 0, 1):
        await ship.enqueue(number)
        await work(harness, step_worker)
    causes = await app.dead_letters.causes(queue)
    require([cause.letters for cause in causes] == [2, 1], f"two causes of 2 and 1 letters, found: {causes}")
    require({cause.task for cause in causes} == {ship.name}, f"a cause names another task: {causes}")

    def again(letter: DeadLetter) -> LetterVerdict:
        return "replay" if letter.cause == causes[1].fingerprint else "keep"

    for replays in (1, 2):
        settled = await app.dead_letters.settle(queue, by=again)
        require((settled.kept, settled.replayed, settled.failed) == (2, 1, 0), f"a pass did something else: {settled}")
        await work(harness, step_worker)
        [same] = [one for one in await app.dead_letters.causes(queue) if one.fingerprint == causes[1].fingerprint]
        require((same.letters, same.replays) == (1, replays), f"a job that died again after {replays} replays: {same}")


@check(LETTER_CHECKS, "C20", "C1", needs="delay")
async def a_call_with_a_newer_parameter_waits(harness: Harness) -> None:
    """A worker parks a call with a parameter that its version of the task does not have yet, and uses no attempt."""
    queue, old, new = harness.queue(), Router(), Router()
    done: list[tuple[int, int]] = []

    @old.task(name=harness.name("grow"), queue=queue, retry=None)
    async def small(number: int) -> None:
        done.append((number, -1))

    @new.task(name=harness.name("grow"), queue=queue, retry=None)
    async def grown(number: int, size: int = 1) -> None:
        done.append((number, size))

    older, newer = await open_app(harness, old), await open_app(harness, new)
    await grown.enqueue(7)
    async with working(harness, older):
        await small.enqueue(6)
        await until(harness, lambda: older.counters["job.parked"], "a call with a newer parameter was not parked")
        await until(harness, lambda: done, "a call beside it was not run")
    async with working(harness, newer):
        await until(harness, lambda: len(done) > 1, "a call with a newer parameter never started")
    require(done == [(6, -1), (7, 1)], f"calls arrived as {done}")
    require(not await letters_of(newer, queue), "a call with a newer parameter became a dead letter")


# ── looking ──────────────────────────────────────────────────────────────────────────────────────


@check(BACKEND_CHECKS, "C1", needs=("peek", "delay"))
async def jobs_are_shown_without_being_taken(harness: Harness) -> None:
    """Ready and scheduled jobs can be looked at, with trail and time; that changes nothing and counts nowhere."""
    queue, backend = harness.queue(), await harness.backend()
    admin = backend.admin
    if not isinstance(admin, Peeks):
        raise TypeError("Features.peek is not absent, and the admin does not peek")
    ready = [job(queue) for _ in range(4)]
    later = job(queue, delay=harness.long)
    await put(backend, *ready, later)
    async with backend.consume([queue], lease=harness.long) as source:
        [held] = await receive(harness, source)
        await settle(source, (held, Reschedule(2 * harness.long, b"history")))
        for _ in range(2):
            shown = await admin.peek(queue, "ready", limit=10)
            wanted = sorted(one.envelope for one in ready if one.envelope != held.envelope)
            require(sorted(one.envelope for one in shown) == wanted, f"{len(wanted)} jobs are ready, shown: {shown}")
            require({(one.trail, one.due) for one in shown} == {(b"", None)}, f"ready jobs are shown as {shown}")
            require(len(await admin.peek(queue, "ready", limit=2)) == 2, "a limit of 2 is not kept")
            waiting = {one.envelope: one for one in await admin.peek(queue, "scheduled", limit=10)}
            require(waiting.keys() == {later.envelope, held.envelope}, f"two jobs are scheduled, shown: {waiting}")
            slack, due = 3 + harness.margin, waiting[later.envelope].due
            require(due is not None and abs(due - harness.long) < slack, f"a job due in {harness.long} s: {due}")
            require(waiting[held.envelope].trail == b"history", "a scheduled job is shown with another trail")
        found = await receive(harness, source, 3)
        require(all(not one.redeliveries for one in found), "looking at jobs counts as handing them out")
    require(not await admin.peek(harness.queue("nothing"), "ready", limit=5), "a queue that does not exist shows jobs")


@check(BACKEND_CHECKS, "C1")
async def many_queues_are_counted_at_once(harness: Harness) -> None:
    """Counts of many queues come in order; what the broker cannot count is None, never a 0 that is no fact."""
    backend = await harness.backend()
    queues = [harness.queue(name) for name in "abc"]
    for number, queue in enumerate(queues, 1):
        await put(backend, *(job(queue) for _ in range(number)))
    absent = harness.queue("absent")
    found = await backend.admin.stats([queues[2], absent, queues[0], queues[1]])
    require([stats.ready for stats in found] == [3, 0, 1, 2], f"jobs are counted in another order: {found}")
    require(list(await backend.admin.stats([])) == [], "no queues have counts")
    tells = harness.features.counts != "absent"
    for stats in found:
        told = (stats.leased is not None, stats.scheduled is not None, stats.oldest is not None or not stats.ready)
        require(told == (tells, tells, tells or not stats.ready), f"a broker whose counts are {tells} tells {stats}")
    require(
        isinstance(backend.admin, Peeks) is (harness.features.peek != "absent"), "Features.peek and the admin disagree"
    )

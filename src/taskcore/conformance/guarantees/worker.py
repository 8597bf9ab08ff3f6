"""Checks of a running worker: progress, reports, shutdown, what it survives, and what it leaves behind."""

from __future__ import annotations

from collections import Counter

import anyio
import anyio.lowlevel
import msgspec

from taskcore.backend import Outgoing
from taskcore.conformance.checks import APP_CHECKS, check, require
from taskcore.conformance.clauses import ClauseViolated
from taskcore.conformance.guarantees.deliveries import put
from taskcore.conformance.guarantees.helpers import letters_of, open_app, outcome_of, take, until, work, working
from taskcore.conformance.harness import Harness
from taskcore.control import Reject
from taskcore.envelope import FORMAT, Envelope, encode_envelope, new_id
from taskcore.errors import InvalidArguments, PayloadTooLarge, ResultTimeout
from taskcore.observe import Event
from taskcore.policy import Retry
from taskcore.results import Dead, Succeeded
from taskcore.router import Router
from taskcore.worker.context import current


@check(APP_CHECKS, "C4", "C1", "C8", store=True)
async def every_job_reaches_an_outcome(harness: Harness) -> None:
    """Jobs that succeed, fail once, fail always or are rejected reach the right outcome and leave nothing behind."""
    router, queue = Router(), harness.queue()
    failed: set[str] = set()

    @router.task(name=harness.name("mixed"), queue=queue, retry=Retry(attempts=3, base=0.05, jitter="none"))
    async def mixed(number: int) -> int:
        me = current().job_id
        match number % 4:
            case 1 if me not in failed:
                failed.add(me)
                raise ConnectionError("once")
            case 2:
                raise ConnectionError("always")
            case 3:
                raise Reject("never")
            case _:
                return number

    app, other = await open_app(harness, router), await open_app(harness, router)
    async with working(harness, app), working(harness, other):
        jobs = await app.enqueue_many(mixed.call(number) for number in range(40))
        for number, sent in enumerate(jobs):
            ended = await outcome_of(harness, sent)
            if number % 4 < 2:
                require(ended == Succeeded(number), f"a job that had to succeed ended as {ended}")
            else:
                reason = "exhausted" if number % 4 == 2 else "rejected: never"
                require(isinstance(ended, Dead) and ended.reason == reason, f"a job that had to die ended as {ended}")
        try:
            await app.drain(queue, timeout=harness.timeout)
        except TimeoutError:
            raise ClauseViolated(
                f"every job has ended, and their queue still counts {await app.stats(queue)}"
            ) from None
    if harness.features.dead_letters != "absent":
        require(
            len(await letters_of(app, queue)) == 20, f"20 jobs died, {len(await letters_of(app, queue))} letters exist"
        )


@check(APP_CHECKS, "C19", store=True)
async def every_suppressed_job_is_reported(harness: Harness) -> None:
    """Each job that is sent, repeated, retried, released or buried raises a counter and an event with its id."""
    router, queue = Router(), harness.queue()

    @router.task(name=harness.name("work"), queue=queue, retry=Retry(attempts=2, base=0.0))
    async def failing() -> None:
        raise ConnectionError("not now")

    app = await open_app(harness, router)
    heard: list[Event] = []
    app.on_event(heard.append)
    sent = await failing.enqueue()
    expected = ["job.enqueued", "job.released", "job.released"]
    expected += ["job.started", "job.retried", "job.started", "job.buried"]
    if harness.features.dedup != "absent":
        await failing.using(id=sent.id).enqueue()
        expected.insert(1, "job.duplicate")
    step_worker = await harness.step_worker(app, lease=harness.long)
    require(
        await step_worker.release(await take(harness, step_worker)),
        "a job that had not started could not be given back",
    )
    taken = await take(harness, step_worker)
    await step_worker.perform(taken)  # starts, and is thrown away: what follows shows that giving back is reported too
    heard[:] = [event for event in heard if event.name != "job.started"]
    require(await step_worker.release(taken), "a job could not be given back")
    await work(harness, step_worker)
    await work(harness, step_worker)
    told = [event.name for event in heard if event.name.startswith("job.")]
    require(told == expected, f"events were {told}, they had to be {expected}")
    ids = {event.facts.get("job_id") for event in heard if event.name.startswith("job.")}
    require(ids == {sent.id}, f"events name these jobs: {ids}")
    for name in set(expected) - {"job.started"}:
        require(app.counters[name] == expected.count(name), f"{name} was counted {app.counters[name]} times")


@check(APP_CHECKS, "C1", "C2", "C22")
async def a_cancelled_sender_does_not_affect_others(harness: Harness) -> None:
    """Senders share batches; a cancelled sender, wherever it is in its batch, changes nothing for the others."""
    router, queue = Router(), harness.queue()
    starts: Counter[int] = Counter()

    @router.task(name=harness.name("work"), queue=queue)
    async def work_on(number: int) -> None:
        starts[number] += 1

    app = await open_app(harness, router)
    answered: set[int] = set()

    async def send(number: int, timeout: float) -> None:
        with anyio.move_on_after(timeout):
            await work_on.enqueue(number)
            answered.add(number)

    rounds, senders = 12, 10
    for at in range(rounds):
        async with anyio.create_task_group() as group:
            for number in range(at * senders, (at + 1) * senders):
                group.start_soon(send, number, harness.timeout if number % 3 else at * 0.0002)
                await anyio.lowlevel.cancel_shielded_checkpoint()
    patient = {number for number in range(rounds * senders) if number % 3}
    require(patient <= answered, f"{len(patient - answered)} of {len(patient)} patient senders got no answer")
    async with working(harness, app):
        await until(harness, lambda: answered <= starts.keys(), "a job whose sender got an answer was not done")
    require(set(starts.values()) == {1}, f"jobs were done several times: {starts.most_common(3)}")


# ── no hang, no invalid argument, no end ─────────────────────────────────────────────────────────


@check(APP_CHECKS, "C22", store=True)
async def waiting_for_a_result_times_out(harness: Harness) -> None:
    """Waiting for a result that does not come ends within the timeout, and the error says where the job is."""
    router = Router()

    @router.task(name=harness.name("work"), queue=harness.queue())
    async def never() -> None: ...

    await open_app(harness, router)
    sent = await never.enqueue()
    began, wait = anyio.current_time(), 0.2
    try:
        await sent.result(timeout=wait)
    except ResultTimeout as error:
        seconds = anyio.current_time() - began
        require(wait - 0.01 <= seconds <= wait + 1.0 + harness.margin, f"a wait of {wait} s took {seconds:.1f} s")
        known = harness.features.locate != "absent"
        says = any("queued" in fact for fact in error.facts)
        require(
            says or not known,
            f"it does not say where the job is: {error.facts}",
        )
    else:
        raise ClauseViolated("a job that no worker runs has a result")


@check(APP_CHECKS, "C24", needs="dead_letters")
async def invalid_arguments_never_reach_the_function(harness: Harness) -> None:
    """Wrong calls are refused before anything is sent; wrong arguments from other programs become dead letters."""
    router, queue = Router(), harness.queue()
    starts: list[object] = []

    @router.task(name=harness.name("typed"), queue=queue)
    async def typed(number: int, name: str = "") -> None:
        starts.append((number, name))

    app = await open_app(harness, router, payload_limit=1_000)
    wrong_calls = ({"number": "seven"}, {"name": "x"}, {"number": 1, "extra": 2}, {"number": 1, "name": 5})
    for arguments in wrong_calls:
        try:
            await typed.enqueue(**arguments)  # pyright: ignore[reportArgumentType]  # that is what this is about
        except InvalidArguments:
            continue
        raise ClauseViolated(f"a call with {arguments} was sent")
    try:
        await typed.enqueue(1, "x" * 2_000)
    except PayloadTooLarge:
        pass
    else:
        raise ClauseViolated("a call beyond the payload limit was sent")
    stats = await app.stats(queue)
    require(not stats.unfinished, "a call that was refused left something in the queue")
    wrong = (b'{"number":"seven"}', b"{}", b"[1]", b"null", b'{"number":"1","extra":2}', b'{"number":1.5}')
    newer = b'{"number":1,"extra":2}'  # a sender of a newer version may have a parameter that this one does not have
    for args in (*wrong, newer):
        await put(app.components.backend, _envelope(harness, queue, typed.name, args))
    async with working(harness, app):
        await typed.enqueue(7, "fits")
        await until(harness, lambda: starts, "a job beside wrong arguments was not done")

        async def all_buried() -> bool:
            return await app.dead_letters.count(queue) == len(wrong)

        await until(harness, all_buried, "jobs with wrong arguments did not become dead letters")
        await until(harness, lambda: app.counters["job.parked"], "a job with an unknown argument was not parked")
    require(starts == [(7, "fits")], f"a function ran with arguments that do not fit: {starts}")


def _envelope(harness: Harness, queue: str, task: str, args: bytes) -> Outgoing:
    """Make a well-formed job, as another program might send it."""
    job_id = new_id()
    envelope = Envelope(v=FORMAT, id=job_id, task=task, queue=queue, args=msgspec.Raw(args), enqueued_at=harness.now())
    return Outgoing(queue, job_id, encode_envelope(envelope))


class _Unspeakable(Exception):
    """Printing this error raises another one."""

    def __str__(self) -> str:
        raise RuntimeError("no text for you")


@check(APP_CHECKS, "C25", "C4")
async def no_task_error_stops_the_worker(harness: Harness) -> None:
    """An error of any kind ends at most its own job, and a failing listener ends none; the worker goes on."""
    router, queue = Router(), harness.queue()
    done: list[int] = []
    errors: list[BaseException] = [
        ValueError("x" * 100_000),
        _Unspeakable(),
        KeyboardInterrupt(),
        SystemExit(3),
        GeneratorExit(),
        RecursionError(),
        MemoryError(),
        StopAsyncIteration(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "\ud800"),
        BaseExceptionGroup("many", [ValueError("one"), KeyboardInterrupt()]),
        TimeoutError(),
    ]

    @router.task(name=harness.name("fail"), queue=queue, retry=None)
    async def fail(number: int) -> None:
        raise errors[number]

    @router.task(name=harness.name("good"), queue=queue)
    async def good(number: int) -> None:
        done.append(number)

    app = await open_app(harness, router)

    @app.on_event
    def trip(event: Event) -> None:
        raise RuntimeError(f"a listener failed at {event.name}")

    async with working(harness, app, concurrency=2):
        for number in range(len(errors)):
            await fail.enqueue(number)
            await good.enqueue(number)
        await until(harness, lambda: len(done) == len(errors), "a worker did not go on after its jobs had failed")
        await until(
            harness, lambda: app.counters["job.buried"] == len(errors), "failed jobs did not become dead letters"
        )


@check(APP_CHECKS, "C2", "C1")
async def a_job_receives_what_was_sent(harness: Harness) -> None:
    """Arguments, headers, correlation id, key and id arrive as they were sent, also in large batches."""
    router, queue = Router(), harness.queue()
    seen: dict[str, tuple[object, ...]] = {}

    @router.task(name=harness.name("echo"), queue=queue)
    async def echo(text: str, numbers: list[int]) -> None:
        me = current()
        seen[me.job_id] = (text, numbers, dict(me.headers), me.correlation_id, me.queue, me.attempt)

    app = await open_app(harness, router)
    texts = ["", "plain", "¿ñandú? 任务 🧵", "\x00\r\n\t\x7f", "x" * 50_000]
    sent = [
        await echo.using(headers={"tenant": "7", "odd": "\r\n: é"}, correlation_id="c 1").enqueue(text, [1, 2**60])
        for text in texts
    ]
    many = await app.enqueue_many(echo.call(str(number), []) for number in range(1_200))
    async with working(harness, app):
        await until(harness, lambda: len(seen) == len(sent) + len(many), "jobs that were sent did not start")
    for one, text in zip(sent, texts, strict=True):
        wanted = (text, [1, 2**60], {"tenant": "7", "odd": "\r\n: é"}, "c 1", queue, 1)
        require(seen[one.id] == wanted, f"a job saw {seen[one.id]!r} instead of what was sent")
    for number, one in enumerate(many):
        require(seen[one.id][0] == str(number), "the handles of a batch are not in the order of its calls")

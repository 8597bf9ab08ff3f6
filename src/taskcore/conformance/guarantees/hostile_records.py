"""Checks of records that no store takes, or that no worker can read: each concerns its own job, and no other."""

from __future__ import annotations

import secrets

import anyio

from taskcore.conformance.checks import APP_CHECKS, STORE_CHECKS, check, require
from taskcore.conformance.clauses import ClauseViolated
from taskcore.conformance.guarantees.helpers import letters_of, open_app, outcome_of, until, working
from taskcore.conformance.harness import Harness
from taskcore.errors import StoreRefused, UnreadableRecord
from taskcore.policy import Retry
from taskcore.records.names import cancel_name, key_name, outcome_name, start_name
from taskcore.results import Succeeded
from taskcore.router import Router
from taskcore.store import ANY, Conflict, Store, Write, largest_value
from taskcore.task import Job
from taskcore.worker.context import current

TOO_LONG = 12_000  #: characters of a name that no server has room for in an index
LARGEST_SENT = 16 * 1024 * 1024  #: bytes; a larger limit of values is not tried
BESIDE = 8_192  #: bytes above the limit of values, so that headers and the like do not decide

#: Bytes that other programs, newer versions and accidents leave.
HOSTILE = (
    b"garbage",
    b"",
    b'{"state":"succeeded","resu',
    b"\xff\xfe\x00",
    b"null",
    b'{"state": 7, "job": []}',
    b"[" * 2_000,
)


@check(STORE_CHECKS, "C20", "C25", store=True)
async def what_no_server_takes_is_refused_alone(harness: Harness) -> None:
    """A record that the server never takes is refused with an error of its own, and no write beside it is lost."""
    store, other = await harness.store(), await harness.store()
    limit = largest_value(store)
    odd = [harness.name(end) for end in (secrets.token_hex(TOO_LONG // 2), "\ud800", "nul\0", "line\nline", "*.>", " ")]
    odd += ["", "/", "\0" * 1_000]
    large = b"x" * (limit + BESIDE) if limit is not None and limit <= LARGEST_SENT else b"x" * 100_000
    written: list[str] = []

    async def write_beside(number: int) -> None:
        writes = [Write(key=harness.name(f"beside{number}.{n}"), value=b"1", keep=60.0) for n in range(5)]
        answers = await other.put_many(writes) if number % 2 else await store.put_many(writes)
        written.extend(one.key for one, answer in zip(writes, answers, strict=True) if not isinstance(answer, Conflict))

    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(write_beside, number)
            group.start_soon(_put_or_be_refused, store, harness.name(f"large{number}"), large)
        for name in odd:
            group.start_soon(_put_or_be_refused, store, name, b"odd")
    require(len(written) == 30, f"of 30 writes beside impossible ones {len(written)} were done")
    found = await other.get_many(written)
    require(all(found), "a write beside impossible ones was answered, and is not there")
    require(await _is_written(store, harness.name("after")), "a store does not go on after an impossible write")


async def _put_or_be_refused(store: Store, name: str, value: bytes) -> None:
    """Write a record: it is there afterwards, or refused for ever, and never an outage."""
    try:
        answer = await store.put(name, value, expect=ANY, keep=60.0)
    except StoreRefused:
        return
    record = None if isinstance(answer, Conflict) else await store.get(name)
    if record is None or record.value != value:
        raise ClauseViolated(f"a record with a name of {len(name)} characters was written, and did not come back")


async def _is_written(store: Store, name: str) -> bool:
    return not isinstance(await store.put(name, b"1", expect=ANY, keep=60.0), Conflict)


@check(APP_CHECKS, "C20", "C25", store=True)
async def an_unreadable_record_ends_its_own_job(harness: Harness) -> None:
    """A record that cannot be read makes its own job a dead letter, and stays; callers get TC408, neighbours run."""
    router, queue, store = Router(), harness.queue(), await harness.store()

    @router.task(name=harness.name("once"), queue=queue)
    async def once(n: int) -> int:
        return n

    @router.task(name=harness.name("keyed"), queue=queue, key="n")
    async def keyed(n: int) -> int:
        return n

    @router.task(name=harness.name("twice"), queue=queue, retry=Retry(attempts=3, base=0.01, jitter="none"))
    async def twice(n: int) -> int:
        if current().attempt == 1:
            raise ConnectionError("once more")
        return n

    app = await open_app(harness, router)
    planted: dict[str, bytes] = {}
    outcomes: list[Job[int]] = []
    for number, data in enumerate(HOSTILE):
        jobs = [await twice.enqueue(number) for _ in range(3)]
        keyed_job, ended = await keyed.enqueue(number), await once.enqueue(number)
        outcomes += [ended, jobs[0]]
        names = [outcome_name(job.id) for job in outcomes[-2:]]
        names += [start_name(jobs[1].id, 1), cancel_name(jobs[2].id), key_name(keyed_job.task.name, str(number))]
        planted.update(dict.fromkeys(names, data))
    await store.put_many([Write(key=name, value=data, keep=600.0) for name, data in planted.items()])
    neighbours = [await once.enqueue(number) for number in range(10)] + [await twice.enqueue(1)]
    async with working(harness, app):
        for job in neighbours:
            require(isinstance(await outcome_of(harness, job), Succeeded), "a neighbour of unreadable records failed")

        async def all_dead() -> bool:
            return len(await letters_of(app, queue)) >= len(planted)

        await until(harness, all_dead, "a job with an unreadable record did not become a dead letter")
        require(isinstance(await outcome_of(harness, await once.enqueue(1)), Succeeded), "the worker does not go on")
    letters = await letters_of(app, queue)
    require(len(letters) == len(planted), f"{len(planted)} jobs had an unreadable record, {len(letters)} are dead")
    unnamed = [letter.reason for letter in letters if "cannot be read" not in letter.reason]
    require(not unnamed, f"the reason does not name the record: {unnamed[:1]}")
    records = await store.get_many(list(planted))
    changed = [
        name
        for (name, data), record in zip(planted.items(), records, strict=True)
        if not record or record.value != data
    ]
    require(not changed, f"records that cannot be read were changed: {changed}")
    for job in outcomes:
        await _raises(job.status(), "the status")
        await _raises(job.outcome(timeout=harness.timeout), "the outcome")
    for number in range(len(HOSTILE)):
        await _raises(keyed.enqueue(number), "an enqueue with its key")


async def _raises(asked: object, what: str) -> None:
    """Await what a caller asked; it has to raise TC408."""
    try:
        await asked  # type: ignore[misc]  # a coroutine of any result
    except UnreadableRecord:
        return
    raise ClauseViolated(f"{what} of a job whose record cannot be read was answered")

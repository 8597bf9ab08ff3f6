"""The public interface as type checkers see it; read by them, never run.

Every ``ignore`` marks a mistake that a checker has to find: one that it does not find is an unused ignore, which is an
error itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, assert_type

from taskcore import (
    App,
    BuriedJob,
    Call,
    Cancelled,
    Dead,
    DeadLetter,
    Depends,
    Expired,
    Failed,
    Job,
    JobInHand,
    JobOutcome,
    JobStatus,
    QueueStats,
    Retry,
    Router,
    Succeeded,
    SyncJob,
    WorkerStatus,
    current,
)
from taskcore.backend import Features
from taskcore.deadletter import Cause, LetterVerdict, ReplayWith, SettledLetters
from taskcore.task import AsyncTask, PlainTask

app = App("memory://")
router = Router()


@dataclass
class Receipt:
    """A result."""

    number: int


# ── declaring ────────────────────────────────────────────────────────────────────────────────────


@app.task
async def greet(name: str, times: int = 1) -> str:
    """Repeat a name; bare, async."""
    return name * times


@app.task
def add(a: int, b: int) -> int:
    """Add two numbers; bare, plain."""
    return a + b


@app.task(
    queue="billing", retry=Retry(attempts=8, on=(ConnectionError,)), key="order", raises=(ValueError,), timeout=30.0
)
async def charge(order: int, *, amount: float = 1.0) -> Receipt:
    """Charge an order; with options, async."""
    return Receipt(order)


@router.task(runs_in="process", retry=None, keep_result=None)
def compute(numbers: list[int]) -> dict[str, int]:
    """Sum numbers; with options, plain, on a router."""
    return {"sum": sum(numbers)}


@app.task()
async def nothing() -> None:
    """Do nothing; without arguments and result."""


app.task(delivery="sometimes")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
app.task(retry="often")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
app.task(runs_in="cloud")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
app.task(soft_timeout="50s", timeout=60)
app.task(soft_timeout=[1])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
app.task(tiemout=3.0)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
app.include(app)
app.include("tasks")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# ── calling is calling the function ──────────────────────────────────────────────────────────────


assert_type(add(1, 2), int)
assert_type(compute([1]), dict[str, int])
coroutine = assert_type(greet("Ada"), Coroutine[Any, Any, str])
add("1", 2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
wrong = greet()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def kinds(one: AsyncTask[[str, int], str], two: PlainTask[[int, int], int]) -> None:
    """Name tasks as types."""
    coroutine = assert_type(one("Ada", 2), Coroutine[Any, Any, str])
    coroutine.close()
    assert_type(two(1, 2), int)


# ── sending ──────────────────────────────────────────────────────────────────────────────────────


async def send() -> None:
    """Send jobs; arguments are checked, results are known."""
    job = await greet.enqueue("Ada", times=2)
    assert_type(job, Job[str])
    assert_type(job.id, str)
    assert_type(await job.result(timeout=5), str)
    assert_type(await job.status(), JobStatus)
    assert_type(await job.cancel(), bool)

    assert_type(await add.enqueue(1, 2), Job[int])
    assert_type(await charge.enqueue(7, amount=9.9), Job[Receipt])
    assert_type((await (await charge.enqueue(7)).result()).number, int)
    assert_type(await nothing.enqueue(), Job[None])
    assert_type(await compute.enqueue([1, 2]), Job[dict[str, int]])
    assert_type(await greet("Ada"), str)
    assert_type(greet.job("id"), Job[str])

    await greet.enqueue(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await greet.enqueue("Ada", tmies=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await greet.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await charge.enqueue(7, 9.9)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await nothing.enqueue(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await compute.enqueue(["1"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


async def send_with_options() -> None:
    """Keep the types through using()."""
    later = greet.using(delay=60.0, key="ada-1", queue="mail", headers={"tenant": "7"}, expires=5.0, id="1")
    assert_type(await later.enqueue("Ada"), Job[str])
    assert_type(await add.using(at=datetime.now(UTC)).enqueue(1, 2), Job[int])
    assert_type(later.call("Ada"), Call[str])

    await later.enqueue(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    greet.using(dealy=1.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    greet.using(headers={"tenant": 7})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]


async def send_many() -> None:
    """Get jobs of one kind from a batch of that kind."""
    jobs = await app.enqueue_many([greet.call("Ada"), greet.call("Bob", 2)])
    assert_type(jobs, list[Job[str]])
    assert_type(await app.send(add.call(1, 2)), Job[int])

    greet.call(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mixed = await app.enqueue_many([greet.call("Ada"), add.call(1, 2)])
    assert_type(mixed[0].id, str)
    assert_type(await app.job("17").result(), object)
    await app.enqueue_many([greet])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# ── outcomes ─────────────────────────────────────────────────────────────────────────────────────


async def look(job: Job[int]) -> int:
    """Match all five outcomes: a checker knows when one is forgotten."""
    outcome = await job.outcome(timeout=5)
    assert_type(outcome, JobOutcome[int])
    match outcome:
        case Succeeded(value=value):
            assert_type(value, int)
            return value
        case Failed(error=error):
            assert_type(error, BaseException)
        case Dead(reason=reason):
            assert_type(reason, str)
        case Cancelled() | Expired():
            pass
    return 0


# ── blocking ─────────────────────────────────────────────────────────────────────────────────────


def judge(letter: DeadLetter) -> LetterVerdict:
    """Decide about a letter."""
    return ReplayWith(delay=1.0, args={"name": "Ada"}) if letter.trail.replays else "replay"


def blocking() -> None:
    """Do the same without an event loop."""
    job = greet.sync.enqueue("Ada", times=2)
    assert_type(job, SyncJob[str])
    assert_type(job.result(timeout=5), str)
    assert_type(job.status(), JobStatus)
    assert_type(add.using(delay=1.0).sync.enqueue(1, 2), SyncJob[int])
    assert_type(app.sync.enqueue_many([add.call(1, 2)]), list[SyncJob[int]])
    assert_type(app.sync.send(add.call(1, 2)), SyncJob[int])
    assert_type(add.sync.job("some-id"), SyncJob[int])
    assert_type(app.sync.job("some-id"), SyncJob[object])
    assert_type(app.sync.stats(), QueueStats)
    assert_type(app.sync.purge("mail"), int)
    assert_type(app.sync.features, Features)
    assert_type(app.sync.dead_letters.get("1"), DeadLetter)
    assert_type(app.sync.dead_letters.count(), int)
    assert_type(app.sync.dead_letters.read(), Iterator[DeadLetter])
    assert_type(app.sync.dead_letters.replay("1"), str)
    assert_type(app.sync.dead_letters.causes(), Sequence[Cause])
    assert_type(app.sync.dead_letters.settle(by=judge), SettledLetters)
    app.sync.drain("mail", timeout=5.0)
    app.sync.stats(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with app.sync.running() as running:
        assert_type(running, App)

    greet.sync.enqueue(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    add.sync.enqueue(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


# ── the app ──────────────────────────────────────────────────────────────────────────────────────


async def run() -> None:
    """Open the app."""
    async with app as opened:
        assert_type(opened, App)
    async with app.running(concurrency=5, queue_limits={"mail": 5}) as running:
        assert_type(running, App)
    assert_type(await app.stats("mail"), QueueStats)
    assert_type(app.dead_letters.read(), AsyncIterator[DeadLetter])
    assert_type(await app.dead_letters.replay("1"), str)
    assert_type(await app.dead_letters.count(), int)
    assert_type(await app.dead_letters.causes("mail"), Sequence[Cause])
    assert_type(await app.dead_letters.settle("mail", by=judge), SettledLetters)
    assert_type(await app.dead_letters.settle(by=lambda letter: "keep" if letter.cause else "drop"), SettledLetters)
    await app.dead_letters.settle(by=lambda _: "retry")  # type: ignore[arg-type,return-value]  # pyright: ignore[reportArgumentType]
    assert_type(current().attempt, int)
    assert_type(current().deadline, float | None)

    async with app.running(concurency=5):  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        pass


# ── dependencies and lifespan ────────────────────────────────────────────────────────────────────


class Db:
    """What a dependency gives."""


async def db_async_iterator() -> AsyncIterator[Db]:
    """Yield, async."""
    yield Db()


async def db_async_generator() -> AsyncGenerator[Db, None]:
    """Yield, async, with the longer annotation."""
    yield Db()


async def db_coroutine() -> Db:
    """Return, async."""
    return Db()


def db_iterator() -> Iterator[Db]:
    """Yield, plain."""
    yield Db()


def db_generator() -> Generator[Db, None, None]:
    """Yield, plain, with the longer annotation."""
    yield Db()


def db_plain(db: Db = Depends(db_iterator)) -> Db:
    """Return, plain; with a dependency of its own."""
    return db


assert_type(Depends(db_async_iterator), Db)
assert_type(Depends(db_async_generator), Db)
assert_type(Depends(db_coroutine), Db)
assert_type(Depends(db_iterator), Db)
assert_type(Depends(db_generator), Db)
assert_type(Depends(db_plain, scope="app"), Db)
assert_type(Depends(Db), Db)
Depends(db_plain, scope="request")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


@app.task
async def bill(order: int, db: Db = Depends(db_async_iterator), *, amount: float = 1.0) -> int:
    """Need a dependency."""
    return order


@app.task
def mistyped(order: int, db: str = Depends(db_plain)) -> int:  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]
    """Need a dependency that gives something else."""
    return order


@app.on_dead_letter
def told(job: BuriedJob) -> None:
    """Learn of a dead letter, plain."""
    assert_type(job.reason, str)


@app.on_dead_letter
async def told_async(job: BuriedJob) -> None:
    """Learn of a dead letter, async."""


app.on_dead_letter(db_plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def watch() -> None:
    """Read the roster."""
    for worker in await app.workers():
        assert_type(worker, WorkerStatus)
        assert_type(worker.jobs, tuple[JobInHand, ...])
    assert_type(app.sync.workers(), Sequence[WorkerStatus])


async def send_bill() -> None:
    """Leave the dependency out."""
    assert_type(await bill.enqueue(7), Job[int])
    assert_type(await bill.using(delay=1).enqueue(7, amount=2.0), Job[int])
    assert_type(await bill(7, db=Db()), int)
    await bill.enqueue(amount=2.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[int]:
    """Yield the state."""
    yield 7


assert_type(App("memory://", lifespan=lifespan).lifespan(), AbstractAsyncContextManager[Any, bool | None])
App("memory://", lifespan=send)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
app.overrides[db_plain] = Db

"""complete_in: what a job commits together with its effect is its outcome, whatever happens afterwards."""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
import pytest

from taskcore import App, InvalidSetting, Reject, Retry, Succeeded, current
from taskcore.errors import LeaseLost
from taskcore.faults import ChaosProxy
from taskcore.records.keys import Completion, decode_key_record
from taskcore.records.names import key_name
from taskcore.stores.sql import complete_in, complete_in_async

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


def connect(url: str) -> Any:
    """Open a connection of the program's own."""
    if url.startswith("sqlite"):
        return sqlite3.connect(url.removeprefix("sqlite:///"), timeout=5)
    return psycopg.connect(url)


def run(url: str, query: str) -> list[Any]:
    """Run and commit one statement."""
    connection = connect(url)
    try:
        cursor = connection.execute(query)
        rows = cursor.fetchall() if cursor.description else []
        connection.commit()
    finally:
        connection.close()
    return list(rows)


@pytest.fixture
def effects(url: str) -> Any:
    """Make a table of payments; return a function that reads which orders were paid."""
    run(url, "CREATE TABLE payments (number INTEGER)")
    return lambda: [number for (number,) in run(url, "SELECT number FROM payments")]


@asynccontextmanager
async def transaction(url: str) -> Any:
    """Commit if the block ends well, roll back if it raises."""
    connection = connect(url)
    try:
        with connection if isinstance(connection, sqlite3.Connection) else connection.transaction():
            yield connection
    finally:
        connection.close()


async def pay(url: str, order: int, result: Any) -> None:
    """Write the effect and the outcome in one transaction."""
    async with transaction(url) as connection:
        connection.execute(f"INSERT INTO payments VALUES ({order})")
        complete_in(connection, current().completion(result))


def make_app(url: str, **settings: Any) -> App:
    """Make an app with records in the database and jobs in memory."""
    return App("memory://", store=url, **settings)


async def claim_of(app: App, task: str, key: str) -> Any:
    """Read the record of a key."""
    record = await app.components.store.get(key_name(task, key))
    return decode_key_record(record.value)


async def test_the_record_is_what_settling_writes(url: str, effects: Any):
    """Committed by the job or by the worker: the record has the same bytes but for the fence of time (C10)."""
    app, plain = make_app(url), make_app(url)

    @app.task(name="own", key="order")
    async def own(order: int) -> str:
        await pay(url, order, "receipt")
        return "receipt"

    @plain.task(name="plain", key="order")
    async def usual(order: int) -> str:
        return "receipt"

    async with app.running(), plain.running():
        for task in (own, usual):
            job = await task.enqueue(1)
            assert await job.result(timeout=10) == "receipt"
            assert await task.enqueue(1) == job
        mine, usuals = await claim_of(app, "own", "1"), await claim_of(plain, "plain", "1")
        outcome = bytes(mine.outcome).replace(b'"own"', b'"plain"')  # each names its task
        assert (mine.state, outcome, mine.fence) == (usuals.state, bytes(usuals.outcome), usuals.fence)
        assert app.counters["key.lost"] == 0
        assert app.counters["job.succeeded"] == 1
    assert effects() == [1]


@pytest.mark.parametrize("after", ["raises", "rejects", "overruns", "returns something else"])
async def test_a_committed_outcome_counts(url: str, effects: Any, after: str):
    """A function that fails after its commit has succeeded: no second start, and its caller gets what it committed."""
    app = make_app(url)
    starts = 0

    @app.task(key="order", retry=Retry(attempts=2, base=0.01), timeout=1.0)
    async def charge(order: int) -> str:
        nonlocal starts
        starts += 1
        await pay(url, order, "committed")
        if after == "raises":
            raise ConnectionError("too late")
        if after == "rejects":
            raise Reject("too late")
        if after == "overruns":
            await anyio.sleep(30)
        return "something else"

    async with app.running():
        job = await charge.enqueue(1)
        assert await job.outcome(timeout=10) == Succeeded("committed")
        await app.drain(timeout=5)
        assert await app.dead_letters.count(job.queue) == 0
    assert (starts, effects()) == (1, [1])


async def test_a_shutdown_after_the_commit(url: str, effects: Any):
    """A job that is interrupted after its commit has ended: no worker starts it again (C21)."""
    app = make_app(url)
    committed = anyio.Event()
    starts = 0

    @app.task(key="order")
    async def charge(order: int) -> str:
        nonlocal starts
        starts += 1
        await pay(url, order, "paid")
        committed.set()
        await anyio.sleep(30)
        return "never"

    async with app:
        job = await charge.enqueue(1)
        async with app.running(grace=0.0):
            await committed.wait()
        async with app.running():
            assert await job.result(timeout=10) == "paid"
    assert (starts, effects()) == (1, [1])


async def test_a_rollback_undoes_effect_and_outcome(url: str, effects: Any):
    """Raising inside of the transaction undoes effect and outcome; the next attempt does both."""
    app = make_app(url)

    @app.task(key="order", retry=Retry(attempts=3, base=0.01))
    async def charge(order: int) -> int:
        async with transaction(url) as connection:
            connection.execute(f"INSERT INTO payments VALUES ({order})")
            complete_in(connection, current().completion(current().attempt))
            if current().attempt < 3:
                raise ConnectionError("no")
        return current().attempt

    async with app.running():
        job = await charge.enqueue(1)
        assert await job.result(timeout=10) == 3
    assert effects() == [1]


async def test_a_lost_key_rolls_back(url: str, effects: Any):
    """A slow job gets LeaseLost and has no effect; that uses no attempt, and the other's outcome stands (C7)."""
    app = make_app(url)
    entered, go_on = anyio.Event(), anyio.Event()
    lost: list[LeaseLost] = []

    @app.task(key="order", retry=None)
    async def charge(order: int) -> int:
        fence = current().fence
        if fence == 1:
            entered.set()
            await go_on.wait()
        try:
            await pay(url, order, fence)
        except LeaseLost as error:
            lost.append(error)
            raise
        return fence

    async with app.running():
        job = await charge.enqueue(1)
        await entered.wait()
        # Another worker acquires the key, as after a redelivery.
        store, name = app.components.store, key_name(charge.name, "1")
        record = await store.get(name)
        claim = decode_key_record(record.value)
        from taskcore.records.keys import IdempotencyKeys  # noqa: PLC0415 - for this test only

        taken = await IdempotencyKeys(store).acquire(name, claim, lease=60.0, now=app.components.clock(), keep=60.0)
        assert taken.claim.fence == 2
        go_on.set()
        assert await job.result(timeout=10) > 2
    assert "fence 2" in lost[0].facts[0]
    assert effects() == [1]


async def test_the_hold_is_prolonged_meanwhile(url: str, effects: Any):
    """A job that outlives many leases commits: prolonging its key changes the record, not its fence."""
    app = make_app(url, lease=0.3)

    @app.task(key="order")
    async def charge(order: int) -> str:
        completion = current().completion("slow")
        await anyio.sleep(1.0)
        async with transaction(url) as connection:
            connection.execute(f"INSERT INTO payments VALUES ({order})")
            complete_in(connection, completion)
        return "slow"

    async with app.running():
        assert await (await charge.enqueue(1)).result(timeout=10) == "slow"
    assert effects() == [1]


@pytest.mark.parametrize("runs_in", ["thread", "process"])
async def test_plain_functions(url: str, effects: Any, runs_in: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
    """A function in a thread, or in a process of its own, commits its outcome as well."""
    from tests.stores.sql import payer_tasks  # noqa: PLC0415 - another process has to be able to import it

    app = make_app(url)
    app.include(payer_tasks.router)
    task = app.tasks[f"tests.stores.sql.payer_tasks.pay_in_{runs_in}"]
    async with app.running():
        assert await (await task.enqueue(1, url)).result(timeout=20) == "paid 1"
    assert effects() == [1]


async def test_asynchronous_connections(postgres: Any):
    """Psycopg's asynchronous connections, with rows of any kind."""
    url = postgres.url
    run(url, "CREATE TABLE IF NOT EXISTS async_payments (number INTEGER)")
    app = make_app(url)

    @app.task(name="async_charge", key="order")
    async def charge(order: str) -> str:
        async with await psycopg.AsyncConnection.connect(url, row_factory=psycopg.rows.dict_row) as connection:
            await complete_in_async(connection, current().completion("paid"))
            await connection.execute("INSERT INTO async_payments VALUES (1)")
        return "not this"

    async with app.running():
        assert await (await charge.enqueue("x")).result(timeout=10) == "paid"
        await app.components.store.delete(
            key_name("async_charge", "x"),
            expect=(await app.components.store.get(key_name("async_charge", "x"))).version,
        )
    assert run(url, "SELECT * FROM async_payments") == [(1,)]
    run(url, "DROP TABLE async_payments")


async def test_a_commit_whose_answer_was_lost(postgres: Any):
    """The program does not know whether it has paid; the next attempt does, and pays only if it has not (F19)."""
    run(postgres.url, "CREATE TABLE IF NOT EXISTS lost_payments (number INTEGER)")
    async with ChaosProxy("127.0.0.1", postgres.port) as proxy:
        url = postgres.url.replace(str(postgres.port), str(proxy.port))
        app = make_app(postgres.url)
        errors: list[BaseException] = []

        @app.task(name="lost_charge", key="order", retry=Retry(attempts=3, base=0.01))
        async def charge(order: str) -> str:
            connection = await psycopg.AsyncConnection.connect(url)
            try:
                await connection.execute("INSERT INTO lost_payments VALUES (1)")
                await complete_in_async(connection, current().completion("paid"))
                if current().attempt == 1:
                    proxy.cut_before(1)  # the answer to COMMIT
                await connection.commit()
            except psycopg.OperationalError as error:
                errors.append(error)
                raise
            finally:
                await connection.close()
            return "not this"

        async with app.running():
            assert await (await charge.enqueue("x")).result(timeout=10) == "paid"
        assert len(errors) == 1
    assert run(postgres.url, "SELECT * FROM lost_payments") == [(1,)]
    run(postgres.url, "DROP TABLE lost_payments")


# ── what cannot work says so ─────────────────────────────────────────────────────────────────────

UNKNOWN = Completion("key/none", b"", 60.0, "job", 1)


async def test_a_job_without_a_key(url: str):
    """There is no record that could be completed, and the error has the decorator's option."""
    app = make_app(url)
    caught: list[InvalidSetting] = []

    @app.task(name=f"keyless_{url.partition(':')[0]}", retry=None)
    async def charge() -> None:
        try:
            current().completion(None)
        except InvalidSetting as error:
            caught.append(error)

    async with app.running():
        await (await charge.enqueue()).result(timeout=10)
    assert 'key="order_id"' in str(caught[0])


def test_another_database(url: str, tmp_path: Any):
    """A connection to a database without our tables, or without the record, is refused with what to do."""
    other = f"sqlite:///{tmp_path}/other.db" if url.startswith("sqlite") else f"{url.rpartition('/')[0]}/template1"
    for place in (other, url):
        connection = connect(place)
        try:
            with pytest.raises(InvalidSetting, match="the app's store"):
                complete_in(connection, UNKNOWN)
            connection.rollback()
        finally:
            connection.close()


async def test_no_transaction(url: str):
    """With autocommit the outcome would not be bound to the effect."""
    connection: Any = connect(url)
    try:
        if url.startswith("sqlite"):
            connection.isolation_level = None
        else:
            connection.autocommit = True
        with pytest.raises(InvalidSetting, match="by itself"):
            complete_in(connection, UNKNOWN)
    finally:
        connection.close()
    strange: Any = object()
    with pytest.raises(InvalidSetting, match="cannot use object"):
        complete_in(strange, UNKNOWN)
    with pytest.raises(InvalidSetting, match="cannot use object"):
        await complete_in_async(strange, UNKNOWN)

"""What a server never takes: refused for that record alone, with words that name it; an outage stays an outage."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

from taskcore import App, BrokerUnavailable
from taskcore.adapters import open_backend
from taskcore.backend import Outgoing, Refused, Stored
from taskcore.errors import JobFailed, StoreRefused
from taskcore.faults import NatsServer, PostgresServer, RedisServer
from taskcore.faults.resp import command
from taskcore.store import ANY, Conflict, Store, Write
from taskcore.stores.nats import NatsStore
from taskcore.stores.redis import RedisStore
from taskcore.stores.sql.postgres.store import PostgresStore
from taskcore.stores.sql.sqlite.store import SqliteStore
from tests.support.real import require, serving

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

MEGABYTE = 1_048_576


@pytest.fixture
def anyio_backend() -> str:
    """Choose asyncio: the clients know no other loop."""
    return "asyncio"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """Run one Redis that takes small values only."""
    with serving(RedisServer) as server:
        yield server


@pytest.fixture(scope="module")
def nats() -> Iterator[NatsServer]:
    """Run one NATS."""
    with serving(NatsServer) as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """Run one PostgreSQL."""
    with serving(PostgresServer) as server:
        yield server


async def _refused_alone(store: Store, refused: Write, *, match: str) -> None:
    """Write a record that is refused, with others in its batch and in batches beside it."""
    with pytest.raises(StoreRefused, match=match):
        await store.put_many([refused])
    with pytest.raises(StoreRefused, match=match):
        await store.put_many([Write(key="in its batch", value=b"1"), refused, Write(key="behind it", value=b"1")])
    answers: list[Any] = []

    async def beside(number: int) -> None:
        answers.extend(await store.put_many([Write(key=f"beside {number}", value=b"1")]))

    async def itself() -> None:
        with pytest.raises(StoreRefused, match=match):
            await store.put_many([refused])

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(beside, number)
            group.start_soon(itself)
    assert len(answers) == 10
    assert not any(isinstance(answer, Conflict) for answer in answers)
    assert all(await store.get_many([f"beside {number}" for number in range(10)]))
    assert await store.get(refused.key) is None


@pytest.mark.parametrize("setting", ["proto-max-bulk-len", "client-query-buffer-limit"])
async def test_redis_says_its_sizes(redis: RedisServer, setting: str) -> None:
    """A store learns from its Redis how large a value may be, and sends no larger one."""
    await command(redis.port, "CONFIG", "SET", setting, MEGABYTE)
    try:
        async with RedisStore(redis.url) as store:
            assert store.max_value is not None
            assert MEGABYTE - 10_000 < store.max_value < MEGABYTE
            await store.put("fits", b"x" * store.max_value, expect=ANY, keep=60.0)
            await _refused_alone(store, Write(key="large", value=b"x" * (store.max_value + 1)), match="1,0..,... bytes")
    finally:
        await command(redis.port, "CONFIG", "SET", setting, 512 * MEGABYTE)


async def test_redis_refuses_what_it_was_not_asked_about(redis: RedisServer) -> None:
    """A limit that is set while a store is open shows in the answer, or when the server ends the connection."""
    async with RedisStore(redis.url) as store:
        await command(redis.port, "CONFIG", "SET", "proto-max-bulk-len", MEGABYTE)
        try:
            with pytest.raises((StoreRefused, BrokerUnavailable)):
                await store.put("large", b"x" * (MEGABYTE + 9), expect=ANY, keep=60.0)
            with pytest.raises(StoreRefused):
                await store.put("large", b"x" * (MEGABYTE + 9), expect=ANY, keep=60.0)
            assert not isinstance(await store.put("small", b"x", expect=ANY, keep=60.0), Conflict)
        finally:
            await command(redis.port, "CONFIG", "SET", "proto-max-bulk-len", 512 * MEGABYTE)


async def test_a_redis_user_who_may_not_ask(redis: RedisServer) -> None:
    """A store of a user without the right to read the configuration works, with the server's default limit."""
    await command(redis.port, "ACL", "SETUSER", "plain", "on", ">pw", "~*", "&*", "+@all", "-config")
    async with RedisStore(redis.url.replace("://", "://plain:pw@")) as store:
        assert store.max_value is not None
        assert store.max_value > 500 * MEGABYTE
        assert not isinstance(await store.put("k", b"1", expect=ANY, keep=60.0), Conflict)


@pytest.mark.parametrize(("setting", "value", "back"), [("maxmemory", "1", "0"), ("min-replicas-to-write", "3", "0")])
async def test_a_redis_in_a_bad_state_is_an_outage(redis: RedisServer, setting: str, value: str, back: str) -> None:
    """What concerns the server's state passes: it is no refusal of the record."""
    async with RedisStore(redis.url) as store:
        await command(redis.port, "CONFIG", "SET", setting, value)
        try:
            with pytest.raises(BrokerUnavailable):
                await store.put("k", b"1", expect=ANY, keep=60.0)
        finally:
            await command(redis.port, "CONFIG", "SET", setting, back)


async def test_nats_refuses_a_large_message(nats: NatsServer) -> None:
    """A value above the server's max_payload is refused before it is sent; the connection lives on."""
    async with NatsStore(nats.url) as store:
        assert store.max_value is not None
        await store.put("fits", b"x" * store.max_value, expect=ANY, keep=60.0)
        await _refused_alone(store, Write(key="large", value=b"x" * 2_000_000), match="2,000,000 bytes")


async def test_nats_refuses_what_its_stream_does_not_take(nats: NatsServer) -> None:
    """A stream with a limit of its own decides, whether the store knew it before or the server says it."""
    import nats as client  # noqa: PLC0415 - beside a fixture of the same name

    async with AsyncExitStack() as stack:
        connection = await client.connect(nats.url)
        stack.push_async_callback(connection.close)
        jetstream = connection.jetstream()
        async with NatsStore(f"{nats.url}?prefix=limited") as store:
            config = (await jetstream.stream_info("limited-store")).config
            if not hasattr(config, "allow_msg_ttl"):
                pytest.skip("this nats-py drops settings of a stream that it does not know")
            config.max_msg_size = 20_000
            await jetstream.update_stream(config)
            await _refused_alone(store, Write(key="large", value=b"x" * 30_000), match="message size exceeds")
        async with NatsStore(f"{nats.url}?prefix=limited") as store:
            assert store.max_value is not None
            assert store.max_value < 20_000
            await _refused_alone(store, Write(key="large", value=b"x" * 30_000), match="30,000 bytes")


def _idle_sessions(store: PostgresStore) -> list[Any]:
    """List the connections of the store's pool that no call uses."""
    shared: Any = store._pool._shared
    return [session._connection for session, _ in shared._idle]


TRIGGER = """CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF new.key = 'large' THEN RAISE EXCEPTION 'not here'; END IF; RETURN new; END $$;
CREATE TRIGGER no BEFORE INSERT ON taskcore_records FOR EACH ROW EXECUTE FUNCTION no()"""


@pytest.mark.parametrize(
    ("ddl", "match"),
    [
        ("ALTER TABLE taskcore_records ADD CONSTRAINT small CHECK (length(value) < 100)", "23514"),
        ("ALTER TABLE taskcore_records ALTER key TYPE varchar(20)", "22001"),
        (TRIGGER, "P0001"),
    ],
    ids=["constraint", "length", "trigger"],
)
async def test_postgres_refuses_a_row(postgres: PostgresServer, ddl: str, match: str) -> None:
    """A row that PostgreSQL refuses is refused alone; the session stays, and other callers' writes are done."""
    async with await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as connection:
        await connection.execute("DROP TABLE IF EXISTS taskcore_records, taskcore_schema")
        async with PostgresStore(postgres.url) as store:
            await connection.execute(ddl.encode())
            sessions = _idle_sessions(store)
            key = "large" if "varchar" not in ddl else "large" * 10
            await _refused_alone(store, Write(key=key, value=b"x" * 200), match=match)
            assert _idle_sessions(store) == sessions != []
        await connection.execute("DROP TABLE taskcore_records, taskcore_schema; DROP FUNCTION IF EXISTS no")


@pytest.mark.parametrize("ddl", ["DROP TABLE taskcore_records", "ALTER TABLE taskcore_records RENAME value TO other"])
async def test_postgres_without_its_table_is_an_outage(postgres: PostgresServer, ddl: str) -> None:
    """A missing table or column concerns every record: it is repaired, and no job has to die for it."""
    async with await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as connection:
        async with PostgresStore(postgres.url) as store:
            await connection.execute(ddl.encode())
            with pytest.raises(BrokerUnavailable):
                await store.put("k", b"1", expect=ANY, keep=60.0)
        await connection.execute("DROP TABLE IF EXISTS taskcore_records, taskcore_schema")


async def test_sqlite_refuses_a_row(tmp_path: Path) -> None:
    """A row that a trigger refuses is refused alone; the file stays open, and other callers' writes are done."""
    path = tmp_path / "records.db"
    async with SqliteStore(f"sqlite:///{path}") as store:
        with sqlite3.connect(path) as connection:
            connection.execute(
                "CREATE TRIGGER no BEFORE INSERT ON taskcore_records WHEN length(new.value) > 100 "
                "BEGIN SELECT RAISE(ABORT, 'too large for us'); END"
            )
        connection.close()
        await _refused_alone(store, Write(key="large", value=b"x" * 200), match="too large for us")
        assert store.max_value > 100 * MEGABYTE


@asynccontextmanager
async def _running(app: App) -> AsyncIterator[App]:
    async with app.running(queues=["sizes"], grace=1.0):
        yield app


async def test_a_result_that_its_store_never_takes(nats: NatsServer) -> None:
    """A result above the server's limit is that job's failure, with the sizes and the way out; neighbours succeed."""
    app = App(nats.url, lease=5.0, result_limit="4MiB")

    @app.task(name="t.report", queue="sizes", retry=1)
    async def report(size: int) -> str:
        return "x" * size

    async with _running(app):
        large = [await report.enqueue(size) for size in (1_044_000, 1_045_000, 1_048_576, 2_000_000)]
        small = [await report.enqueue(size) for size in range(20)]
        for size, job in enumerate(small):
            assert await job.result(timeout=10) == "x" * size
        assert len(await large[0].result(timeout=10)) == 1_044_000
        for job in large[1:]:
            with pytest.raises(JobFailed, match="bytes"):
                await job.result(timeout=10)
        assert len([letter async for letter in app.dead_letters.read("sizes")]) == 3


async def test_a_job_above_the_limit_of_redis_is_refused() -> None:
    """An enqueue of one job that the server can never take is refused, and no outage; the next one is stored."""
    require(RedisServer)
    async with RedisServer(config={"proto-max-bulk-len": 1_100_000}) as server, open_backend(server.url) as backend:
        [large] = await backend.publish([Outgoing("q", "large", b"x" * 1_150_000)])
        [small] = await backend.publish([Outgoing("q", "small", b"x")])
        assert isinstance(large, Refused)
        assert isinstance(small, Stored)

"""The PostgreSQL store: its URL, its tables, its clock, what it says about the server."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
import pytest

from taskcore import AdapterMissing, BrokerUnavailable, InvalidURL
from taskcore.adapters import open_store
from taskcore.connections.postgres import listener
from taskcore.errors import FeatureRefused
from taskcore.faults import PostgresServer
from taskcore.store import ABSENT, ANY, Conflict, Write
from taskcore.stores.sql import PostgresStore
from taskcore.stores.sql.postgres import store as store_module
from taskcore.stores.sql.postgres.layout import RECORDS

pytestmark = pytest.mark.anyio


# ── the URL ──────────────────────────────────────────────────────────────────────────────────────


def test_addresses():
    """Libpq's options go to libpq, ours are taken out; both schemes are known."""
    store = open_store("postgres://ada:pw@db.example:6432/shop?sslmode=require&taskcore_timeout=3s&connect_timeout=2")
    assert isinstance(store, PostgresStore)
    assert store._address.url == "postgres://ada:pw@db.example:6432/shop?sslmode=require&connect_timeout=2"
    assert store._address.timeout == 3.0
    assert "pw" not in store._address.shown


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://ada:geheim@host/db?taskcore_tiemout=3", "known are taskcore_timeout"),
        ("postgresql://ada:geheim@host/db?slmode=require", "application_name"),
        ("postgresql://ada:geheim@host/db?taskcore_timeout=never", "taskcore_timeout: 'never' is not a time"),
        ("postgresql://ada:geheim@[::1/db", "for example"),
    ],
)
def test_wrong_addresses(url: str, says: str):
    """An unknown option is refused when the store is made, and the error hides the password (TC103)."""
    with pytest.raises(InvalidURL) as caught:
        PostgresStore(url)
    text = str(caught.value)
    assert says in text
    assert "geheim" not in text


def test_without_psycopg(monkeypatch: pytest.MonkeyPatch):
    """SQLite needs nothing; PostgreSQL says what to install."""
    import sys  # noqa: PLC0415 - for this test only

    monkeypatch.setitem(sys.modules, "psycopg", None)
    for name in [
        name
        for name in sys.modules
        if name.startswith(("taskcore.connections.postgres.", "taskcore.stores.sql.postgres."))
    ]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(AdapterMissing) as caught:
        open_store("postgresql://localhost/x")
    assert 'pip install "taskcore-framework[sql]"' in str(caught.value)
    open_store("sqlite:///x.db")


def test_trio_is_refused():
    """PostgreSQL refuses trio, which its client library does not know; the error says what supports both (TC501)."""

    async def main() -> None:
        async with PostgresStore("postgresql://localhost/x"):
            pass

    with pytest.raises(FeatureRefused, match="needs asyncio"):
        anyio.run(main, backend="trio")


# ── the tables ───────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def database(server: PostgresServer) -> AsyncIterator[tuple[str, Any]]:
    """Make an empty database of the test's own, and a superuser's connection to it."""
    name = f"t{secrets.token_hex(4)}"
    async with await psycopg.AsyncConnection.connect(server.url, autocommit=True) as root:
        await root.execute(f"CREATE DATABASE {name}")
        url = server.url.replace("/postgres", f"/{name}").replace("//postgres@", "//postgres@")
        url = f"{server.url.rpartition('/')[0]}/{name}"
        try:
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as own:
                yield url, own
        finally:
            await root.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_many_open_an_empty_database_at_once(postgres: PostgresServer):
    """The tables are made once, whichever program is first."""
    async with database(postgres) as (url, own):

        async def use(number: int) -> None:
            async with PostgresStore(url) as store:
                await store.put(f"k{number}", b"1", expect=ABSENT, keep=None)

        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(use, number)
        assert await one(own, "SELECT count(*) FROM taskcore_records") == 8
        assert await one(own, "SELECT count(*) FROM taskcore_schema") == 1


async def one(connection: Any, query: str) -> Any:
    """Return the one value that a query gives."""
    row = await (await connection.execute(query)).fetchone()
    return row[0]


async def test_a_role_that_may_not_create(postgres: PostgresServer):
    """The error has the SQL; once a role that may has run it, the store's role can work."""
    async with database(postgres) as (url, own):
        role = f"r{secrets.token_hex(4)}"
        await own.execute(f"CREATE ROLE {role} LOGIN")
        await own.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        plain = url.replace("//postgres@", f"//{role}@")
        with pytest.raises(BrokerUnavailable) as caught:
            async with PostgresStore(plain):
                pass
        sql = "\n".join(caught.value.facts[1:])
        assert sql.strip() == RECORDS.sql(0).strip()
        await own.execute(sql)
        await own.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON taskcore_records TO {role}")
        await own.execute(f"GRANT SELECT ON taskcore_schema TO {role}")
        await own.execute(f"GRANT USAGE ON SEQUENCE taskcore_versions TO {role}")
        async with PostgresStore(plain) as store:
            assert not isinstance(await store.put("a", b"1", expect=ABSENT, keep=1.0), Conflict)
        await own.execute(f"DROP OWNED BY {role}")
        await own.execute(f"DROP ROLE {role}")


async def test_tables_of_a_newer_version(postgres: PostgresServer):
    """A store that does not know the tables does not use them."""
    async with database(postgres) as (url, own):
        async with PostgresStore(url):
            await own.execute("UPDATE taskcore_schema SET version = 99")
        with pytest.raises(BrokerUnavailable, match="version 99"):
            async with PostgresStore(url):
                pass


async def test_tables_that_were_dropped_are_made_anew(postgres: PostgresServer):
    """One call fails, the next finds new tables, and versions do not repeat even then."""
    async with database(postgres) as (url, own), PostgresStore(url) as store:
        old = await store.put("a", b"1", expect=ANY, keep=None)
        await own.execute("DROP TABLE taskcore_records, taskcore_schema")
        await own.execute("DROP SEQUENCE taskcore_versions")
        with pytest.raises(BrokerUnavailable):
            await store.put("a", b"1", expect=ANY, keep=None)
        new = await store.put("a", b"1", expect=ABSENT, keep=None)
        assert not isinstance(new, Conflict)
        assert new > old


async def test_a_schema_of_its_own(postgres: PostgresServer):
    """Two apps in one database keep apart by search_path, which is libpq's business."""
    async with database(postgres) as (url, own):
        await own.execute("CREATE SCHEMA shop")
        async with PostgresStore(f"{url}?options=-csearch_path%3Dshop") as shop, PostgresStore(url) as public:
            await shop.put("a", b"shop", expect=ANY, keep=None)
            assert await public.get("a") is None
        assert await one(own, "SELECT count(*) FROM shop.taskcore_records") == 1


async def test_any_key_is_a_key(postgres: PostgresServer):
    """Text in PostgreSQL cannot hold a NUL; a key can, and is not confused with what stands for it."""
    keys = ["a\0b", "a\\0b", "a\\\\0b", "a", "ä" * 300]
    async with database(postgres) as (url, _), PostgresStore(url) as store:
        for key in keys:
            assert not isinstance(await store.put(key, key.encode(), expect=ABSENT, keep=None), Conflict)
        found = [await store.get(key) for key in keys]
    assert [record.value for record in found if record is not None] == [key.encode() for key in keys]


async def test_a_role_with_other_defaults(postgres: PostgresServer):
    """Serializable by default, a short statement_timeout: a session of ours is as we need it."""
    async with database(postgres) as (url, own):
        name = url.rpartition("/")[2]
        await own.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
        await own.execute(f"ALTER DATABASE {name} SET statement_timeout = '250ms'")
        async with PostgresStore(url) as store, anyio.create_task_group() as group:
            await store.put_many([Write(key="held", value=b"0")])
            async with own.transaction():
                await own.execute("SELECT FROM taskcore_records WHERE key = 'held' FOR UPDATE")
                group.start_soon(store.put_many, [Write(key="held", value=b"1")])
                await anyio.sleep(0.6)  # longer than that default


# ── batches ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_batch_is_one_statement(postgres: PostgresServer):
    """A thousand callers share few commits; a key that comes twice is written twice, in order."""
    async with database(postgres) as (url, own), PostgresStore(url) as store:
        before = await one(own, "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
        async with anyio.create_task_group() as group:
            for number in range(1_000):
                group.start_soon(lambda number=number: store.put(f"k{number}", b"1", expect=ABSENT, keep=60.0))
        twice = [Write(key="twice", value=b"%d" % number) for number in range(5)]
        answers = await store.put_many([*twice, Write(key="twice", value=b"no", expect=ABSENT)])
        record = await store.get("twice")
        assert record is not None
        assert (record.value, record.version) == (b"4", answers[4])
        assert isinstance(answers[5], Conflict)
        assert answers[5].current == record
        await anyio.sleep(1.1)  # the server counts once a second
        after = await one(own, "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
        assert after - before < 100


async def test_each_conflict_names_the_record_that_won(postgres: PostgresServer):
    """Ten writers of ten records each, all the same ones: every conflict names the record that won."""
    async with database(postgres) as (url, _):
        keys = [f"k{number}" for number in range(10)]
        lost: list[tuple[str, Conflict]] = []

        async def write(name: int, order: list[str]) -> None:
            async with PostgresStore(url) as store:
                writes = [Write(key=key, value=b"%d" % name, expect=ABSENT, keep=60.0) for key in order]
                answers = await store.put_many(writes)
                lost.extend((k, a) for k, a in zip(order, answers, strict=True) if isinstance(a, Conflict))

        async with anyio.create_task_group() as group:
            for name in range(10):
                group.start_soon(write, name, keys if name % 2 else keys[::-1])
        async with PostgresStore(url) as store:
            standing = {key: await store.get(key) for key in keys}
    assert len(lost) == 90
    assert all(conflict.current == standing[key] for key, conflict in lost)


async def test_deadlocks_are_retried_without_the_caller(postgres: PostgresServer):
    """Batches that want the same records in opposite order wait for each other, and all are done in the end."""
    async with database(postgres) as (url, _):

        async def write(order: list[str]) -> None:
            async with PostgresStore(url) as store:
                for number in range(30):
                    for part in (order, order[::-1]):
                        await store.put_many([Write(key=key, value=b"%d" % number) for key in part])

        async with anyio.create_task_group() as group:
            for number in range(4):
                keys = [f"k{index}" for index in range(40)]
                group.start_soon(write, keys if number % 2 else keys[::-1])


# ── forgetting, watching, diagnosis ──────────────────────────────────────────────────────────────


async def test_an_idle_store_forgets(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch):
    """Ended records are deleted in bounded steps, without any write, by several stores at once (C23)."""
    monkeypatch.setattr(store_module, "CLEAN_EVERY", 0.1)
    monkeypatch.setattr(store_module, "CLEAN_BATCH", 7)
    async with database(postgres) as (url, own), PostgresStore(url) as store, PostgresStore(url):
        await store.put_many([Write(key=f"k{number}", value=b"1", keep=0.05) for number in range(50)])
        await store.put("stays", b"1", expect=ANY, keep=60.0)
        with anyio.fail_after(10):
            while await one(own, "SELECT count(*) FROM taskcore_records") > 1:  # noqa: ASYNC110 - a table sends no event
                await anyio.sleep(0.02)
        assert await store.get("stays") is not None


async def test_a_store_listens_only_while_a_watch_is_open(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch):
    """The listening connection opens with the first watch and closes some time after the last."""
    monkeypatch.setattr(listener, "TEST_AFTER_SILENCE", 0.1)
    listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%' "
    every = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    async with database(postgres) as (url, own), PostgresStore(url) as store:
        await store.get("a")
        quiet = await one(own, every)
        assert await one(own, listening) == 0
        async with store.watch("a"), store.watch("b"), store.watch("a"):
            assert await one(own, every) == quiet + 1
        with anyio.fail_after(10):
            while await one(own, every) > quiet:  # noqa: ASYNC110 - as above
                await anyio.sleep(0.02)
        async with store.watch("a") as records:
            await store.put("a", b"again", expect=ANY, keep=None)
            with anyio.fail_after(5):
                assert (await anext(aiter(records))).value == b"again"


async def test_a_diagnosis(postgres: PostgresServer):
    """A server with its usual settings gives no reason for worry."""
    async with PostgresStore(postgres.url) as store:
        diagnosis = await store.diagnose()
    assert diagnosis.server.startswith("PostgreSQL ")
    assert {fact.level for fact in diagnosis.checks if fact.name != "round trip"} == {"ok"}  # a busy machine is slow
    assert {fact.name for fact in diagnosis.checks} == {
        "version", "synchronous_commit", "disk", "role", "clock", "round trip",
    }  # fmt: skip


async def test_a_diagnosis_of_a_server_that_loses_commits(postgres: PostgresServer):
    """synchronous_commit off for this role is said, with the clauses that suffer."""
    async with PostgresStore(f"{postgres.url}?options=-csynchronous_commit%3Doff") as store:
        diagnosis = await store.diagnose()
    [unsafe] = diagnosis.unsafe
    assert (unsafe.name, unsafe.clauses) == ("synchronous_commit", ("C1", "C10"))
    assert "off" in diagnosis.durability


def test_cleaning_is_bounded():
    """No step deletes more than a few hundred records."""
    assert store_module.CLEAN_BATCH <= 500


async def test_many_records_are_read_in_order(postgres: PostgresServer):
    """``get_many`` answers for each key, in order, also for keys that hold a NUL; a missing record is None."""
    keys = [f"k\0{number}" for number in range(50)]
    async with database(postgres) as (url, _), PostgresStore(url) as store:
        await store.put_many([Write(key=key, value=key.encode()) for key in keys[::2]])
        found = await store.get_many([*reversed(keys), keys[0]])
        assert [record and record.value.decode() for record in found] == [
            key if int(key[2:]) % 2 == 0 else None for key in [*reversed(keys), keys[0]]
        ]
        assert await store.get_many([]) == []

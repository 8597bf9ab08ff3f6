"""What both databases do beside the suite: waking, late commits, several processes, tables that a role may not make."""

from __future__ import annotations

import multiprocessing
import secrets
import sqlite3
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

from taskcore.adapters import open_backend
from taskcore.backend import Backend, Duplicate, Outgoing, Source, Stored
from taskcore.backends.sql.postgres.layout import JOBS
from taskcore.connections.postgres.pool import POOL_SIZE
from taskcore.errors import BrokerUnavailable
from taskcore.faults import PostgresServer
from taskcore.lifecycle import ACK, Bury, Reschedule

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

LEASE = 60.0  #: seconds, longer than any test here


def jobs(number: int, *, queue: str = "q", size: int = 300) -> list[Outgoing]:
    """Make some jobs."""
    return [Outgoing(queue, secrets.token_hex(8), b"x" * size) for _ in range(number)]


async def drain(source: Source, number: int, *, within: float = 30.0) -> int:
    """Receive and acknowledge so many jobs; return how many came."""
    found = 0
    with anyio.move_on_after(within):
        while found < number:
            batch = await source.receive(100)
            assert not await source.settle([(delivery, ACK) for delivery in batch])
            found += len(batch)
    return found


# ── both ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_sleeping_worker_is_woken(url: str):
    """A job that another program publishes reaches a sleeping worker long before the worker looks again by itself."""
    async with open_backend(url) as backend, open_backend(url) as other, backend.consume(["q"], lease=LEASE) as source:
        for _ in range(3):
            async with anyio.create_task_group() as group:
                group.start_soon(drain, source, 1)
                await anyio.sleep(0.5)
                began = time.monotonic()
                await other.publish(jobs(1))
            assert time.monotonic() - began < 1.5


async def test_jobs_without_a_time_have_their_turn(url: str):
    """Jobs that are put off again and again, without a pause, hold up no other job."""
    async with open_backend(url) as backend, backend.consume(["q"], lease=LEASE) as source:
        await backend.publish(restless := [Outgoing("q", f"r{number}", b"restless") for number in range(4)])
        for delivery in await source.receive(4):
            await source.settle([(delivery, Reschedule(0.0, b""))])
        await backend.publish([Outgoing("q", "calm", b"calm")])
        seen: Counter[bytes] = Counter()
        for _ in range(8 * len(restless)):
            for delivery in await source.receive(2):
                seen[delivery.envelope] += 1
                await source.settle([(delivery, ACK if delivery.envelope == b"calm" else Reschedule(0.0, b""))])
        assert seen[b"calm"] == 1
        assert seen[b"restless"] > 8


async def test_an_answer_that_is_lost_costs_no_redelivery(url: str, monkeypatch: pytest.MonkeyPatch):
    """Jobs that were leased by a call whose answer was lost come with the next call, and count as never handed out."""
    async with open_backend(url) as backend, backend.consume(["q"], lease=LEASE) as source:
        await backend.publish(jobs(3))
        owner, verb = (source._file, "do") if hasattr(source, "_file") else (source._pool, "run")  # type: ignore[attr-defined]
        carry_out = getattr(owner, verb)

        async def lose(*args: Any, **options: Any) -> Any:
            await carry_out(*args, **options)
            monkeypatch.undo()
            raise BrokerUnavailable("the answer was lost")

        monkeypatch.setattr(owner, verb, lose)
        with pytest.raises(BrokerUnavailable):
            await source.receive(10)
        found = await source.receive(10)
        assert [delivery.redeliveries for delivery in found] == [0, 0, 0]
        assert not await source.settle([(delivery, ACK) for delivery in found])


@pytest.mark.parametrize("last", [1, 2])
async def test_a_receipt_that_is_cancelled_leases_nothing_more(last: int, url: str, monkeypatch: pytest.MonkeyPatch):
    """A call that is cancelled in one statement, which it lets end, begins no other that would lease jobs."""
    cut, go_on, begun = anyio.Event(), anyio.Event(), 0
    async with open_backend(url) as backend, open_backend(url) as other, backend.consume(["q"], lease=LEASE) as source:
        owner, verb = (source._file, "do") if hasattr(source, "_file") else (source._pool, "run")  # type: ignore[attr-defined]
        carry_out = getattr(owner, verb)

        async def linger(*args: Any, **options: Any) -> Any:
            nonlocal begun
            begun += 1
            answer = await carry_out(*args, **options)
            if begun == last:
                cut.set()
                await go_on.wait()
            return answer

        monkeypatch.setattr(owner, verb, linger)
        async with anyio.create_task_group() as group:
            group.start_soon(source.receive, 10)
            await cut.wait()
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                monkeypatch.undo()
                await other.publish(jobs(1))
                go_on.set()
        [stats] = await other.admin.stats(["q"])
        assert (stats.ready, stats.leased) == (1, 0)


async def test_a_page_of_letters_begins_behind_any_letter(url: str):
    """A page begins behind a letter that is gone by now; an id that is none of ours stands for the beginning."""
    async with open_backend(url) as backend, backend.consume(["q"], lease=LEASE) as source:
        await backend.publish(jobs(4))
        await source.settle([(delivery, Bury("why", b"")) for delivery in await source.receive(4)])
        first, second, third, fourth = await backend.admin.letters("q", limit=10)
        assert await backend.admin.drop(second.id)
        assert [one.id for one in await backend.admin.letters("q", limit=10, after=second.id)] == [third.id, fourth.id]
        assert (await backend.admin.letters("q", limit=1, after="none"))[0] == first
        assert await backend.admin.letter("9" * 30) is None


# ── PostgreSQL ───────────────────────────────────────────────────────────────────────────────────


async def test_leases_and_verdicts_wait_for_no_other_work(database: str):
    """While other work has all connections, and more of it waits, leases are extended and verdicts carried out."""

    async def hold(connection: Any) -> None:
        await connection.execute("SELECT pg_sleep(7)")

    async with open_backend(database) as backend, backend.consume(["q"], lease=LEASE) as source:
        await backend.publish(jobs(2))
        found = await source.receive(2)
        async with anyio.create_task_group() as group:
            for _ in range(POOL_SIZE * 2):
                group.start_soon(backend._pool.run, hold)  # type: ignore[attr-defined]
            await anyio.sleep(0.5)
            with anyio.fail_after(5):
                assert not await source.extend(found)
                assert not await source.settle([(delivery, ACK) for delivery in found])
            group.cancel_scope.cancel()


async def test_leases_touch_no_index(database: str):
    """At least 95 of 100 leases are HOT updates: new versions of rows on their own pages."""
    async with open_backend(database) as backend, backend.consume(["q"], lease=LEASE) as source:
        await backend.publish(jobs(3_000))
        assert await drain(source, 3_000) == 3_000
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as own:
        with anyio.fail_after(20):
            while True:  # the server's statistics come late
                updated, hot = await row(
                    own, "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'taskcore_jobs'"
                )
                if updated >= 3_000:
                    break
                await anyio.sleep(0.1)
    assert hot >= 0.95 * updated


async def test_a_transaction_that_commits_late_is_found(database: str):
    """A job whose number is lower than those handed out already, because its transaction was slow, is handed out."""
    async with open_backend(database) as backend, backend.consume(["q"], lease=LEASE) as source:
        async with await psycopg.AsyncConnection.connect(database) as slow:
            await slow.execute(
                "INSERT INTO taskcore_jobs (job, queue, envelope, trail) VALUES ('late', 'q', 'late', '')"
            )
            await backend.publish(jobs(20))
            assert await drain(source, 20) == 20
            await slow.commit()
        assert await drain(source, 1, within=10) == 1


async def test_an_old_snapshot_does_not_slow_claims(database: str):
    """While a transaction keeps dead rows alive, a claim reads no more pages than it needs."""
    async with (
        open_backend(database) as backend,
        backend.consume(["q"], lease=LEASE) as source,
        await psycopg.AsyncConnection.connect(database) as old,
    ):
        await old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await old.execute("SELECT count(*) FROM taskcore_jobs")
        took = []
        for _ in range(8):
            await backend.publish(jobs(1_000))
            began = time.monotonic()
            assert await drain(source, 1_000) == 1_000
            took.append(time.monotonic() - began)
        assert min(took[-3:]) < 3 * min(took[:3]) + 0.2


async def test_no_notification_under_load(database: str):
    """Publishing to workers that are awake notifies next to never: each notification holds up every commit."""
    async with (
        open_backend(database) as backend,
        backend.consume(["q"], lease=LEASE) as source,
        await psycopg.AsyncConnection.connect(database, autocommit=True) as own,
    ):
        await own.execute("LISTEN taskcore_jobs")
        await backend.publish(jobs(500))
        async with anyio.create_task_group() as group:
            group.start_soon(drain, source, 2_500)
            for _ in range(20):
                await backend.publish(jobs(100))
        told = [note async for note in own.notifies(timeout=0.2)]
        assert len(told) <= 15


async def test_the_end_of_a_job_is_seen_by_a_publish_that_waits(database: str):
    """A publish that waits for the transaction in which that very job ends is answered Duplicate and stores nothing."""
    async with (
        open_backend(database) as backend,
        await psycopg.AsyncConnection.connect(database) as settling,
    ):
        [one] = jobs(1)
        await backend.publish([one])
        await settling.execute("DELETE FROM taskcore_jobs WHERE job = %s", (one.id,))
        await settling.execute("INSERT INTO taskcore_ended VALUES (%s, now())", (one.id,))
        answers: list[Any] = []

        async def publish() -> None:
            answers.extend(await backend.publish([one]))

        async with anyio.create_task_group() as group:
            group.start_soon(publish)
            await anyio.sleep(0.3)
            assert not answers
            await settling.commit()
        assert isinstance(answers[0], Duplicate)
        assert (await backend.admin.stats(["q"]))[0].ready == 0


async def test_a_role_that_may_not_make_tables(postgres: PostgresServer, database: str):
    """The error has the SQL; once a role that may has run it, the backend's role can work."""
    role = f"r{secrets.token_hex(4)}"
    plain = database.replace("//postgres@", f"//{role}@")
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as own:
        await own.execute(f"CREATE ROLE {role} LOGIN")
        await own.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        with pytest.raises(BrokerUnavailable, match="may not make them") as caught:
            async with open_backend(plain):
                pass
        sql = "\n".join(caught.value.facts[1:])
        assert sql.strip() == JOBS.sql(0).strip()
        await own.execute(sql)
        tables = "taskcore_jobs, taskcore_letters, taskcore_ended, taskcore_queues"
        await own.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {role}")
        await own.execute(f"GRANT SELECT ON taskcore_jobs_schema TO {role}")
        async with open_backend(plain) as backend, backend.consume(["q"], lease=LEASE) as source:
            assert await backend.publish(sent := jobs(2)) == [Stored(), Stored()]
            first, second = await source.receive(2)
            assert not await source.settle([(first, ACK), (second, Bury("why", b""))])
            assert await backend.publish(sent) == [Duplicate(), Duplicate()]
            assert (await backend.admin.stats(["q"]))[0].dead == 1
        await own.execute(f"DROP OWNED BY {role}")
        await own.execute(f"DROP ROLE {role}")


async def test_tables_of_a_newer_version(url: str, tmp_path: Path):
    """A backend that does not know the tables does not use them."""
    async with open_backend(url):
        pass
    statement = "UPDATE taskcore_jobs_schema SET version = 99"
    if url.startswith("sqlite"):
        with sqlite3.connect(tmp_path / "jobs.db") as file:
            file.execute(statement)
    else:
        with psycopg.connect(url) as connection:
            connection.execute(statement)
    with pytest.raises(BrokerUnavailable, match="version 99"):
        async with open_backend(url):
            pass


async def row(connection: psycopg.AsyncConnection[Any], query: str) -> Any:
    """Return the one row that a query gives."""
    return await (await connection.execute(query)).fetchone()


# ── SQLite ───────────────────────────────────────────────────────────────────────────────────────


def work_off(number: int, url: str, share: int) -> list[bytes]:
    """Publish some jobs, then take and acknowledge jobs until there are none for a while."""

    async def main() -> list[bytes]:
        seen: list[bytes] = []
        async with open_backend(url) as backend, backend.consume(["q"], lease=LEASE) as source:
            await backend.publish([Outgoing("q", f"{number}-{one}", b"%d-%d" % (number, one)) for one in range(share)])
            while True:
                with anyio.move_on_after(1.5) as limit:
                    batch = await source.receive(20)
                    assert not await source.settle([(delivery, ACK) for delivery in batch])
                    seen += [delivery.envelope for delivery in batch]
                if limit.cancelled_caught:
                    return seen

    return anyio.run(main)


def test_several_processes_on_one_file(tmp_path: Path):
    """Four processes publish into one file and work it off at the same time: each job comes once, to one of them."""
    once = partial(work_off, url=f"sqlite:///{tmp_path}/jobs.db", share=300)
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as processes:
        seen = Counter(one for part in processes.map(once, range(4)) for one in part)
    assert len(seen) == 1_200
    assert max(seen.values()) == 1


async def test_a_file_that_is_locked_for_a_while(tmp_path: Path):
    """While another program holds the lock, calls wait; then they are carried out, and none has failed."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    async with open_backend(url) as backend, backend.consume(["q"], lease=LEASE) as source:
        await backend.publish(jobs(5))
        held = await source.receive(5)
        other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        lost: list[Any] = []

        async def settle() -> None:
            lost.extend(await source.settle([(delivery, ACK) for delivery in held]))

        async with anyio.create_task_group() as group:
            group.start_soon(settle)
            await anyio.sleep(1.0)
            other.execute("ROLLBACK")
        other.close()
        assert not lost
        assert (await backend.admin.stats(["q"]))[0].leased == 0


async def test_backend_and_store_share_a_thread(tmp_path: Path):
    """An app on one file writes from one thread, whether into its queues or into its records."""
    from taskcore.adapters import open_store  # noqa: PLC0415
    from taskcore.connections.sqlite import transactions  # noqa: PLC0415

    url = f"sqlite:///{tmp_path}/jobs.db"
    before = len(transactions._THREADS)
    async with open_backend(url), open_store(url):
        assert len(transactions._THREADS) == before + 1
    assert len(transactions._THREADS) == before


async def test_backend_and_store_share_connections(database: str):
    """An app on one PostgreSQL needs a few connections for its queues and its records together."""
    from taskcore.adapters import open_store  # noqa: PLC0415
    from taskcore.store import ANY  # noqa: PLC0415

    async with open_backend(database) as backend, open_store(database) as store:
        await use(backend, store, ANY)
        with psycopg.connect(database) as own:
            [(number,)] = own.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'taskcore' AND datname = %s",
                (database.rpartition("/")[2],),
            ).fetchall()
    assert number <= 3


async def use(backend: Backend, store: Any, expect: Any) -> None:
    """Call each verb once, one after another."""
    async with backend.consume(["q"], lease=LEASE) as source:
        await backend.publish(jobs(1))
        [one] = await source.receive(1)
        await store.put("a", b"1", expect=expect, keep=60.0)
        await source.settle([(one, ACK)])

"""PostgreSQL is killed, stopped, frozen, wiped, cut off; the store says so in time, and goes on when it is back."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
import pytest

from taskcore import BrokerUnavailable
from taskcore.connections.postgres import listener
from taskcore.faults import ChaosProxy, PostgresServer
from taskcore.store import ABSENT, ANY, Conflict, Write
from taskcore.stores.sql import PostgresStore
from tests.support.disks import fill, on_disk, small_disk
from tests.support.real import require, versions

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

CALL_TIMEOUT = 1.5  #: seconds that a call may take here


@asynccontextmanager
async def serving(*, version: str = "", **config: Any) -> AsyncIterator[PostgresServer]:
    """Run a server of the test's own, because it will come to harm."""
    async with require(PostgresServer, version)(version=version, config=config) as server:
        yield server


def brief(url: str) -> str:
    """Make the URL with short time limits."""
    return f"{url}?taskcore_timeout={CALL_TIMEOUT}"


async def works_again(store: PostgresStore, within: float = 15.0) -> float:
    """Measure the seconds until a write succeeds."""
    began = time.monotonic()
    with anyio.fail_after(within):
        while True:
            try:
                await store.put("again", b"1", expect=ANY, keep=60.0)
            except BrokerUnavailable:
                await anyio.sleep(0.05)
            else:
                return time.monotonic() - began


@pytest.mark.parametrize("version", **versions(PostgresServer))
@pytest.mark.parametrize("how", ["kill", "stop", "freeze"])
async def test_confirmed_writes_survive(how: str, version: str):
    """F18, F20–F22: under load the server goes and comes back; what was confirmed is there, all calls end in time."""
    async with serving(version=version) as server, PostgresStore(brief(server.url)) as store:
        confirmed: list[str] = []
        failed: list[float] = []
        stopping = False

        async def load(name: int) -> None:
            number = 0
            while not stopping:
                number += 1
                key, began = f"w{name}/{number}", time.monotonic()
                try:
                    await store.put(key, b"1", expect=ABSENT, keep=600.0)
                except BrokerUnavailable:
                    failed.append(time.monotonic() - began)
                    await anyio.sleep(0.02)
                else:
                    confirmed.append(key)

        async with anyio.create_task_group() as group:
            for name in range(8):
                group.start_soon(load, name)
            await anyio.sleep(0.3)
            if how == "freeze":
                server.pause()
                await anyio.sleep(2.5)
                server.resume()
            else:
                server.kill() if how == "kill" else await server.stop()
                await server.start()
            before = len(confirmed)
            with anyio.fail_after(20):
                while len(confirmed) < before + 50:  # noqa: ASYNC110 - the load sends no event
                    await anyio.sleep(0.02)
            stopping = True
        assert failed
        assert max(failed) < 2 * CALL_TIMEOUT + 1.5  # the batch in front may take its time, too
        found = [await store.get(key) for key in confirmed]
        assert all(record is not None for record in found), f"lost {found.count(None)} of {len(found)}"


async def test_a_frozen_server_holds_no_caller_up():
    """F21: each verb ends in its own time, reads and watches included (C22)."""
    async with serving() as server, PostgresStore(brief(server.url)) as store:
        await store.put("a", b"1", expect=ANY, keep=None)
        server.pause()

        async def watch() -> None:
            async with store.watch("a"):
                pass

        for call in (
            lambda: store.get("a"),
            lambda: store.put_many([Write(key="a", value=b"2")]),
            lambda: store.delete("a", expect=ANY),
            watch,
            store.diagnose,
        ):
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                await call()
            assert time.monotonic() - began < CALL_TIMEOUT + 1.0
        server.resume()
        await works_again(store)


async def test_a_server_that_comes_back_empty():
    """F23: the tables are made anew by the next call; old versions mean nothing any more, and are never given again."""
    async with serving() as server, PostgresStore(brief(server.url)) as store:
        old = await store.put("a", b"1", expect=ANY, keep=None)
        await server.restart(wipe=True)
        await works_again(store)
        assert await store.get("a") is None
        assert isinstance(await store.put("a", b"2", expect=old, keep=None), Conflict)
        assert await store.put("a", b"2", expect=ABSENT, keep=None) != old


async def test_a_server_that_is_not_there():
    """F40: opening ends at once and says what was tried, without a password; it leaves nothing running."""
    async with serving() as server:
        url = server.url.replace("postgres@", "postgres:geheim@")
        server.kill()
        with pytest.raises(BrokerUnavailable) as caught:
            async with PostgresStore(brief(url)):
                pass
    assert "refused" in str(caught.value)
    assert "geheim" not in str(caught.value)


async def written_until_refused(store: PostgresStore) -> tuple[list[str], BrokerUnavailable]:
    """Write until the first refusal; return it and the keys that were confirmed."""
    confirmed: list[str] = []
    for number in range(1_000):
        try:
            await store.put(f"k{number}", os.urandom(100_000), expect=ABSENT, keep=None)
        except BrokerUnavailable as error:
            return confirmed, error
        confirmed.append(f"k{number}")
    raise AssertionError("100 MB found room on a full disk")


async def test_no_room_for_records():
    """F26: the refusal names the disk and what to do; reading and deleting go on, and with room everything does."""
    with small_disk(24) as disk:
        async with serving() as server:
            url = on_disk(server, disk)
            async with PostgresStore(url) as store:
                await store.put("first", b"1", expect=ANY, keep=None)
                filler = fill(disk, but=1_000_000)
                confirmed, refused = await written_until_refused(store)
                assert confirmed
                assert "could not extend file" in str(refused)
                assert refused.fix is not None
                assert refused.fix.startswith("make room on the server's disk")
                assert await store.get("first") is not None
                assert await store.delete("first", expect=ANY)
                assert isinstance(await store.put(confirmed[0], b"", expect=ABSENT, keep=None), Conflict)
                filler.unlink()
                assert not isinstance(await store.put("again", b"1", expect=ABSENT, keep=None), Conflict)
                found = [await store.get(key) for key in confirmed]
                assert all(record is not None for record in found), f"lost {found.count(None)} of {len(found)}"


async def test_no_room_for_the_log():
    """F26: without room for its log PostgreSQL ends; callers get the reason, and started again it has everything."""
    with small_disk(64) as disk:
        async with serving() as server:
            await server.stop()
            log, owner = server.data / "pg_wal", server.data.stat()
            shutil.copytree(log, disk / "log")
            shutil.rmtree(log)
            log.symlink_to(disk / "log")
            for path in (disk / "log", *(disk / "log").rglob("*")):
                os.chown(path, owner.st_uid, owner.st_gid)
            await server.start()
            async with PostgresStore(brief(server.url)) as store:
                filler = fill(disk)
                confirmed, refused = await written_until_refused(store)
                assert confirmed
                assert "No space left on device" in str(refused)
                assert refused.fix == "make room on the server's disk, and start the server again if that has ended it"
                with anyio.fail_after(20):
                    while server.running:  # noqa: ASYNC110 - another process; it tries to recover, and gives up
                        await anyio.sleep(0.05)
                with pytest.raises(BrokerUnavailable) as caught:
                    await store.get("k0")
                assert "its log" in str(caught.value.fix)
                filler.unlink()
                await server.restart()
                await works_again(store)
                found = [await store.get(key) for key in confirmed]
                assert all(record is not None for record in found), f"lost {found.count(None)} of {len(found)}"


async def test_a_cut_connection(postgres: PostgresServer):
    """F33: the call whose connection is cut fails, or was lucky; the next one works at once."""
    async with ChaosProxy("127.0.0.1", postgres.port) as proxy:
        url = postgres.url.replace(str(postgres.port), str(proxy.port))
        async with PostgresStore(brief(url)) as store:
            await store.put("cut", b"0", expect=ANY, keep=60.0)
            proxy.cut()
            await anyio.sleep(0.05)
            await store.put("cut", b"1", expect=ANY, keep=60.0)  # a dead connection is noticed before it is used
            assert await store.get("cut") is not None
            for nth in (1, 2):
                proxy.cut_before(nth)
                answers = [await attempt(store, number) for number in range(3)]
                assert answers.count(None) <= 1
                assert answers[-1] is not None
            await proxy.refuse()
            proxy.cut()
            with pytest.raises(BrokerUnavailable):
                await store.get("cut")
            await proxy.heal()
            assert await store.get("cut") is not None
            await store.delete("cut", expect=ANY)


async def attempt(store: PostgresStore, number: int) -> Any:
    """Write once; return None if the outcome is unknown."""
    try:
        return await store.put("cut", b"%d" % number, expect=ANY, keep=60.0)
    except BrokerUnavailable:
        return None


async def test_a_write_whose_answer_was_lost_is_done(postgres: PostgresServer):
    """F19: the server has committed and its answer is lost; repeating the write by its version tells what happened."""
    async with ChaosProxy("127.0.0.1", postgres.port) as proxy, PostgresStore(postgres.url) as other:
        url = postgres.url.replace(str(postgres.port), str(proxy.port))
        async with PostgresStore(brief(url)) as store:
            version = await store.put("lost", b"0", expect=ANY, keep=60.0)
            assert not isinstance(version, Conflict)
            version = await store.put("lost", b"0", expect=version, keep=60.0)  # from here on it is one reply a call
            assert not isinstance(version, Conflict)
            proxy.cut_before(1)
            with pytest.raises(BrokerUnavailable):
                await store.put("lost", b"1", expect=version, keep=60.0)
            record = await other.get("lost")
            assert record is not None
            assert record.value == b"1"
            again = await store.put("lost", b"1", expect=version, keep=60.0)
            assert isinstance(again, Conflict)
            assert again.current == record
        await other.delete("lost", expect=ANY)


async def test_half_open(postgres: PostgresServer):
    """F37: a network that swallows everything ends each call in its time, and is forgotten when it is over."""
    async with ChaosProxy("127.0.0.1", postgres.port) as proxy:
        url = postgres.url.replace(str(postgres.port), str(proxy.port))
        async with PostgresStore(brief(url)) as store:
            await store.get("x")
            proxy.black_hole()
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                await store.get("x")
            with pytest.raises(BrokerUnavailable):
                await store.put("x", b"1", expect=ANY, keep=60.0)
            assert time.monotonic() - began < 2 * CALL_TIMEOUT + 1.5
            await proxy.heal()
            assert await works_again(store) < 5
            await store.delete("x", expect=ANY)


@pytest.mark.parametrize("fault", ["cut", "refused for a while", "black hole"])
async def test_a_watch_outlives_its_connection(postgres: PostgresServer, fault: str, monkeypatch: pytest.MonkeyPatch):
    """A write during a lost connection is seen when the store listens again: it is read then."""
    monkeypatch.setattr(listener, "TEST_AFTER_SILENCE", 0.5)
    async with ChaosProxy("127.0.0.1", postgres.port) as proxy, PostgresStore(postgres.url) as other:
        url = postgres.url.replace(str(postgres.port), str(proxy.port))
        key = f"watched/{fault}"
        async with PostgresStore(brief(url)) as store, store.watch(key) as records:
            news = aiter(records)
            for number in range(2):
                if fault == "black hole":
                    proxy.black_hole()
                else:
                    if fault != "cut":
                        await proxy.refuse()
                    proxy.cut()
                await other.put(key, b"%d" % number, expect=ANY, keep=60.0)
                await anyio.sleep(0.3)
                if fault == "black hole":
                    proxy.cut()
                await proxy.heal()
                with anyio.fail_after(10):
                    assert (await anext(news)).value == b"%d" % number
        await other.delete(key, expect=ANY)


async def test_a_watch_without_a_server_says_so(monkeypatch: pytest.MonkeyPatch):
    """A watch does not wait for ever for a server that does not come back."""
    monkeypatch.setattr(listener, "FAIL_AFTER", 0.5)
    async with serving() as server, PostgresStore(brief(server.url)) as store, store.watch("a") as records:
        server.kill()
        with anyio.fail_after(20), pytest.raises(BrokerUnavailable):
            await anext(aiter(records))


async def test_a_record_that_a_program_locks(postgres: PostgresServer):
    """A program's transaction that holds a record for long delays no call beyond its time limit."""
    async with PostgresStore(brief(postgres.url)) as store:
        await store.put("locked", b"1", expect=ANY, keep=60.0)
        async with await psycopg.AsyncConnection.connect(postgres.url) as program:
            await program.execute("SELECT * FROM taskcore_records WHERE key = 'locked' FOR UPDATE")
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable, match="pg_stat_activity"):
                await store.put("locked", b"2", expect=ANY, keep=60.0)
            assert time.monotonic() - began < CALL_TIMEOUT + 1.0
            record = await store.get("locked")
            assert record is not None
            assert record.value == b"1"
        assert not isinstance(await store.put("locked", b"2", expect=ANY, keep=60.0), Conflict)
        await store.delete("locked", expect=ANY)

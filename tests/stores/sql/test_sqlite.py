"""The SQLite store: its URL, its threads, its file; on both event loops."""

from __future__ import annotations

import gc
import os
import sqlite3
import stat
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskcore import BrokerUnavailable, InvalidURL
from taskcore.adapters import open_store
from taskcore.connections.sqlite import diagnose as sqlite_diagnose
from taskcore.connections.sqlite import transactions
from taskcore.store import ABSENT, ANY, Conflict, Write
from taskcore.stores.sql import SqliteStore
from taskcore.stores.sql.sqlite import store as sqlite

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run each test on both loops."""
    return request.param


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Make the URL of a file of the test's own."""
    return f"sqlite:///{tmp_path}/r.db"


# ── the URL ──────────────────────────────────────────────────────────────────────────────────────


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Three slashes are relative to the folder in which the store was made, four are absolute."""
    monkeypatch.chdir(tmp_path)
    relative, absolute = SqliteStore("sqlite:///a/b%20c.db?timeout=3s"), SqliteStore(f"sqlite:///{tmp_path}/x.db")
    assert relative._address.path == tmp_path / "a" / "b c.db"
    assert (relative._address.timeout, relative._address.synchronous) == (3.0, "full")
    assert absolute._address.path == tmp_path / "x.db"
    assert isinstance(open_store("sqlite:///x.db?synchronous=NORMAL"), SqliteStore)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite://shop.db", "three slashes"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///x.db?sync=full", "known are synchronous, timeout"),
        ("sqlite:///x.db?synchronous=off", "full or normal or extra"),
        ("sqlite:///x.db?timeout=soon", "timeout=10s"),
        ("sqlite:///x.db?timeout=0", "timeout=10s"),
    ],
)
def test_wrong_addresses(url: str, says: str):
    """What cannot be meant is refused when the store is made, and the fix says what can (TC103)."""
    with pytest.raises(InvalidURL) as caught:
        SqliteStore(url)
    assert says in str(caught.value)


# ── the file ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_folder_that_is_not_there(tmp_path: Path):
    """Opening says what is missing, and leaves no thread behind."""
    before = set(threading.enumerate())
    with pytest.raises(BrokerUnavailable, match="create the folder"):
        async with SqliteStore(f"sqlite:///{tmp_path}/none/r.db"):
            pass
    await ended_since(before)


async def test_a_file_that_is_no_database(tmp_path: Path):
    """A file that is no database is not touched."""
    path = tmp_path / "notes.txt"
    path.write_text("buy milk\n" * 100)
    with pytest.raises(BrokerUnavailable, match="no SQLite database"):
        async with SqliteStore(f"sqlite:///{path}"):
            pass
    assert path.read_text() == "buy milk\n" * 100


async def test_tables_of_a_newer_version(url: str, tmp_path: Path):
    """A store that does not know the tables does not use them."""
    async with SqliteStore(url):
        pass
    with sqlite3.connect(tmp_path / "r.db") as connection:
        connection.execute("UPDATE taskcore_schema SET version = 99")
    connection.close()
    with pytest.raises(BrokerUnavailable, match="version 99"):
        async with SqliteStore(url):
            pass


async def test_it_shares_a_file_with_the_program(url: str, tmp_path: Path):
    """Tables of the program's own stay as they are, its user_version too."""
    with sqlite3.connect(tmp_path / "r.db") as connection:
        connection.execute("CREATE TABLE payments (id INTEGER)")
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    async with SqliteStore(url) as store:
        await store.put("a", b"1", expect=ANY, keep=None)
    connection = sqlite3.connect(tmp_path / "r.db")
    assert connection.execute("PRAGMA user_version").fetchone() == (7,)
    assert connection.execute("SELECT count(*) FROM payments").fetchone() == (0,)
    connection.close()


async def test_a_file_that_was_deleted_is_made_anew(url: str, tmp_path: Path):
    """No store goes on writing into a file that no other can see; versions do not repeat even then."""
    async with SqliteStore(url) as store:
        old = await store.put("a", b"1", expect=ANY, keep=None)
        delete(tmp_path)
        assert await store.get("a") is None
        new = await store.put("a", b"1", expect=ABSENT, keep=None)
        assert new != old
        assert not isinstance(new, Conflict)
        async with SqliteStore(url) as other:
            record = await other.get("a")
            assert record is not None
            assert record.version == new


def delete(folder: Path) -> None:
    """Delete the file, and what SQLite keeps beside it."""
    for path in folder.glob("r.db*"):
        path.unlink()


async def test_a_watch_survives_the_loss_of_the_file(url: str, tmp_path: Path):
    """A watch sees what is written into the new file."""
    async with SqliteStore(url) as store, SqliteStore(url) as other, store.watch("a") as records:
        delete(tmp_path)
        await other.put("a", b"new", expect=ANY, keep=None)
        with anyio.fail_after(5):
            assert (await anext(aiter(records))).value == b"new"


async def test_a_full_database(url: str, tmp_path: Path):
    """A write that finds no room changes nothing and says so; it works again when there is room."""
    async with SqliteStore(url) as store:
        await store.put("a", b"1", expect=ANY, keep=None)
        limit_pages(store, 12)
        with pytest.raises(BrokerUnavailable, match="make room"):
            await store.put("a", b"x" * 200_000, expect=ANY, keep=None)
        record = await store.get("a")
        assert record is not None
        assert record.value == b"1"
        await store.put("a", b"x" * 200_000, expect=ANY, keep=None)  # on a new connection, which has no such limit


def limit_pages(store: SqliteStore, pages: int) -> None:
    """Let the writing connection believe that the disk ends here."""
    writer = store._writer._shared.thread
    work = writer._hooks.work

    def limited(file: Any, batch: Any) -> Any:
        file.connection.execute(f"PRAGMA max_page_count = {pages}")
        writer._thread._hooks = writer._hooks  # once
        return work(file, batch)

    assert writer._thread is not None
    writer._thread._hooks = writer._hooks._replace(work=limited)


async def test_a_lock_that_is_never_released(url: str, tmp_path: Path):
    """F21: a write waits for a lock as long as a call may take, not longer; reads go on; afterwards all is well."""
    async with SqliteStore(f"{url}?timeout=0.5") as store:
        await store.put("a", b"1", expect=ANY, keep=None)
        other = sqlite3.connect(tmp_path / "r.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="keep it short"):
            await store.put("a", b"2", expect=ANY, keep=None)
        assert 0.3 < time.monotonic() - began < 5
        record = await store.get("a")
        assert record is not None
        assert record.value == b"1"
        other.execute("ROLLBACK")
        other.close()
        assert not isinstance(await store.put("a", b"2", expect=ANY, keep=None), Conflict)


async def test_a_disk_that_hangs(url: str, monkeypatch: pytest.MonkeyPatch):
    """A call ends in its time even if the disk does not answer; the next one gets a new connection (C22)."""
    async with SqliteStore(f"{url}?timeout=0.3") as store:
        part = store._writer._part
        hanging, work = threading.Event(), part.look

        def hang(*args: Any) -> Any:
            hanging.wait(10)
            return work(*args)

        monkeypatch.setattr(part, "look", hang)
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="the call may have been carried out"):
            await store.put("a", b"1", expect=ANY, keep=None)
        assert time.monotonic() - began < 3
        monkeypatch.setattr(part, "look", work)
        assert not isinstance(await store.put("a", b"2", expect=ANY, keep=None), Conflict)
        hanging.set()


async def test_the_loop_goes_on_while_a_write_waits(url: str, tmp_path: Path):
    """Waiting for the disk or for a lock does not block the event loop."""
    async with SqliteStore(url) as store:
        other = sqlite3.connect(tmp_path / "r.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        ticks = 0
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: store.put("a", b"1", expect=ANY, keep=None))
            began = time.monotonic()
            while time.monotonic() - began < 0.2:
                await anyio.sleep(0.005)
                ticks += 1
            other.execute("ROLLBACK")
        other.close()
        assert ticks > 10


async def test_a_write_cancelled_in_the_queue_is_not_done(url: str, tmp_path: Path):
    """A write that is cancelled before its turn leaves no trace."""
    async with SqliteStore(url) as store:
        other = sqlite3.connect(tmp_path / "r.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: store.put("first", b"1", expect=ANY, keep=None))
            await anyio.sleep(0.05)
            with anyio.move_on_after(0.05):
                await store.put("second", b"1", expect=ANY, keep=None)
            other.execute("ROLLBACK")
        other.close()
        assert await store.get("first") is not None
        assert await store.get("second") is None


async def test_a_crowd_shares_transactions(url: str):
    """A thousand single writes at once are few commits."""
    async with SqliteStore(url) as store:
        commits = 0
        writer = store._writer._shared.thread
        work = writer._hooks.work

        def counted(file: Any, batch: Any) -> Any:
            nonlocal commits
            commits += 1
            return work(file, batch)

        assert writer._thread is not None
        writer._thread._hooks = writer._hooks._replace(work=counted)
        async with anyio.create_task_group() as group:
            for number in range(1000):
                group.start_soon(lambda number=number: store.put(f"k{number}", b"1", expect=ABSENT, keep=60.0))
        assert commits < 200


# ── forgetting ───────────────────────────────────────────────────────────────────────────────────


async def test_expired_records_are_deleted_by_any_writer(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each write is followed by one bounded step of deletion, until no expired record is left (C23)."""
    monkeypatch.setattr(sqlite, "CLEAN_BATCH", 10)
    async with SqliteStore(url) as store:
        await store.put_many([Write(key=f"k{number}", value=b"1", keep=0.05) for number in range(25)])
        await store.put("stays", b"1", expect=ANY, keep=None)
        await anyio.sleep(0.1)
        store._writer._part._cleaned = 0.0
        left = []
        for _ in range(3):
            await store.put("stays", b"1", expect=ANY, keep=None)
            await store._writer.ask(())  # behind the idle work of the write
            left.append(rows(tmp_path / "r.db"))
        assert left == [16, 6, 1] or left[-1] == 1
        assert left[0] >= 6


async def test_an_idle_store_forgets_too(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An idle store deletes expired records without a write."""
    monkeypatch.setattr(transactions, "CLEAN_IDLE", 0.05)
    monkeypatch.setattr(sqlite, "CLEAN_EVERY", 0.05)
    async with SqliteStore(url) as store:
        await store.put("brief", b"1", expect=ANY, keep=0.05)
        with anyio.fail_after(5):
            while rows(tmp_path / "r.db"):  # noqa: ASYNC110 - a file sends no event
                await anyio.sleep(0.02)


def rows(path: Path) -> int:
    """Count the records of the table, ended or not."""
    connection = sqlite3.connect(path)
    try:
        count: int = connection.execute("SELECT count(*) FROM taskcore_records").fetchone()[0]
    finally:
        connection.close()
    return count


# ── threads and processes ────────────────────────────────────────────────────────────────────────


async def test_threads_end_with_the_store(url: str):
    """Nothing is left running, and no connection is left open for the garbage collector to find."""
    before = set(threading.enumerate())
    async with SqliteStore(url) as store:
        await store.put("a", b"1", expect=ANY, keep=None)
        assert any(thread.name == "taskcore-writes" for thread in threading.enumerate())
    await ended_since(before)
    gc.collect()


async def ended_since(before: set[threading.Thread]) -> None:
    """Wait until every thread of ours that was started meanwhile has ended."""
    with anyio.fail_after(5):
        while [one for one in threading.enumerate() if one not in before and one.name.startswith("taskcore")]:  # noqa: ASYNC110 - as above
            await anyio.sleep(0.01)


async def test_a_forked_child_can_use_the_file(url: str):
    """A child makes threads and connections of its own, and the parent's go on working."""
    async with SqliteStore(url) as store:
        await store.put("parent", b"1", expect=ANY, keep=None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of threads, which is the point
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                outcome: list[int] = []
                thread = threading.Thread(target=lambda: outcome.append(anyio.run(use_in_child, store)))
                thread.start()
                thread.join(10)
                status = 0 if outcome == [0] else 2
            finally:
                os._exit(status)
        _, ended = await anyio.to_thread.run_sync(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(ended) == 0
        record = await store.get("child")
        assert record is not None
        assert not isinstance(await store.put("parent", b"2", expect=ANY, keep=None), Conflict)


async def use_in_child(store: SqliteStore) -> int:
    """Use the parent's store object in a loop of the child's own."""
    record = await store.get("parent")
    await store.put("child", b"1", expect=ANY, keep=None)
    return 0 if record is not None and record.value == b"1" else 1


# ── watching ─────────────────────────────────────────────────────────────────────────────────────


async def test_own_writes_are_pushed(url: str, monkeypatch: pytest.MonkeyPatch):
    """Within one store a watch does not wait for the next look at the file."""
    monkeypatch.setattr(sqlite, "POLL_SECONDS", 30.0)
    async with SqliteStore(url) as store, store.watch("a") as records:
        await store.put("a", b"1", expect=ANY, keep=None)
        with anyio.fail_after(5):
            assert (await anext(aiter(records))).value == b"1"


async def test_polling_is_rare_and_ends_with_the_watch(url: str):
    """The file is polled about twenty times a second while a record is watched, and not at all afterwards (C22)."""
    async with SqliteStore(url) as store:
        looks = 0
        idle_work = store._reader._hooks.idle_work

        def counted(file: Any) -> None:
            nonlocal looks
            looks += 1
            idle_work(file)

        assert store._reader._thread is not None
        store._reader._thread._hooks = store._reader._hooks._replace(idle_work=counted)
        async with store.watch("a"):
            await anyio.sleep(0.5)
        await store.get("a")
        seen = looks
        await anyio.sleep(0.3)
        assert 2 <= seen <= 15
        assert looks <= seen + 3  # what was asked before


# ── the diagnosis ────────────────────────────────────────────────────────────────────────────────


async def test_a_diagnosis(url: str, tmp_path: Path):
    """A file as it should be gives no reason for worry."""
    async with SqliteStore(url) as store:
        diagnosis = await store.diagnose()
    assert diagnosis.server == f"SQLite {sqlite3.sqlite_version}"
    assert {fact.level for fact in diagnosis.checks} == {"ok"}
    assert diagnosis.unsafe == ()


async def test_a_diagnosis_of_a_file_that_loses_commits(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Less syncing, a network file system and a file without rights are said, with the clauses that suffer."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"disk / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(sqlite_diagnose, "MOUNTS", mounts)
    monkeypatch.setattr(sqlite_diagnose, "is_writable", lambda _: False)
    async with SqliteStore(f"{url}?synchronous=normal") as store:
        diagnosis = await store.diagnose()
    facts = {fact.name: fact for fact in diagnosis.checks}
    assert facts["synchronous"].clauses == ("C1", "C10")
    assert (facts["place"].level, facts["permission"].level) == ("fail", "fail")
    assert "nfs4" in facts["place"].text
    assert "power cut takes" in diagnosis.durability


def test_a_file_that_may_not_be_written(tmp_path: Path):
    """A store that may only read names the file (skipped for root, which may do anything)."""
    if os.getuid() == 0:
        pytest.skip("root may write everything")

    async def use() -> None:
        async with SqliteStore(f"sqlite:///{tmp_path}/r.db") as store:
            await store.put("a", b"1", expect=ANY, keep=None)

    anyio.run(use)
    (tmp_path / "r.db").chmod(stat.S_IRUSR)
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(BrokerUnavailable, match=r"r\.db"):
            anyio.run(use)
    finally:
        tmp_path.chmod(stat.S_IRWXU)


async def test_many_records_are_read_in_order(url: str):
    """``get_many`` answers for each key, in order; a missing or ended record is None."""
    async with SqliteStore(url) as store:
        await store.put_many([Write(key=f"k{number}", value=b"%d" % number) for number in range(0, 50, 2)])
        found = await store.get_many([f"k{number}" for number in reversed(range(50))])
        assert [record and int(record.value) for record in found] == [
            number if number % 2 == 0 else None for number in reversed(range(50))
        ]
        assert await store.get_many([]) == []


async def test_the_files_are_for_their_owner_alone(url: str, tmp_path: Path) -> None:
    """Results are not readable for other users, whatever the umask is; a file that exists keeps its permissions."""
    before = os.umask(0o000)
    try:
        async with open_store(url) as store:
            await store.put("a", b"1", expect=ANY, keep=60)
            modes = _modes(tmp_path)
        (tmp_path / "r.db").chmod(0o640)
        async with open_store(url) as store:
            await store.put("a", b"2", expect=ANY, keep=60)
    finally:
        os.umask(before)
    assert modes == {"r.db": 0o600, "r.db-wal": 0o600, "r.db-shm": 0o600}
    assert stat.S_IMODE((tmp_path / "r.db").stat().st_mode) == 0o640


def _modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}

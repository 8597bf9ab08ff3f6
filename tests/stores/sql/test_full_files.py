"""A store's file that is full: a worker keeps its jobs, keyed ones too, and ends them when there is room again (C8)."""

from __future__ import annotations

import anyio
import pytest

from taskcore import App
from taskcore.stores.sql import SqliteStore

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture
def anyio_backend():
    """SQLite runs beside either event loop; one of them is enough here."""
    return "asyncio"


async def test_a_full_file_keeps_jobs_until_there_is_room(tmp_path, caplog):
    """Results and keys that the file has no room for are an outage: no job is lost or dead, and the worker lives."""
    store = SqliteStore(f"sqlite:///{tmp_path}/full.db")
    app = App("memory://", store=store, lease=2.0)
    runs = []

    @app.task(name="large")
    async def large(number: int) -> str:
        runs.append(number)
        return "x" * 20_000

    async with app.running(concurrency=4):
        await (await large.enqueue(-1)).result(timeout=10)
        pages = limited_pages(store)
        pages[0] = 1
        plain = await app.enqueue_many(large.call(number) for number in range(4))
        await anyio.sleep(3.0)
        stats = await app.stats()
        assert stats.ready + stats.leased + stats.scheduled == 4
        assert not stats.dead
        pages[0] = 100_000
        for job in plain:
            assert len(await job.result(timeout=20)) == 20_000
        keyed = await large.using(key="k").enqueue(9)
        assert len(await keyed.result(timeout=20)) == 20_000
    assert runs.count(9) == 1
    assert "store lost" in caplog.text or "broker lost" in caplog.text


def limited_pages(store):
    """Let every writing connection believe that the disk ends at so many pages; SQLite cuts none that are there."""
    thread = store._writer._shared.thread
    pages, work = [100_000], thread._hooks.work

    def limited(file, batch):
        file.connection.execute(f"PRAGMA max_page_count = {pages[0]}")
        return work(file, batch)

    thread._hooks = thread._hooks._replace(work=limited)
    thread._thread._hooks = thread._hooks
    return pages

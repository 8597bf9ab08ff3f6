"""Several processes on one database: one winner of each race, and no process harmed by the death of another."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskcore.adapters import open_store
from taskcore.faults import WorkerProcess
from taskcore.store import ANY, Conflict, Record, Store, Write

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

RACER = Path(__file__).parent / "racer.py"
RACERS, ROUNDS = 4, 60


async def test_one_winner_of_each_race(url: str, tmp_path: Path):
    """Four processes count one record up; no increment is lost, none is done twice."""
    async with AsyncExitStack() as exits:
        racers = [
            await exits.enter_async_context(
                WorkerProcess(RACER, url, "race", f"r{number}", ROUNDS, folder=tmp_path, who=f"r{number}")
            )
            for number in range(RACERS)
        ]
        for racer in racers:
            assert await racer.wait(60) == 0, racer.output()
    async with open_store(url) as store:
        record = await store.get("counter")
        assert record is not None
        assert int(record.value) == RACERS * ROUNDS


async def test_a_killed_writer_leaves_all_or_nothing(url: str, tmp_path: Path):
    """Kill -9 at any moment: what was confirmed is there, and of a transaction either everything or nothing (C1)."""
    async with open_store(url) as store:
        for number, pause in enumerate((0.05, 0.11, 0.2)):
            await store.put_many([Write(key="left", value=b"0"), Write(key="right", value=b"0")])
            async with WorkerProcess(RACER, url, "flood", folder=tmp_path, who=f"flood{number}") as writer:
                await writer.says("confirmed")
                await anyio.sleep(pause)
                writer.kill()
                confirmed = [int(found) for found in re.findall(r"confirmed (\d+)", writer.output(lines=100_000))]
            left, right = await settled(store)
            assert left is not None
            assert right is not None
            assert left.value == right.value
            assert int(left.value) in (confirmed[-1], confirmed[-1] + 1)
            assert not isinstance(await store.put("left", b"alive", expect=left.version, keep=None), Conflict)


async def settled(store: Store) -> tuple[Record | None, Record | None]:
    """Read both records once they stay as they are: a server carries out a dead client's last statement."""
    before: Any = None
    with anyio.fail_after(10):
        while (now := (await store.get("left"), await store.get("right"))) != before:
            before = now
            await anyio.sleep(0.3)
    return now


async def test_a_lock_dies_with_its_holder(tmp_path: Path):
    """A process that is killed inside of a transaction delays no other, and has changed nothing."""
    url = f"sqlite:///{tmp_path}/r.db"
    async with open_store(url) as store:
        await store.put("a", b"1", expect=ANY, keep=None)
        async with WorkerProcess(RACER, url, "begin", folder=tmp_path) as holder:
            await holder.says("ready")
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: store.put("b", b"2", expect=ANY, keep=None))
                await anyio.sleep(0.1)
                holder.kill()
        record = await store.get("a")
        assert record is not None
        assert record.value == b"1"
        assert await store.get("b") is not None

"""Instances whose clocks differ are found out from the side that is behind, and told by ``taskcore doctor``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio

from taskcore import App
from taskcore.backends.memory import MemoryBackend
from taskcore.schedules.clocks import clock_differences
from taskcore.stores.memory import MemoryStore
from tests.support import virtual
from tests.support.shell import run


def test_a_clock_that_is_ahead_is_found() -> None:
    """Of three instances the one that is ahead is named, with how much; equal clocks are no difference."""

    async def scenario() -> None:
        backend, store = MemoryBackend(), MemoryStore()

        def instance(name: str, skew: float) -> App:
            return App(backend, store=store, source=name, schedules=True, clock=lambda: virtual.clock() + skew)

        right, same, fast = instance("right", 0.0), instance("same", 0.0), instance("fast", 2.3)
        async with right.running(queues="q"), same.running(queues="q"):
            await anyio.sleep(150)
            assert await clock_differences(store) == []
            async with fast.running(queues="q"):
                await anyio.sleep(150)
                [found] = await clock_differences(store)
                assert (found.ahead, found.seconds) == ("fast", 2.3)
                assert found.behind in {"right", "same"}
            await anyio.sleep(700)
            assert await clock_differences(store) == []

    anyio.run(scenario, backend_options=virtual.options("asyncio"))


def test_doctor_reports_clocks(tmp_path: Path) -> None:
    """Doctor names the instance that is ahead, if the app has schedules."""
    (tmp_path / "shop.py").write_text(f"""
from taskcore import App

app = App("memory://", store="sqlite:///{tmp_path}/store.db")


@app.schedule("s", every=10)
@app.task
async def work() -> None: ...
""")
    program = """
import anyio, msgspec
from shop import app
from taskcore.schedules.clocks import AHEAD_RECORD, ClockDifference
from taskcore.store import ANY

async def main():
    async with app:
        value = msgspec.json.encode({"fast": ClockDifference("fast", "right", 2.3)})
        await app.components.store.put(AHEAD_RECORD, value, expect=ANY, keep=600.0)

anyio.run(main)
"""
    assert "no worker that fires schedules was ahead" in run(tmp_path, "doctor", "shop:app").stdout
    (tmp_path / "plant.py").write_text(program)

    subprocess.run([sys.executable, "plant.py"], cwd=tmp_path, check=True, timeout=20)
    assert "clocks differ by 2.3 s: fast is ahead of right" in run(tmp_path, "doctor", "shop:app").stdout

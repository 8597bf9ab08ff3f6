"""Many instances, clocks that differ, deaths at any moment: each instant is one job, and none is missing.

``TASKCORE_SEEDS=10000`` plays so many seeds.
"""

from __future__ import annotations

import os
import random

import anyio
import pytest

from taskcore import App
from tests.schedules.fleet import Fleet
from tests.support import virtual

SEEDS = int(os.environ.get("TASKCORE_SEEDS", "25"))
SECONDS = 14.0

pytestmark = pytest.mark.timeout(0 if SEEDS > 100 else 120)


def declare(app: App) -> None:
    """Declare schedules of a second, with a spread and without, one of them of a task that runs at most once."""

    @app.schedule("plain", every=1, overlap="allow")
    @app.schedule("spread", every=1, spread="700ms", overlap="allow")
    @app.schedule("slow", every="3s", overlap="allow")
    @app.task(name="work")
    async def work() -> None:
        app.note()

    @app.schedule("once", every=1, overlap="allow")
    @app.task(name="risky", delivery="at_most_once")
    async def risky() -> None:
        app.note()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_each_instant_is_one_job(seed: int) -> None:
    """Whatever dies when: each instant of each schedule is started once, and none that is due is missing."""

    async def play() -> tuple[Fleet, float]:
        fleet = Fleet(declare)
        await fleet.run(SECONDS, random.Random(seed))
        return fleet, virtual.clock()

    fleet, now = anyio.run(play, backend_options=virtual.options("asyncio"))
    twice = {tick: number for tick, number in fleet.started.items() if number > 1}
    assert not twice
    for schedule in ("plain", "spread", "slow"):
        due = fleet.due(schedule, now - 8.0)  # seven seconds are enough to finish a claim of a dead instance
        started = {instant for name, instant in fleet.started if name == schedule}
        assert not [instant for instant in due if instant not in started], schedule
        assert started <= set(fleet.due(schedule, now + 5.0))
        assert fleet.record(schedule).missed == 0
    lost = fleet.record("once").lost + len(fleet.record("once").open)
    started = {instant for name, instant in fleet.started if name == "once"}
    assert len(set(fleet.due("once", now - 8.0)) - started) <= lost

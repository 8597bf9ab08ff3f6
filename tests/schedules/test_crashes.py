"""A scheduler that dies between two of its writes: the instant is one job all the same, a few seconds later."""

from __future__ import annotations

import anyio
import pytest

from taskcore import App
from taskcore.backends.memory import MemoryBackend
from taskcore.schedules.storage import ScheduleStorage
from taskcore.stores.memory import MemoryStore
from taskcore.testing.crash_points import SimulatedCrash, crash_at
from tests.schedules.fleet import POINTS, Fleet
from tests.support import virtual

LATEST = 6.0  #: seconds that a tick may be late whose instance died


def story_of(point: str, delivery: str, overlap: str, *, away: float = 0.0) -> tuple[list[tuple[float, float]], int]:
    """Let the first instance die at a failpoint while a second one lives on; return (instant, when) of all starts.

    :param away: seconds for which no instance lives after the death.
    """
    started: list[tuple[float, float]] = []
    lost = 0

    def make(backend: MemoryBackend, store: MemoryStore, name: str, *, schedules: bool) -> App:
        app = App(backend, store=store, clock=virtual.clock, source=name, schedules=schedules, heartbeat=0)

        @app.schedule("s", every=10, phase=0, overlap=overlap)
        @app.task(name="work", delivery=delivery)
        async def work() -> None:
            from taskcore import current  # noqa: PLC0415 - what a task sees

            tick = current().tick
            assert tick is not None
            started.append((tick.at.timestamp() - virtual.EPOCH, virtual.clock() - virtual.EPOCH))

        return app

    async def scenario() -> None:
        nonlocal lost
        backend, store = MemoryBackend(), MemoryStore()
        first, second = (make(backend, store, name, schedules=True) for name in ("first", "second"))
        worker = make(backend, store, "worker", schedules=False)
        async with first, second, worker.running():
            with pytest.raises(BaseExceptionGroup) as died, crash_at(point):
                await first.schedule.scheduler().run()
            assert died.group_contains(SimulatedCrash)
            await anyio.sleep(away)
            with anyio.move_on_after(75.0):
                await second.schedule.scheduler().run()
            found = await ScheduleStorage(store).find("s")
            assert found is not None
            assert not found.record.open
            lost = found.record.lost

    anyio.run(scenario, backend_options=virtual.options("asyncio"))
    return started, lost


@pytest.mark.parametrize("overlap", ["allow", "skip", "queue", "latest"])
@pytest.mark.parametrize("point", POINTS)
def test_a_death_loses_and_doubles_nothing(point: str, overlap: str) -> None:
    """Whatever the policy for overlaps, each instant starts once, and the one of the dead instance soon."""
    started, _ = story_of(point, "at_least_once", overlap)
    instants = [instant for instant, _ in started]
    assert instants == [10.0 * n for n in range(1, len(instants) + 1)]
    assert len(instants) >= 8
    assert all(when - instant < LATEST for instant, when in started)


@pytest.mark.parametrize("point", POINTS)
def test_at_most_once(point: str) -> None:
    """A tick of a task that runs at most once never starts twice; one that may be lost is counted."""
    started, lost = story_of(point, "at_most_once", "allow")
    instants = [instant for instant, _ in started]
    assert len(set(instants)) == len(instants)
    missing = {10.0 * n for n in range(1, 8)} - set(instants)
    assert missing == ({10.0} if point == "schedule.claimed" else set())
    assert lost == (point != "schedule.confirmed")


@pytest.mark.parametrize("point", ["schedule.claimed", "schedule.published"])
def test_a_claim_that_outlived_its_key(point: str) -> None:
    """A claim is sent again while its key is remembered; after that it is lost, counted, and never sent twice."""
    started, lost = story_of(point, "at_least_once", "skip", away=20 * 3600.0)
    assert ([instant for instant, _ in started].count(10.0), lost) == (1, 0)
    started, lost = story_of(point, "at_least_once", "skip", away=30 * 3600.0)
    assert ([instant for instant, _ in started].count(10.0), lost) == (int(point == "schedule.published"), 1)
    assert len(started) > 5


def test_the_fleet_finds_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that never finishes the claims of dead instances is found out by the test with many instances."""
    import random  # noqa: PLC0415 - for this test only

    from taskcore.schedules import decide  # noqa: PLC0415 - the same
    from tests.schedules.test_fleet import SECONDS, declare  # noqa: PLC0415 - the same

    monkeypatch.setattr(decide, "CONFIRM_TIMEOUT", 10**9)

    async def play(seed: int) -> bool:
        fleet = Fleet(declare)
        await fleet.run(SECONDS, random.Random(seed))
        due = fleet.due("plain", virtual.clock() - 8.0)
        return any(("plain", instant) not in fleet.started for instant in due)

    found = [anyio.run(play, seed, backend_options=virtual.options("asyncio")) for seed in range(5)]
    assert any(found)

"""A fleet of schedulers under a virtual clock, whose instances die at any moment and come back."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from contextvars import ContextVar

import anyio

from taskcore import App, current
from taskcore.backends.memory import MemoryBackend
from taskcore.schedules.record import decode_record, record_name
from taskcore.schedules.timetable import upcoming
from taskcore.stores.memory import MemoryStore
from taskcore.testing.crash_points import SimulatedCrash
from taskcore.toolkit.failpoints import arm
from tests.support.virtual import clock

QUIET = 12.0  #: seconds at the end in which no instance dies
POINTS = ("schedule.claimed", "schedule.published", "schedule.confirmed")


class Fleet:
    """Some instances over one broker and one store; a worker beside them that never dies.

    :ivar started: how often each (schedule, instant in milliseconds) was started.
    """

    def __init__(self, declare: Callable[[App], object], *, skews: tuple[float, ...] = (-2.0, 0.0, 2.0)) -> None:
        self.backend, self.store = MemoryBackend(), MemoryStore()
        self.started: Counter[tuple[str, int]] = Counter()
        self.apps = [self.make(declare, skew, f"instance-{number}") for number, skew in enumerate(skews)]
        self.worker = self.make(declare, 0.0, "worker", schedules=False)

    def make(self, declare: Callable[[App], object], skew: float, name: str, **settings) -> App:
        """Make one instance."""
        app = App(self.backend, store=self.store, clock=lambda: clock() + skew, source=name, **settings)

        def note() -> None:
            tick = current().tick
            assert tick is not None
            self.started[tick.schedule, round(tick.at.timestamp() * 1000)] += 1

        app.note = note  # type: ignore[attr-defined]
        declare(app)
        return app

    async def run(self, seconds: float, dice: random.Random, *, life: float = 2.0) -> None:
        """Let instances live and die for some seconds, then let one of them catch up."""
        async with AsyncExitStack() as opened:
            for app in self.apps:
                await opened.enter_async_context(app)
            await opened.enter_async_context(self.worker.running())
            arm(die)
            opened.callback(arm, None)
            async with anyio.create_task_group() as group:
                for app in self.apps:
                    group.start_soon(self._live_and_die, app, dice, anyio.current_time() + seconds, life)
                await anyio.sleep(seconds + QUIET)
                group.cancel_scope.cancel()
            await self.worker.drain(timeout=60)

    async def _live_and_die(self, app: App, dice: random.Random, until: float, life: float) -> None:
        while anyio.current_time() < until:
            left = until - anyio.current_time()
            await run_and_die(app, after=min(dice.expovariate(1 / life), left), dice=dice)
            await anyio.sleep(dice.random())
        await app.schedule.scheduler().run()

    def record(self, schedule: str):
        """Read the record of a schedule as it stands."""
        found = self.store._find(record_name(schedule))
        assert found is not None
        return decode_record(found.value)

    def due(self, schedule: str, until: float) -> list[int]:
        """List the instants that a schedule had since it was written."""
        record, end = self.record(schedule), until * 1000
        found = []
        for instant in upcoming(record.timetable, record.since):
            if instant > end:
                return found
            found.append(instant)
        return found


#: The failpoint at which the instance of this task dies, and the dice that say whether now.
doomed: ContextVar[tuple[str, random.Random] | None] = ContextVar("doomed", default=None)


def die(name: str) -> None:
    """Crash the instance that passes its failpoint."""
    chosen = doomed.get()
    if chosen is not None and name == chosen[0] and chosen[1].random() < 0.3:
        raise SimulatedCrash(name)


async def run_and_die(app: App, *, after: float, dice: random.Random) -> None:
    """Run one scheduler until it dies: after some seconds, or now and then at a failpoint before that."""
    doomed.set((dice.choice(POINTS), dice) if dice.random() < 0.7 else None)
    try:
        with anyio.move_on_after(after):
            await app.schedule.scheduler().run()
    except BaseExceptionGroup as group:
        crashes, others = group.split(SimulatedCrash)
        if others is not None or crashes is None:
            raise
    finally:
        doomed.set(None)

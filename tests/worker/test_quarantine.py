"""A job that kills its process is found after `crashes` starts; its neighbours are never blamed (C12)."""

from __future__ import annotations

from collections import Counter

import anyio
import msgspec
import pytest

from taskcore import App, Dead, Retry, Snooze, current
from taskcore.conformance.step_worker import StepWorker
from taskcore.envelope import CrashRecord
from taskcore.records.markers import StartMarkers, Starts
from taskcore.records.names import is_start_name
from taskcore.store import ABSENT
from taskcore.stores.memory import MemoryStore
from tests.support.faulty import FaultyBackend, FaultyStore, doomed, letters
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]

LEASE = 60.0


class Village:
    """A broker and a store that outlive the programs, and tasks of which one kills its process.

    :param crashes: how many starts may kill a process.
    """

    def __init__(
        self,
        *,
        crashes: int = 3,
        with_store: bool = True,
        retry: Retry | None = None,
        broker: type[FaultyBackend] = FaultyBackend,
    ) -> None:
        self.backend, self.store = broker(), FaultyStore()
        self.starts: Counter[str] = Counter()
        self.crashes: list[int] = []
        self.company: list[set[str]] = []
        self.running: set[str] = set()
        self.died = anyio.Event()
        app = self.app = App(
            self.backend, store=self.store if with_store else None, clock=clock, lease=LEASE, keep_result=10 * 86_400.0
        )
        options = {"keep_result": None} if not with_store else {}

        @app.task(name="poison", crashes=crashes, retry=retry or Retry(), **options)
        async def poison() -> None:
            self.starts["poison"] += 1
            self.crashes.append(current().crashes)
            self.company.append(set(self.running))
            self.died.set()
            await anyio.sleep_forever()

        @app.task(name="innocent", crashes=crashes, retry=retry or Retry(), **options)
        async def innocent(number: int, seconds: float = 1.0) -> int:
            me = f"innocent {number}"
            self.starts[me] += 1
            self.running.add(me)
            try:
                await anyio.sleep(seconds)
            finally:
                self.running.discard(me)
            return number

    async def live_and_die(self, *, after: float = 0.0, **options) -> bool:
        """Run a process until poison kills it, or until nothing is left to do; return True if it died."""
        self.died = anyio.Event()
        died = False
        async with doomed(self.app, **options):
            with anyio.move_on_after(10 * LEASE):
                await self.died.wait()
                died = True
                await anyio.sleep(after)
        self.running.clear()
        return died


async def test_poison_is_buried_after_so_many_starts():
    """A job that kills its process starts `crashes` times in all, then it is a dead letter (F10)."""
    village = Village(crashes=3)
    async with village.app:
        job = await village.app.tasks["poison"].enqueue()
        deaths = [await village.live_and_die() for _ in range(5)]

        assert await job.outcome(timeout=1) == Dead("poison", None)
        [letter] = await letters(village.app)
    assert deaths == [True, True, True, False, False]
    assert village.starts["poison"] == 3
    assert letter.reason == "poison"
    assert letter.trail.crashes >= 2


@pytest.mark.parametrize("crashes", [1, 2, 3, 5])
async def test_any_number_of_crashes(crashes):
    """A task sets how many crashes a job may have."""
    village = Village(crashes=crashes)
    async with village.app:
        await village.app.tasks["poison"].enqueue()
        while await village.live_and_die():
            pass

        assert await village.app.dead_letters.count() == 1
    assert village.starts["poison"] == crashes


async def test_without_a_store_the_broker_counts():
    """Without a store the broker's count of redeliveries stands in."""
    village = Village(crashes=3, with_store=False)
    async with village.app:
        await village.app.tasks["poison"].enqueue()
        while await village.live_and_die():
            pass

        assert await village.app.dead_letters.count() == 1
    assert village.starts["poison"] == 3


async def test_jobs_beside_poison_are_never_buried():
    """Jobs that run or wait beside poison all end well, however often their process dies (F12)."""
    village = Village(crashes=3)
    async with village.app:
        calls = [village.app.tasks["innocent"].call(number) for number in range(9)]
        calls.insert(4, village.app.tasks["poison"].call())
        jobs = await village.app.enqueue_many(calls)
        while await village.live_and_die(concurrency=20):
            pass

        outcomes = [await job.outcome(timeout=1) for job in jobs]
        assert [letter.task for letter in await letters(village.app)] == ["poison"]
    assert [getattr(outcome, "value", None) for outcome in outcomes] == [0, 1, 2, 3, None, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("concurrency", [1, 2, 5, 20])
@pytest.mark.parametrize("poisons", [1, 3])
async def test_jobs_beside_several_poisons_are_never_buried(poisons, concurrency):
    """Each poison is found, and no other job, with any number of jobs at once."""
    village = Village(crashes=3)
    async with village.app:
        calls = [village.app.tasks["innocent"].call(number, 0.0 if number % 2 else 30.0) for number in range(6)]
        for _ in range(poisons):
            calls.insert(2, village.app.tasks["poison"].call())
        jobs = await village.app.enqueue_many(calls)
        while await village.live_and_die(concurrency=concurrency):
            pass

        buried = [letter.task for letter in await letters(village.app)]
        results = [getattr(await job.outcome(timeout=1), "value", None) for job in jobs]
    assert buried == ["poison"] * poisons
    assert [result for result in results if result is not None] == list(range(6))
    assert village.starts["poison"] <= 3 * poisons


async def test_the_last_start_runs_alone():
    """The start after which a job would be buried has no company, so no other job can be blamed for its death."""
    village = Village(crashes=3)
    async with village.app:
        await village.app.tasks["poison"].enqueue()
        while await village.live_and_die():
            number = sum(village.starts.values())
            await village.app.enqueue_many([village.app.tasks["innocent"].call(number + i, 5.0) for i in range(5)])

    assert len(village.company) == 3
    assert village.company[-1] == set()


async def test_crashes_are_reported_and_never_decrease():
    """A job can see how often it is suspected; the number grows (C5)."""
    village = Village(crashes=5)
    async with village.app:
        await village.app.tasks["poison"].enqueue()
        while await village.live_and_die():
            pass
        [letter] = await letters(village.app)

    assert village.crashes == sorted(village.crashes)
    assert letter.trail.crashes >= village.crashes[-1]


async def test_failing_and_crashing_by_turns_is_bounded():
    """A job that fails, crashes, fails, … starts at most attempts + crashes times (C3)."""
    backend, store = FaultyBackend(), FaultyStore()
    app = App(backend, store=store, clock=clock, lease=LEASE)
    starts, died = [], [anyio.Event()]

    @app.task(retry=Retry(attempts=4, base=1.0, jitter="none"), crashes=3)
    async def moody() -> None:
        starts.append(current().crashes)
        if len(starts) % 2:
            raise ConnectionError
        died[0].set()
        await anyio.sleep_forever()

    async with app:
        job = await moody.enqueue()
        for _ in range(12):
            died[0] = anyio.Event()
            async with doomed(app):
                with anyio.move_on_after(3 * LEASE):
                    await died[0].wait()

        assert isinstance(await job.outcome(timeout=1), Dead)
    assert len(starts) <= 4 + 3
    assert starts == sorted(starts)


async def test_failing_and_crashing_without_a_store_is_bounded():
    """Failures and crashes are bounded where only the broker counts."""
    app = App(FaultyBackend(), clock=clock, lease=LEASE)
    starts, died = [], [anyio.Event()]

    @app.task(retry=Retry(attempts=4, base=1.0, jitter="none"), crashes=3, keep_result=None)
    async def moody() -> None:
        starts.append(current().crashes)
        if len(starts) % 2:
            died[0].set()
            await anyio.sleep_forever()
        raise ConnectionError

    async with app:
        await moody.enqueue()
        for _ in range(12):
            died[0] = anyio.Event()
            async with doomed(app):
                with anyio.move_on_after(3 * LEASE):
                    await died[0].wait()

        assert await app.dead_letters.count() == 1
    assert len(starts) <= 4 + 3
    assert starts == sorted(starts)


async def test_a_start_that_ended_is_no_crash():
    """Snoozing, failing and being released again and again makes no job a suspect."""
    app = App("memory://", clock=clock, lease=LEASE)
    seen = []

    @app.task(crashes=2, retry=Retry(attempts=50, base=1.0, factor=1.0))
    async def busy() -> str:
        seen.append(current().crashes)
        if len(seen) > 30:
            return "done"
        if len(seen) % 3 == 0:
            raise Snooze(1.0)
        if len(seen) % 3 == 1:
            raise ConnectionError
        await anyio.sleep(3.0)
        raise TimeoutError

    async with app:
        job = await busy.enqueue()
        for _ in range(20):
            async with app.running(grace=0.0):
                await anyio.sleep(4.5)
        async with app.running():
            assert await job.result(timeout=500) == "done"
    assert set(seen) == {0}


async def test_nothing_is_left_in_the_store():
    """Start markers go when the job ends, also when it ends as poison (C23)."""
    village = Village(crashes=3)
    async with village.app:
        calls = [village.app.tasks["innocent"].call(number) for number in range(4)]
        await village.app.enqueue_many([*calls, village.app.tasks["poison"].call()])
        while await village.live_and_die():
            pass
    assert [key for key in village.store._records if not key.startswith("job/")] == []


class Unreachable(FaultyBackend):
    """A broker that cannot take back a job that waits."""

    @property
    def features(self):
        """All but that."""
        return msgspec.structs.replace(super().features, remove="absent")


async def test_a_look_at_a_first_delivery_is_no_mark():
    """Where waiting jobs cannot be taken back, every job is looked up before it starts; that is not a start (C12)."""
    village = Village(broker=Unreachable)
    async with village.app:
        await village.app.tasks["poison"].enqueue()
        deaths = [await village.live_and_die() for _ in range(5)]
    assert deaths == [True, True, True, False, False]
    assert village.starts["poison"] == 3


async def test_a_letter_names_the_worker_and_time_of_each_crash():
    """A poison letter has a record for each start without an outcome; of the first one only when it was noticed."""
    village = Village(crashes=3)
    village.app.settings = msgspec.structs.replace(village.app.settings, source="host:7")
    began = clock()
    async with village.app:
        await village.app.tasks["poison"].enqueue()
        while await village.live_and_die():
            pass
        [letter] = await letters(village.app)

    assert [one.worker for one in letter.trail.crashed] == ["?", "host:7", "host:7"]
    times = [one.when for one in letter.trail.crashed]
    assert began < times[0] <= times[1] < times[2] < clock()


async def test_a_retry_keeps_the_records_of_crashes():
    """What is known of crashes goes on with a job that fails afterwards, up to its letter."""
    backend, store = FaultyBackend(), FaultyStore()
    app = App(backend, store=store, clock=clock, lease=LEASE)
    begun, starts = anyio.Event(), list[int]()

    @app.task(retry=Retry(attempts=2, base=1.0, jitter="none"), crashes=5)
    async def turns() -> None:
        starts.append(current().crashes)
        begun.set()
        if len(starts) <= 2:
            await anyio.sleep_forever()
        raise OSError

    async with app:
        job = await turns.enqueue()
        for _ in range(2):
            begun = anyio.Event()
            async with doomed(app):
                await begun.wait()
        async with app.running():
            await job.outcome(timeout=10 * LEASE)
        [letter] = await letters(app)
    assert letter.trail.attempts == 2
    assert len(letter.trail.crashed) == 2


class FreezingStore(MemoryStore):
    """A store whose next mark of a start waits, as in a worker that is frozen before it."""

    frozen: anyio.Event | None = None

    async def put_many(self, writes):
        """Write, once the worker goes on."""
        if self.frozen is not None and any(is_start_name(write.key) for write in writes):
            frozen, self.frozen = self.frozen, None
            await frozen.wait()
        return await super().put_many(writes)


async def test_a_frozen_worker_counts_no_start_of_another():
    """A worker that goes on after its lease has ended neither starts the job nor hides the start of another worker."""
    backend, store = FaultyBackend(), FreezingStore()
    app = App(backend, store=store, clock=clock, lease=LEASE)
    starts: list[int] = []

    @app.task(crashes=3)
    async def poison() -> None:
        starts.append(current().crashes)
        await anyio.sleep_forever()

    async def start_and_die(worker: StepWorker) -> None:
        with anyio.move_on_after(1):
            await worker.work(await worker.take())

    async with app, StepWorker(app, ["default"]) as first, StepWorker(app, ["default"]) as second:
        await poison.enqueue()
        await start_and_die(first)
        await anyio.sleep(LEASE + 1)
        job, go_on, ended = await first.take(), anyio.Event(), []

        async def frozen() -> None:
            store.frozen = go_on
            ended.append(await first.work(job))

        async with anyio.create_task_group() as group:
            group.start_soon(frozen)
            await anyio.sleep(LEASE + 1)
            await start_and_die(second)
            go_on.set()
        assert ended == [False]
        while not await app.dead_letters.count():
            await anyio.sleep(LEASE + 1)
            await start_and_die(second)
    assert starts == [0, 0, 1]


async def test_a_mark_whose_answer_was_lost_is_the_own_one():
    """A mark that is repeated because its answer was lost is no sign of another worker."""
    store = MemoryStore()
    markers, starts = StartMarkers(store), Starts(1, (CrashRecord("host:7", 5.0),))
    for _ in range(2):
        assert await markers.mark("start/x/0", starts, ABSENT)
    assert not await markers.mark("start/x/0", Starts(1, (CrashRecord("host:8", 5.0),)), ABSENT)

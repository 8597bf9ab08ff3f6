"""Schedules in code and at run time, on the in-memory broker under a virtual clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import msgspec
import pytest

from taskcore import App, InvalidName, InvalidSetting, Retry, StoreRequired, current
from taskcore.backends.memory import MemoryBackend
from taskcore.schedules import ScheduleExists, ScheduleNotFound
from taskcore.stores.memory import MemoryStore
from tests.support import virtual

LATE = 0.3  #: seconds that a tick may be late


def play(scenario: Callable[[], Awaitable[object]]) -> None:
    """Run a scenario on a virtual clock."""
    anyio.run(scenario, backend_options=virtual.options("asyncio"))


class ScheduleHarness:
    """A broker and a store that several programs share, and what their jobs saw."""

    def __init__(self) -> None:
        self.backend, self.store = MemoryBackend(), MemoryStore()
        self.ticks: list[Any] = []
        self.seen: list[tuple[str, Any]] = []

    def app(self, **settings) -> App:
        """Make a program with a task that notes its ticks."""
        app = App(self.backend, store=self.store, clock=virtual.clock, **settings)

        @app.task(name="work")
        async def work(name: str = "", seconds: float = 0.0) -> None:
            self.ticks.append(current().tick)
            self.seen.append((name, current().tick))
            await anyio.sleep(seconds)

        app.work = work  # type: ignore[attr-defined]
        return app

    def instants(self, schedule: str) -> list[float]:
        """Return when the ticks of a schedule were, in seconds since the clock began."""
        return [tick.at.timestamp() - virtual.EPOCH for tick in self.ticks if tick and tick.schedule == schedule]


async def _record(app: App, schedule: str) -> Any:
    async with app:
        return (await app.schedules.get(schedule)).record


def test_a_declared_schedule_fires() -> None:
    """Each instant is one job that knows its schedule, its instant and the one before."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        app = harness.app()
        app.schedule("each-minute", cron="* * * * *")(app.work)
        app.schedule("with-call", every="20s", phase=0)(app.work.call("eu"))
        async with app.running():
            await anyio.sleep(125)
        assert harness.instants("each-minute") == [60, 120]
        assert harness.instants("with-call") == [20, 40, 60, 80, 100, 120]
        first, second = (tick for tick in harness.ticks if tick.schedule == "each-minute")
        assert (first.previous, second.previous) == (None, first.at)
        assert {name for name, tick in harness.seen if tick.schedule == "with-call"} == {"eu"}
        assert app.counters["schedule.fired"] == 8

    play(scenario)


def test_children_do_not_inherit_the_tick() -> None:
    """A job that a tick's job sends has no tick of its own."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        app = harness.app()

        @app.schedule("parent", every="10s", phase=0)
        @app.task(name="parent")
        async def parent() -> None:
            assert current().tick is not None
            await app.work.enqueue("child")

        async with app.running():
            await anyio.sleep(15)
        assert [(name, tick) for name, tick in harness.seen if name == "child"] == [("child", None)]

    play(scenario)


def test_put_at_run_time() -> None:
    """A running worker learns at once of a schedule that another program puts, changes, pauses, resumes and removes."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        worker, web = harness.app(schedules=True), harness.app()
        async with worker.running(), web:
            await anyio.sleep(5)
            schedule = await web.schedules.put("c-42", web.work.call("a"), every=10, phase=0)
            await anyio.sleep(20)
            assert harness.instants("c-42") == [10, 20]
            await web.schedules.put("c-42", web.work.call("b"), every=10, phase=0, on_exists="replace")
            await anyio.sleep(10)
            assert [name for name, _ in harness.seen] == ["a", "a", "b"]
            await schedule.pause("invoice open")
            await anyio.sleep(30)
            again = await web.schedules.get("c-42")
            assert (again.is_paused, again.record.note, len(harness.ticks)) == (True, "invoice open", 3)
            await schedule.resume()
            await anyio.sleep(10)
            assert harness.instants("c-42") == [10, 20, 30, 70]
            assert (await web.schedules.get("c-42")).record.missed == 0
            assert await schedule.remove()
            assert not await schedule.remove()
            await anyio.sleep(30)
            assert len(harness.ticks) == 4
            assert [one async for one in web.schedules.all()] == []

    play(scenario)


def test_put_without_a_worker_that_fires(caplog: pytest.LogCaptureFixture) -> None:
    """A schedule that no running worker would fire is a warning; with such a worker there is none."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        deaf, web, worker = harness.app(), harness.app(), harness.app(schedules=True)
        async with web, deaf.running():
            await web.schedules.put("s", web.work.call(), every=10)
            assert "schedules=True" in caplog.text
            caplog.clear()
            async with worker.running():
                await anyio.sleep(1)
                await web.schedules.put("t", web.work.call(), every=10)
        assert "schedules=True" not in caplog.text

    play(scenario)


def test_resume_with_catching_up() -> None:
    """A resume that catches up lets the instants since the pause count as missed."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        app = harness.app()
        async with app.running():
            pass
        app.schedule("s", every=10, phase=0, missed="all", grace=0)(app.work)
        async with app.running():
            await anyio.sleep(11)
            await app.schedules.pause("s")
            await anyio.sleep(30)
            await app.schedules.resume("s", catch_up=True)
            await anyio.sleep(8)
            assert harness.instants("s") == [10, 20, 30, 40]

    play(scenario)


def test_declared_and_not_yet_seen() -> None:
    """What code declares is shown before any worker ran; a pause then holds, and the first worker takes it over."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        app = harness.app(release="2.1")
        app.schedule("s", every=10, phase=0)(app.work.call("a"))
        async with app:
            [shown] = [one async for one in app.schedules.all()]
            assert (shown.id, shown.is_stored, shown.record.release) == ("s", False, "2.1")
            assert [one.timestamp() - virtual.EPOCH for one in shown.preview(2)] == [10, 20]
            with pytest.raises(ScheduleExists, match="declared in code"):
                await app.schedules.put("s", app.work.call(), every=10)
            assert not await shown.remove()
            assert (await app.schedules.fire("s")).id
            day = datetime.fromtimestamp(virtual.EPOCH, UTC) - timedelta(seconds=20)
            assert len(await shown.backfill(day, day + timedelta(seconds=10), label="x")) == 2
            paused = await app.schedules.pause("s", "not yet")
            assert (paused.is_paused, (await app.schedules.get("s")).is_stored) == (True, True)
        async with app.running():
            await anyio.sleep(25)
            assert len(harness.ticks) == 3  # fired by hand and backfilled
            await app.schedules.resume("s")
            await anyio.sleep(10)
        assert harness.instants("s")[-1] == 30
        assert len(harness.ticks) == 4

    play(scenario)


def test_put_twice() -> None:
    """The same definition again changes nothing; another one is an error, unless the caller says what to do."""

    async def scenario() -> None:
        app = ScheduleHarness().app()
        async with app:
            first = await app.schedules.put("s", app.work.call("a"), cron="@daily")
            again = await app.schedules.put("s", app.work.call("a"), cron="@daily")
            assert again.record == first.record
            with pytest.raises(ScheduleExists, match="At 00:00 every day"):
                await app.schedules.put("s", app.work.call("a"), cron="@hourly")
            kept = await app.schedules.put("s", app.work.call("a"), cron="@hourly", on_exists="keep")
            assert kept.record == first.record
            new = await app.schedules.put("s", app.work.call("a"), cron="@hourly", on_exists="replace")
            assert "hour" in new.explain()

    play(scenario)


def test_what_is_not_there() -> None:
    """Every verb about an id without a schedule says so."""

    async def scenario() -> None:
        app = ScheduleHarness().app()
        async with app:
            for verb in (app.schedules.get, app.schedules.pause, app.schedules.resume, app.schedules.fire):
                with pytest.raises(ScheduleNotFound, match="no schedule 'none'"):
                    await verb("none")
            assert not await app.schedules.remove("none")
            with pytest.raises(InvalidName):
                await app.schedules.get("no such name")

    play(scenario)


def test_firing_by_hand() -> None:
    """Each call of fire is one job, now, and the timetable goes on as it was."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        app = harness.app()
        app.schedule("s", every="1h", phase=0)(app.work.call("x"))
        async with app.running():
            await anyio.sleep(1)
            await app.schedules.fire("s")
            await (await app.schedules.get("s")).fire()
            await anyio.sleep(1)
            assert [name for name, _ in harness.seen] == ["x", "x"]
            await anyio.sleep(3600)
            assert len(harness.seen) == 3

    play(scenario)


def test_backfilling() -> None:
    """A backfill sends one job for each instant of a time that is over; the same label again sends none twice."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        app = harness.app()
        app.schedule("s", cron="@hourly")(app.work)
        since = datetime(2027, 1, 1, tzinfo=UTC)
        async with app.running():
            await anyio.sleep(1)
            for _ in range(2):
                jobs = await app.schedules.backfill("s", since, since + timedelta(hours=5), label="outage-7")
                assert len(jobs) == 6
                await app.drain()
            assert len(harness.ticks) == 6
            assert harness.ticks[0].backfill == "outage-7"
            assert sorted(tick.at for tick in harness.ticks) == [since + timedelta(hours=n) for n in range(6)]
            await app.schedules.backfill("s", since, since, label="again")
            await app.drain()
            assert len(harness.ticks) == 7
            with pytest.raises(InvalidSetting, match="8761 instants"):
                await app.schedules.backfill("s", since, since + timedelta(days=365), label="x")

    play(scenario)


def test_overlap_is_seen_in_the_store() -> None:
    """With a job that is longer than the period no two run at once, and the instants between are counted."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        app = harness.app()
        app.schedule("s", every=10, phase=0)(app.work.call("slow", 25.0))
        async with app.running():
            await anyio.sleep(105)
            record = (await app.schedules.get("s")).record
            assert harness.instants("s") == [10, 40, 70, 100]
            assert (record.overlapped, app.counters["schedule.overlapped"]) == (6, 6)

    play(scenario)


def test_queue_and_latest() -> None:
    """Under queue one instant waits for the job; under latest a job that waits in its queue gives way."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        app = harness.app()
        app.schedule("queue", every=10, phase=0, overlap="queue")(app.work.call("slow", 15.0))
        app.schedule("latest", every=10, phase=0, overlap="latest")(app.work.using(queue="nowhere").call("never"))
        async with app.running(queues=["default"]):
            await anyio.sleep(62)
            assert harness.instants("queue") == [10, 20, 30, 50]
            assert (await app.stats("nowhere")).ready == 1

    play(scenario)


def test_a_store_is_needed() -> None:
    """An app that declares a schedule and has no store does not open; a verb without a store says the same."""

    async def scenario() -> None:
        app = App(MemoryBackend(), store="none")

        @app.schedule("s", every=10)
        @app.task(name="work")
        async def work() -> None: ...

        with pytest.raises(StoreRequired, match="schedules"):
            async with app:
                pass
        other = App(MemoryBackend(), store="none")
        async with other:
            with pytest.raises(StoreRequired, match="schedules"):
                await other.schedules.get("s")

    play(scenario)


def test_mistakes_in_declarations() -> None:
    """What cannot be is refused where it is declared, with what was meant."""
    app = ScheduleHarness().app()

    @app.task(name="needs")
    async def needs(name: str) -> None: ...

    @app.task(name="risky", delivery="at_most_once", keep_result=None)
    async def risky() -> None: ...

    def declare(scheduled: Any = app.work, **options: Any) -> None:
        app.schedule(options.pop("id", "s"), **options)(scheduled)

    for message, wrong in {
        "cannot be called without arguments": {"scheduled": needs, "every": 10},
        "is neither a task nor a call": {"scheduled": print, "every": 10},
        "cron and every are given": {"cron": "@daily", "every": 10},
        "no timetable is given": {},
        "under a second": {"every": 0.5},
        "tz has no meaning with every": {"every": 10, "tz": "UTC"},
        "did you mean 'missed'": {"every": 10, "misssed": "all"},
        'give one of "once"': {"every": 10, "missed": "twice"},
        'give one of "skip"': {"every": 10, "overlap": "never"},
        "limit=0": {"every": 10, "limit": 0},
        "times=0": {"every": 10, "times": 0},
        "grace='x'": {"every": 10, "grace": "x"},
        "has no time zone": {"at": datetime(2027, 1, 1)},  # noqa: DTZ001 - the mistake
        "Europe/Berlin": {"cron": "@daily", "tz": "Europe/Berln"},
        "hour: 25": {"cron": "0 25 * * *"},
        "its call has an id": {"scheduled": app.work.using(id="x").call(), "every": 10},
        "keeps no results": {"scheduled": risky, "every": 10},
    }.items():
        with pytest.raises(InvalidSetting) as refused:
            declare(**wrong)
        assert message in str(refused.value), message
    with pytest.raises(InvalidName):
        declare(id="Not A Name", every=10)
    assert not app.schedule.ids
    declare(every=10)
    for other in ({"scheduled": needs.call("x"), "every": 10}, {"every": 20}):
        with pytest.raises(InvalidSetting, match="two schedules"):
            declare(**other)


def test_a_cell_that_runs_again() -> None:
    """A schedule may be declared anew with its task, as when a notebook's cell runs again or its module is reloaded."""
    app = App("memory://", store="memory://")
    cell = "@app.schedule('s', every={})\n@app.task\nasync def work() -> None: ..."
    for number, seconds in enumerate((10, 20)):
        code = compile(cell.format(seconds), f"<cell {number}>", "exec")
        exec(code, {"app": app, "__name__": "__main__"})
    assert app.schedule.ids["s"].timetable.explain() == "Every 20s"


def test_a_task_that_disappears() -> None:
    """Log and events name a due schedule whose task no worker knows; it fires when the task is back."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        old, new = harness.app(), App(harness.backend, store=harness.store, clock=virtual.clock, schedules=True)

        @old.task(name="gone")
        async def gone() -> None:
            harness.ticks.append(current().tick)

        @new.task(name="other")
        async def other() -> None: ...

        async with old:
            await old.schedules.put("s", gone.call(), every="1m", phase=0)
        async with new.running():
            await anyio.sleep(300)
        assert new.counters["schedule.failed"] >= 1
        assert not harness.ticks
        async with old.running():
            await anyio.sleep(10)
        assert harness.instants("s") == [300]

    play(scenario)


@pytest.mark.parametrize("overlap", ["skip", "queue", "latest"])
def test_a_dead_tick_holds_up_nothing(overlap: str) -> None:
    """A tick whose job dies is over, also if its task keeps no results."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        app = harness.app(retry=Retry(attempts=1))

        @app.schedule("s", every=10, phase=0, overlap=overlap)
        @app.task(name="dies", keep_result=None)
        async def dies() -> None:
            harness.ticks.append(current().tick)
            raise ValueError("no")

        async with app.running():
            await anyio.sleep(65)
        assert harness.instants("s") == [10, 20, 30, 40, 50, 60]
        assert (await _record(app, "s")).overlapped == 0

    play(scenario)


# ── deploys ──────────────────────────────────────────────────────────────────────────────────────


def test_the_newer_release_wins() -> None:
    """Of two programs with different definitions the newer release wins, in whatever order they start."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        old, new = harness.app(release="1.9"), harness.app(release="1.10")
        old.schedule("s", every=10, phase=0)(old.work.call("old"))
        new.schedule("s", every=20, phase=0)(new.work.call("new"))
        async with old.running(), new.running():
            await anyio.sleep(1)
            async with old.running():  # it restarts
                await anyio.sleep(60)
        assert harness.instants("s") == [20, 40, 60]
        assert {name for name, _ in harness.seen} == {"new"}

    play(scenario)


def test_without_releases_the_later_start_wins() -> None:
    """Where no program names its release, the definition of the one that started later stands."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        old, new = harness.app(), harness.app()
        old.schedule("s", every=10, phase=0)(old.work.call("old"))
        new.schedule("s", every=20, phase=0)(new.work.call("new"))
        async with old.running():
            await anyio.sleep(15)
            async with new.running():
                await anyio.sleep(30)
        assert harness.instants("s") == [10, 20, 40]

    play(scenario)


def test_removed_code_fires_no_more() -> None:
    """A schedule that only the old program declares ends with it, and is retired after an hour."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        old, new = harness.app(), harness.app()
        old.schedule("dropped", every=10, phase=0)(old.work)
        new.schedule("kept", every=600, phase=0)(new.work)
        async with new.running():
            async with old.running():
                await anyio.sleep(25)
            await anyio.sleep(3 * 3600)
            assert harness.instants("dropped") == [10, 20]
            schedules = {one.id: one.is_retired async for one in new.schedules.all()}
            assert schedules == {"dropped": True, "kept": False}
        async with old.running():  # a rollback: from now on
            await anyio.sleep(15)
        assert len(harness.instants("dropped")) in {3, 4}

    play(scenario)


def test_retiring_at_once() -> None:
    """A retired id fires no more, also not from older programs that run beside."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        old, new = harness.app(), harness.app()
        old.schedule("s", every=10, phase=0)(old.work)
        new.schedule.retired("s")
        async with old.running():
            await anyio.sleep(15)
            async with new.running():
                await anyio.sleep(60)
        assert harness.instants("s") == [10]

    play(scenario)


@pytest.mark.parametrize("pause", [0.0, 8.0, 25.0])
def test_renaming(pause: float) -> None:
    """A renamed schedule goes on where it was: no instant is lost, none fires twice, and old programs are harmless."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        old, new = harness.app(), harness.app()
        old.schedule("before", every=10, phase=0, missed="all")(old.work)
        new.schedule("after", every=10, phase=0, missed="all")(new.work)
        new.schedule.renamed("before", to="after")
        async with old.running():
            await anyio.sleep(25)
        await anyio.sleep(pause)
        async with new.running():
            await anyio.sleep(1)
            async with old.running():  # an old pod restarts
                await anyio.sleep(50)
            assert [one.id async for one in new.schedules.all()] == ["after"]
        both = [*harness.instants("before"), *harness.instants("after")]
        assert both == [10.0 * n for n in range(1, len(both) + 1)]
        assert len(both) >= 7
        assert harness.instants("before") == [10, 20]

    play(scenario)


def test_changed_timetables_settle_the_old_one_first() -> None:
    """An instant of the old timetable that is due when the new one is written fires all the same."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        app = harness.app()
        async with app:
            await app.schedules.put("s", app.work.call(), every=10, phase=0)
            await anyio.sleep(12)  # no worker runs
            await app.schedules.put("s", app.work.call(), every=60, phase=0, on_exists="replace")
        async with app.running():
            await anyio.sleep(50)
        assert harness.instants("s") == [10, 60]

    play(scenario)


# ── outages ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("part", ["store", "broker"])
def test_outages(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Store or broker down for a minute: the worker lives, no tick within the grace is lost, and it goes on at once."""
    from taskcore.errors import BrokerUnavailable  # noqa: PLC0415 - for this scenario only

    async def scenario() -> None:
        harness = ScheduleHarness()
        app = harness.app()
        app.schedule("s", every=10, phase=0, overlap="allow", grace="2m")(app.work)
        async with app.running():
            await anyio.sleep(15)

            async def down(*_: object, **__: object):
                raise BrokerUnavailable("it is down")

            broken = ("get", "get_many", "put", "put_many") if part == "store" else ("publish",)
            with monkeypatch.context() as patch:
                for verb in broken:
                    patch.setattr(getattr(harness, "store" if part == "store" else "backend"), verb, down)
                await anyio.sleep(60)
            await anyio.sleep(7)
            assert harness.instants("s") == [10.0 * n for n in range(1, 9)]

    play(scenario)


# ── previews ─────────────────────────────────────────────────────────────────────────────────────


def test_previews() -> None:
    """A preview tells the next instants, from any moment, and no more than the timetable has left."""

    async def scenario() -> None:
        app = ScheduleHarness().app()
        async with app:
            daily = await app.schedules.put("d", app.work.call(), cron="30 2 * * *", tz="Europe/Berlin")
            spring = daily.preview(2, after=datetime(2027, 3, 27, 12, tzinfo=UTC))
            assert spring == [datetime(2027, 3, 28, 1, tzinfo=UTC), datetime(2027, 3, 29, 0, 30, tzinfo=UTC)]
            few = await app.schedules.put("f", app.work.call(), every=10, times=3)
            assert len(few.preview(10)) == 3
            at = datetime(2030, 1, 1, tzinfo=UTC)
            once = await app.schedules.put("o", app.work.call(), at=at)
            assert once.preview() == [at]
            with pytest.raises(InvalidSetting, match="aware"):
                once.preview(after=datetime(2027, 1, 1))  # noqa: DTZ001 - the mistake

    play(scenario)


def test_timetables_in_english() -> None:
    """The English of a timetable names all that narrows it."""
    day = datetime(2027, 3, 1, tzinfo=UTC)
    for words, options in {
        "At 12:00 every day, UTC, from 2027-03-01 00:00:00+00:00, 100 times at most": {
            "cron": "0 12 * * *", "start": day, "times": 100,
        },
        "Every 10m, until 2027-03-01 00:00:00+00:00, each up to 5m later": {"every": "10m", "end": day, "spread": "5m"},
        "Once, at 2027-03-01 00:00:00+00:00": {"at": day},
    }.items():  # fmt: skip
        app = ScheduleHarness().app()
        app.schedule("s", **options)(app.work)
        assert app.schedule.ids["s"].timetable.explain() == words
    assert app.schedule.ids["s"].explain().endswith(", work")


def test_one_instant() -> None:
    """A schedule with ``at`` fires once, and one whose instant is over fires at once."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        app = harness.app()
        now = datetime.fromtimestamp(virtual.EPOCH, UTC)
        async with app.running():
            await app.schedules.put("later", app.work.call(), at=now + timedelta(seconds=20))
            await app.schedules.put("over", app.work.call(), at=now - timedelta(hours=2))
        async with app.running():
            await anyio.sleep(60)
            assert harness.instants("later") == [20]
            assert harness.instants("over") == [-7200]

    play(scenario)


def test_arguments_of_an_older_version() -> None:
    """A schedule that was put with older arguments sends them in the shape of the task's version now."""

    async def scenario() -> None:
        harness = ScheduleHarness()
        old, new = (
            App(harness.backend, store=harness.store, clock=virtual.clock),
            App(harness.backend, store=harness.store, clock=virtual.clock, schedules=True),
        )
        seen: list[str] = []

        @old.task(name="greet")
        async def old_greet(name: str) -> None: ...

        @new.task(name="greet", version=2, upcasts={1: lambda args: {"who": args["name"]}})
        async def new_greet(who: str) -> None:
            seen.append(who)

        async with old:
            await old.schedules.put("s", old_greet.call("Ada"), every=10, phase=0)
        async with new.running():
            await anyio.sleep(15)
        assert seen == ["Ada"]

    play(scenario)


def test_records_are_small() -> None:
    """The record of a schedule, and so what many of them take, is small."""

    async def scenario() -> None:
        app = ScheduleHarness().app()
        async with app:
            schedule = await app.schedules.put("customer-42", app.work.call("Ada"), cron="@daily")
            assert len(msgspec.json.encode(schedule.record)) < 400

    play(scenario)

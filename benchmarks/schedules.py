"""Measure schedules: many due at once, what they cost while nothing is due, and how late ticks are.

python benchmarks/schedules.py              on a Redis of its own
python benchmarks/schedules.py URL [STORE]  on that broker

burst      10,000 schedules that are due in one second: seconds until the broker has all jobs
idle       CPU, commands to Redis and memory of 10,000 schedules of which none is due, beyond a worker without schedules
lateness   50 schedules of a second: how much later than its instant a job starts, beside 50 delayed jobs a second
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import msgspec
import redis

from taskcore import App, Task, current
from taskcore.faults import RedisServer
from taskcore.schedules.define import define, redefine
from taskcore.schedules.record import ScheduleRecord, encode_record, record_name
from taskcore.schedules.storage import ScheduleStorage
from taskcore.store import Write

MANY = 10_000  #: schedules of the burst and of the idle scheduler
IDLE = 20.0  #: seconds
SECONDS, EACH_SECOND = 15, 50  #: how long, and how many schedules, lateness is measured


def make_app(url: str, store: str | None) -> App:
    """Make an app whose worker runs no job, so only its schedules are measured."""
    app = App(url, store=store, schedules=True)
    app.task(noop, name="noop")
    return app


async def noop() -> None:
    """Do nothing."""


async def fill(app: App, prefix: str, number: int, task: Task[..., object] | None = None, **options: object) -> None:
    """Write many schedules in few batches."""
    call = (task or app.tasks["noop"]).call()
    now = int(time.time() * 1000)
    store = app.components.store
    assert store is not None
    template = redefine(None, define("template", call, options), now, origin="put")  # type: ignore[arg-type]
    records: list[ScheduleRecord] = [
        msgspec.structs.replace(template, id=f"{prefix}-{index}") for index in range(number)
    ]
    for start in range(0, number, 500):
        batch = records[start : start + 500]
        await store.put_many([Write(key=record_name(one.id), value=encode_record(one)) for one in batch])
    await ScheduleStorage(store).enter({one.id: 1 for one in records})


async def empty(app: App, prefix: str, number: int) -> None:
    """Remove them."""
    store = app.components.store
    assert store is not None
    names = [f"{prefix}-{index}" for index in range(number)]
    await ScheduleStorage(store).enter(dict.fromkeys(names))
    for start in range(0, number, 500):
        await store.put_many([Write(key=record_name(name), value=None) for name in names[start : start + 500]])


async def burst(url: str, store: str | None) -> None:
    """Let many schedules be due in one second."""
    app = make_app(url, store)
    async with app, app.running(queues=["idle"]):
        due = datetime.now(UTC) + timedelta(seconds=15)
        await fill(app, "burst", MANY, at=due)
        await anyio.sleep((due - datetime.now(UTC)).total_seconds() - 0.2)
        cpu = time.process_time()
        while app.counters["job.enqueued"] < MANY:  # noqa: ASYNC110 - nothing tells it
            await anyio.sleep(0.005)
        seconds = time.time() - due.timestamp()
        print(
            f"burst     {MANY:,} due at once: all sent after {seconds:.2f} s, {time.process_time() - cpu:.2f} s of CPU"
        )
        await empty(app, "burst", MANY)
        await app.purge("default")


async def idle(url: str, store: str | None) -> None:
    """Let many schedules wait, and subtract what a worker without schedules costs."""
    costs = []
    for fires in (False, True):
        app = App(url, store=store, schedules=fires)
        app.task(noop, name="noop")
        async with app, app.running(queues=["idle"]):
            before = resident()
            if fires:
                await fill(app, "idle", MANY, cron="30 2 1 1 *")
            await anyio.sleep(10)
            asked, cpu = commands(url), time.process_time()
            await anyio.sleep(IDLE)
            costs.append(((time.process_time() - cpu) / IDLE, (commands(url) - asked) / IDLE, resident() - before))
            if fires:
                await empty(app, "idle", MANY)
    (base, base_rate, _), (share, rate, memory) = costs
    asked_of = f"{rate - base_rate:.2f} commands/s to the server" if url.startswith("redis") else "commands not counted"
    print(
        f"idle      {MANY:,} wait: {share - base:.2%} of a core and {asked_of} more than a worker without schedules "
        f"({base:.2%}, {base_rate:.2f}/s); {memory / MANY:,.0f} bytes of memory each"
    )


def commands(url: str) -> int:
    """Read how many commands a Redis has processed, those of this question included: one for each."""
    if not url.startswith("redis"):
        return 0
    with redis.Redis.from_url(url) as client:
        return int(client.info("stats")["total_commands_processed"])


def resident() -> int:
    """Read the memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def lateness(url: str, store: str | None) -> None:
    """Let jobs start at full seconds: delayed ones, then the ticks of schedules, as many of each."""
    app = App(url, store=store, schedules=True)
    late: list[float] = []

    @app.task(name="delayed", queue="late", keep_result=None)
    async def delayed(at: float) -> None:
        late.append(time.time() - at)

    @app.task(name="ticked", queue="late", keep_result=None)
    async def ticked() -> None:
        tick = current().tick
        assert tick is not None
        late.append(time.time() - tick.at.timestamp())

    async with app, app.running(queues=["late"]):
        first = int(time.time()) + 6
        seconds = range(first, first + SECONDS)
        calls = [
            delayed.using(at=datetime.fromtimestamp(at, UTC)).call(at) for at in seconds for _ in range(EACH_SECOND)
        ]
        await app.enqueue_many(calls)
        await anyio.sleep(seconds[-1] + 3 - time.time())
        delays, late[:] = sorted(late), []
        await fill(app, "late", EACH_SECOND, app.tasks["ticked"], every=1, phase=0, overlap="allow")
        await anyio.sleep(3)
        late.clear()
        await anyio.sleep(SECONDS)
        ticks = sorted(late)
        await empty(app, "late", EACH_SECOND)
        await app.purge("late")
    for name, times in (("delayed", delays), ("ticks", ticks)):
        p50, p99 = statistics.median(times) * 1000, times[int(len(times) * 0.99)] * 1000
        print(f"lateness  {name:8} {len(times) / SECONDS:.0f} starts/s: p50 {p50:.0f} ms, p99 {p99:.0f} ms")


async def measure(arguments: Sequence[str]) -> None:
    """Measure on a server of its own, or on the one that is named."""
    if arguments:
        url, store = arguments[0], arguments[1] if len(arguments) > 1 else None
        for part in (idle, burst, lateness):
            await part(url, store)
        return
    async with RedisServer() as server:
        for part in (idle, burst, lateness):
            await part(server.url, None)


if __name__ == "__main__":
    anyio.run(measure, sys.argv[1:])

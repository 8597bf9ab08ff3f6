"""Measure schedules: many due at once, what they cost while nothing is due, and how late ticks are.

python benchmarks/schedules.py              on a Redis of its own
python benchmarks/schedules.py URL [STORE]  on that broker

burst      10,000 schedules that are due in one second: seconds until the broker has all jobs
idle       CPU of a scheduler with 10,000 schedules of which none is due, and its requests to the store
lateness   50 schedules of a second: how much later than its instant a tick is sent
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import anyio
import msgspec

from taskcore import App, Event
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

    @app.task(name="noop")
    async def noop() -> None: ...

    return app


async def fill(app: App, prefix: str, number: int, **options: object) -> None:
    """Write many schedules in few batches."""
    call = app.tasks["noop"].call()
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
    """Let many schedules wait."""
    app = make_app(url, store)
    async with app, app.running(queues=["idle"]):
        await fill(app, "idle", MANY, cron="30 2 1 1 *")
        await anyio.sleep(10)
        asked, cpu = requests(app), time.process_time()
        await anyio.sleep(IDLE)
        share, rate = (time.process_time() - cpu) / IDLE, (requests(app) - asked) / IDLE
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"idle      {MANY:,} wait: {share:.2%} of a core, {rate:.2f} requests/s to the store, {memory:.0f} MiB")
        await empty(app, "idle", MANY)


def requests(app: App) -> int:
    """Count what the store was asked."""
    return sum(number for name, number in app.counters.items() if name.startswith("store."))


async def lateness(url: str, store: str | None) -> None:
    """Let some schedules fire each second, and see when their jobs are sent."""
    app = make_app(url, store)
    late: list[float] = []

    def note(event: Event) -> None:
        if event.name == "job.enqueued":
            late.append(time.time() % 1.0)

    async with app, app.running(queues=["idle"]):
        await fill(app, "late", EACH_SECOND, every=1, phase=0, overlap="allow")
        await anyio.sleep(2)
        app.on_event(note)
        await anyio.sleep(SECONDS)
        await empty(app, "late", EACH_SECOND)
        await app.purge("default")
    late.sort()
    p99 = late[int(len(late) * 0.99)]
    print(
        f"lateness  {len(late) / SECONDS:.0f}/s: p50 {statistics.median(late) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms"
    )


async def measure(arguments: Sequence[str]) -> None:
    """Measure on a server of its own, or on the one that is named."""
    if arguments:
        url, store = arguments[0], arguments[1] if len(arguments) > 1 else None
        for part in (burst, idle, lateness):
            await part(url, store)
        return
    async with RedisServer() as server:
        for part in (burst, idle, lateness):
            await part(server.url, None)


if __name__ == "__main__":
    anyio.run(measure, sys.argv[1:])

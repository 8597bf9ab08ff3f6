"""Schedules as type checkers see them; read by them, never run. See api.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any, assert_type

from taskcore import App, Job, SyncJob, current
from taskcore.blocking.schedules import SyncSchedule
from taskcore.schedules import Schedule, Tick

app = App("memory://")


@app.schedule("nightly", cron="30 2 * * *", tz="Europe/Berlin", missed="once", overlap="skip", spread="5m")
@app.task
async def report(day: str = "") -> int:
    """Need no arguments, and keep the type."""
    tick = assert_type(current().tick, Tick | None)
    if tick is not None:
        assert_type(tick.at, datetime)
        assert_type(tick.previous, datetime | None)
    return len(day)


report.call(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@app.task
async def greet(name: str) -> str:
    """Need an argument."""
    return name


app.schedule("plain", every="10s")(greet)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
app.schedule("call", every=10)(greet.call("Ada"))
app.schedule("call", every=10)(greet.call(5))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
app.schedule("call", every=10)(greet.call())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
app.schedule("policy", every=10, missed="twice")(report)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
app.schedule("option", evry=10)(report)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
app.schedule.renamed("old", to="new")
app.schedule.retired("old")


async def run_time() -> None:
    """Schedules that come while the program runs."""
    assert_type(await report.enqueue("x"), Job[int])
    schedule = assert_type(await app.schedules.put("c", greet.call("Ada"), cron="@daily", times=3), Schedule)
    await app.schedules.put("c", greet, cron="@daily")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await schedule.pause("invoice open")
    await schedule.resume(catch_up=True)
    assert_type(schedule.preview(3), list[datetime])
    assert_type(await schedule.fire(), Job[Any])
    assert_type(await schedule.backfill(datetime.now(UTC), datetime.now(UTC), label="x"), list[Job[Any]])
    assert_type(app.schedules.all(), AsyncIterator[Schedule])
    assert_type(await app.schedules.remove("c"), bool)


def without_a_loop() -> None:
    """Use the blocking forms."""
    schedule = assert_type(app.sync.schedules.put("c", greet.call("Ada"), cron="@daily", times=3), SyncSchedule)
    app.sync.schedules.put("c", greet, cron="@daily")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app.sync.schedules.put("c", greet.call("Ada"), corn="@daily")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert_type(schedule.preview(3), list[datetime])
    assert_type(schedule.fire(), SyncJob[Any])
    assert_type(app.sync.schedules.all(), Iterator[SyncSchedule])

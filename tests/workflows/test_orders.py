"""The shop's orders on each broker: a worker is killed in the middle, then the broker, and each report is complete."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from taskcore import App, Dead, JobOutcome, Succeeded
from taskcore.errors import BrokerUnavailable
from taskcore.faults import NatsServer, RabbitServer, RedisServer, Server
from taskcore.workflows import Compensation, Run
from tests.support import virtual
from tests.support.real import require
from tests.workflows.mortals import Mortals
from tests.workflows.orders import CHANNELS, declare, make_app, send
from tests.workflows.processes import Workers

BROKERS = {"redis": RedisServer, "nats": NatsServer, "rabbitmq": RabbitServer}
ORDERS = 40
SLOW = 120.0  #: seconds that everything may take on a busy machine

pytestmark = pytest.mark.timeout(240)


def expected(order: int) -> str:
    """Tell how an order ends: well, or by which step it fails."""
    if order % 7 == 3:
        return "validate"
    return "charge" if order % 5 == 4 else ""


async def judge(run: Run[Any], order: int, outcome: JobOutcome[Any]) -> None:
    """Compare the report of an order with what its cards and goods allow."""
    fails = expected(order)
    if not fails:
        assert outcome == Succeeded(f"parcel-{order} for {order * 100}, {', '.join(CHANNELS)}")
        assert (await run.compensation()).state == "none"
        assert all(step.status == "succeeded" for step in (await run.state()).steps)
        return
    assert isinstance(outcome, Dead)
    assert outcome.reason.startswith(f"step {fails}: ")
    told = await run.compensation()
    assert told == Compensation(state="done", undone=told.undone, unknown=told.unknown)
    assert set(told.unknown) <= {"reserve"} & {*told.undone}  # its worker died, and it is undone as well
    # If its worker died before it began, there is nothing to undo: the effects tell.
    assert told.undone in ([("charge", "reserve"), ("charge",)] if fails == "charge" else [()])


def judge_effects(effects: list[tuple[str, int]]) -> None:
    """Check that each order has all effects or none: what was undone was undone last."""
    last = defaultdict[int, dict[str, int]](dict)
    for place, (what, order) in enumerate(effects):
        last[order][what] = place
    for order in range(ORDERS):
        seen, fails = last[order], expected(order)
        if fails == "validate":
            assert not seen
        elif fails == "charge":
            assert seen.keys() <= {"reserve", "charge", "refund", "release"}
            assert seen["charge"] < seen["refund"] < seen.get("release", ORDERS**3)
            assert seen.get("reserve", -1) < seen.get("release", 0)
        else:
            assert seen.keys() == {"reserve", "charge", "ship", *CHANNELS}


def test_orders_in_memory() -> None:
    """On the broker in memory, with workers that die at any moment."""
    dice, effects = random.Random(5), list[tuple[str, int]]()

    def note(what: str, order: object) -> None:
        effects.append((what, int(str(order))))

    mortals = Mortals(
        lambda app: declare(app, note, seconds=2.0), workers=2, lease=3.0, concurrency=10, keep_result="1h"
    )

    async def story() -> None:
        async with mortals.living(mortals.at_random(dice, until=virtual.EPOCH + 20, life=1.0)) as app:
            runs = [await send(app, order) for order in range(ORDERS)]
            for order, run in enumerate(runs):
                await judge(run, order, await run.outcome(timeout=SLOW))

    anyio.run(story, backend_options=virtual.options("asyncio"))
    assert mortals.deaths > 5
    judge_effects(effects)


@pytest.mark.parametrize("broker", BROKERS)
def test_orders_while_a_worker_and_then_the_broker_is_killed(broker: str, tmp_path: Path) -> None:
    """On each real broker."""
    ledger = tmp_path / "ledger"
    ledger.touch()

    async def story() -> None:
        async with serving(broker) as (server, store):
            found = Workers("tests.workflows.orders", server.url, store, ledger)
            try:
                async with make_app(*found.where) as app:
                    await kill_in_the_middle(found, server, app)
            finally:
                for process in [*found.alive]:
                    found.kill(process)

    anyio.run(story)
    judge_effects([(what, int(order)) for what, order in (line.split() for line in ledger.read_text().splitlines())])


@asynccontextmanager
async def serving(broker: str) -> AsyncIterator[tuple[Server, str]]:
    """Run a broker that the test may kill, and a Redis as the store of one that has none."""
    async with require(BROKERS[broker])() as server:
        if broker != "rabbitmq":
            yield server, ""
            return
        async with require(RedisServer)() as store:
            yield server, store.url


async def kill_in_the_middle(found: Workers, server: Server, app: App) -> None:
    """Send the orders; kill a worker when some effects are there, the broker when more are; then wait for reports."""
    workers = [await anyio.to_thread.run_sync(found.start) for _ in range(2)]
    runs = [await send(app, order) for order in range(ORDERS)]
    await effects_of(found, ORDERS // 2)
    await anyio.to_thread.run_sync(found.kill, workers[0])
    await effects_of(found, ORDERS)
    server.kill()
    await anyio.sleep(0.5)
    await server.start()
    with anyio.fail_after(SLOW):
        for order, run in enumerate(runs):
            await judge(run, order, await outcome_of(run))


async def effects_of(found: Workers, number: int) -> None:
    """Wait until the ledger has so many lines."""
    with anyio.fail_after(SLOW):
        while len(found.ledger.read_text().splitlines()) < number:  # noqa: ASYNC110 - other processes write it
            await anyio.sleep(0.01)


async def outcome_of(run: Run[Any]) -> JobOutcome[Any]:
    """Wait for the end of a run, also while its broker is away."""
    while True:
        try:
            return await run.outcome()
        except BrokerUnavailable:
            await anyio.sleep(0.1)

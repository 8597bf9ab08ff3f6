"""One run: faults while jobs are sent, then rest, then judgement."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence

import anyio
import anyio.abc
import msgspec

from benchmarks.soak.addresses import Endpoint
from benchmarks.soak.app import SCHEDULE, Spec, make_app
from benchmarks.soak.evidence import Remains, gather
from benchmarks.soak.fleet import DEEDS, Fleet
from benchmarks.soak.harness import SoakHarness, set_up
from benchmarks.soak.judge import judge
from benchmarks.soak.kinds import LEASE
from benchmarks.soak.ledger import LedgerLine, read_beside
from benchmarks.soak.members import Member
from benchmarks.soak.plan import plan
from benchmarks.soak.remains import look, wait_until_quiet
from benchmarks.soak.report import Report
from benchmarks.soak.watch import count, probe, rest, watch
from taskcore import App
from taskcore.config import Settings
from taskcore.errors import BrokerUnavailable

__all__ = ["any_seed", "soak"]

QUIET_WITHIN = 300.0  #: seconds that the queue has to become empty, once the faults are over
WARM_WITHIN = 180.0  #: seconds that senders have for their first jobs
TICK = 1.0  #: seconds between two looks for the progress


async def soak(
    broker: Endpoint,
    store: Endpoint | None,
    *,
    seconds: float,
    seed: int,
    lease: float | None = LEASE,
    server_kill: bool = True,
    show: Callable[[str], None] = lambda _: None,
) -> Report:
    """Run once; the folder of the ledgers and logs stays, for the caller to remove.

    :param lease: None: the library's default.
    """
    like = Spec("", None, "", seed, 0.0, Settings().lease if lease is None else lease, by_default=lease is None)
    async with set_up(broker, store, like, seconds=seconds) as harness, anyio.create_task_group() as group:
        for member in harness.members.values():
            group.start_soon(member.supervise)
        direct = msgspec.structs.replace(harness.spec, url=harness.url, store=harness.store)
        async with make_app(direct) as app, anyio.create_task_group() as watching:
            watching.start_soon(watch, app, harness)
            watching.start_soon(count, harness)
            async with anyio.create_task_group() as probing:
                probing.start_soon(probe, app, harness)
                await _warm_up(harness, show)
                began = time.monotonic()
                await _break(harness, seconds, server_kill=server_kill, show=show)
                await _retire(harness.senders)
                probing.cancel_scope.cancel()
            report = await _judge(
                f"{broker.name} with {store.name}" if store else broker.name, app, harness, began, show
            )
            watching.cancel_scope.cancel()
        group.cancel_scope.cancel()
    return report


async def _break(harness: SoakHarness, seconds: float, *, server_kill: bool, show: Callable[[str], None]) -> None:
    """Play the faults, and end them."""
    servers = list(harness.servers) if server_kill else []
    began = time.monotonic()
    async with anyio.create_task_group() as group:
        for fault in plan(harness.seed, seconds, list(harness.networks), servers, lease=harness.spec.lease):
            await _pass_time(began + fault.at, harness, show)
            show(f"{fault.kind} of {fault.target}")
            group.start_soon(harness.play, fault)
        await _pass_time(began + seconds, harness, show)
    await harness.heal()


async def _warm_up(harness: SoakHarness, show: Callable[[str], None]) -> None:
    """Wait until every sender had an answer: a fault before that would hit nothing.

    :raises RuntimeError: nothing is confirmed in time.
    """
    waiting = {member.name for member in harness.senders}
    with anyio.move_on_after(WARM_WITHIN):
        while waiting:
            show(f"waiting for the first answers to {' and '.join(sorted(waiting))}")
            await anyio.sleep(TICK)
            waiting -= {
                line.who.rpartition(".")[0] for line in await read_beside(harness.folder) if line.what == "confirmed"
            }
    if waiting:
        raise RuntimeError(f"no job of {' and '.join(sorted(waiting))} was confirmed; the logs are in {harness.folder}")


async def _pass_time(until: float, harness: SoakHarness, show: Callable[[str], None]) -> None:
    while (left := until - time.monotonic()) > 0:
        await anyio.sleep(min(left, TICK))
        show(f"{sum(harness.done.values())} faults; {left:.0f} s to the next")


async def _judge(title: str, app: App, harness: SoakHarness, began: float, show: Callable[[str], None]) -> Report:
    """Let the workers finish, then look at what is left."""
    show("the faults are over; waiting for the jobs that are left")
    await _pause_schedule(app)
    waited = await wait_until_quiet(
        app, harness.queues, _to_end(await read_beside(harness.folder)), within=QUIET_WITHIN
    )
    await rest(app, harness, are_working=True)
    await _retire(harness.workers)
    done = sum((worker.read_logs() for worker in harness.workers if isinstance(worker, Fleet)), Counter[str]())
    for deed in DEEDS:
        harness.ledger.write("deed", deed=deed, times=done[deed])
    show("looking at what is left")
    await rest(app, harness, are_working=False)
    lines = await read_beside(harness.folder)
    remains = await look(app, harness, {line.job for line in lines if line.job}, waited)
    if not harness.servers:
        for queue in harness.queues:
            await app.components.backend.admin.delete(queue)
    features = app.features
    evidence = gather(
        lines,
        remains,
        one_copy=features.dedup != "absent" and features.atomic_retry,
        delta=features.delay_error,
        lease=harness.spec.lease,
    )
    return Report(
        title=f"{title}, lease {harness.spec.lease:g} s",
        seed=harness.seed,
        seconds=time.monotonic() - began,
        faults=dict(harness.done),
        evidence=evidence,
        judgement=judge(evidence),
        folder=str(harness.folder),
    )


async def _retire(members: Sequence[Member]) -> None:
    async with anyio.create_task_group() as group:
        for member in members:
            group.start_soon(member.retire)


async def _pause_schedule(app: App) -> None:
    """Let the schedule send no more; a server that was killed last may not be there yet."""
    with anyio.move_on_after(QUIET_WITHIN):
        while True:
            try:
                await app.schedules.pause(SCHEDULE, "the run is over")
            except BrokerUnavailable:
                await anyio.sleep(TICK)
            else:
                return


def _to_end(lines: list[LedgerLine]) -> list[str]:
    """Return the jobs that have to have an outcome: confirmed ones, except at most once, and half cancelled ones."""
    jobs = gather(lines, Remains()).jobs.values()
    return [job.id for job in jobs if job.confirmed and job.kind.name != "once" and not job.half_cancelled]


def any_seed() -> int:
    """Choose a seed."""
    return random.SystemRandom().randrange(1_000_000)

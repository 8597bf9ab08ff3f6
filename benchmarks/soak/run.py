"""One run: faults while jobs are sent, then rest, then judgement."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import anyio
import anyio.abc

from benchmarks.soak.addresses import Endpoint
from benchmarks.soak.evidence import Remains, gather
from benchmarks.soak.judge import judge
from benchmarks.soak.ledger import Line, read_all
from benchmarks.soak.plan import plan
from benchmarks.soak.remains import look, wait_until_quiet
from benchmarks.soak.report import Report
from benchmarks.soak.stage import Stage, set_up
from benchmarks.soak.tasks import Spec, make_app

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
    server_kill: bool = True,
    show: Callable[[str], None] = lambda _: None,
) -> Report:
    """Run once; the folder of the ledgers and logs stays, for the caller to remove."""
    async with set_up(broker, store, seed=seed, seconds=seconds) as stage, anyio.create_task_group() as group:
        for member in stage.members.values():
            group.start_soon(member.supervise)
        await _warm_up(stage, show)
        faults = plan(seed, seconds, list(stage.networks), list(stage.servers) if server_kill else [])
        began = time.monotonic()
        async with anyio.create_task_group() as faulty:
            for fault in faults:
                await _pass_time(began + fault.at, stage, show)
                show(f"{fault.kind} of {fault.target}")
                faulty.start_soon(stage.play, fault)
            await _pass_time(began + seconds, stage, show)
        await stage.heal()
        report = await _judge(broker, store, stage, began, show)
        group.cancel_scope.cancel()
    return report


async def _warm_up(stage: Stage, show: Callable[[str], None]) -> None:
    """Wait until every sender had an answer: a fault before that would hit nothing.

    :raises RuntimeError: nothing is confirmed in time.
    """
    waiting = {member.name for member in stage.senders}
    with anyio.move_on_after(WARM_WITHIN):
        while waiting:
            show(f"waiting for the first answers to {' and '.join(sorted(waiting))}")
            await anyio.sleep(TICK)
            waiting -= {line.who.rpartition(".")[0] for line in read_all(stage.folder) if line.what == "confirmed"}
    if waiting:
        raise RuntimeError(f"no job of {' and '.join(sorted(waiting))} was confirmed; the logs are in {stage.folder}")


async def _pass_time(until: float, stage: Stage, show: Callable[[str], None]) -> None:
    while (left := until - time.monotonic()) > 0:
        await anyio.sleep(min(left, TICK))
        show(f"{sum(stage.done.values())} faults; {left:.0f} s to the next")


async def _judge(
    broker: Endpoint, store: Endpoint | None, stage: Stage, began: float, show: Callable[[str], None]
) -> Report:
    """Let the senders stop and the workers finish, then look at what is left."""
    async with anyio.create_task_group() as group:
        for sender in stage.senders:
            group.start_soon(sender.retire)
    show("the faults are over; waiting for the jobs that are left")
    spec = Spec(stage.url, stage.store, stage.queue, stage.seed, 3600.0)
    async with make_app(spec) as app:
        ids = _to_end(read_all(stage.folder))
        waited = await wait_until_quiet(app, stage.queue, ids, within=QUIET_WITHIN)
        async with anyio.create_task_group() as group:
            for worker in stage.workers:
                group.start_soon(worker.retire)
        show("looking at what is left")
        lines = read_all(stage.folder)
        remains = await look(app, stage, {line.job for line in lines if line.job}, waited)
        if not stage.servers:
            await app.components.backend.admin.delete(stage.queue)
        features = app.features
    evidence = gather(
        lines,
        remains,
        one_copy=features.dedup != "absent" and features.atomic_retry,
        delta=features.delay_error,
    )
    return Report(
        title=broker.name if store is None else f"{broker.name} with {store.name}",
        seed=stage.seed,
        seconds=time.monotonic() - began,
        faults=dict(stage.done),
        evidence=evidence,
        judgement=judge(evidence),
        folder=str(stage.folder),
    )


def _to_end(lines: list[Line]) -> list[str]:
    """Return the jobs that have to have an outcome: confirmed ones, except at most once, and half cancelled ones."""
    jobs = gather(lines, Remains()).jobs.values()
    return [job.id for job in jobs if job.confirmed and job.kind.name != "once" and not job.half_cancelled]


def any_seed() -> int:
    """Choose a seed."""
    return random.SystemRandom().randrange(1_000_000)

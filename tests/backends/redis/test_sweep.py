"""The sweep on a real Redis: processes really end at their crash points; and a server that ends in the middle.

Which points there are is found in memory; a sample of the cases, spread evenly, is played with real processes. The
scripts of the backend have no crash points of their own, because nothing can happen between their writes. What can
happen is that the server dies before a script or after it, while the reply is under way: that is played here too.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskcore import BrokerUnavailable
from taskcore.adapters import open_backend
from taskcore.backend import Backend, Delivery, Outgoing, Source, Stored, Uncertain
from taskcore.backends.redis import layout as keys
from taskcore.conformance.crash_sweep.sweep import cases
from taskcore.conformance.harness import Harness
from taskcore.connections.redis import Script
from taskcore.faults import ChaosProxy, RedisServer
from taskcore.faults.resp import command
from taskcore.lifecycle import ACK, RELEASE, Bury, Reschedule, Verdict
from tests.support.redis_play import SHORT_TIMEOUTS, until
from tests.support.redis_sweep import play

pytestmark = pytest.mark.anyio

LEASE, MARGIN = 0.6, 0.4  #: seconds
CONCURRENT_CASES = 10  #: processes with a case each, which mostly waits for leases to end
GROUPS = 2

#: Each point of each operation once, in a state that is quickly reached: the points are the same in all of them.
QUICK_STATES = {"fresh", "keyed", "delayed", "retried", "unknown", "claimed", "published", "buried", "poisonous"}
DEADLY = [case for case in cases(lambda: Harness.in_memory(lease=32.0)) if case.point]
SAMPLE = list({(one.operation, one.point): one for one in DEADLY if one.state in QUICK_STATES}.values())


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("group", range(GROUPS))
def test_processes_that_die(group: int, shared: RedisServer, tmp_path: Path):
    """Whatever process dies wherever, the job ends once, completely, and leaves nothing behind."""
    once = partial(play, url=shared.url, folder=tmp_path, lease=LEASE, margin=MARGIN)
    with ProcessPoolExecutor(CONCURRENT_CASES, mp_context=multiprocessing.get_context("spawn")) as processes:
        problems = list(processes.map(once, SAMPLE[group::GROUPS]))
    assert [problem for problem in problems if problem] == []


def test_the_sample_has_every_point():
    """The sample passes every crash point and every operation of the plan."""
    assert {case.point for case in SAMPLE} == {case.point for case in DEADLY}
    assert {case.operation for case in SAMPLE} == {case.operation for case in DEADLY}


# ── a server that dies in the middle ─────────────────────────────────────────────────────────────

VERDICTS: Sequence[Verdict] = [ACK, Reschedule(60.0, b"{}"), Reschedule(0.0, b"{}"), RELEASE, Bury("because", b"{}")]
BATCH = [Outgoing("q", f"{number}", b"bytes") for number in range(5)]


@asynccontextmanager
async def holding(url: str) -> AsyncIterator[tuple[Backend, Source, Sequence[Delivery]]]:
    """Open a source that holds five jobs."""
    async with open_backend(url) as backend, backend.consume(["q"], lease=60.0) as source:
        await backend.publish(BATCH)
        yield backend, source, await source.receive(5)


async def counts(server: RedisServer) -> dict[str, Any]:
    """Count everything that the queue's keys hold."""
    async with open_backend(server.url) as backend:
        [stats] = await backend.admin.stats(["q"])
    sizes = {
        part: await command(server.port, size, f"tc:{{q}}:{part}")
        for part, size in {
            "jobs": "XLEN",
            "leases": "ZCARD",
            "schedule": "ZCARD",
            "bodies": "HLEN",
            "places": "HLEN",
            "ended": "SCARD",
            "letters": "XLEN",
        }.items()
    }
    return {"ready": stats.ready, "leased": stats.leased, "scheduled": stats.scheduled, "dead": stats.dead, **sizes}


async def publish(backend: Backend, source: Source, held: Sequence[Delivery]) -> Any:
    """Publish some jobs for now, some for later."""
    return await backend.publish(
        [Outgoing("q", f"new-{number}", b"x", b"", 60.0 * (number % 2)) for number in range(6)]
    )


async def settle(backend: Backend, source: Source, held: Sequence[Delivery]) -> Any:
    """Settle with every verdict there is, in one batch."""
    return await source.settle(list(zip(held, VERDICTS, strict=True)))


async def receive(backend: Backend, source: Source, held: Sequence[Delivery]) -> Any:
    """Publish a job that another sender would."""
    return await source.receive(10)


async def remove(backend: Backend, source: Source, held: Sequence[Delivery]) -> Any:
    """Remove a job that waits."""
    return await backend.admin.remove("q", "waiting-0")


Verb = Callable[[Backend, Source, Sequence[Delivery]], Awaitable[Any]]

#: What each verb changes if it is carried out.
CHANGES: dict[Verb, dict[str, int]] = {
    publish: {"ready": 3, "scheduled": 3, "jobs": 3, "schedule": 3, "bodies": 3, "places": 6},
    settle: {
        "ready": 2,
        "leased": -5,
        "scheduled": 1,
        "dead": 1,
        "jobs": -3,
        "leases": -4,
        "schedule": 1,
        "bodies": 1,
        "places": -2,
        "ended": 2,
        "letters": 1,
    },
    receive: {
        "ready": -2,
        "leased": 2,
        "leases": 2,
    },
    remove: {"ready": -1, "jobs": -1, "places": -1, "ended": 1},
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("carried_out", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("verb", CHANGES, ids=lambda verb: verb.__name__)
async def test_a_server_that_dies_between_command_and_reply(own: RedisServer, verb: Verb, carried_out: bool):
    """F19: killed before or after a script, never in it: a batch is done wholly or not at all."""
    async with (
        ChaosProxy("127.0.0.1", own.port) as proxy,
        holding(f"redis://127.0.0.1:{proxy.port}/0{SHORT_TIMEOUTS}") as (backend, source, held),
        anyio.create_task_group() as group,
    ):
        async with open_backend(own.url) as other:
            await other.publish([Outgoing("q", f"waiting-{number}", b"x") for number in range(2)])
        await source.extend(held)  # every connection that will be used is there, and every script
        await backend.admin.stats(["q"])
        for script in vars(keys).values():
            if isinstance(script, Script):
                await command(own.port, "SCRIPT", "LOAD", script.text)
        before = await counts(own)
        expected = {name: before[name] + (CHANGES[verb].get(name, 0) if carried_out else 0) for name in before}
        answers: list[Any] = []

        async def ask() -> None:
            try:
                answers.append(await verb(backend, source, held))
            except BrokerUnavailable as error:
                answers.append(error)

        if carried_out:
            proxy.black_hole(only="down")
        else:
            own.pause()
        passed = proxy.up.chunks
        group.start_soon(ask)
        await until(lambda: proxy.up.chunks > passed)
        if carried_out:
            await command(own.port, "PING")  # the server takes its clients in turn
            await command(own.port, "PING")
        own.kill()
        proxy.cut()  # whatever reply there was is gone
        await proxy.heal()
        await until(lambda: bool(answers))
        [answer] = answers
        if verb is publish:
            assert [type(one) for one in answer] == [Uncertain] * 6
        else:
            assert isinstance(answer, BrokerUnavailable)
        await own.restart()
        assert await counts(own) == expected
        if verb is publish:
            again = [type(one) for one in await verb(backend, source, held)]
            assert (again == [Stored] * 6) is not carried_out

"""How late delayed jobs and retries are after their server was killed while they became due: what its page says.

A sample of servers is tested each time. ``TASKCORE_ALL_KILLS=20`` tests every version, with so many kills for each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import partial
from random import Random
from typing import Any, Final, NamedTuple

import anyio
import pytest

from taskcore.adapters import open_backend
from taskcore.backend import Backend, Delivery, Outgoing, Source, Stored
from taskcore.errors import BrokerUnavailable
from taskcore.faults import NatsServer, RabbitServer, RedisServer, Server, ValkeyServer
from taskcore.lifecycle import ACK, Reschedule
from tests.support.real import require

KILLS: Final = int(os.environ.get("TASKCORE_ALL_KILLS", "0"))  #: of each server; 0: one kill, and only of a sample
JOBS: Final = 3000 if KILLS else 400  #: of the delayed ones; as many are retried
SPAN: Final = 4.0  #: seconds in which they become due
LEASE: Final = 4.0
SOON: Final = 5.0  #: seconds after the server answers again, in which its client has noticed and all is handed out
CONFIRMED: Final = 4.0  #: seconds after which a RabbitMQ node sends a delayed job on again, here

pytestmark = [pytest.mark.timeout(90 + 600 * KILLS), pytest.mark.slow]


class Case(NamedTuple):
    """A server, and the seconds after its return by which its page says that every job is there."""

    kind: type[Server]
    version: str = ""
    late: float = SOON
    sampled: bool = False
    url: str = ""
    settings: Mapping[str, Any] = {}

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind.program, self.version or "first found", self.url, *self.settings)))


QUICK: Final = {"advanced": {"dead_letter_worker_publisher_confirm_timeout": int(CONFIRMED * 1000)}}
BY_LEASE: Final = SOON + 1.125 * LEASE  #: what a server had handed out when it died comes when its lease is over
#: After some kills with many scheduled jobs, this version hands them out in portions.
IN_PORTIONS: Final = 120.0 if KILLS else BY_LEASE
CASES = [
    Case(RedisServer, sampled=True),
    Case(RedisServer, "8"),
    Case(ValkeyServer),
    Case(RabbitServer, late=2 * CONFIRMED + SOON, sampled=True, settings=QUICK),
    Case(RabbitServer, "4", late=2 * CONFIRMED + SOON, settings=QUICK),
    Case(RabbitServer, late=2 * 180.0 + SOON),
    Case(RabbitServer, "4", late=2 * 180.0 + SOON),
    *(
        Case(NatsServer, version, IN_PORTIONS if version == "2.9" else BY_LEASE, sampled=version in {"", "2.9"})
        for version in ("", "2.9", "2.10", "2.11", "2.12")
    ),
    *(Case(NatsServer, version, BY_LEASE, url="?max_bytes=1GiB") for version in ("2.10", "")),
]


class Player:
    """One queue, and when each of its jobs was due and came."""

    def __init__(self, server: Server, backend: Backend, random: Random) -> None:
        self._server = server
        self._backend = backend
        self._random = random
        self.due: dict[bytes, list[float]] = {}  #: several times if a retry was given up, and perhaps stored
        self.came: dict[bytes, float] = {}
        self.back = 0.0  #: when the server answered again

    async def send(self) -> None:
        """Send the delayed jobs, and those that will be retried."""
        delays = {b"delayed %d" % one: self._random.uniform(0.5, SPAN) for one in range(JOBS)}
        jobs = [Outgoing("late", job.decode(), job, b"", delay) for job, delay in delays.items()]
        jobs += [Outgoing("late", f"retried {one}", b"retried %d" % one) for one in range(JOBS)]
        sent = time.monotonic()
        assert all(isinstance(answer, Stored) for answer in await self._backend.publish(jobs))
        self.due = {job: [sent + delay] for job, delay in delays.items()}

    async def kill(self) -> None:
        """Kill the server in the middle, and start it again."""
        await anyio.sleep(self._random.uniform(0.4, 0.7) * SPAN)
        self._server.kill()
        await self._server.start()
        self.back = time.monotonic()

    async def work(self, late: float) -> None:
        """Retry those that are to be retried, once, and end all others when they come."""
        async with self._backend.consume(["late"], lease=LEASE) as source, anyio.create_task_group() as group:
            group.start_soon(self.kill)
            while not self.back or (len(self.came) < 2 * JOBS and time.monotonic() < self.back + SPAN + late):
                try:
                    with anyio.move_on_after(1.0):
                        await self._settle(source, await source.receive(200))
                except BrokerUnavailable:
                    await anyio.sleep(0.05)

    async def _settle(self, source: Source, batch: list[Delivery]) -> None:
        now = time.monotonic()
        again = [(one, Reschedule(self._random.uniform(0.5, SPAN), b"again")) for one in batch if self._is_first(one)]
        for one, verdict in again:
            self.due.setdefault(one.envelope, []).append(now + verdict.after)
        ended = [(one, ACK) for one in batch if not self._is_first(one)]
        for one, _ in ended:
            self.came.setdefault(one.envelope, now)
        await source.settle([*again, *ended])

    def _is_first(self, delivery: Delivery) -> bool:
        return delivery.envelope.startswith(b"retried") and not delivery.trail


async def lateness(case: Case, seed: int) -> tuple[set[bytes], float, float]:
    """Kill a server once; return the jobs that did not come, and the least and the most that one was late."""
    async with (
        case.kind(version=case.version, **case.settings) as server,
        open_backend(server.url + case.url) as backend,
    ):
        player = Player(server, backend, Random(seed))
        await player.send()
        await player.work(case.late)
    least = min(came - min(player.due[job]) for job, came in player.came.items())
    most = max(came - max(*player.due[job], player.back) for job, came in player.came.items())
    return player.due.keys() - player.came.keys(), least, most


@pytest.mark.parametrize("case", [case for case in CASES if case.sampled or KILLS], ids=str)
def test_jobs_that_became_due_when_the_server_died_come_in_time(case: Case) -> None:
    """No job is lost or early, and each comes within the time after the server's return that its page names."""
    require(case.kind, case.version)
    for seed in range(max(KILLS, 1)):
        missing, least, most = anyio.run(partial(lateness, case, seed))
        assert not missing
        assert least >= 0
        assert most <= case.late

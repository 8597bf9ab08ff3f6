"""What a queue holds, and counts, after its server was killed."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from taskcore import BrokerUnavailable
from taskcore.adapters import open_backend
from taskcore.backend import Backend, Delivery, Outgoing, QueueStats, Source
from taskcore.backends.nats import source as sources
from taskcore.faults import NatsServer
from taskcore.lifecycle import ACK, RELEASE, Reschedule, Verdict
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

VERSIONS = ("", "2.12", "2.11", "2.10")
JOBS = 10
STATE_WRITTEN = 4.0  #: seconds after which a server has written down what its consumers have seen


async def take(source: Source, number: int) -> list[Delivery]:
    """Receive so many jobs."""
    held: list[Delivery] = []
    with anyio.fail_after(20):
        while len(held) < number:
            try:
                held += await source.receive(number - len(held))
            except BrokerUnavailable:
                await anyio.sleep(0.1)
    return held


async def counts(backend: Backend, wanted: QueueStats) -> QueueStats:
    """Count the jobs, for some seconds as long as it is not as wanted."""
    found: QueueStats | None = None
    with anyio.move_on_after(15):
        while found != wanted:
            try:
                [found] = await backend.admin.stats(["q"])
            except BrokerUnavailable:
                await anyio.sleep(0.1)
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.parametrize("verdict", [RELEASE, Reschedule(0.0, b"again")], ids=["released", "retried"])
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version or "newest")
async def test_ended_jobs_do_not_count_for_ever_after_a_kill(
    version: str, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job in whose place a copy was put and ended comes back with its server, and is swept; others are untouched."""
    monkeypatch.setattr(sources, "SWEEP_AFTER", 0.5)
    async with require(NatsServer, version)(version=version) as server, open_backend(server.url) as backend:
        later: Sequence[Outgoing] = [Outgoing("q", "later", b"x", delay=600.0)]
        assert len(await backend.publish([*later, *(Outgoing("q", f"{one}", b"x") for one in range(JOBS))])) == JOBS + 1
        async with backend.consume(["q"], lease=30.0) as source:
            assert not await source.settle([(one, verdict) for one in await take(source, JOBS)])
            assert not await source.settle([(one, ACK) for one in await take(source, JOBS)])
            await anyio.sleep(STATE_WRITTEN)
            server.kill()
            await server.restart()
            empty = QueueStats(ready=0, leased=0, scheduled=1, dead=0)
            assert await counts(backend, empty) == empty
            await backend.publish([Outgoing("q", "new", b"new")])
            [new] = await take(source, 1)
            assert new.envelope == b"new"
            assert not await source.settle([(new, ACK)])

"""A loop that the user's code blocks loses no lease: real workers on real brokers (docs/adr/0017)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskcore import Dead, Succeeded
from taskcore.faults import NatsServer, RabbitServer, RedisServer
from taskcore.faults.processes import WorkerProcess
from tests.support.blocking_worker import make_app, send
from tests.support.real import serving

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

SCRIPT = Path(__file__).parents[1] / "support" / "blocking_worker.py"
LEASE = 2.0
SERVERS: dict[str, Any] = {"redis": RedisServer, "nats": NatsServer, "rabbitmq": RabbitServer}


@pytest.fixture
def anyio_backend() -> str:
    """Most client libraries need asyncio."""
    return "asyncio"


@pytest.fixture(scope="module", params=list(SERVERS))
def broker(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run one broker of each kind."""
    with serving(SERVERS[request.param]) as server:
        yield server.url


class Pair:
    """Two workers beside each other, and what their tasks noted."""

    def __init__(self, url: str, folder: Path, *, lease: float | None = LEASE, max_block: float = 600.0) -> None:
        self.url = url
        self.store = f"sqlite:///{folder}/store.db" if url.startswith("amqp") else "-"
        if url.startswith("amqp"):
            self.url += "?min_queue_age=0"
        self.folder, self.ledger = folder, folder / "ledger"
        self.arguments = (self.url, self.store, self.ledger, "-" if lease is None else lease, max_block)
        self.app = make_app(self.url, self.store, str(self.ledger), lease, max_block)

    def worker(self, who: str) -> WorkerProcess:
        """Make a worker process."""
        return WorkerProcess(SCRIPT, *self.arguments, folder=self.folder, who=who)

    @property
    def starts(self) -> Counter[str]:
        """Count the starts of each job."""
        return Counter(re.findall(r"^start (\S+)", self.ledger.read_text(), re.MULTILINE))


def output_of(workers: list[WorkerProcess]) -> str:
    """Return what all workers said."""
    return "".join(worker.output(lines=1000) for worker in workers)


async def play(pair: Pair, seconds: float) -> tuple[object, str]:
    """Let one of two workers block its loop; return the job's outcome and what the workers said."""
    async with AsyncExitStack() as exits:
        workers = [await exits.enter_async_context(pair.worker(who)) for who in ("one", "two")]
        for worker in workers:
            await worker.says("ready")
        await exits.enter_async_context(pair.app)
        first, others = await send(pair.app, seconds, others=8)
        outcome = await first.outcome(timeout=seconds + 60)
        for job in others:
            assert isinstance(await job.outcome(timeout=seconds + 60), Succeeded)
        await anyio.sleep(LEASE)
        return outcome, output_of(workers)


async def test_a_blocked_loop_loses_no_lease(broker: str, tmp_path: Path):
    """A loop that stands still for four leases keeps its job and the others in hand; each of them starts once."""
    pair = Pair(broker, tmp_path)
    outcome, said = await play(pair, 4 * LEASE)

    assert isinstance(outcome, Succeeded), said
    assert set(pair.starts.values()) == {1}, (pair.starts, said)
    assert len(re.findall(r"loop blocked for \d\.\d s in blocking_worker\.py:\d+;", said)) == 1, said
    assert "lost" not in said


async def test_two_workers_on_memory(tmp_path: Path):
    """On memory:// all workers stand still with the loop: no lease counts as over before it was extended."""
    environment = {"SECONDS_BLOCKED": str(4 * LEASE)}
    arguments = ("memory://", "-", tmp_path / "ledger", LEASE, 600)
    async with WorkerProcess(SCRIPT, *arguments, folder=tmp_path, environment=environment) as worker:
        await worker.says("done", within=60)
        said = worker.output(lines=1000)

    starts = Counter(re.findall(r"^start (\S+)", (tmp_path / "ledger").read_text(), re.MULTILINE))
    assert set(starts.values()) == {1}
    assert len(starts) == 5
    assert said.count("Succeeded(") == 5
    assert "loop blocked for" in said


async def test_past_max_block(broker: str, tmp_path: Path):
    """Past its limit a blocked worker lets go: another worker runs the job, and the first run is not recorded."""
    pair = Pair(broker, tmp_path, max_block=1.0)
    async with AsyncExitStack() as exits:
        workers = [await exits.enter_async_context(pair.worker(who)) for who in ("one", "two")]
        for worker in workers:
            await worker.says("ready")
        await exits.enter_async_context(pair.app)
        job = await pair.app.tasks["block"].enqueue(2, 5 * LEASE)
        outcome = await job.outcome(timeout=90)
        await anyio.sleep(LEASE)
        said = output_of(workers)

    assert "longer than max_block=1 s: the leases of 1 jobs are let go" in said
    assert pair.starts["block-2"] >= 2, said
    assert "its lease ended while it ran (loop blocked for" in said
    if isinstance(outcome, Dead):  # each run lost its lease
        assert "its lease ended while it ran" in outcome.reason
    assert "poison" not in said

"""On each broker: schedulers die at each failpoint and by SIGKILL, and each instant is one job."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import pytest

from taskcore import App
from taskcore.faults import NatsServer, RabbitServer, RedisServer
from taskcore.schedules.timetable import upcoming
from taskcore.testing.crash_points import CRASHED
from tests.schedules.fleet import POINTS
from tests.support.real import serving

ROOT = Path(__file__).parents[2]
KILLING = 8.0  #: seconds for which schedulers are killed
SETTLING = 9.0  #: seconds after which every claim of a dead scheduler is finished
LATEST = 25.0  #: seconds that a tick may be late: its scheduler died, and a busy machine starts the next one slowly
BROKERS = {"redis": RedisServer, "nats": NatsServer, "rabbitmq": RabbitServer}

pytestmark = [pytest.mark.timeout(120)]


class Instances:
    """Processes over one broker and one store."""

    def __init__(self, url: str, store: str, ledger: Path) -> None:
        self.url, self.store, self.ledger = url, store, ledger
        self.alive: list[subprocess.Popen[str]] = []

    def start(self, role: str, *point: str) -> subprocess.Popen[str]:
        """Start one, and wait until it is ready."""
        where = (self.url, self.store, str(self.ledger))
        command = [sys.executable, "-m", "tests.schedules.program", role, *where, *point]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.alive.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def kill(self, process: subprocess.Popen[str]) -> None:
        """Kill one without a word."""
        process.kill()
        process.wait(10)
        process.stdout.close()
        self.alive.remove(process)

    def wait_crashed(self, process: subprocess.Popen[str]) -> None:
        """Wait until one has ended at its failpoint."""
        assert process.wait(20) == CRASHED
        process.stdout.close()
        self.alive.remove(process)


@contextmanager
def instances(broker: str, folder: Path) -> Iterator[Instances]:
    """Run a broker, and a Redis as the store of one that has none."""
    with ExitStack() as opened:
        server = opened.enter_context(serving(BROKERS[broker]))
        store = opened.enter_context(serving(RedisServer)).url if broker == "rabbitmq" else ""
        found = Instances(server.url, store, folder / "ledger")
        try:
            yield found
        finally:
            for process in [*found.alive]:
                found.kill(process)


async def records(found: Instances) -> dict:
    """Read all schedules as they stand."""
    async with App(found.url, store=found.store or None) as app:
        return {schedule.id: schedule.record async for schedule in app.schedules.all()}


@pytest.mark.parametrize("broker", BROKERS)
def test_schedulers_that_die(broker: str, tmp_path: Path) -> None:
    """After deaths at each failpoint and by SIGKILL no instant is missing, none is doubled, and none is very late."""
    dice = random.Random(7)
    with instances(broker, tmp_path) as found:
        found.start("worker")
        for point in POINTS:
            found.wait_crashed(found.start("scheduler", point))
        schedulers = [found.start("scheduler") for _ in range(2)]
        until = time.monotonic() + KILLING
        while time.monotonic() < until:
            time.sleep(dice.uniform(0.2, 1.5))
            doomed = schedulers.pop(dice.randrange(len(schedulers)))
            found.kill(doomed)
            schedulers.append(found.start("scheduler"))
        time.sleep(SETTLING)
        end = time.time() - SETTLING + 0.5
        for process in schedulers:
            found.kill(process)
        time.sleep(1.0)
        standing = anyio.run(records, found)
    started: Counter[tuple[str, int]] = Counter()
    late = []
    for line in found.ledger.read_text().splitlines():
        schedule, instant, sent = line.split()
        started[schedule, int(instant)] += 1
        late.append(float(sent) - int(instant) / 1000)
    assert not {tick: number for tick, number in started.items() if number > 1}
    for schedule, record in standing.items():
        assert record.missed == 0
        for instant in upcoming(record.timetable, record.since):
            if instant > end * 1000:
                break
            assert started[schedule, instant], (schedule, instant)
    assert len(started) > 3 * KILLING
    assert max(late) < LATEST

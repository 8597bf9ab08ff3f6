"""Passes over dead letters in processes that are killed: what a pass had not settled is settled by the next one.

TASKCORE_PASS_KILLS=20 kills so many passes on each broker.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from contextlib import suppress
from subprocess import PIPE
from typing import Final

import anyio
import msgspec
import pytest

from taskcore import App
from taskcore.adapters import open_backend
from taskcore.backend import Delivery
from taskcore.deadletter import DeadLetter, LetterVerdict
from taskcore.envelope import decode_envelope
from taskcore.faults import Server
from tests.support.burying import bury

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

KILLS: Final = int(os.environ.get("TASKCORE_PASS_KILLS", "3"))
LETTERS: Final = 240
OF_A_PASS: Final = 0.5  #: seconds that a pass takes: about 2 ms for each letter

PROGRAM: Final = """
import sys, time
import anyio
from taskcore import App
from taskcore.deadletter import dead_letters
from tests.backends.test_killed_passes import verdict

dead_letters.WALK_PAGE = 12

def slow(letter):
    time.sleep(0.002)
    return verdict(letter)

async def main():
    async with App(sys.argv[1], store="none") as app:
        print("begins", flush=True)
        await app.dead_letters.settle(sys.argv[2], by=slow)

anyio.run(main)
"""


@pytest.fixture
def anyio_backend() -> str:
    """Choose asyncio: the client libraries know no other loop."""
    return "asyncio"


def verdict(letter: DeadLetter) -> LetterVerdict:
    """Replay a third, drop a third, keep a third."""
    number: int = letter.args["number"]
    return ("replay", "drop", "keep")[number % 3]


async def killed_pass(url: str, queue: str, seconds: float) -> None:
    """Let another process begin a pass, and kill it so many seconds later."""
    async with await anyio.open_process(
        [sys.executable, "-c", PROGRAM, url, queue], stdout=PIPE, stderr=None
    ) as process:
        assert process.stdout is not None
        assert (await process.stdout.receive()).strip() == b"begins"
        await anyio.sleep(seconds)
        with suppress(ProcessLookupError):  # its pass was quicker
            process.kill()


async def jobs_in(url: str, queue: str) -> Counter[int]:
    """Take all jobs of a queue; count how often each number is there."""
    numbers: Counter[int] = Counter()
    async with open_backend(url) as backend, backend.consume([queue], lease=600.0) as source:
        found, ready = list[Delivery](), LETTERS
        while found or ready:
            found = []
            with anyio.move_on_after(3.0):
                found += await source.receive(LETTERS)
            numbers.update(msgspec.json.decode(decode_envelope(one.envelope).args)["number"] for one in found)
            ready = (await backend.admin.stats([queue]))[0].ready
    return numbers


async def test_killed_passes_lose_and_touch_nothing_else(broker: Server) -> None:
    """After passes that were killed the next ones settle the rest: no letter is lost, or replayed against its verdict.

    A broker that notices an id it has had makes one job of each letter; RabbitMQ may make another one of those that it
    was replaying when its process was killed.
    """
    queue, dice = "killed.passes", random.Random(7)
    url = f"{broker.url}?min_queue_age=0.1" if broker.program.startswith("rabbitmq") else broker.url
    async with App(url, store="none") as app:
        await bury(app.components.backend, queue, LETTERS)
        for _ in range(KILLS):
            await killed_pass(url, queue, dice.uniform(0.0, OF_A_PASS))
        settled = await app.dead_letters.settle(queue, by=verdict)
        with anyio.fail_after(30):  # RabbitMQ gives letters back when it notices that their reader is gone
            while settled.kept < LETTERS // 3 or settled.dropped or settled.replayed:
                settled = await app.dead_letters.settle(queue, by=verdict)
        assert settled.failed == 0
        kept = Counter([letter.args["number"] async for letter in app.dead_letters.read(queue)])
        assert kept == Counter(range(2, LETTERS, 3))
        jobs = await jobs_in(url, queue)
        assert set(jobs) == set(range(0, LETTERS, 3))
        if app.features.dedup != "absent":
            assert set(jobs.values()) == {1}
        await app.components.backend.admin.delete(queue)

"""What can happen to workers on any broker: deaths at a point, freezes, blocked loops, stops, wrong clocks.

A test of a broker says on which play, and what is its own: the points of the adapter, how long a takeover may take.
"""

from __future__ import annotations

import time
from pathlib import Path

from taskcore import App
from taskcore.adapters import open_backend, open_store
from taskcore.envelope import decode_envelope
from taskcore.faults.crash import CRASHED
from tests.support.redis_play import Play, declare, until

__all__ = [
    "block_the_loop",
    "die_at_a_point",
    "freeze_for_longer_than_a_lease",
    "letter_reasons",
    "stop_with_work_in_hand",
    "unsettled_starts",
    "work_by_a_wrong_clock",
]

LEASE = 1.0  #: seconds, of the workers here


async def letter_reasons(play: Play) -> dict[str, str]:
    """Map the ids of the jobs that are dead letters to their reasons."""
    async with open_backend(play.url) as backend:
        letters = await backend.admin.letters(play.queue, limit=100)
    return {decode_envelope(letter.envelope).id: letter.reason for letter in letters}


def unsettled_starts(play: Play, *how: str) -> int:
    """Count the unsettled starts of the workers that died (in one of these ways): so many jobs had to run again."""
    entries = play.merged().entries
    dead = {entry.who for entry in entries if entry.kind == "died" and (not how or entry.facts["how"] in how)}
    started = {(entry.who, entry.job) for entry in entries if entry.kind == "start" and entry.who in dead}
    return len(started - {(entry.who, entry.job) for entry in entries if entry.kind == "settled"})


async def die_at_a_point(play: Play, folder: Path, point: str, task: str) -> int:
    """End a worker process between two steps; let the next one go on there. Return how often the function started."""
    async with play.app("client") as app:
        job = await app.tasks[task].enqueue(1)
        async with play.worker(folder, "dying", crash_at=point) as worker:
            assert await worker.wait() == CRASHED
        async with play.worker(folder, "heir"):
            await job.outcome(timeout=20)
            report = await play.check(duplicates_allowed=1)
    assert len(await letter_reasons(play)) == (task == "fail")
    return sum(entry.kind == "start" for entry in report.histories[job.id])


async def freeze_for_longer_than_a_lease(play: Play, folder: Path, *, takeover: float = 10.0) -> None:
    """Freeze a worker until another one has its job; awake again it settles nothing, and says that it lost the job.

    :param takeover: the seconds within which the other one has the result.
    """
    async with play.app("client") as app, play.worker(folder, "frozen") as frozen:
        await frozen.says("ready")
        job = await app.tasks["work"].enqueue(1, 0.5)
        await until(lambda: play.count("start") == 1, "a start")
        frozen.pause()
        async with play.worker(folder, "heir") as heir:
            await heir.says("ready")
            assert await job.result(timeout=takeover) == 1
            frozen.resume()
            await until(lambda: play.count("event", name="job.lost") >= 1, "the frozen one learns of it")
            await play.check(duplicates_allowed=1)
    assert play.count("settled", verdict="ack") == 1


async def block_the_loop(play: Play, folder: Path) -> None:
    """Block the loop of a worker for longer than its lease; it keeps the job, and reports the block."""
    async with play.app("client") as app, play.worker(folder, "blocked") as blocked:
        await blocked.says("ready")
        await app.tasks["block"].enqueue(2.5 * LEASE)
        await until(lambda: play.count("start") == 1, "a start")
        async with play.worker(folder, "heir"):
            await until(lambda: play.count("event", name="loop.blocked") >= 1, "an alarm")
            await play.check()
    assert play.count("settled", verdict="ack") == play.count("start") == 1


async def stop_with_work_in_hand(play: Play, folder: Path) -> None:
    """Stop a worker by SIGTERM: nothing new starts in it, and the rest is elsewhere soon and without blame."""
    async with play.app("client") as app, play.worker(folder, "old", concurrency=10, lease=30.0, grace=5.0) as old:
        await old.says("ready")
        await app.enqueue_many([app.tasks["work"].call(number, 0.8) for number in range(30)])
        await until(lambda: play.count("start") == 10, "ten starts")
        async with play.running("heir", concurrency=30, lease=30.0):
            old.terminate()
            signalled = play.history.now()
            assert await old.wait() == 0
            await play.check()
    starts = [entry for entry in play.merged().entries if entry.kind == "start"]
    assert max(entry.at for entry in starts) - signalled < 1.5
    assert not [entry for entry in starts if entry.who == "old" and entry.at > signalled]
    received = [entry for entry in play.merged().entries if entry.facts.get("name") == "received"]
    assert {entry.facts["redeliveries"] for entry in received} == {0}


async def work_by_a_wrong_clock(play: Play, hours: int, *, delta: float, within: float) -> None:
    """Run two workers whose clock is wrong: they start nothing early or late, and hold their leases.

    :param within: the seconds from the first send to the last start.
    """
    store = None if play.store is None else open_store(play.store)
    wrong = App(play.url, store=store, clock=lambda: time.time() + 3600 * hours, lease=0.6)
    declare(wrong, play.history, play.queue, "wrong")
    async with play.app("client") as client:
        sent = play.history.now()
        await client.tasks["work"].using(delay=0.5).enqueue(1)
        await client.tasks["work"].enqueue(2, 1.5)
        await client.tasks["once_bitten"].enqueue(3)
        async with wrong.running(), wrong.running():
            await play.check(delta=delta)
    starts = {entry.job: entry.at for entry in play.history.entries if entry.kind == "start"}
    assert len(starts) == 3
    assert max(starts.values()) - sent < within

"""Bytes of other programs in every key of a queue: each becomes a dead letter once, or nothing; our jobs run once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from taskcore import App
from taskcore.errors import EnqueueRefused
from taskcore.faults import RedisServer
from taskcore.faults.resp import ErrorReply, command
from tests.support.redis_play import key

pytestmark = pytest.mark.timeout(90)

LAST_ID = "18446744073709551615-18446744073709551615"
ENVELOPE = b'{"v":1,"id":"f","task":"t.work","queue":"q","args":{"n":99},"enqueued_at":0}'

#: name → commands that put something foreign into the keys of queue "q"; {jobs} and the like stand for the keys.
FOREIGN: dict[str, Sequence[tuple[Any, ...]]] = {
    "a body without its length": [("HSET", "{bodies}", "x", "no length in front"), ("ZADD", "{schedule}", 1, "x")],
    "a body with a negative length": [("HSET", "{bodies}", "x", b"-7:" + ENVELOPE), ("ZADD", "{schedule}", 1, "x")],
    "a body with a huge length": [("HSET", "{bodies}", "x", b"9" * 400 + b":{}"), ("ZADD", "{schedule}", 1, "x")],
    "a body with a length in hexadecimal": [("HSET", "{bodies}", "x", b"0x2:{}x"), ("ZADD", "{schedule}", 1, "x")],
    "a body with an infinite length": [("HSET", "{bodies}", "x", b"inf:{}"), ("ZADD", "{schedule}", 1, "x")],
    "a body that is cut off": [("HSET", "{bodies}", "x", b"900:{}"), ("ZADD", "{schedule}", 1, "x")],
    "an empty body": [("HSET", "{bodies}", "x", ""), ("ZADD", "{schedule}", 1, "x")],
    "a body that is not UTF-8": [("HSET", "{bodies}", "x", b"0:\xff\xfe"), ("ZADD", "{schedule}", 1, "x")],
    "a trail of another program": [("HSET", "{bodies}", "x", b"3:xyz" + ENVELOPE), ("ZADD", "{schedule}", 1, "x")],
    "a scheduled job without an id": [("HSET", "{bodies}", "", "nothing"), ("ZADD", "{schedule}", 1, "")],
    "a scheduled job without a body": [("ZADD", "{schedule}", 1, "nowhere")],
    "a time that never comes": [("HSET", "{bodies}", "x", "0:{}"), ("ZADD", "{schedule}", "+inf", "x")],
    "a time before all times": [("HSET", "{bodies}", "x", "0:{}"), ("ZADD", "{schedule}", "-inf", "x")],
    "a lease of nothing": [("ZADD", "{leases}", 0, "garbage")],
    "a lease without a name": [("ZADD", "{leases}", 0, ""), ("ZADD", "{leases}", 0, " ")],
    "a lease with a huge id": [("ZADD", "{leases}", 1, "9" * 40 + "-1 token")],
    "a lease that never ends": [("ZADD", "{leases}", "+inf", "1-1 token")],
    "a lease of an entry that is not there": [("ZADD", "{leases}", 1, "1-1 token")],
    "a count that is not a number": [("HSET", "{redeliveries}", "1-1", "many"), ("ZADD", "{leases}", 1, "1-1 token")],
    "a place that is no entry": [("HSET", "{places}", "y", "garbage"), ("HSET", "{places}", "z", "+")],
    "a group of another program": [("XGROUP", "CREATE", "{jobs}", "zzz", "0", "MKSTREAM")],
    "an entry of another program": [("XADD", "{jobs}", "*", "type", "invoice", "total", "12")],
    "an entry of the far future": [("XADD", "{jobs}", "18446744073709551615-0", "a", "b")],
    "the last entry that a stream can have": [("XADD", "{jobs}", LAST_ID, "a", "b")],
    "two tokens": [("RPUSH", "{wake}", "x", "y", "")],
    "ids that ended": [("SADD", "{ended}", "", b"\xff")],
    "a queue of another program": [("SADD", "tc:queues", b"\xff\xfe", "", "q q")],
}
#: What becomes a dead letter; everything else has no bytes.
LETTERS = {name for name in FOREIGN if "body" in name and "without a body" not in name} | {
    "a trail of another program", "a scheduled job without an id", "a time before all times",
    "an entry of another program", "an entry of the far future", "the last entry that a stream can have",
}  # fmt: skip
ONCE = {"a scheduled job without an id", "an entry of the far future", "the last entry that a stream can have"}


async def _plant(port: int, name: str, number: int) -> None:
    """Put it into the keys, under ids of its own."""
    for words in FOREIGN[name]:
        filled = [key("q", word[1:-1]) if isinstance(word, str) and word[:1] == "{" else word for word in words]
        filled = [f"{word}{number}" if word == "x" and "{wake}" not in words else word for word in filled]
        try:
            await command(port, *filled)
        except ErrorReply as error:  # a last entry leaves no room for another foreign one
            assert "ID" in str(error) or "BUSYGROUP" in str(error), error  # noqa: PT017


async def _play(port: int, names: Sequence[str]) -> None:
    """Plant between our own jobs, then let two workers come, one after the other."""
    await command(port, "FLUSHALL")
    app = App(f"redis://127.0.0.1:{port}/0", lease=2.0)
    runs: Counter[int] = Counter()

    @app.task(name="t.work", queue="q")
    async def work(n: int) -> int:
        runs[n] += 1
        return n

    async with app:
        jobs = [await work.using(delay=0.05 * (n % 3)).enqueue(n) for n in range(9)]
        await anyio.sleep(0.15)  # all of them are due
        for number, name in enumerate(names):
            await _plant(port, name, number)
        for number in (100, 200):
            async with app.running(queues=["q"], grace=1.0):
                for job in jobs:
                    await job.result(timeout=8)
                jobs.append(await _enqueue_in_the_end(work, number))
                await jobs[-1].result(timeout=8)
        once = {name for name in names if name in ONCE}
        wanted = [name for name in names if name in LETTERS - ONCE] + list(once)
        letters = [letter async for letter in app.dead_letters.read("q")]
        assert len(letters) <= len(wanted)
        if "the last entry that a stream can have" not in names:
            assert len(letters) == len(wanted), [letter.reason for letter in letters]
        assert all(letter.raw for letter in letters) or "an empty body" in names, "the bytes are lost"
        assert set(runs.values()) == {1}, "a job ran twice"
        assert set(runs) >= set(range(9))
        stats = await app.stats("q")
        assert stats.ready == 0, stats
        await app.purge("q")
        for job in (*jobs, work.job("y"), work.job("z")):
            await job.status()


async def _enqueue_in_the_end(work: Any, number: int) -> Any:
    """Enqueue a job; while a foreign entry has the last id of the stream, it is refused in plain words."""
    with anyio.fail_after(8):
        while True:
            try:
                return await work.enqueue(number)
            except EnqueueRefused as error:
                if "no id left" not in str(error):
                    raise
                await anyio.sleep(0.05)


@pytest.mark.parametrize("name", FOREIGN)
def test_something_foreign(shared: RedisServer, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each of them concerns nothing but itself, and is never taken for a broker that is away."""
    with caplog.at_level(logging.WARNING):
        anyio.run(_play, shared.port, [name, name])
    assert not [
        record for record in caplog.records if "lost" in record.getMessage() and "broker" in record.getMessage()
    ]


@given(names=st.lists(st.sampled_from(sorted(FOREIGN)), min_size=2, max_size=12))
@settings(
    max_examples=8, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_mixture(shared: RedisServer, names: list[str]) -> None:
    """All of them together do no more harm than one."""
    anyio.run(_play, shared.port, names)

"""Messages of other programs in the streams of a queue: each becomes a dead letter once; our jobs run once."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import anyio
import nats as client
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from taskcore import App, Retry
from taskcore.faults import NatsServer
from tests.support.real import serving

pytestmark = pytest.mark.timeout(120)

ENVELOPE = b'{"v":1,"id":"f","task":"t.none","args":{},"enqueued_at":0}'
LARGEST = 1_048_576  #: bytes that a server takes

#: name → where it is put, its headers as they are on the wire, its body; {id} is a number of its own.
FOREIGN: dict[str, tuple[str, bytes, bytes]] = {
    "garbage": ("q", b"", b"garbage"),
    "nothing": ("q", b"", b""),
    "not UTF-8": ("q", b"", b"\xff\xfe"),
    "truncated": ("q", b"", ENVELOPE[:20]),
    "deep": ("q", b"", b"[" * 50_000),
    "as large as possible": ("q", b"", b"z" * LARGEST),
    "as large as possible, with headers": ("q", b"NATS/1.0\r\nA: b\r\n\r\n", b"z" * (LARGEST - 18)),
    "nearly as large": ("q", b"", b"z" * (LARGEST - 700)),
    "a trail that is longer than the body": ("q", b"NATS/1.0\r\nTc-Trail: 999\r\n\r\n", ENVELOPE[:9]),
    "a trail of another program": ("q", b"NATS/1.0\r\nTc-Trail: 3\r\n\r\n", ENVELOPE + b"xyz"),
    "a trail that is not a number": ("q", b"NATS/1.0\r\nTc-Trail: many\r\n\r\n", b"{}"),
    "a trail with too many digits": ("q", b"NATS/1.0\r\nTc-Trail: " + b"9" * 300 + b"\r\n\r\n", b"{}"),
    "handed out too often": ("q", b"NATS/1.0\r\nTc-Handed: 999999999999999999\r\n\r\n", b"{}"),
    "a status": ("q", b"NATS/1.0 404 No Messages\r\n\r\n", b"garbage"),
    "another status": ("q", b"NATS/1.0 409 Consumer Deleted\r\n\r\n", b"garbage"),
    "no headers": ("q", b"garbage\r\n\r\n", b"garbage"),
    "headers that are not UTF-8": ("q", b"NATS/1.0\r\n\xff: \xfe\r\n\r\n", b"garbage"),
    "a copy of nothing": ("q", b"NATS/1.0\r\nTc-Copy: 12\r\n\r\n", b"garbage"),
}
#: The same where scheduled jobs wait; servers with schedules hand nothing out from there.
SCHEDULED: dict[str, tuple[str, bytes, bytes]] = {
    "scheduled": ("s", b"", b"garbage"),
    "scheduled, a delay that is not a number": ("s", b"NATS/1.0\r\nTc-Delay: soon\r\n\r\n", b"garbage"),
    "scheduled, a delay that is nan": ("s", b"NATS/1.0\r\nTc-Delay: nan\r\n\r\n", b"garbage"),
    "scheduled, a negative delay": ("s", b"NATS/1.0\r\nTc-Delay: -1e300\r\n\r\n", b"garbage"),
    "scheduled, a copy of nothing": ("s", b"NATS/1.0\r\nTc-Copy: 999999\r\n\r\n", b"garbage"),
    "scheduled, as large as possible": ("s", b"", b"z" * LARGEST),
}


@pytest.fixture(scope="module", params=["", "2.9"], ids=["newest", "2.9"])
def server(request: pytest.FixtureRequest) -> Iterator[NatsServer]:
    """Run a server with schedules, and one without."""
    with serving(NatsServer, request.param) as server:
        yield server


async def _put(url: str, prefix: str, names: Sequence[str], subjects: Sequence[str]) -> None:
    """Write messages past the library."""
    connection = await client.connect(url)
    for number, name in enumerate(names):
        place, headers, body = {**FOREIGN, **SCHEDULED}[name]
        subject = f"{prefix}.{place}.q.{subjects[number % len(subjects)]}{number}"
        size = len(headers) + len(body)
        verb = f"HPUB {subject} {len(headers)} {size}" if headers else f"PUB {subject} {size}"
        transport: Any = connection._transport
        transport.write(verb.encode() + b"\r\n" + headers + body + b"\r\n")
        await transport.drain()
    await connection.flush()
    await connection.close()


async def _play(server: NatsServer, names: Sequence[str]) -> None:
    prefix = f"p{secrets.token_hex(4)}"
    app = App(f"{server.url}?prefix={prefix}", lease=3.0)
    runs: Counter[int] = Counter()

    @app.task(name="t.work", queue="q", retry=Retry(attempts=3, base=0.01, jitter="none"))
    async def work(n: int) -> int:
        runs[n] += 1
        if runs[n] == 1 and n % 3 == 0:
            raise ConnectionError("once more")
        return n

    async with app:
        jobs = [await work.using(delay=0.05 * (n % 2)).enqueue(n) for n in range(9)]
        await _put(server.url, prefix, names, ["foreign", "with-dash", "caf\u00e9"])
        for number in (100, 200):
            async with app.running(queues=["q"], grace=1.0):
                jobs.append(await work.enqueue(number))
                for job in jobs:
                    await job.result(timeout=10)
                await _wait_for_letters(app, len(names))
        letters = await _letters(app)
        assert len(letters) == len(names), [(letter.reason, letter.raw[:20]) for letter in letters]
        bodies = [{**FOREIGN, **SCHEDULED}[name][2] for name in names]
        for letter in letters:
            assert any(body.startswith(letter.raw[: LARGEST - 2_000]) for body in bodies), letter.reason
        assert all(runs[n] == (2 if n % 3 == 0 else 1) for n in range(9)), runs
        stats = await app.stats("q")
        assert (stats.ready, stats.leased, stats.scheduled) == (0, 0, 0)
        assert await app.purge("q") == 0
        await app._host.queries.admin.delete("q")


async def _wait_for_letters(app: App, number: int) -> None:
    with anyio.move_on_after(8):
        while True:
            if len(await _letters(app)) >= number:
                return
            await asyncio.sleep(0.05)


async def _letters(app: App) -> list[Any]:
    return [letter async for letter in app.dead_letters.read("q")]


@pytest.mark.parametrize("name", FOREIGN)
def test_something_foreign(server: NatsServer, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each of them is a dead letter, and is never taken for a server that is away."""
    with caplog.at_level(logging.WARNING):
        anyio.run(_play, server, [name, name])
    assert not [
        record for record in caplog.records if "lost" in record.getMessage() and "broker" in record.getMessage()
    ]


@pytest.mark.parametrize("name", SCHEDULED)
@pytest.mark.parametrize("server", ["2.9"], indirect=True)
def test_something_foreign_where_timers_look(server: NatsServer, name: str) -> None:
    """A foreign message among scheduled jobs is due at once, and becomes a dead letter, too."""
    anyio.run(_play, server, [name, name])


@given(names=st.lists(st.sampled_from(sorted(FOREIGN)), min_size=2, max_size=10))
@settings(
    max_examples=5, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_mixture(server: NatsServer, names: list[str]) -> None:
    """All of them together do no more harm than one."""
    anyio.run(_play, server, names)

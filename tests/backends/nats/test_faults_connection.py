"""What a network and strangers may do: cut, swallow, delay, and put anything at all into subjects and headers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from taskcore import BrokerUnavailable
from taskcore.adapters import open_backend, open_store
from taskcore.backend import Duplicate, Outgoing, Refused, Stored, Uncertain, VerdictRefused
from taskcore.connections.nats import NatsLink
from taskcore.connections.nats.address import read_address
from taskcore.envelope import new_id
from taskcore.faults import ChaosProxy, NatsServer
from taskcore.faults.sockets import HOST, ask
from taskcore.lifecycle import ACK, Bury, Reschedule
from taskcore.store import ANY

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture
async def proxy(nats: NatsServer) -> AsyncIterator[ChaosProxy]:
    """Run a proxy between a client and the server."""
    async with ChaosProxy(HOST, nats.port) as proxy:
        yield proxy


@pytest.fixture
def queue() -> str:
    """Name a queue of this test's own."""
    return f"q{new_id()}"


@pytest.mark.parametrize("way", ["before", "after"])
async def test_a_cut_around_the_answer(nats: NatsServer, proxy: ChaosProxy, queue: str, way: str) -> None:
    """F33: whatever is cut around the answer to a publish, repeating it leaves one job."""
    async with open_backend(f"nats://{HOST}:{proxy.port}") as backend, open_backend(nats.url) as other:
        await backend.publish([Outgoing(queue, "first", b"first")])
        for number in range(6):
            job = Outgoing(queue, f"j{number}", b"%d" % number)
            (proxy.cut_before if way == "before" else proxy.cut_after)(1)
            with anyio.fail_after(15):
                while True:
                    try:
                        [answer] = await backend.publish([job])
                    except BrokerUnavailable:
                        continue
                    if not isinstance(answer, Uncertain):
                        break
            assert isinstance(answer, Stored | Duplicate)
        assert (await other.admin.stats([queue]))[0].ready == 7


async def test_a_cut_on_the_way_to_the_worker(nats: NatsServer, proxy: ChaosProxy, queue: str) -> None:
    """F34, F36: jobs that were on their way when the line was cut come again when their lease is over."""
    async with open_backend(nats.url) as sender, open_backend(f"nats://{HOST}:{proxy.port}") as backend:
        async with backend.consume([queue], lease=1.0) as source:
            await sender.publish([Outgoing(queue, f"j{index}", b"%d" % index) for index in range(20)])
            proxy.cut_before(3)
            seen: set[bytes] = set()
            with anyio.fail_after(20):
                while len(seen) < 20:
                    try:
                        found = await source.receive(20)
                        seen.update(one.envelope for one in found)
                        await source.settle([(one, ACK) for one in found])
                    except BrokerUnavailable:  # perhaps settled, perhaps not
                        continue
        assert (await sender.admin.stats([queue]))[0].ready == 0


async def test_a_cut_while_a_verdict_travels(nats: NatsServer, proxy: ChaosProxy, queue: str) -> None:
    """F35: the connection is cut around the answers to a retry and a burial; repeated, each is carried out once."""
    async with open_backend(nats.url) as sender, open_backend(f"nats://{HOST}:{proxy.port}") as backend:
        async with backend.consume([queue], lease=30.0) as source:
            for verdict in (Reschedule(0.0, b"again"), Reschedule(0.3, b"later"), Bury("why", b"trail")):
                await sender.publish([Outgoing(queue, new_id(), b"job")])
                [held] = await source.receive(1)
                proxy.cut_before(1)
                with anyio.fail_after(15):
                    while True:
                        try:
                            await source.settle([(held, verdict)])
                        except BrokerUnavailable:
                            continue
                        break
                if isinstance(verdict, Reschedule):
                    with anyio.fail_after(15):
                        [again] = await source.receive(1)
                        assert again.trail == verdict.trail
                        while True:
                            try:
                                await source.settle([(again, ACK)])
                                break
                            except BrokerUnavailable:
                                continue
            with anyio.move_on_after(0.5):
                raise AssertionError(await source.receive(1))
        assert len(await sender.admin.letters(queue, limit=10)) == 1


async def test_a_half_open_connection_is_replaced(nats: NatsServer, proxy: ChaosProxy, queue: str) -> None:
    """F37: a connection through which nothing comes any more, without an error, is noticed and replaced."""
    async with open_backend(f"nats://{HOST}:{proxy.port}") as backend, open_backend(nats.url) as sender:  # noqa: SIM117
        async with backend.consume([queue], lease=30.0) as source:
            proxy.black_hole()
            began = anyio.current_time()
            with pytest.raises(BrokerUnavailable):
                await backend.admin.stats([queue])
            assert anyio.current_time() - began < 7
            await sender.publish([Outgoing(queue, "j", b"job")])
            await anyio.sleep(6)
            await proxy.heal()
            with anyio.fail_after(15):
                while True:
                    try:
                        [found] = await source.receive(1)
                        break
                    except BrokerUnavailable:
                        await anyio.sleep(0.1)
            assert found.envelope == b"job"


async def test_a_slow_connection_in_single_bytes(nats: NatsServer, proxy: ChaosProxy, queue: str) -> None:
    """F38, F39: split at every byte and late, everything arrives as it was."""
    proxy.byte_by_byte()
    async with open_backend(f"nats://{HOST}:{proxy.port}") as backend:
        [answer] = await backend.publish([Outgoing(queue, "j", b"\r\nMSG 1 2\r\n", b"trail")])
        assert answer == Stored()
        async with backend.consume([queue], lease=30.0) as source:
            [found] = await source.receive(1)
            assert (found.envelope, found.trail) == (b"\r\nMSG 1 2\r\n", b"trail")
            assert not await source.settle([(found, ACK)])


async def test_a_connection_without_pongs_is_replaced(nats: NatsServer, queue: str) -> None:
    """A connection that looks well and from which nothing is read any more is replaced: its pings have no answer."""
    async with open_backend(nats.url) as sender, open_backend(nats.url) as backend:  # noqa: SIM117
        async with backend.consume([queue], lease=3.0) as source:
            connection: Any = backend._link._connection
            connection._transport.pause_reading()
            await sender.publish([Outgoing(queue, "j", b"job")])
            with anyio.fail_after(20):
                while True:
                    try:
                        [found] = await source.receive(1)
                        break
                    except BrokerUnavailable:
                        await anyio.sleep(0.1)
            assert found.envelope == b"job"
            assert backend._link._connection is not connection


async def test_sizes_at_the_limit(nats: NatsServer, queue: str) -> None:
    """F49: what is too big is refused here, and the connection stays: the server would throw us out."""
    async with open_backend(nats.url) as backend:
        connection = backend._link._connection
        limit = backend._link.max_payload
        room = limit - 1024 - 64 * 1024
        for size, stored in ((room - 1, True), (room, True), (room + 1, False), (limit, False), (2 * limit, False)):
            [answer] = await backend.publish([Outgoing(queue, f"j{size}", bytes(size))])
            assert isinstance(answer, Stored if stored else Refused), size
        assert backend._link._connection is connection
        async with backend.consume([queue], lease=30.0) as source:
            found = await source.receive(1)
            await source.settle([(found[0], Reschedule(0.0, bytes(60_000)))])
            trail = bytes(limit)  # a trail that the server cannot take: the job is held until it is buried without it
            found = [*await source.receive(2)]
            with pytest.raises(VerdictRefused, match=r"the server takes .* \(max_payload\)"):
                await source.settle([(one, Reschedule(0.0, trail)) for one in found])
            assert not await source.settle([(one, Bury("too large", trail)) for one in found])
            letters = await backend.admin.letters(queue, limit=10)
            assert [(letter.trail, letter.reason) for letter in letters] == [(b"", "too large")] * len(found)


#: Headers as strangers may write them; None: none at all.
FOREIGN = (
    b"NATS/1.0\r\nStatus: 404\r\n\r\n",
    b"NATS/1.0 404 Nothing\r\n\r\n",
    b"NATS/1.0\r\nTc-Trail: 99\r\n\r\n",
    b"NATS/1.0\r\nTc-Trail: \xff\xfe-1\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n:\r\n\r\n",
    None,
)


async def test_foreign_headers_and_subjects(nats: NatsServer, queue: str) -> None:
    """F52: headers that look like the server's own, broken ones, subjects that are not text: none stops us."""
    async with open_backend(nats.url) as backend, backend.consume([queue], lease=30.0) as source:
        await backend.publish([Outgoing(queue, "ours", b"ours")])
        lines = b'CONNECT {"verbose":false,"headers":true}\r\n'
        for index, headers in enumerate(FOREIGN):
            subject = b"taskcore.q.%b.f%d\xff\xfe" % (queue.encode(), index)
            if headers is None:
                lines += b"PUB %b  2\r\n{}\r\n" % subject
            else:
                lines += b"HPUB %b  %d %d\r\n%b{}\r\n" % (subject, len(headers), len(headers) + 2, headers)
        answer = await ask(nats.port, lines + b"PING\r\n", until=b"PONG")
        assert b"-ERR" not in answer
        found: list[Any] = []
        with anyio.fail_after(10):
            while len(found) < 1 + len(FOREIGN):
                found += await source.receive(10)
        assert sorted(one.envelope for one in found) == [b"ours", *[b"{}"] * len(FOREIGN)]
        verdicts: list[Any] = [ACK, Bury("foreign", b""), Reschedule(0.0, b"x"), Reschedule(0.05, b"y"), ACK, ACK, ACK]
        assert not await source.settle(list(zip(found, verdicts, strict=True)))
        with anyio.fail_after(10):
            again: list[Any] = []
            while len(again) < 2:
                again += await source.receive(10)
        assert not await source.settle([(one, ACK) for one in again])
        assert (await backend.admin.stats([queue]))[0].dead == 1


async def test_a_flapping_connection_leaks_nothing(nats: NatsServer, proxy: ChaosProxy, queue: str) -> None:
    """F41: a line that breaks again and again: work goes on, and no subscription or task is left over."""
    async with open_backend(f"nats://{HOST}:{proxy.port}") as backend, backend.consume([queue], lease=5.0) as source:
        subscriptions = len(backend._link._subscriptions)
        for number in range(8):
            with anyio.fail_after(20):
                while True:
                    try:
                        [answer] = await backend.publish([Outgoing(queue, f"j{number}", b"%d" % number)])
                        if isinstance(answer, Uncertain):
                            continue
                        found = await source.receive(1)
                        await source.settle([(one, ACK) for one in found])
                        break
                    except BrokerUnavailable:
                        await anyio.sleep(0.02)
            proxy.cut()
        assert len(backend._link._subscriptions) <= subscriptions + 1
        assert not backend._link._batches


async def test_a_watch_through_a_cut(nats: NatsServer, proxy: ChaosProxy) -> None:
    """A watch sees afterwards what is written while its connection is down."""
    key = new_id()
    async with open_store(f"nats://{HOST}:{proxy.port}") as store, open_store(nats.url) as other:  # noqa: SIM117
        async with store.watch(key) as records:
            await proxy.refuse()
            proxy.cut()
            await other.put(key, b"meanwhile", expect=ANY, keep=60.0)
            await proxy.heal()
            with anyio.fail_after(15):
                async for record in records:
                    assert record.value == b"meanwhile"
                    break


async def test_no_caller_waits_longer_than_its_time(queue: str) -> None:
    """F40: where no server listens, and where none answers, opening ends with a clear error, in time."""
    began = time.monotonic()
    for url in ("nats://127.0.0.1:1", "nats://no-such-host.invalid:4222"):
        with pytest.raises(BrokerUnavailable, match=r"no server takes our connection[\s\S]*(127.0.0.1|no-such-host)"):
            await open_backend(url).__aenter__()
    assert time.monotonic() - began < 10


async def test_a_cut_while_a_new_connection_is_greeted(proxy: ChaosProxy) -> None:
    """F41: a connection that is lost before the server has said what it can is made again at once, not after 5 s."""
    cuts_left = greeted = 0

    class Greeted(NatsLink):
        async def _greet(self) -> None:
            nonlocal cuts_left, greeted
            if cuts_left:
                cuts_left -= 1
                asyncio.get_running_loop().call_later(0.03, proxy.cut)
            await super()._greet()
            greeted += 1

    link = Greeted(read_address(f"nats://{HOST}:{proxy.port}"))
    async with link:
        cuts_left = 3
        proxy.delay(0.1)
        proxy.cut()
        began = anyio.current_time()
        while greeted < 2:  # noqa: ASYNC110 - a link sends no event
            await anyio.sleep(0.02)
        assert await link.api("INFO")
        assert anyio.current_time() - began < 8.0

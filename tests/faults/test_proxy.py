"""ChaosProxy: each fault as a client sees it, on both loops; nothing is left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import pytest

from taskcore.faults.proxy import ChaosProxy
from taskcore.faults.sockets import free_port

pytestmark = pytest.mark.anyio

BROKEN = (anyio.BrokenResourceError, anyio.EndOfStream, OSError)


@asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """Run a server that sends back what it gets; yield its port."""

    async def echo(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                async for data in stream:
                    await stream.send(data)
            except BROKEN:
                pass

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, echo)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        group.cancel_scope.cancel()


@asynccontextmanager
async def proxied() -> AsyncIterator[ChaosProxy]:
    """Run a proxy in front of the echo server."""
    async with echoing() as port, ChaosProxy("127.0.0.1", port) as proxy:
        yield proxy


async def connect(proxy: ChaosProxy) -> anyio.abc.SocketStream:
    """Connect a client."""
    return await anyio.connect_tcp("127.0.0.1", proxy.port)


async def ask(stream: anyio.abc.SocketStream, text: bytes) -> bytes:
    """Send a text and return its whole echo."""
    await stream.send(text)
    reply = b""
    while len(reply) < len(text):
        reply += await stream.receive()
    return reply


async def test_no_fault():
    """Everything comes through, both ways, and is counted; a client's good-bye reaches the server."""
    async with proxied() as proxy:
        async with await connect(proxy) as client:
            data = bytes(range(256)) * 4_000
            async with anyio.create_task_group() as group:
                group.start_soon(client.send, data)
                received = b""
                while len(received) < len(data):
                    received += await client.receive()
            assert received == data
            assert (proxy.accepted, proxy.connected) == (1, 1)
            assert proxy.up.bytes == proxy.down.bytes == len(data)
            await client.send_eof()
            with pytest.raises(anyio.EndOfStream):
                await client.receive()
        with anyio.fail_after(5):
            while proxy.connected:  # noqa: ASYNC110 - the proxy has no event for it
                await anyio.sleep(0.001)


async def test_cut():
    """Every connection is reset; a new one is welcome."""
    async with proxied() as proxy:
        async with await connect(proxy) as one, await connect(proxy) as two:
            assert await ask(one, b"1") == await ask(two, b"1")
            proxy.cut()
            for client in (one, two):
                with pytest.raises(anyio.BrokenResourceError), anyio.fail_after(5):
                    await client.receive()
        async with await connect(proxy) as three:
            assert await ask(three, b"3") == b"3"
        assert proxy.accepted == 3


@pytest.mark.parametrize(("fault", "replies"), [("cut_before", 2), ("cut_after", 3)])
async def test_cut_at_a_reply(fault: str, replies: int):
    """The connection breaks before, or after, the third reply; later ones live."""
    async with proxied() as proxy:
        async with await connect(proxy) as client:
            await ask(client, b"before it was armed")
            getattr(proxy, fault)(3)
            for _ in range(replies):
                assert await ask(client, b"x") == b"x"
            with pytest.raises(BROKEN), anyio.fail_after(5):
                await ask(client, b"x")
        async with await connect(proxy) as again:
            for _ in range(5):
                assert await ask(again, b"y") == b"y"


async def test_cut_on_the_way_up():
    """A request can be lost before the server has it."""
    async with proxied() as proxy, await connect(proxy) as client:
        proxy.cut_before(1, only="up")
        with pytest.raises(BROKEN), anyio.fail_after(5):
            await ask(client, b"x")
        assert proxy.down.chunks == 0


async def test_black_hole():
    """Nothing comes through and no error is raised; afterwards everything does, also new connections."""
    async with proxied() as proxy, await connect(proxy) as client:
        assert await ask(client, b"1") == b"1"
        proxy.black_hole()
        with anyio.move_on_after(0.05) as limit:
            await ask(client, b"2")
        assert limit.cancelled_caught
        async with await connect(proxy) as late:
            with anyio.move_on_after(0.05) as limit:
                await ask(late, b"3")
            assert limit.cancelled_caught
            await proxy.heal()
            with anyio.fail_after(5):
                assert await client.receive() == b"2"
                assert await late.receive() == b"3"


async def test_forgotten_connections():
    """What is open passes nothing on, not even a good-bye and not after ``heal``; new connections do."""
    async with proxied() as proxy, await connect(proxy) as client:
        assert await ask(client, b"1") == b"1"
        proxy.forget()
        with anyio.move_on_after(0.05) as limit:
            await ask(client, b"2")
        assert limit.cancelled_caught
        async with await connect(proxy) as late:
            assert await ask(late, b"3") == b"3"
            await proxy.heal()
            assert await ask(late, b"4") == b"4"
        await client.send_eof()
        with anyio.move_on_after(0.05) as limit:
            await client.receive()
        assert limit.cancelled_caught
        proxy.cut()
        with pytest.raises(anyio.BrokenResourceError), anyio.fail_after(5):
            await client.receive()


async def test_a_one_way_black_hole():
    """Requests arrive, replies do not."""
    async with proxied() as proxy, await connect(proxy) as client:
        proxy.black_hole(only="down")
        with anyio.move_on_after(0.05):
            await ask(client, b"1")
        assert (proxy.up.bytes, proxy.down.bytes) == (1, 0)


async def test_refuse():
    """No server listens, open connections stay, and the port is the same afterwards."""
    async with proxied() as proxy, await connect(proxy) as client:
        await ask(client, b"1")
        port = proxy.port
        await proxy.refuse()
        with pytest.raises(OSError):
            await connect(proxy)
        assert await ask(client, b"2") == b"2"
        await proxy.heal()
        assert proxy.port == port
        async with await connect(proxy) as again:
            assert await ask(again, b"3") == b"3"


async def test_delay():
    """Each chunk waits, one way or both."""
    async with proxied() as proxy, await connect(proxy) as client:
        await ask(client, b"1")
        for only, least in (("up", 0.05), (None, 0.1)):
            proxy.delay(0.05, only=only)
            began = anyio.current_time()
            await ask(client, b"x")
            assert anyio.current_time() - began >= least * 0.9
        proxy.delay(0.01, jitter=0.01)
        for _ in range(5):
            assert await ask(client, b"y") == b"y"


async def test_throttle():
    """A throttled proxy passes so many bytes a second."""
    async with proxied() as proxy, await connect(proxy) as client:
        proxy.throttle(10_000, only="down")
        began = anyio.current_time()
        assert await ask(client, b"x" * 2_000) == b"x" * 2_000
        assert 0.15 <= anyio.current_time() - began < 2.0


async def test_byte_by_byte():
    """Every byte arrives, each in a packet of its own as far as the kernel lets it."""
    async with proxied() as proxy, await connect(proxy) as client:
        proxy.byte_by_byte()
        text = bytes(range(256))
        await client.send(text)
        chunks = []
        while sum(map(len, chunks)) < len(text):
            chunks.append(await client.receive())
        assert b"".join(chunks) == text
        assert len(chunks) > 1


async def test_no_server_behind_it():
    """A server that is not there looks like a connection that is reset."""
    async with ChaosProxy("127.0.0.1", free_port()) as proxy, await connect(proxy) as client:
        with pytest.raises(BROKEN), anyio.fail_after(5):
            await ask(client, b"x")


async def test_closing():
    """At its end nothing listens and nothing is connected, also in the middle of faults."""
    async with echoing() as port:
        async with ChaosProxy("127.0.0.1", port) as proxy:
            client = await connect(proxy)
            await ask(client, b"1")
            proxy.black_hole()
            await client.send(b"2")
        with pytest.raises(BROKEN), anyio.fail_after(5):
            await client.receive()
        await client.aclose()
        with pytest.raises(OSError):
            await connect(proxy)
        assert proxy.connected == 0

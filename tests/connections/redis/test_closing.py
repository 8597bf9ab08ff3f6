"""What is closed is closed: no socket of ours outlives its client, whatever the server and other tasks do meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from taskcore import BrokerUnavailable
from taskcore.adapters import open_backend, open_store
from taskcore.backend import Outgoing, Uncertain
from taskcore.connections.redis import RedisLink
from taskcore.faults import ChaosProxy, RedisServer
from taskcore.faults.resp import command
from taskcore.faults.sockets import free_port
from tests.support.certificates import make_certificates
from tests.support.real import require
from tests.support.redis_play import SHORT_TIMEOUTS, fds, held, with_tls

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@asynccontextmanager
async def leaving_nothing() -> AsyncIterator[None]:
    """Check that there are as many files and sockets afterwards as before."""
    before = fds()
    yield
    await anyio.lowlevel.checkpoint()  # a transport closes its socket in the loop's next round
    assert fds() == before


async def test_tls_with_a_server_that_hangs(tmp_path: Path):
    """F21, F43: TLS says goodbye and wants an answer; a server that gives none keeps no connection open."""
    certificates, port = make_certificates(tmp_path), free_port()
    async with require(RedisServer)(config=with_tls(certificates, "here", port)) as server, leaving_nothing():
        async with held(f"rediss://127.0.0.1:{port}/0?timeout=1s&ssl_ca_certs={certificates}/ca.pem") as (backend, _):
            await backend.publish([Outgoing("q", "1", b"x")])
            server.pause()
        server.resume()


async def test_a_job_that_is_half_sent(own: RedisServer):
    """F21, C22: more than fits between us and a server that hangs ends in its time, and is not kept to be sent."""
    async with leaving_nothing():
        async with open_backend(own.url + SHORT_TIMEOUTS) as backend:
            await backend.publish([Outgoing("q", "1", b"x")])
            own.pause()
            with anyio.fail_after(10):
                [answer] = await backend.publish([Outgoing("q", "2", b"x" * 50_000_000)])
            assert isinstance(answer, Uncertain)
        own.resume()


async def test_closed_while_a_caller_connects(own: RedisServer):
    """A connection that is made only after its link was closed is closed too, and its caller gets an error."""
    async with ChaosProxy("127.0.0.1", own.port) as proxy:
        proxy.black_hole()
        link = RedisLink(f"redis://127.0.0.1:{proxy.port}/0")

        async def ask() -> None:
            with pytest.raises(BrokerUnavailable, match="were closed"):
                await link.call("ask", "", ("PING",))

        async def subscribe() -> None:
            with pytest.raises(BrokerUnavailable, match="were closed"):
                await link.connect()

        async with leaving_nothing():
            async with anyio.create_task_group() as group:
                for work in (ask, ask, subscribe):
                    group.start_soon(work)
                while proxy.accepted < 2:  # noqa: ASYNC110 - the proxy has no event
                    await anyio.sleep(0.005)
                await link.close()
                await proxy.heal()
            while proxy.connected:  # noqa: ASYNC110 - as above
                await anyio.sleep(0.005)


async def test_closed_while_a_caller_enqueues(own: RedisServer):
    """What was under way when its backend was closed is uncertain, and is not said again on a new connection."""
    async with leaving_nothing():
        async with open_backend(own.url) as backend, anyio.create_task_group() as group:
            await backend.publish([Outgoing("q", "1", b"x")])
            own.pause()

            async def enqueue() -> None:
                [answer] = await backend.publish([Outgoing("q", "2", b"x")])
                assert isinstance(answer, Uncertain)

            group.start_soon(enqueue)
            await anyio.wait_all_tasks_blocked()
            await backend.__aexit__(None, None, None)
        own.resume()


@pytest.mark.parametrize("opened", [open_backend, open_store])
async def test_a_server_that_does_not_say_what_it_is(own: RedisServer, opened):
    """What cannot be entered leaves no connection behind."""
    await command(own.port, "ACL", "SETUSER", "mute", "on", ">secret", "~*", "+@all", "-info")
    async with leaving_nothing():
        for _ in range(3):
            with pytest.raises(BrokerUnavailable, match="may not do that"):
                async with opened(f"redis://mute:secret@127.0.0.1:{own.port}/0"):
                    pass

"""RabbitMQ through TLS: what cannot be trusted is refused with the reason, and nothing falls back to plain text."""

from __future__ import annotations

import time

import anyio
import pytest

from taskcore import App, BrokerUnavailable
from taskcore.backend import Outgoing, Stored
from taskcore.backends.rabbitmq import RabbitBackend
from taskcore.faults import RabbitServer
from taskcore.faults.sockets import free_port
from taskcore.lifecycle import ACK
from tests.support.certificates import make_certificates
from tests.support.real import serving

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Make an authority, a certificate for this machine and one for another."""
    folder = make_certificates(tmp_path_factory.mktemp("tls"))
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def ports(certificates):
    """Return the ports of a node: ``plain``, and with TLS ``here``, which also wants a client's certificate."""
    here = free_port()
    config = {
        "listeners.ssl.default": f"127.0.0.1:{here}",
        "ssl_options.cacertfile": str(certificates / "ca.pem"),
        "ssl_options.certfile": str(certificates / "address.pem"),
        "ssl_options.keyfile": str(certificates / "address.key"),
        "ssl_options.verify": "verify_peer",
        "ssl_options.fail_if_no_peer_cert": "false",
    }
    with serving(RabbitServer, config=config) as node:
        yield {"plain": node.port, "here": here}


async def test_tls(ports, certificates):
    """F43: with the right certificate and the authority that signed it, everything works, also with one of our own."""
    trust = f"cafile={certificates}/ca.pem"
    ours = f"certfile={certificates}/elsewhere.pem&keyfile={certificates}/elsewhere.key"
    for options in (trust, f"{trust}&{ours}"):
        async with RabbitBackend(f"amqps://127.0.0.1:{ports['here']}/?min_queue_age=0.1&{options}") as backend:
            assert await backend.publish([Outgoing("tls", "1", b"x" * 100_000)]) == [Stored()]
            async with backend.consume(["tls"], lease=30.0) as source:
                [found] = await source.receive(1)
                assert found.envelope == b"x" * 100_000
                assert not await source.settle([(found, ACK)])


@pytest.mark.parametrize(
    ("host", "port", "trusted", "why"),
    [
        ("127.0.0.1", "here", False, "certificate verify failed: self-signed certificate"),
        ("localhost", "here", True, "Hostname mismatch, certificate is not valid for 'localhost'"),
        ("127.0.0.1", "plain", True, "SSL"),
    ],
    ids=["unknown authority", "another host", "a plaintext port"],
)
async def test_tls_that_cannot_be_trusted(ports, certificates, host, port, trusted, why):
    """F43: each is refused at once; the text says which, and no password is sent."""
    trust = f"&cafile={certificates}/ca.pem" if trusted else ""
    url = f"amqps://me:secret@{host}:{ports[port]}/?timeout=3{trust}"
    with anyio.fail_after(10), pytest.raises(BrokerUnavailable, match="cannot be reached") as caught:
        async with App(url, store="none"):
            pass
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "certificate" in caught.value.fix


async def test_a_certificate_that_is_not_there(tmp_path):
    """A file that cannot be read is named, and nothing is tried without it."""
    with anyio.fail_after(10), pytest.raises(BrokerUnavailable) as caught:
        async with App(f"amqps://127.0.0.1:1/?cafile={tmp_path}/no.pem", store="none"):
            pass
    assert "no.pem" in str(caught.value)


async def test_a_blocked_loop_keeps_its_connection(ports, certificates, tmp_path):
    """A loop that stands still for five heartbeats loses no job over TLS: a thread writes into the connection."""
    url = f"amqps://127.0.0.1:{ports['here']}/?min_queue_age=0&heartbeat=1&cafile={certificates}/ca.pem"
    app = App(url, store=f"sqlite:///{tmp_path}/store.db", lease=3.0)
    starts = list[int]()

    @app.task(queue="blocked")
    async def block(seconds: float) -> str:
        starts.append(1)
        time.sleep(seconds)  # noqa: ASYNC251 - what the test is about
        return "x" * 100_000

    async with app.running(concurrency=2), app.running(concurrency=2):
        job = await block.enqueue(6.0)
        assert len(await job.result(timeout=30)) == 100_000
        assert await (await block.enqueue(0.0)).result(timeout=10)
    assert len(starts) == 2

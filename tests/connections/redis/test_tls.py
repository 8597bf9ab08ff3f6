"""Redis through TLS: what cannot be trusted is refused, and nothing ever falls back to plain text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from taskcore import App, BrokerUnavailable
from taskcore.backend import Outgoing
from taskcore.faults import RedisServer
from taskcore.faults.resp import command
from tests.support.certificates import make_certificates
from tests.support.real import serving
from tests.support.redis_play import held, with_tls

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an authority of our own, a certificate for this machine and one for another."""
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def speaking(certificates: Path) -> Iterator[dict[str, tuple[int, int]]]:
    """Run a server with a right certificate and one with another host's; return their plain and TLS ports."""
    from taskcore.faults.sockets import free_port  # noqa: PLC0415

    here, elsewhere = free_port(), free_port()
    with (
        serving(RedisServer, config=with_tls(certificates, "here", here)) as right,
        serving(RedisServer, config=with_tls(certificates, "elsewhere", elsewhere)) as wrong,
    ):
        yield {"here": (right.port, here), "elsewhere": (wrong.port, elsewhere)}


async def test_tls(speaking: dict[str, tuple[int, int]], certificates: Path):
    """F43: with the right certificate and the authority that signed it, everything works."""
    url = f"rediss://127.0.0.1:{speaking['here'][1]}/0?ssl_ca_certs={certificates}/ca.pem"
    async with held(url) as (backend, source):
        await backend.publish([Outgoing("q", "1", b"x")])
        assert [one.envelope for one in await source.receive(1)] == [b"x"]


@pytest.mark.parametrize(
    ("name", "tls", "authority"),
    [("here", True, False), ("elsewhere", True, True), ("here", False, True)],
    ids=["unknown authority", "another host", "a plaintext port"],
)
async def test_tls_that_cannot_be_trusted(
    speaking: dict[str, tuple[int, int]], certificates: Path, name: str, tls: bool, authority: bool
):
    """F43: an unknown authority, another host's certificate and a port without TLS are refused; never plaintext."""
    port = speaking[name][int(tls)]
    trust = f"&ssl_ca_certs={certificates}/ca.pem" if authority else ""
    url = f"rediss://127.0.0.1:{port}/0?connect_timeout=1s&timeout=1s{trust}"
    with anyio.fail_after(5), pytest.raises(BrokerUnavailable, match="cannot reach Redis"):
        async with App(url, store="none"):
            pass
    stats: bytes = await command(speaking[name][0], "INFO", "commandstats")
    assert b"cmdstat_evalsha" not in stats or name == "here"

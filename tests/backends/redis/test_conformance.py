"""The whole suite on Redis 7.0 and 8, on Valkey, behind Sentinel and on a cluster.

Each server's suite is played once, all checks side by side; then each check is a test of its own.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from functools import cache, partial

import anyio
import msgspec
import pytest

from taskcore.backends.redis.backend import FEATURES
from taskcore.conformance import Certificate, Check, all_checks, certify
from taskcore.faults import RedisCluster, RedisSentinel, RedisServer, ValkeyServer
from tests.support.real import NEWER, require

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

LEASE, MARGIN = 0.6, 0.6  #: seconds

KINDS = {
    "redis": RedisServer,
    "redis 8": partial(RedisServer, version=NEWER["redis-server"]),
    "valkey": ValkeyServer,
    "sentinel": RedisSentinel,
    "cluster": RedisCluster,
}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Callable[[str], Certificate]:
    """Certify a kind of server; once, even if several processes share these tests."""

    @cache
    def find(kind: str) -> Certificate:
        require(ValkeyServer if kind == "valkey" else RedisServer, NEWER["redis-server"] if kind == "redis 8" else "")
        path = tmp_path_factory.getbasetemp().parent / f"conformance-{kind}-{testrun_uid}"
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not path.stat().st_size:
                path.write_bytes(msgspec.json.encode(anyio.run(play, kind)))
            return msgspec.json.decode(path.read_bytes(), type=Certificate)

    return find


async def play(kind: str) -> Certificate:
    """Run the whole suite on a server of its own."""
    async with KINDS[kind]() as server:
        return await certify(server.url, lease=LEASE, margin=MARGIN, concurrency=20)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", all_checks(), ids=lambda check: check.name)
def test_conformance(check: Check, kind: str, certificate: Callable[[str], Certificate]) -> None:
    """The backend keeps every promise; where it emulates something, that counts as kept."""
    [finding] = [finding for finding in certificate(kind).results if finding.check == check.name]
    assert finding.why == ""
    assert finding.standing == ("emulated" if check.emulated(FEATURES) else "kept")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_behind(kind: str, certificate: Callable[[str], Certificate]) -> None:
    """No queue and no record of the suite is there afterwards, and delayed jobs are as punctual as we say."""
    found = certificate(kind)
    assert found.is_kept
    assert (found.broken, found.left) == ((), ())
    assert found.latest is not None
    assert found.latest < FEATURES.delay_error + MARGIN

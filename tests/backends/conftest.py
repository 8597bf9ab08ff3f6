"""Servers that all tests of this folder share if they only use queues of their own, and plays of faults on each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from taskcore.faults import NatsServer, RabbitServer, RedisServer, Server
from tests.support.fault_plays import play_on
from tests.support.real import serving
from tests.support.redis_play import Play


@pytest.fixture(scope="session")
def shared() -> Iterator[RedisServer]:
    """Run one Redis."""
    with serving(RedisServer) as server:
        yield server


@pytest.fixture(scope="session")
def nats() -> Iterator[NatsServer]:
    """Run one NATS, of the version that is found first."""
    with serving(NatsServer) as server:
        yield server


@pytest.fixture(scope="session")
def shared_nodes() -> Iterator[Callable[[str], RabbitServer]]:
    """Keep nodes by version until the end: to start one takes longer than most modules of tests."""
    with ExitStack() as exits:
        yield cache(lambda version: exits.enter_context(serving(RabbitServer, version)))


@pytest.fixture(scope="session", params=["redis", "nats", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Server:
    """Serve each broker in turn."""
    if request.param == "rabbitmq":
        node: RabbitServer = request.getfixturevalue("shared_nodes")("")
        return node
    server: Server = request.getfixturevalue({"redis": "shared", "nats": "nats"}[request.param])
    return server


@pytest.fixture
def play(broker: Server, tmp_path: Path) -> Play:
    """Make a play of faults on the broker."""
    return play_on(broker, tmp_path)

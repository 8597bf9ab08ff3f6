"""The brokers that a run can start for itself: one line for each. A new adapter needs one line here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from taskcore.adapters import open_backend
from taskcore.bench.environment import BenchEnvironment, NotHere, Size
from taskcore.bench.running import plain
from taskcore.errors import AdapterMissing
from taskcore.faults.binaries import ServerMissing
from taskcore.faults.rabbitmq import RabbitServer
from taskcore.faults.servers import NatsServer, RedisServer, Server
from taskcore.toolkit.urls import mask_url

__all__ = ["BROKERS", "BrokerKind", "environment_on", "named_environment", "private_environment", "private_server"]


class BrokerKind(NamedTuple):
    """A kind of broker.

    :param server: makes the private server; None: there is none to start.
    :param settings: how it is set, for the report.
    :param records: keeps the records of a broker that keeps none.
    """

    scheme: str
    server: Callable[[], Server] | None
    settings: str
    records: Callable[[], Server] | None = None


def _redis() -> Server:
    return RedisServer(config={"appendfsync": "everysec"})


BROKERS: Final[Mapping[str, BrokerKind]] = {
    "memory": BrokerKind("memory", None, "in the same process; nothing is durable"),
    "redis": BrokerKind("redis", _redis, "append-only file, appendfsync everysec, no snapshots, noeviction"),
    "nats": BrokerKind("nats", NatsServer, "JetStream, file storage, one server, the server's own sync interval"),
    "rabbitmq": BrokerKind(
        "amqp",
        RabbitServer,
        "one node, defaults; durable queues, persistent, confirmed; records in a private Redis",
        records=_redis,
    ),
}


@asynccontextmanager
async def private_server(name: str) -> AsyncIterator[Server | None]:
    """Start the server of a broker for this run; None for a broker that needs none.

    :raises NotHere: its program is not installed.
    """
    make = BROKERS[name].server
    if make is None:
        yield None
        return
    try:
        server = make()
    except ServerMissing as error:
        raise NotHere(plain(error)) from error
    async with server:
        yield server


@asynccontextmanager
async def environment_on(name: str, server: Server | None, size: Size) -> AsyncIterator[BenchEnvironment]:
    """Open an environment on a server of our own.

    :raises NotHere: its adapter is not installed.
    """
    kind = BROKERS[name]
    url = f"{kind.scheme}://" if server is None else server.url
    try:
        open_backend(url)  # not connected: this only asks for the adapter
    except AdapterMissing as error:
        raise NotHere(plain(error)) from error
    async with _records(kind) as store, BenchEnvironment(name, url, size, store=store, server=server) as environment:
        yield environment


@asynccontextmanager
async def private_environment(name: str, size: Size) -> AsyncIterator[BenchEnvironment]:
    """Open an environment on a broker of our own.

    :raises NotHere: its adapter or its server is not installed.
    """
    async with private_server(name) as server, environment_on(name, server, size) as environment:
        yield environment


@asynccontextmanager
async def _records(kind: BrokerKind) -> AsyncIterator[str | None]:
    """Yield the URL of a store for a broker that needs one; None if there is none, or none is needed."""
    try:
        server = kind.records() if kind.records is not None else None
    except ServerMissing:  # scenarios that need it say so
        server = None
    if server is None:
        yield None
        return
    async with server:
        yield server.url


@asynccontextmanager
async def named_environment(url: str, size: Size, store: str | None) -> AsyncIterator[BenchEnvironment]:
    """Open an environment on a foreign broker, in queues of our own."""
    open_backend(url)  # a URL with a typo is refused before anything is measured
    async with BenchEnvironment(mask_url(url), url, size, store=store) as environment:
        yield environment

"""The broker of a run: the one that the settings name, or a private one that is started for this run.

Choose it before importing the tasks: their module creates the app from the settings.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from taskcore.adapters import has_store
from taskcore.config import load
from taskcore.faults import NatsCluster, NatsServer, PostgresServer, RabbitServer, RedisServer, Server, ValkeyServer

__all__ = ["CLUSTERS", "SERVERS", "STORES", "Private", "broker"]

SERVERS: Final[Mapping[str, type[Server | NatsCluster]]] = {
    "redis": RedisServer,
    "valkey": ValkeyServer,
    "nats": NatsServer,
    "nats-cluster": NatsCluster,
    "rabbitmq": RabbitServer,
}
STORES: Final[Mapping[str, type[Server]]] = {"postgres": PostgresServer}
CLUSTERS: Final = frozenset({"nats-cluster"})  #: clusters that survive the loss of one server


@dataclass(frozen=True)
class Private:
    """A broker that was started for this run and may be killed: one server, or a cluster of three."""

    broker: Server | NatsCluster

    @property
    def url(self) -> str:
        """The URL for ``App``; in a cluster, every server keeps everything."""
        return f"{self.broker.url}/?replicas=3" if isinstance(self.broker, NatsCluster) else self.broker.url

    @property
    def size(self) -> int:
        """How many servers it has."""
        return len(self.broker.servers) if isinstance(self.broker, NatsCluster) else 1

    async def victim(self) -> Server:
        """Return the server whose loss has the largest effect."""
        return await self.broker.busiest() if isinstance(self.broker, NatsCluster) else self.broker


@asynccontextmanager
async def broker(kind: str | None, store: str | None, out: Path) -> AsyncIterator[Private | None]:
    """Set broker and store in the environment, where this program and its workers look for them.

    :param kind: a name in ``SERVERS``, or None: use the settings.
    :param store: a name in ``STORES``, the URL of a store, or None: use the settings, or the broker's own, or a
        file in ``out``.
    """
    async with AsyncExitStack() as exits:
        private: Private | None = None
        if kind is not None:
            private = Private(await exits.enter_async_context(SERVERS[kind]()))
            os.environ["TASKCORE_URL"] = private.url
        if store in STORES:
            store = (await exits.enter_async_context(STORES[store]())).url
        _choose_store(store, out)
        yield private


def _choose_store(store: str | None, out: Path) -> None:
    if store is not None:
        os.environ["TASKCORE_STORE"] = store
        return
    settings = load().settings
    file = out / "store.sqlite"
    url = f"sqlite:///{file}"
    if settings.store is None and not has_store(settings.url) and has_store(url):
        for old in out.glob(f"{file.name}*"):
            old.unlink()
        os.environ["TASKCORE_STORE"] = url

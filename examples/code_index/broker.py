"""Which broker a run has: the one that the settings name, or a private one that is started for this run.

This comes before anything that imports the tasks, because the app is made with them, from the settings.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from taskcore.adapters import has_store
from taskcore.config import load
from taskcore.testing.faults import NatsServer, RabbitServer, RedisServer, Server, ValkeyServer

__all__ = ["SERVERS", "broker"]

SERVERS: Final[Mapping[str, type[Server]]] = {
    "redis": RedisServer,
    "valkey": ValkeyServer,
    "nats": NatsServer,
    "rabbitmq": RabbitServer,
}


@asynccontextmanager
async def broker(kind: str | None, store: str | None, out: Path) -> AsyncIterator[Server | None]:
    """Say in the environment, where this program and its workers look, which broker and which store to use.

    :param kind: a name in ``SERVERS``, or None: what the settings say.
    :param store: the URL of a store, or None: what the settings say, or the broker's own, or a file in ``out``.
    """
    if kind is None:
        _choose_store(store, out)
        yield None
        return
    async with SERVERS[kind]() as server:
        os.environ["TASKCORE_URL"] = server.url
        _choose_store(store, out)
        yield server


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

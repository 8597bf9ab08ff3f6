"""Each kind of store, for plays that are the same on all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from taskcore.faults import NatsServer, PostgresServer, RedisServer
from taskcore.stores.memory import MemoryStore
from tests.support.real import serving

__all__ = ["KINDS_OF_STORES", "store_of"]

SERVERS = {"redis": RedisServer, "nats": NatsServer, "postgresql": PostgresServer}
KINDS_OF_STORES = ("memory", "sqlite", *SERVERS)


@contextmanager
def store_of(kind: str, folder: Path) -> Iterator[Any]:
    """Run a store: a URL, or an object that programs of this process share."""
    with ExitStack() as opened:
        if kind == "memory":
            yield MemoryStore()
        elif kind == "sqlite":
            yield f"sqlite:///{folder / 'records.db'}"
        else:
            yield opened.enter_context(serving(SERVERS[kind])).url

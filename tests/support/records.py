"""A store for brokers that have none: SQLite's, if its adapter is here, else one in memory for all connections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from taskcore.adapters import open_store
from taskcore.errors import AdapterMissing
from taskcore.store import Store
from taskcore.stores.memory import MemoryStore


def shared_store(folder: Path) -> Callable[[], Store]:
    """Make connections to one store."""
    url = store_url(folder)
    if url is not None:
        return lambda: open_store(url)
    store = MemoryStore("memory://")
    return lambda: store


def store_url(folder: Path) -> str | None:
    """Return the address of a store that several processes can use; None if there is no adapter for one here."""
    url = f"sqlite:///{folder / 'records.db'}"
    try:
        open_store(url)
    except AdapterMissing:
        return None
    return url

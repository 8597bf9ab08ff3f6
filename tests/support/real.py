"""Real servers for a module of tests: skipped where their program is missing, a failure where CI requires them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from anyio.from_thread import start_blocking_portal

from taskcore.faults import Server, ServerMissing

S = TypeVar("S", bound=Server)

#: Versions that the oldest system on which the tests run does not have. ``scripts/newer-servers`` fetches them.
NEWER = {"redis-server": "8", "rabbitmq-server": "4", "postgres": "17"}


def require(kind: type[S], version: str = "") -> type[S]:
    """Find a server or skip; ``TASKCORE_REQUIRE_SERVERS=nats-server,redis-server:7`` forbids skipping."""
    try:
        kind.find(version)
    except ServerMissing as missing:
        name = kind.program + (f":{version}" if version else "")
        if name in os.environ.get("TASKCORE_REQUIRE_SERVERS", "").split(","):
            pytest.fail(f"this run requires it: {missing}")
        hint = "\n  or: scripts/newer-servers" if version and NEWER.get(kind.program) == version else ""
        pytest.skip(f"{missing}{hint}")
    return kind


def versions(kind: type[Server], *, newer: bool = True) -> dict[str, Any]:
    """Return arguments of ``parametrize`` that run a test on the system's server and, if asked for, on a newer one."""
    return {"argvalues": ["", NEWER[kind.program]] if newer else [""], "ids": lambda version: version or "system"}


@contextmanager
def serving(kind: type[S], version: str = "", **options: Any) -> Iterator[S]:
    """Run one server for as long as the context lasts, for fixtures of a module or of a session."""
    require(kind, version)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(kind(version=version, **options)) as server,
    ):
        yield server

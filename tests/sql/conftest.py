"""Both SQL stores for the tests here: a SQLite file of the test's own, and one PostgreSQL for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real import serving

from taskcore.testing.faults import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests that do it no harm."""
    with serving(PostgresServer) as server:
        yield server


@pytest.fixture
def anyio_backend() -> str:
    """PostgreSQL's client knows asyncio only; tests of SQLite that want both loops say so."""
    return "asyncio"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each store in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/records.db"
    server: Any = request.getfixturevalue("postgres")
    return str(server.url)

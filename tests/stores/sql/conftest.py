"""Both SQL stores for the tests here: a SQLite file of the test's own, and one PostgreSQL for all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from taskcore.faults import PostgresServer
from tests.support.real import serving


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Run one server for all tests that do it no harm."""
    with serving(PostgresServer) as server:
        yield server


@pytest.fixture
def anyio_backend() -> str:
    """Choose asyncio, PostgreSQL's client knows no other loop; tests of SQLite that want both loops say so."""
    return "asyncio"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Choose each store in turn, in a database of the test's own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/records.db"
        return
    server: Any = request.getfixturevalue("postgres")
    name = f"t{secrets.token_hex(4)}"
    with psycopg.connect(server.url, autocommit=True) as root:
        root.execute(f"CREATE DATABASE {name}")
        yield f"{server.url.rpartition('/')[0]}/{name}"
        root.execute(f"DROP DATABASE {name} WITH (FORCE)")

"""Both SQL backends for the tests here: a SQLite file of the test's own, and one PostgreSQL for all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

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
    """Choose asyncio: PostgreSQL's client knows no other loop."""
    return "asyncio"


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """Make a database of the test's own; return its URL."""
    name = f"t{secrets.token_hex(4)}"
    with psycopg.connect(postgres.url, autocommit=True) as root:
        root.execute(f"CREATE DATABASE {name}")
        yield f"{postgres.url.rpartition('/')[0]}/{name}"
        root.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Choose each backend in turn, in a database of the test's own."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.db"
    database: str = request.getfixturevalue("database")
    return database

"""The whole suite on SQLite and on PostgreSQL, the system's and a newer one.

Each suite is played once, all checks side by side; then each check is a test of its own.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import anyio
import msgspec
import pytest

from taskcore.backend import Features
from taskcore.backends.sql.postgres.backend import FEATURES as POSTGRES
from taskcore.backends.sql.sqlite.backend import FEATURES as SQLITE
from taskcore.conformance import Certificate, Check, all_checks, certify
from taskcore.faults import PostgresServer
from tests.support.real import NEWER, require

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

LEASE, MARGIN = 0.6, 0.6  #: seconds

KINDS: dict[str, Features] = {"sqlite": SQLITE, "postgresql": POSTGRES, "postgresql 17": POSTGRES}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Callable[[str], Certificate]:
    """Certify a kind of database; once, even if several processes share these tests."""

    @cache
    def find(kind: str) -> Certificate:
        if kind != "sqlite":
            require(PostgresServer, NEWER["postgres"] if kind == "postgresql 17" else "")
        folder = tmp_path_factory.getbasetemp().parent
        with (folder / f"conformance-{kind}-{testrun_uid}").open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            path = Path(file.name)
            if not path.stat().st_size:
                path.write_bytes(msgspec.json.encode(anyio.run(play, kind, folder / f"jobs-{testrun_uid}.db")))
            return msgspec.json.decode(path.read_bytes(), type=Certificate)

    return find


async def play(kind: str, path: Path) -> Certificate:
    """Run the whole suite on a database of its own."""
    certified = partial(certify, lease=LEASE, margin=MARGIN, concurrency=20)
    if kind == "sqlite":
        return await certified(f"sqlite:///{path}")
    async with PostgresServer(
        version=NEWER["postgres"] if kind == "postgresql 17" else "", config={"max_connections": "600"}
    ) as server:
        return await certified(server.url)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", all_checks(), ids=lambda check: check.name)
def test_conformance(check: Check, kind: str, certificate: Callable[[str], Certificate]) -> None:
    """The backend keeps every promise, and nothing is emulated."""
    [finding] = [finding for finding in certificate(kind).results if finding.check == check.name]
    assert finding.why == ""
    assert finding.standing == "kept"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_behind(kind: str, certificate: Callable[[str], Certificate]) -> None:
    """No queue and no record of the suite is there afterwards, and delayed jobs are as punctual as we say."""
    found = certificate(kind)
    assert found.is_kept
    assert (found.broken, found.left) == ((), ())
    assert found.latest is not None
    assert found.latest < KINDS[kind].delay_error + MARGIN

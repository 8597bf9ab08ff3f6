"""The whole suite on the in-memory broker with its records in SQLite and in PostgreSQL: every promise is kept."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskcore.conformance import STORE_CHECKS, Certificate, Check, all_checks, certify, run_check
from taskcore.conformance.harness import Harness
from taskcore.faults import PostgresServer
from tests.support.real import NEWER, serving

every_check = pytest.mark.parametrize("check", all_checks(), ids=lambda check: check.name)

LEASE, MARGIN = 0.5, 0.7  #: seconds

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "postgresql 17"])
def certificate(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Certificate]:
    """Certify a store, all checks side by side."""

    def play_all(store: str) -> Certificate:
        return anyio.run(partial(certify, "memory://", store=store, lease=LEASE, margin=MARGIN))

    if request.param == "sqlite":
        yield play_all(f"sqlite:///{tmp_path_factory.mktemp('suite')}/records.db")
    elif request.param == "postgresql":
        yield play_all(request.getfixturevalue("postgres").url)
    else:
        with serving(PostgresServer, NEWER["postgres"]) as server:
            yield play_all(server.url)


@every_check
def test_a_promise(check: Check, certificate: Certificate) -> None:
    """The promise is kept with records in a database as it is with records in memory."""
    [finding] = [finding for finding in certificate.results if finding.check == check.name]
    assert (finding.standing, finding.why) == ("kept", "")


def test_nothing_is_left(certificate: Certificate) -> None:
    """Every record that the suite made is gone, and the certificate names the store."""
    assert certificate.is_kept
    assert certificate.left == ()
    assert certificate.store is not None
    assert not certificate.store.startswith("memory")


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.name)
def test_on_trio(check: Check, tmp_path: Path) -> None:
    """SQLite's records work on trio as well."""

    async def scenario() -> Any:
        make = lambda: Harness.at("memory://", store=f"sqlite:///{tmp_path}/r.db", lease=LEASE, margin=MARGIN)  # noqa: E731
        return await run_check(check, make)

    finding = anyio.run(scenario, backend="trio")
    assert (finding.standing, finding.why) == ("kept", "")

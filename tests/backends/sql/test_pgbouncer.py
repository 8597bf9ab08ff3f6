"""PgBouncer between an app and PostgreSQL: shared sessions are refused with the way out, and ``?listen=no`` is one."""

from __future__ import annotations

import psycopg
import pytest

from taskcore import BrokerUnavailable
from taskcore.adapters import open_backend
from taskcore.conformance import BACKEND_CHECKS, STORE_CHECKS, certify
from taskcore.faults import PostgresServer
from tests.support.pgbouncer import VERSIONS, Bounce, bounces

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture(params=VERSIONS, ids=lambda version: version or "system")
def bounce(request: pytest.FixtureRequest, postgres: PostgresServer) -> Bounce:
    """Start a PgBouncer of each version in front of the server that all tests share."""
    return bounces(postgres, request.param)


async def test_shared_sessions_are_refused(bounce: Bounce):
    """In transaction mode notifications would get lost: the backend does not open, and names both ways out."""
    async with bounce(pool_mode="transaction") as server:
        with pytest.raises(BrokerUnavailable, match=r"share[\s\S]*session mode[\s\S]*listen=no"):
            async with open_backend(server.url):
                pass


async def test_polling_through_shared_sessions(bounce: Bounce):
    """With ``?listen=no`` queues and records keep their promises in transaction mode, and no setting of ours stays."""
    only = [check.name for check in (*BACKEND_CHECKS, *STORE_CHECKS)][::3]
    async with bounce(pool_mode="transaction", default_pool_size=8) as server:
        certificate = await certify(f"{server.url}?listen=no", only=only, lease=1.0, margin=2.0)
        assert certificate.is_kept, [finding.why for finding in certificate.results if finding.why]
        async with await psycopg.AsyncConnection.connect(server.url, autocommit=True, prepare_threshold=None) as own:
            for _ in range(8):
                found = await (await own.execute("SELECT current_setting('enable_seqscan')", prepare=False)).fetchone()
                assert found == ("on",)

"""PgBouncer between a store and PostgreSQL: sessions of its own are enough, shared ones are refused in time."""

from __future__ import annotations

import secrets

import psycopg
import pytest

from taskcore import App, BrokerUnavailable, current
from taskcore.conformance import STORE_CHECKS, certify
from taskcore.faults import PostgresServer
from taskcore.store import ANY
from taskcore.stores.sql import PostgresStore, complete_in_async
from tests.support.pgbouncer import VERSIONS, Bounce, PgBouncer, bounces

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]


@pytest.fixture(params=VERSIONS, ids=lambda version: version or "system")
def bounce(request: pytest.FixtureRequest, postgres: PostgresServer) -> Bounce:
    """Start a PgBouncer of each version in front of the server that all tests share."""
    return bounces(postgres, request.param)


async def test_sessions_of_its_own(bounce: Bounce):
    """With a session for each client the store keeps every promise, pushed news included."""
    async with bounce(pool_mode="session", default_pool_size=50) as server:
        only = [check.name for check in STORE_CHECKS]
        certificate = await certify("memory://", store=server.url, only=only, lease=1.0, margin=2.0)
        assert certificate.is_kept, [finding.why for finding in certificate.results if finding.why]


async def test_five_sessions_are_enough(bounce: Bounce):
    """One store that reads, writes, watches and is diagnosed needs no larger pool."""
    key = secrets.token_hex(4)
    async with bounce(pool_mode="session", default_pool_size=5) as server, PostgresStore(server.url) as store:
        assert await store.get(key) is None
        async with store.watch(key) as records:
            await store.put(key, b"1", expect=ANY, keep=60.0)
            assert (await store.diagnose()).unsafe == ()
            assert (await anext(aiter(records))).value == b"1"


@pytest.mark.parametrize("robin", [0, 1], ids=["latest first", "in turn"])
async def test_shared_sessions(bounce: Bounce, robin: int):
    """In transaction mode news would get lost and our time limits hit others: the store does not open, and says why."""
    async with bounce(pool_mode="transaction", server_round_robin=robin) as server:
        before = await limits(server)
        store = PostgresStore(server.url)
        with pytest.raises(BrokerUnavailable, match=r"share[\s\S]*session mode"):
            await store.__aenter__()
        with pytest.raises(BrokerUnavailable, match="share"):
            await store.diagnose()
        assert await limits(server) == before


async def test_a_transaction_of_the_program(bounce: Bounce, postgres: PostgresServer):
    """The program's own connection may share sessions, also for the transaction that has the outcome of a key."""
    app = App("memory://", store=postgres.url)
    async with bounce(pool_mode="transaction") as server:

        @app.task(key="order")
        async def pay(order: str) -> str:
            async with await psycopg.AsyncConnection.connect(server.url) as connection:
                await complete_in_async(connection, current().completion(f"receipt {order}"))
            return "not what was committed"

        async with app.running():
            order = secrets.token_hex(4)
            assert await (await pay.enqueue(order)).result(timeout=10) == f"receipt {order}"


async def limits(server: PgBouncer) -> list[str]:
    """Ask each of the pooler's two sessions how long a statement may take."""
    async with (
        await psycopg.AsyncConnection.connect(server.url) as one,
        await psycopg.AsyncConnection.connect(server.url) as other,
    ):
        rows = [await (await each.execute("SHOW statement_timeout")).fetchone() for each in (one, other)]
        return [row[0] for row in rows if row is not None]

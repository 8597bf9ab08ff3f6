"""Foreign values in the servers of all stores: no worker ends, each concerns its own job, and callers are told."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from taskcore import App
from taskcore.backends.memory import MemoryBackend
from taskcore.faults import NatsServer, PostgresServer, RedisServer
from taskcore.faults.resp import command
from taskcore.stores.memory import MemoryStore
from tests.support.foreign_records import (
    KINDS,
    NATS,
    PLAIN,
    REDIS,
    SQL,
    SQLITE,
    Look,
    Plant,
    end_jobs,
    in_memory,
    in_nats,
    in_postgres,
    in_redis,
    in_sqlite,
)
from tests.support.real import serving

pytestmark = pytest.mark.timeout(120)


class Place:
    """A store with a server of its own, and a way past the store.

    :param values: what the server can hold that is no record of ours.
    """

    def __init__(self, name: str, server: Any, folder: Path) -> None:
        self.name = name
        self.values: Mapping[str, Any] = {"memory": PLAIN, "redis": REDIS, "nats": NATS, "postgresql": SQL}.get(
            name, SQLITE
        )
        self._server = server
        self._folder = folder

    async def open(self) -> tuple[App, Plant, Look]:
        """Return an app without jobs and records, and the way past its store."""
        options: dict[str, Any] = {"lease": 2.0}
        if self.name == "memory":
            store = MemoryStore()
            return App(MemoryBackend(), store=store, **options), *in_memory(store)
        if self.name == "redis":
            await command(self._server.port, "FLUSHALL")
            return App(self._server.url, **options), *in_redis(self._server.port)
        if self.name == "nats":
            return App(await self._fresh_nats(), **options), *in_nats(self._server.url)
        if self.name == "sqlite":
            path = self._folder / f"{secrets.token_hex(4)}.db"
            return App("memory://", store=f"sqlite:///{path}", **options), *in_sqlite(path)
        url = self._server.url
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute("DROP TABLE IF EXISTS taskcore_records, taskcore_schema")
        return App("memory://", store=url, **options), *in_postgres(url)

    async def _fresh_nats(self) -> str:
        import nats  # noqa: PLC0415 - where it is needed

        connection = await nats.connect(self._server.url)
        jetstream = connection.jetstream()
        for info in await jetstream.streams_info():
            await jetstream.delete_stream(str(info.config.name))
        await connection.close()
        url: str = self._server.url
        return url


SERVERS: Mapping[str, Any] = {"redis": RedisServer, "nats": NatsServer, "postgresql": PostgresServer}


@pytest.fixture(scope="module", params=["memory", "sqlite", *SERVERS])
def place(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Place]:
    """Give each store in turn."""
    folder = tmp_path_factory.mktemp("foreign")
    if request.param not in SERVERS:
        yield Place(request.param, None, folder)
        return
    with serving(SERVERS[request.param]) as server:
        yield Place(request.param, server, folder)


async def _play(place: Place, kinds: list[str], values: list[str]) -> None:
    app, plant, look = await place.open()
    await end_jobs(app, kinds, [place.values[value] for value in values], plant, look)


@pytest.mark.parametrize("kind", KINDS)
def test_every_foreign_value(place: Place, kind: str) -> None:
    """Whatever stands under the name of a record, its job is a dead letter and its neighbours end."""
    anyio.run(_play, place, [kind] * len(place.values), list(place.values))


@given(data=st.data())
@settings(
    max_examples=8, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_mixture(place: Place, data: st.DataObject) -> None:
    """Foreign values of all kinds at once, in any order, concern their own jobs only."""
    chosen = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(list(place.values))), min_size=1, max_size=12)
    mixture = data.draw(chosen)
    anyio.run(_play, place, [kind for kind, _ in mixture], [value for _, value in mixture])


@pytest.mark.parametrize(
    ("version", "ends"), [("garbage", None), (b"\xff\xfe", "later"), (None, b"\xff"), (1.5, 1e300)]
)
def test_columns_of_other_types(tmp_path: Path, version: Any, ends: Any) -> None:
    """SQLite keeps any type in any column: a version or an end that is not a number stops no worker."""
    path = tmp_path / "records.db"
    app = App("memory://", store=f"sqlite:///{path}", lease=2.0)
    plant, look = in_sqlite(path, version=0 if version is None else version, ends=ends)
    anyio.run(end_jobs, app, KINDS, [SQLITE["text"]] * len(KINDS), plant, look)

"""A pass over many dead letters on brokers that show a letter without taking it: what it costs their server.

RabbitMQ hands letters out to show them; tests/backends/rabbitmq/test_letters.py has its passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from taskcore import App
from taskcore.adapters import open_backend
from taskcore.backend import Outgoing, Refused, Stored
from taskcore.connections.nats import NatsLink
from taskcore.connections.redis import RedisLink
from taskcore.envelope import new_id
from taskcore.faults import RedisServer, Server
from taskcore.faults.resp import command
from tests.support.burying import bury
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

LETTERS = 1_000
SETTLED_IN = 16  #: round trips in which a pass may settle so many: two pages, each with drops and replays


@pytest.fixture
def anyio_backend() -> str:
    """Choose asyncio: the client libraries know no other loop."""
    return "asyncio"


@pytest.fixture(params=["redis", "nats"])
def server(request: pytest.FixtureRequest) -> Server:
    """Serve each of the two brokers in turn."""
    served: Server = request.getfixturevalue({"redis": "shared", "nats": "nats"}[request.param])
    return served


@contextmanager
def counting_round_trips() -> Iterator[list[object]]:
    """Count how often the process waits for an answer of the broker to what it has written."""
    seen: list[object] = []
    call, request_all = RedisLink.call, NatsLink.request_all

    async def counted_call(self: RedisLink, *args: Any, **options: Any) -> Any:
        seen.append(args)
        return await call(self, *args, **options)

    async def counted_request(self: NatsLink, *args: Any, **options: Any) -> Any:
        seen.append(args)
        return await request_all(self, *args, **options)

    with patch.object(RedisLink, "call", counted_call), patch.object(NatsLink, "request_all", counted_request):
        yield seen


async def test_many_letters_are_settled_in_few_round_trips(server: Server) -> None:
    """A page is dropped and replayed in a few round trips, however many letters it has."""
    queue = "few.round.trips"
    async with App(server.url, store="none") as app:
        backend = app.components.backend
        await bury(backend, queue, LETTERS)
        pages: list[list[Any]] = []
        async with backend.admin.walk(queue) as walk:
            while page := await walk.page(500):
                with counting_round_trips() as trips:
                    assert await walk.drop(page[::2]) == 250
                    jobs = [Outgoing(queue, new_id(), b"{}") for _ in page[1::2]]
                    answers = await walk.replay(list(zip(page[1::2], jobs, strict=True)))
                assert {type(answer) for answer in answers} == {Stored}
                pages.append(trips)
        assert len(pages) == LETTERS // 500
        assert sum(map(len, pages)) <= SETTLED_IN, pages
        [stats] = await backend.admin.stats([queue])
        assert (stats.ready, stats.dead) == (LETTERS // 2, 0)
        await backend.admin.delete(queue)


async def test_a_letter_that_is_gone_is_not_dropped_again(server: Server) -> None:
    """A pass that drops many says how many were there; an id of no letter, or of another one, drops none."""
    queue = "gone.meanwhile"
    async with open_backend(server.url) as backend:
        await bury(backend, queue, 6)
        async with backend.admin.walk(queue) as walk:
            page = await walk.page(10)
            assert await backend.admin.drop(page[0].id)
            assert await walk.drop(page[:3]) == 2
            assert await walk.drop([]) == 0
            assert await walk.replay([]) == []
        assert [letter.id for letter in await backend.admin.letters(queue, limit=10)] == [one.id for one in page[3:]]
        await backend.admin.delete(queue)


async def test_a_replay_that_is_refused_keeps_its_letter_alone() -> None:
    """Of letters that are replayed together, one that the server refuses for its size stays; the others are gone."""
    queue = "one.too.large"
    async with require(RedisServer)() as own, open_backend(own.url) as backend:
        await bury(backend, queue, 3)
        await command(own.port, "CONFIG", "SET", "proto-max-bulk-len", str(1024 * 1024))
        async with backend.admin.walk(queue) as walk:
            page = await walk.page(10)
            jobs = [Outgoing(queue, f"again{number}", b"x" * (2_000_000 * (number == 1) + 1)) for number in range(3)]
            answers = await walk.replay(list(zip(page, jobs, strict=True)))
        assert [type(answer) for answer in answers] == [Stored, Refused, Stored]
        assert [letter.id for letter in await backend.admin.letters(queue, limit=10)] == [page[1].id]


async def test_replays_of_a_full_queue_take_the_room_of_their_letters() -> None:
    """All letters of a queue at its limit can be replayed together, because each frees the room that its job takes."""
    queue = "full"
    async with require(RedisServer)() as own, open_backend(f"{own.url}?limit=5") as backend:
        await bury(backend, queue, 5)
        async with backend.admin.walk(queue) as walk:
            page = await walk.page(10)
            jobs = [Outgoing(queue, f"again{number}", b"x", delay=60.0 * (number % 2)) for number in range(5)]
            answers = await walk.replay(list(zip(page, jobs, strict=True)))
        assert answers == [Stored()] * 5
        [stats] = await backend.admin.stats([queue])
        assert (stats.ready, stats.scheduled, stats.dead) == (3, 2, 0)

"""A server that ends connections to which it owes too much (``client-output-buffer-limit``): what it sends is read.

For what is too large alone an error names its size and the way out, and nothing waits behind it.
"""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from taskcore import App, LetterNotFound
from taskcore.adapters import open_backend
from taskcore.backend import Outgoing, Stored
from taskcore.backends.redis import source as redis_source
from taskcore.faults import RedisServer
from taskcore.faults.resp import command
from taskcore.lifecycle import ACK, Bury
from tests.support.real import versions
from tests.support.redis_play import held

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
on_versions = pytest.mark.parametrize("own", **versions(RedisServer), indirect=True)

LIMIT = 256 * 1024  #: bytes that the server owes at most
MANY, MIDDLE, LARGE = 60, b"m" * 30_000, b"l" * 400_000


async def limit_replies(server: RedisServer, limit: int = LIMIT) -> None:
    """Let the server end connections to which it owes more; 0: none."""
    await command(server.port, "CONFIG", "SET", "client-output-buffer-limit", f"normal {limit} 0 0")


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """List what was logged as an error."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def fill(url: str) -> None:
    """Publish many jobs, with one between them that is too large to be sent."""
    jobs = [Outgoing("q", f"{number}", MIDDLE) for number in range(MANY)]
    jobs.insert(MANY // 2, Outgoing("q", "large", LARGE))
    async with open_backend(url) as backend:
        assert {type(answer) for answer in await backend.publish(jobs)} == {Stored}


@on_versions
async def test_jobs_that_together_are_too_much_are_taken_in_parts(own: RedisServer, caplog: pytest.LogCaptureFixture):
    """A worker goes on without an outage, and ends all jobs; each of them started once."""
    app, starts = App(own.url), list[int]()

    @app.task(queue="many", name="work")
    async def work(number: int, text: str) -> int:
        starts.append(number)
        return number

    async with app:
        jobs = await app.enqueue_many(work.call(number, MIDDLE.decode()) for number in range(MANY))
        await limit_replies(own)
        async with app.running(concurrency=50):
            with anyio.fail_after(20):
                assert [await job.result() for job in jobs] == list(range(MANY))
    assert sorted(starts) == list(range(MANY))
    assert "lost" not in caplog.text


@on_versions
async def test_a_job_that_is_never_sent_is_told_and_delays_no_other(
    own: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """The log names the job, its size and the fix; the others come at once, and it comes when the limit allows."""
    monkeypatch.setattr(redis_source, "NARROW_FOR", 2.0)
    await fill(own.url)
    await limit_replies(own)
    async with held(own.url) as (_, source):
        came: list[Any] = []
        with anyio.fail_after(10):
            while len(came) < MANY:
                came += await source.receive(100)
        assert {one.envelope for one in came} == {MIDDLE}
        assert await source.settle([(one, ACK) for one in came]) == []
        with anyio.move_on_after(2.5):
            assert not await source.receive(1)
        assert len(errors(caplog)) in {1, 2}
        assert "job large of queue q" in errors(caplog)[0]
        assert "has 400015 bytes, more than this Redis sends" in errors(caplog)[0]
        assert "client-output-buffer-limit" in errors(caplog)[0]
        await limit_replies(own, 0)
        with anyio.fail_after(5):
            [large] = await source.receive(10)
        assert (large.envelope, large.redeliveries) == (LARGE, 0)
        assert await source.settle([(large, ACK)]) == []


async def test_letters_and_waiting_jobs_are_shown_in_parts(own: RedisServer):
    """Pages of letters are smaller; a letter that is never sent shows its beginning, its size, and the fix."""
    await fill(own.url)
    async with held(own.url) as (backend, source):
        jobs: list[Any] = []
        while len(jobs) < MANY + 1:
            jobs += await source.receive(100)
        assert await source.settle([(one, Bury("because", b"")) for one in jobs]) == []
        await limit_replies(own)
        letters, after = list[Any](), None
        while page := await backend.admin.letters("q", limit=100, after=after):
            letters += page
            after = page[-1].id
        assert [len(one.envelope) for one in letters].count(len(MIDDLE)) == MANY
        [large] = [one for one in letters if one.envelope[:1] == b"l"]
        assert LARGE.startswith(large.envelope)
        assert large.reason.startswith("because; only its beginning could be read: it has 400,0")
        assert "CONFIG SET client-output-buffer-limit" in large.reason
        async with backend.admin.walk("q") as walk:
            walked = list[Any]()
            while found := await walk.page(500):
                walked += found
        assert [one.id for one in walked] == [one.id for one in letters]
        async with App(own.url) as app:
            with pytest.raises(LetterNotFound, match="only its beginning could be read"):
                await app.dead_letters.replay(large.id)
        await limit_replies(own, 0)
        whole = await backend.admin.letter(large.id)
        assert whole is not None
        assert (whole.envelope, whole.reason) == (LARGE, "because")


async def test_waiting_jobs_are_shown_in_parts(own: RedisServer):
    """Jobs that come next are shown, fewer of them; of one that is never sent, the beginning."""
    await fill(own.url)
    await limit_replies(own)
    async with open_backend(own.url) as backend:
        shown = await backend.admin.peek("q", "ready", limit=50)
        assert 1 <= len(shown) <= 8
        assert {one.envelope for one in shown} == {MIDDLE}
        await backend.publish([Outgoing("large", "large", LARGE)])
        [one] = await backend.admin.peek("large", "ready", limit=50)
        assert LARGE.startswith(one.envelope)
        [stats] = await backend.admin.stats(["q"])
        assert stats.ready == MANY + 1

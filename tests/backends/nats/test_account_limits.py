"""Limits of an account: what does not fit is refused with the fix, alone, and nothing is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from taskcore import App, BrokerUnavailable, Dead, EnqueueRefused, Retry
from taskcore.adapters import open_backend, open_store
from taskcore.backend import Outgoing, Refused, Stored
from taskcore.faults import NatsServer
from taskcore.lifecycle import ACK
from taskcore.store import ANY, Conflict
from taskcore.worker import outages
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

KIB = 1024
FAIL = Retry(attempts=1)


class Limited:
    """A server with an account of ours.

    :param limits: of the account.
    """

    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self.url = server.url.replace("nats://", "nats://me:secret@")

    async def set(self, **limits: Any) -> None:
        """Change the limits, as an operator does."""
        conf = self.server.data.parent / "nats.conf"
        conf.write_bytes(msgspec.json.encode(msgspec.json.decode(conf.read_bytes()) | accounts(limits)))
        await anyio.run_process([str(self.server.binary), "--signal", f"reload={self.server.pid}"])
        await anyio.sleep(0.3)


def accounts(limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of the configuration that has the account."""
    return {
        "accounts": {"ours": {"jetstream": {**limits} or "enabled", "users": [{"user": "me", "password": "secret"}]}}
    }


@asynccontextmanager
async def limited(**limits: Any) -> AsyncIterator[Limited]:
    """Run a server whose account has these limits."""
    async with require(NatsServer)(config=accounts(limits)) as server:
        yield Limited(server)


@pytest.mark.parametrize("storage", ["file", "memory"])
async def test_full_storage_refuses_new_jobs_and_ends_make_room(storage: str) -> None:
    """Enqueueing says TC203 with the fix; workers empty the queue, and new jobs are taken again."""
    limits = {"max_file": 600 * KIB, "max_mem": 600 * KIB}
    async with limited(**limits) as ours, App(f"{ours.url}?storage={storage}") as app:

        @app.task(queue="q", keep_result=None)
        async def work(text: str) -> None: ...

        stored = 0

        async def fill() -> None:
            nonlocal stored
            for _ in range(100):
                await work.enqueue("x" * 30_000)
                stored += 1

        with pytest.raises(EnqueueRefused, match=r"TC203(.|\n)*the server refuses it(.|\n)*fix: .*limit"):
            await fill()
        assert 5 < stored < 25
        async with app.running():
            await app.drain("q", timeout=20)
        await work.enqueue("x" * 30_000)


async def test_a_queue_without_a_stream_refuses_its_jobs_only(caplog: pytest.LogCaptureFixture) -> None:
    """At max_streams the jobs of a new queue are refused with the fix; those of others in their batch are stored."""
    async with limited(max_streams=2) as ours, open_backend(ours.url) as backend:
        assert await backend.publish([Outgoing("one", "1", b"1"), Outgoing("two", "2", b"2")]) == [Stored(), Stored()]
        answers = await backend.publish(
            [
                Outgoing("one", "3", b"3"),
                *(Outgoing("three", f"{number}", b"4") for number in range(5)),
                Outgoing("two", "6", b"6"),
            ]
        )
        assert [type(answer) for answer in answers] == [Stored, *[Refused] * 5, Stored]
        assert isinstance(answers[1], Refused)
        assert "maximum number of streams reached" in answers[1].why
        assert "max_streams" in answers[1].fix
        await ours.set(max_streams=3)
        assert await backend.publish([Outgoing("three", "7", b"7")]) == [Stored()]


async def test_what_cannot_be_opened_says_which_limit_is_reached() -> None:
    """A store, a queue and a consumer that have no room are errors with the fix, and work when there is room."""
    async with limited(max_streams=1, max_consumers=1) as ours, open_backend(ours.url) as backend:
        await backend.publish([Outgoing("q", "1", b"1")])
        with pytest.raises(BrokerUnavailable, match=r"maximum number of streams reached \(10027\)(.|\n)*max_streams"):
            async with open_store(ours.url):
                pass
        with pytest.raises(BrokerUnavailable, match=r"maximum number of streams reached \(10027\)(.|\n)*max_streams"):
            async with backend.consume(["other"], lease=5.0):
                pass
        await ours.set(max_streams=4, max_consumers=2)
        async with backend.consume(["q"], lease=5.0) as source:
            await backend.publish([Outgoing("other", "2", b"2")])
            [one] = await source.receive(1)
            assert await source.settle([(one, ACK)]) == []


async def test_dead_letters_without_a_stream_hold_up_no_other_job(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At max_streams a job that is to be buried waits, with the fix in the log; others end; later it is a letter."""
    monkeypatch.setattr(outages, "LONGEST_PAUSE", 0.5)
    async with limited(max_streams=2) as ours, App(ours.url, retry=FAIL) as app:  # one queue, and the records
        runs = list[int]()

        @app.task(queue="q")
        async def fail(number: int) -> None:
            runs.append(number)
            raise ValueError(number)

        @app.task(queue="q")
        async def work(number: int) -> int:
            return number

        async with app.running():
            bad = [await fail.enqueue(number) for number in range(3)]
            with anyio.fail_after(10):
                while "maximum number of streams reached" not in caplog.text:  # noqa: ASYNC110 - a log has no event
                    await anyio.sleep(0.02)
            assert "raise max_streams" in caplog.text
            good = await app.enqueue_many(work.call(number) for number in range(20))
            assert [await job.result(timeout=10) for job in good] == list(range(20))
            await ours.set(max_streams=3)
            assert all([isinstance(await job.outcome(timeout=10), Dead) for job in bad])
            await app.drain("q", timeout=10)
        assert {letter.job_id async for letter in app.dead_letters.read("q")} == {job.id for job in bad}
        assert sorted(runs) == [0, 1, 2]


async def test_retries_in_a_full_queue_hold_up_no_other_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries for which ``max_bytes`` leaves no room wait until others have ended, and none is lost."""
    monkeypatch.setattr(outages, "LONGEST_PAUSE", 0.5)
    async with limited() as ours, App(f"{ours.url}?max_bytes=300KiB", store="memory://") as app:
        runs = list[int]()

        @app.task(queue="q", retry=Retry(attempts=3, base=0.0, jitter="none"))
        async def flaky(number: int, text: str) -> int:
            runs.append(number)
            if number < 3 and runs.count(number) < 3:
                raise ValueError(number)
            return number

        jobs = list[Any]()

        async def fill() -> None:
            for number in range(100):
                jobs.append(await flaky.enqueue(number, "x" * 20_000))

        with pytest.raises(EnqueueRefused, match=r"maximum bytes exceeded(.|\n)*max_bytes"):
            await fill()
        async with app.running(concurrency=3):
            with anyio.fail_after(20):
                assert [await job.result() for job in jobs] == list(range(len(jobs)))
        assert all(runs.count(number) == (3 if number < 3 else 1) for number in range(len(jobs)))


async def test_results_wait_for_room() -> None:
    """A store whose account is full keeps nothing and says so with the fix; the results come when there is room."""
    async with limited(max_file=400 * KIB) as ours, open_store(ours.url) as store:

        async def fill() -> None:
            for number in range(100):
                await store.put(f"record {number}", b"x" * 20_000, expect=ANY, keep=600.0)

        with pytest.raises(BrokerUnavailable, match=r"the server refuses a record(.|\n)*limit"):
            await fill()
        assert await store.get("record 0") is not None
        await ours.set(max_file=4000 * KIB)
        assert not isinstance(await store.put("more", b"x" * 20_000, expect=ANY, keep=600.0), Conflict)

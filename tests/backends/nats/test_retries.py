"""Retries on servers whose schedules are kept by timers in workers: deaths and cancellations between any two writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import anyio
import pytest

from taskcore.adapters import open_backend
from taskcore.backend import Backend, Duplicate, Outgoing, Source, Uncertain
from taskcore.backends.nats import admin, publish
from taskcore.backends.nats.admin import is_held
from taskcore.backends.nats.delays import next_step
from taskcore.backends.nats.publish import error_code_of, found_by
from taskcore.backends.nats.settle import NatsSettler
from taskcore.connections.nats import Message, Reply
from taskcore.faults import NatsServer
from taskcore.lifecycle import ACK, RELEASE, Reschedule, Verdict
from taskcore.testing.crash_points import SimulatedCrash, crash_at
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

Q = "taskcore.q.q."  #: subjects of the ready part of queue "q"
KINDS = {"2.9": "", "2.10": "", "2.11": "", "newest": "?max_bytes=1GiB"}  #: each with timers


ALL = [*KINDS, "native"]  #: and one that has schedules of its own


@pytest.fixture(params=KINDS)
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """Serve one test, with delays that are kept by timers unless it says otherwise."""
    version = request.param if request.param[0].isdigit() else ""
    async with require(NatsServer, version)(version=version) as server:
        yield server.url + KINDS.get(request.param, "")


async def everything(source: Source, seconds: float) -> list[bytes]:
    """Take and end whatever comes for so many seconds; the trails say which copy each was."""
    seen: list[bytes] = []
    with anyio.move_on_after(seconds):
        while True:
            found = await source.receive(5)
            seen += [delivery.trail for delivery in found]
            await source.settle([(delivery, ACK) for delivery in found])
    return seen


async def is_empty(backend: Backend) -> bool:
    """Tell whether nothing of the queue is left."""
    [stats] = await backend.admin.stats(["q"])
    return (stats.ready, stats.leased, stats.scheduled, stats.dead) == (0, 0, 0, 0)


async def test_a_refusal_names_what_is_there(url: str) -> None:
    """Every version says which message stands in place of the expected one, and 0 if there is none."""
    async with open_backend(url) as backend:
        await backend.publish([Outgoing("q", "there", b"job")])
        link: Any = backend._link  # type: ignore[attr-defined]
        expecting = b"Nats-Expected-Last-Subject-Sequence: %d\r\n"
        messages = [
            Message(f"{Q}there".encode(), b"x", expecting % 0),
            Message(f"{Q}none".encode(), b"x", expecting % 7),
        ]
        answers = await link.request_all(messages)
        assert [error_code_of(answer) for answer in answers] == [publish.IS_ANOTHER] * 2
        assert [found_by(answer) for answer in answers] == [1, 0]


@pytest.mark.parametrize("order", ["end first", "move first"])
async def test_the_end_of_a_job_spares_the_retry_that_took_its_place(
    url: str, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's end of a job may come before or after a timer moves the retry to the same subject."""
    original = NatsSettler.end

    async def end_late(self: NatsSettler, receipts: Sequence[Any]) -> None:
        await anyio.sleep(0.5)
        await original(self, receipts)

    if order == "move first":
        monkeypatch.setattr(NatsSettler, "end", end_late)
    async with open_backend(url) as backend, open_backend(url) as other:
        await backend.publish([Outgoing("q", "j", b"job", b"old")])
        async with backend.consume(["q"], lease=30.0) as source, other.consume(["q"], lease=30.0) as second:
            [held] = await source.receive(1)
            assert not await source.settle([(held, Reschedule(0.01 if order == "move first" else 0.2, b"new"))])
            assert await everything(second, 1.0) == [b"new"]
        await anyio.sleep(0.1)
        assert await is_empty(backend)


async def test_a_timer_that_dies_before_the_end_of_what_it_moved(url: str) -> None:
    """The scheduled job is handed out to another timer, which ends it, and the job runs once."""
    async with open_backend(url) as dying, open_backend(url) as other:
        await dying.publish([Outgoing("q", "j", b"job", b"trail", 0.3)])
        with crash_at("nats.timer.moved"):
            async with dying.consume(["q"], lease=30.0):
                await anyio.sleep(0.8)
        [stats] = await other.admin.stats(["q"])
        assert (stats.ready, stats.scheduled) == (1, 1)
        async with other.consume(["q"], lease=30.0) as source:
            assert await everything(source, 7.0) == [b"trail"]
        assert await is_empty(other)


async def test_a_timer_that_is_stopped_finishes_its_move(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that leaves in the middle of a move ends what it has moved; nothing waits for another timer."""
    async with open_backend(url) as leaving, open_backend(url) as other:
        link: Any = leaving._link  # type: ignore[attr-defined]
        request_all, moving = link.request_all, anyio.Event()

        async def slowly(messages: Sequence[Message], **options: Any) -> Any:
            if messages and b".timer." in messages[0].subject:  # what a timer ends
                moving.set()
                await anyio.sleep(0.3)
            return await request_all(messages, **options)

        monkeypatch.setattr(link, "request_all", slowly)
        await leaving.publish([Outgoing("q", "j", b"job", b"trail", 0.1)])
        async with leaving.consume(["q"], lease=30.0):
            with anyio.fail_after(5.0):
                await moving.wait()
        [stats] = await other.admin.stats(["q"])
        assert (stats.ready, stats.scheduled) == (1, 0)


@pytest.mark.parametrize("url", ALL, indirect=True)
async def test_a_retry_cancelled_before_its_end_is_removed(url: str) -> None:
    """A retry whose worker died before it ended the job is taken back whole: the job does not come again either."""
    async with open_backend(url) as backend, open_backend(url) as other:
        await backend.publish([Outgoing("q", "j", b"job")])
        async with backend.consume(["q"], lease=0.6) as source:
            [held] = await source.receive(1)
            with pytest.raises(SimulatedCrash), crash_at("nats.retry.copied"):
                await source.settle([(held, Reschedule(20.0, b"new"))])
            assert await other.admin.remove("q", "j")
        async with other.consume(["q"], lease=0.6) as source:
            assert await everything(source, 1.5) == []
        assert await is_empty(other)


async def test_a_retry_is_not_refused_for_what_its_job_was_moved_from(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may retry a job before the timer that moved it ends the scheduled one, and loses no lease by that."""
    async with open_backend(url) as backend:
        link: Any = backend._link  # type: ignore[attr-defined]
        request_all = link.request_all

        async def slowly(messages: Sequence[Message], **options: Any) -> Any:
            if messages and b".timer." in messages[0].subject:  # what a timer ends
                await anyio.sleep(0.5)
            return await request_all(messages, **options)

        monkeypatch.setattr(link, "request_all", slowly)
        async with backend.consume(["q"], lease=30.0) as source:
            await backend.publish([Outgoing("q", "j", b"job", b"0", 0.05)])
            for number in range(3):
                with anyio.fail_after(4.0):
                    [delivery] = await source.receive(1)
                assert (delivery.trail, delivery.redeliveries) == (b"%d" % number, 0)
                assert not await source.settle([(delivery, Reschedule(0.01, b"%d" % (number + 1)))])
            assert await everything(source, 1.5) == [b"3"]
        assert await is_empty(backend)


@pytest.mark.parametrize("url", ALL, indirect=True)
@pytest.mark.parametrize("verdict", [RELEASE, Reschedule(0.0, b"new"), Reschedule(0.05, b"new")], ids=str)
async def test_a_job_that_was_deleted_too_late_is_stored_again(url: str, verdict: Verdict) -> None:
    """A caller that deletes a job while it is handed out gets False, and a retry of that job is not lost."""
    async with open_backend(url) as backend, open_backend(url) as other:
        await backend.publish([Outgoing("q", "j", b"job", b"old")])
        async with backend.consume(["q"], lease=30.0) as source:
            [held] = await source.receive(1)
            link: Any = other._link  # type: ignore[attr-defined]
            number, names = held.receipt.number, held.receipt.stream
            assert (await link.api(f"STREAM.MSG.DELETE.{names.name}", {"seq": number, "no_erase": True}))["success"]
            assert await is_held(link, names.withdrawn, number, timeout=1.0)
            assert not await source.settle([(held, verdict)])
            assert await everything(source, 1.0) == [b"old" if verdict is RELEASE else b"new"]
        assert await is_empty(other)


@pytest.mark.parametrize("url", ALL, indirect=True)
async def test_a_busy_worker_answers_for_its_job(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is handed out while a caller takes it back is not taken back, also if its worker answers late."""
    async with open_backend(url) as backend, open_backend(url) as other:
        await backend.publish([Outgoing("q", "j", b"job", b"0")])
        async with backend.consume(["q"], lease=30.0) as source:
            [held] = await source.receive(1)
            looks, link, loop = [False], cast("Any", backend)._link, asyncio.get_running_loop()
            really, send_now = admin._was_handed_out, link.send_now

            def was_handed_out(*known: Any) -> bool:
                return looks.pop() if looks else really(*known)  # at the first look it was not yet

            monkeypatch.setattr(admin, "_was_handed_out", was_handed_out)
            monkeypatch.setattr(link, "send_now", lambda frames: loop.call_later(1.0, send_now, frames))
            assert not await other.admin.remove("q", "j")
            monkeypatch.setattr(link, "send_now", send_now)
            assert not await source.settle([(held, ACK)])
        assert await is_empty(other)


@pytest.mark.parametrize("url", ALL, indirect=True)
async def test_a_worker_forgets_what_waits_in_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that its worker has received and not begun is taken back at once."""
    async with (
        open_backend(url) as backend,
        open_backend(url) as other,
        backend.consume(["q"], lease=30.0) as source,
    ):
        await backend.publish([Outgoing("q", str(number), b"job", b"%d" % number) for number in range(3)])
        first = await source.receive(1)
        looks, really = [False], admin._was_handed_out
        monkeypatch.setattr(admin, "_was_handed_out", lambda *known: looks.pop() if looks else really(*known))
        with anyio.fail_after(2.0):
            assert await other.admin.remove("q", "2")
        assert not await source.settle([(delivery, ACK) for delivery in first])
        assert await everything(source, 0.5) == [b"%d" % number for number in range(len(first), 2)]


def refusal(text: bytes, code: int = publish.IS_ANOTHER) -> Reply:
    """Return a refusal as servers write it."""
    return Reply(b'{"error":{"code":400,"err_code":%d,"description":"%b"},"stream":"s","seq":0}' % (code, text), b"")


@pytest.mark.parametrize(
    ("answer", "expected", "step"),
    [
        (Reply(b'{"stream":"s","seq":5}', b""), 3, "end"),
        (Reply(b'{"stream":"s","seq":5,"duplicate": true}', b""), 3, "end"),
        (Reply(b'{"stream":"s","seq":0,"duplicate": true}', b""), 3, "leave"),
        (refusal(b"wrong last sequence: 0"), 3, 0),
        (refusal(b"wrong last sequence: 3"), 0, 3),
        (refusal(b"wrong last sequence: 9"), 0, "end"),
        (refusal(b"wrong last sequence: 0"), 0, "leave"),
        (refusal(b"wrong last sequence"), 3, "leave"),
        (refusal(b"wrong last sequence", 10164), 3, "leave"),
        (refusal(b"duplicate message id is in process", 10158), 3, "leave"),
        (refusal(b"maximum bytes exceeded", 10077), 3, "leave"),
        (Reply(b"", b"NATS/1.0 503\r\n\r\n"), 3, "leave"),
        (None, 3, "leave"),
    ],
)
def test_a_timer_ends_a_job_only_after_its_copy_is_stored(answer: Reply | None, expected: int, step: Any) -> None:
    """A timer ends a scheduled job only if the answer says that the job is in the ready part."""
    assert next_step(answer, expected=expected, copied=3) == step


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (refusal(b"wrong last sequence: 4"), Duplicate),
        (refusal(b"wrong last sequence: 0"), Uncertain),
        (refusal(b"wrong last sequence", 10164), Uncertain),
        (refusal(b"duplicate message id is in process", 10158), Uncertain),
        (Reply(b'{"stream":"s","seq":5,"duplicate": true}', b""), Duplicate),
        (Reply(b'{"stream":"s","seq":0,"duplicate": true}', b""), Uncertain),
    ],
)
def test_a_duplicate_needs_a_stored_job_of_that_id(answer: Reply, meaning: type) -> None:
    """A job that is refused is a duplicate only if the server has one of its id; otherwise its sender has to repeat."""
    assert isinstance(publish._meaning(answer), meaning)

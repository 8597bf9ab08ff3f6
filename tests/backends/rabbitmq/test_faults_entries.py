"""What others put into our queues, programs of two ages, clocks that are wrong, and times at the edge."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

import aiormq
import anyio
import pytest

from taskcore import App, BrokerUnavailable, Dead, EnqueueRefused, Expired
from taskcore.adapters import open_backend, open_store
from taskcore.backend import Backend, Letter, Outgoing, Refused, Source, Stored, VerdictRefused
from taskcore.backends.rabbitmq import layout
from taskcore.backends.rabbitmq.publish import MAX_JOB, MAX_MESSAGE
from taskcore.faults import ChaosProxy, RabbitServer
from taskcore.lifecycle import ACK, RELEASE, Bury, Reschedule, Verdict
from tests.support.rabbit_play import RabbitPlay
from tests.support.redis_play import held, send, until
from tests.support.worker_faults import work_by_a_wrong_clock

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

#: Bodies of every wrong shape.
FOREIGN: dict[str, bytes] = {
    "random": bytes(range(255, -1, -1)),
    "empty": b"",
    "truncated": b'{"v":1,"id":"x2","task"',
    "nested": b"[" * 10_000,
    "nan": b'{"v":1,"id":"x4","task":"work","queue":"q","args":{"number":NaN},"enqueued_at":0}',
    "twice": b'{"v":2,"v":1,"id":"x5","task":"work","task":"fail"}',
    "digits": b'{"v":1,"id":"x6","enqueued_at":' + b"9" * 100_000 + b"}",
    "older": b'{"v":0,"id":"x8","task":"work","queue":"q","args":[],"enqueued_at":0}',
    "celery's": b'[[1, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]',
    "another program's": b'{"type": "invoice", "total": 12, "tenant": "acme"}',
    "huge": b"z" * 2_000_000,
    "larger than any job": b"z" * (MAX_MESSAGE + 1),
}


async def put(node: RabbitServer, queue: str, *bodies: bytes) -> None:
    """Publish as another program does, with the client library alone and without confirms."""
    connection = await aiormq.connect(node.url)
    try:
        channel = await connection.channel()
        for body in bodies:
            await channel.basic_publish(body, routing_key=layout.job_queue(queue))
    finally:
        await connection.close()


async def letters_of(backend: Backend, queue: str, count: int) -> Sequence[Letter]:
    """Wait for so many dead letters: the broker moves its own a moment later."""
    with anyio.fail_after(10):
        while len(letters := await backend.admin.letters(queue, limit=100)) < count:  # noqa: ASYNC110 - it has no event
            await anyio.sleep(0.02)
    return letters


# ── what others write ────────────────────────────────────────────────────────────────────────────


async def test_foreign_entries(node: RabbitServer, tmp_path: Any):
    """F45, F46: each foreign message ends as a dead letter with its bytes; jobs between them are done, and settled."""
    play = RabbitPlay(node.url, tmp_path)
    async with play.app("client") as app:
        for number, body in enumerate(FOREIGN.values()):
            assert await send(app, [number]) == [number]
            await put(node, play.queue, body)
        async with play.running("worker"):
            await until(lambda: play.count("settled", verdict="ack") == len(FOREIGN), "our jobs", within=5)
            await play.quiet()

            async with open_backend(play.url) as backend:
                letters = await letters_of(backend, play.queue, len(FOREIGN))
            assert sorted(letter.envelope for letter in letters) == sorted(FOREIGN.values())
    assert play.count("start") == len(FOREIGN)
    assert play.count("event", name="broker.lost") == 0


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("quorum", RELEASE),
        ("quorum", Reschedule(0.1, b"t")),
        ("quorum", Bury("no", b"t")),
        ("classic", Bury("no", b"t")),
    ],
)
async def test_every_verdict_on_what_is_too_large(node: RabbitServer, kind: str, verdict: Verdict):
    """F46, F49: a message that is too large to be copied is not lost, and no neighbour's verdict waits for it."""
    queue, huge = f"huge-{kind}", b"\xff" * (MAX_MESSAGE + 1)
    async with held(f"{node.url}?min_queue_age=0.1&timeout=5&queue_type={kind}", queue) as (backend, source):
        await backend.publish([Outgoing(queue, "1", b"ours")])
        await put(node, queue, huge)
        mine = list(await source.receive(2))
        while len(mine) < 2:
            mine += await source.receive(2)
        assert {one.envelope for one in mine} == {b"ours", huge}
        if isinstance(verdict, Reschedule):  # its worker buries it then, alone
            with pytest.raises(VerdictRefused, match="max_message_size"):
                await source.settle([(one, verdict if one.envelope == huge else ACK) for one in mine])
            verdict = Bury("no", b"t")
        assert await source.settle([(one, verdict if one.envelope == huge else ACK) for one in mine]) == []
        if verdict is RELEASE:
            with anyio.fail_after(5):
                [again] = await source.receive(2)
            assert again.envelope == huge
            assert await source.settle([(again, ACK)]) == []
        stays = isinstance(verdict, Bury)
        letters = await letters_of(backend, queue, int(stays))
        assert [letter.envelope for letter in letters] == [huge] * stays
        assert not stays or "too large" in letters[0].reason
        assert (await backend.admin.stats([queue]))[0].ready == 0
        await backend.admin.delete(queue)


async def test_the_largest_job_can_be_retried_and_buried(node: RabbitServer):
    """F49: an accepted job leaves room for its error history, in a retry and in a dead letter."""
    queue, body, trail = "largest", b"x" * MAX_JOB, b"s" * (MAX_MESSAGE - MAX_JOB - 100)
    async with held(f"{node.url}?min_queue_age=0.1&timeout=10", queue) as (backend, source):
        [stored, refused] = await backend.publish([Outgoing(queue, "1", body), Outgoing(queue, "2", body + b"x")])
        assert stored == Stored()
        assert isinstance(refused, Refused)
        [first] = await source.receive(1)
        assert await source.settle([(first, Reschedule(0.0, trail))]) == []
        [second] = await source.receive(1)
        assert (second.envelope, second.trail) == (body, trail)
        assert await source.settle([(second, Bury("why", trail))]) == []
        [letter] = await backend.admin.letters(queue, limit=5)
        assert (letter.envelope, letter.trail, letter.reason) == (body, trail, "why")
        await backend.admin.delete(queue)


# ── programs of two ages ─────────────────────────────────────────────────────────────────────────


async def test_two_versions_of_a_program(node: RabbitServer, tmp_path: Any):
    """F47, F48: an older worker parks what it does not know, for the newer one, and buries whole what does not fit."""
    play = RabbitPlay(node.url, tmp_path)
    newer = App(play.url, store=open_store(play.store or ""), lease=5.0)

    @newer.task(name="new", queue=play.queue)
    async def new(number: int) -> int:
        return -number

    @newer.task(name="work", queue=play.queue, keep_result=60.0)
    async def work(figure: int | str, seconds: float = 0.0, colour: str = "red") -> str:
        return f"{figure} {seconds} {colour}"

    async with play.running("older") as older, newer:
        unknown = await new.enqueue(1)
        unfit = await newer.enqueue_many([work.call(2), work.call("two")])
        fine = await older.tasks["work"].enqueue(3)
        assert await fine.result(timeout=5) == 3
        assert [type(await job.outcome(timeout=5)) for job in unfit] == [Dead, Dead]
        letters = [letter async for letter in older.dead_letters.read(play.queue)]
        assert [letter.args["figure"] for letter in letters] == [2, "two"]
        assert all(letter.reason.startswith("malformed: ") for letter in letters)
        await until(lambda: older.counters["job.parked"] > 0, "the unknown one is parked")
        async with newer.running():
            assert await unknown.result(timeout=10) == -1


# ── times ────────────────────────────────────────────────────────────────────────────────────────


async def test_clocks_that_are_wrong(node: RabbitServer, tmp_path: Any):
    """F57: workers whose clocks are hours or days wrong start nothing early or late, and hold their leases."""
    async with anyio.create_task_group() as group:
        for hours in (-24, -1, 1, 24):
            play = RabbitPlay(node.url, tmp_path)
            group.start_soon(partial(work_by_a_wrong_clock, play, hours, delta=0.5, within=2.5))


async def test_a_clock_that_jumps(node: RabbitServer, monkeypatch: pytest.MonkeyPatch):
    """F58: a machine that slept: by its own clock the lease is over, and nothing that it says about the job counts."""
    loop = asyncio.get_running_loop()
    async with (
        held(f"{node.url}?min_queue_age=0.1", "sleeper", lease=30.0) as (backend, source),
        held(f"{node.url}?min_queue_age=0.1", "sleeper", lease=30.0) as (_, heir),
    ):
        await backend.publish([Outgoing("sleeper", f"{number}", b"%d" % number) for number in range(2)])
        mine = list(await source.receive(2))
        while len(mine) < 2:
            mine += await source.receive(2)
        now = loop.time  # it does not jump back, as no machine's does
        monkeypatch.setattr(loop, "time", lambda: now() + 3600.0)
        assert await source.extend(mine) == mine
        assert await source.settle([(mine[0], ACK), (mine[1], Bury("too late", b""))]) == mine
        seen: set[bytes] = set()
        with anyio.fail_after(5):
            while len(seen) < 2:
                theirs = await heir.receive(2)
                seen |= {one.envelope for one in theirs}
                assert await heir.settle([(one, ACK) for one in theirs]) == []
        assert await backend.admin.letters("sleeper", limit=1) == []
        await backend.admin.delete("sleeper")


async def test_a_clock_that_stood_still(node: RabbitServer):
    """F58: by its own clock a machine that slept still has its lease; what counts is that the broker has hung up."""
    direct = f"{node.url}?min_queue_age=0.1"
    async with ChaosProxy("127.0.0.1", node.port) as proxy:
        through = f"amqp://guest:guest@127.0.0.1:{proxy.port}/?min_queue_age=0.1&timeout=1"
        async with held(through, "stood", lease=600.0) as (_, source):
            async with open_backend(direct) as sender:
                await sender.publish([Outgoing("stood", f"{number}", b"%d" % number) for number in range(2)])
            mine = list(await source.receive(2))
            while len(mine) < 2:
                mine += await source.receive(2)
            proxy.black_hole()
            await node.control("close_all_connections", "for this test")
            async with held(direct, "stood", lease=600.0) as (other, heir):
                theirs: list[Any] = []
                with anyio.fail_after(10):
                    while len(theirs) < 2:
                        theirs += await heir.receive(2)
                assert await source.extend(mine) == [], "it cannot know yet"
                verdicts = [(mine[0], Reschedule(0.0, b"again")), (mine[1], Bury("too late", b""))]
                with pytest.raises(BrokerUnavailable):
                    await source.settle(verdicts)
                await proxy.heal()
                with anyio.fail_after(10):
                    while await source.settle(verdicts) != mine:  # noqa: ASYNC110 - until it has heard of it
                        await anyio.sleep(0.05)
                assert await heir.settle([(one, ACK) for one in theirs]) == []
                assert (await other.admin.stats(["stood"]))[0].ready == 0
                assert await other.admin.letters("stood", limit=1) == []
                await other.admin.delete("stood")


async def test_times_at_the_edge(node: RabbitServer, tmp_path: Any):
    """F59: a time that has passed is now, the year 9999 is refused and not sent, and no time is guessed."""
    play = RabbitPlay(node.url, tmp_path)
    async with play.running("worker") as app:
        work = app.tasks["work"]
        past = datetime.now(timezone(timedelta(hours=14))) - timedelta(days=400)
        jobs = await app.enqueue_many([work.using(at=past).call(1), work.using(at=datetime.now(UTC)).call(2)])
        assert [await job.result(timeout=5) for job in jobs] == [1, 2]
        with pytest.raises(EnqueueRefused, match="too long for this broker"):
            await work.using(at=datetime(9999, 12, 31, tzinfo=UTC)).enqueue(3)
        await play.check()


async def test_deadlines(node: RabbitServer, tmp_path: Any):
    """F61: a deadline that passes in a queue or in a worker keeps a job from starting; what runs goes on."""
    play = RabbitPlay(node.url, tmp_path)
    async with play.app("client") as client:
        queued = await client.tasks["work"].using(expires=0.3).enqueue(1)
        await anyio.sleep(0.4)
        async with play.running("worker", concurrency=1) as app:
            work = app.tasks["work"]
            assert await queued.outcome(timeout=5) == Expired()
            running = await work.using(expires=0.3).enqueue(2, 0.8)
            await until(lambda: play.count("start") == 1, "a start")
            in_worker = await work.using(expires=0.4).enqueue(3)
            assert await running.result(timeout=5) == 2
            assert await in_worker.outcome(timeout=5) == Expired()
            await play.check()
    assert play.count("start") == 1


async def test_settling_around_the_end_of_a_lease(node: RabbitServer):
    """F62: settlings a hair before or after a lease ends: each job is accepted exactly once."""
    lease, count, url = 0.5, 250, f"{node.url}?min_queue_age=0.1"
    accepted: list[bytes] = []
    async with (
        held(url, "edge", lease=lease) as (backend, source),
        held(url, "edge", lease=60.0) as (_, heir),
    ):
        for turn in range(2):
            await backend.publish([Outgoing("edge", f"{turn}.{n}", b"%d.%d" % (turn, n)) for n in range(count)])
            mine: list[Any] = []
            began = anyio.current_time()
            while len(mine) < count:
                mine += await source.receive(count)
            async with anyio.create_task_group() as group:
                group.start_soon(inherit, heir, accepted)
                for index, one in enumerate(mine):
                    await anyio.sleep_until(began + lease - 0.12 + index / 1000)
                    if not await source.settle([(one, ACK)]):
                        accepted.append(one.envelope)
                await until(lambda: len(accepted) >= count * (turn + 1))  # noqa: B023
                group.cancel_scope.cancel()
        await backend.admin.delete("edge")
    assert len(accepted) == len(set(accepted)) == 2 * count


async def inherit(heir: Source, accepted: list[bytes]) -> None:
    """Take whatever lease ends, and settle it."""
    while True:
        theirs = await heir.receive(20)
        assert await heir.settle([(one, ACK) for one in theirs]) == []
        accepted += [one.envelope for one in theirs]

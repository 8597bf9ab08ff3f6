"""A network between us and the node that cuts, delays and splits: what was confirmed is there, once."""

from __future__ import annotations

import secrets
import string

import anyio
import pytest

from taskcore import BrokerUnavailable, EnqueueUncertain
from taskcore.adapters import open_backend
from taskcore.backend import Outgoing, Refused, Stored, Uncertain
from taskcore.backends.rabbitmq import layout
from taskcore.backends.rabbitmq.publish import MAX_JOB
from taskcore.faults import ChaosProxy
from taskcore.lifecycle import ACK, Bury, Reschedule
from tests.support.rabbit_play import RabbitPlay
from tests.support.redis_play import send, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture
async def proxy(node):
    """Open a network to the node that can be broken."""
    async with ChaosProxy("127.0.0.1", node.port) as proxy:
        yield proxy


@pytest.fixture
def queue():
    """Return the name of a queue of this test's own."""
    return "q" + "".join(secrets.choice(string.ascii_lowercase) for _ in range(8))


def through(proxy, options="min_queue_age=0.1&timeout=3"):
    """Return the URL that leads through a proxy."""
    return f"amqp://guest:guest@127.0.0.1:{proxy.port}/?{options}"


async def patiently(ask):
    """Return the answer; ask again while the network is away."""
    with anyio.fail_after(20):
        while True:
            try:
                return await ask()
            except BrokerUnavailable:
                await anyio.sleep(0.02)


# ── single cuts ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["cut_before", "cut_after"])
async def test_a_cut_around_the_confirm(node, proxy, queue, how):
    """F33: whichever reply a cut meets, what is confirmed is there once, what is refused is not, what is uncertain may.

    The broker notices no repeated id, so nothing is repeated here behind the caller's back.
    """
    answers = {}
    async with open_backend(f"{node.url}?min_queue_age=0.1") as other:
        await other.publish([Outgoing(queue, "first", b"first")])
        for nth in range(1, 13):
            job = Outgoing(queue, f"j{nth}", b"%d" % nth)
            async with open_backend(through(proxy)) as backend:
                await backend.publish([Outgoing(queue, f"w{nth}", b"w%d" % nth)])
                getattr(proxy, how)(1 + nth // 4)
                try:
                    [answers[job.envelope]] = await backend.publish([job])
                except BrokerUnavailable:
                    answers[job.envelope] = Refused("")
                await proxy.heal()
        async with other.consume([queue], lease=60) as source:
            found = []
            with anyio.move_on_after(1.5):
                while True:
                    found += [one.envelope for one in await source.receive(100)]
    assert len(found) == len(set(found)), "a job is there twice"
    assert {envelope for envelope, answer in answers.items() if isinstance(answer, Stored)} <= set(found)
    assert not {envelope for envelope, answer in answers.items() if isinstance(answer, Refused)} & set(found)
    assert {b"w%d" % nth for nth in range(1, 13)} <= set(found)
    if how == "cut_before":
        assert any(isinstance(answer, Uncertain) for answer in answers.values()), "no cut met a confirm"


async def test_an_uncertain_enqueue_is_repeated_with_its_id(node, proxy, tmp_path):
    """F33: an enqueue that is repeated with its id until it is confirmed has one outcome; it may run twice, no more."""
    play = RabbitPlay(node.url, tmp_path)
    uncertain = 0
    async with play.app("client", through(proxy)) as app:
        await app.tasks["work"].enqueue(0)
        for nth in range(1, 7):
            call = app.tasks["work"].using(id=f"{play.queue}-{nth}")
            proxy.cut_before(1)
            with anyio.fail_after(15):
                while True:
                    try:
                        await call.enqueue(nth)
                        break
                    except EnqueueUncertain:
                        uncertain += 1
                    except BrokerUnavailable:
                        await anyio.sleep(0.02)
        async with play.running("worker", concurrency=1):
            report = await play.check(duplicates_allowed=uncertain)
    assert uncertain, "no cut met a confirm"
    starts = [sum(entry.kind == "start" for entry in history) for history in report.histories.values()]
    assert (len(starts), min(starts)) == (7, 1)
    assert max(starts) <= 2


async def test_a_cut_on_the_way_to_the_worker(node, proxy, queue):
    """F34: jobs that were on their way when the line was cut come again at once, long before any lease ends."""
    async with open_backend(f"{node.url}?min_queue_age=0.1") as sender, open_backend(through(proxy)) as backend:
        await sender.publish([Outgoing(queue, "warm", b"warm")])
        async with backend.consume([queue], lease=600.0) as source:
            [warm] = await source.receive(10)
            assert not await source.settle([(warm, ACK)])
            proxy.cut_before(1)
            await sender.publish([Outgoing(queue, f"{number}", b"x%d" % number) for number in range(20)])
            seen = []
            while len(seen) < 20:
                found = await patiently(lambda: source.receive(20))
                assert not await source.settle([(one, ACK) for one in found])
                seen += [one.envelope for one in found]
            assert sorted(seen) == sorted(b"x%d" % number for number in range(20))
        await sender.admin.delete(queue)


async def test_a_cut_while_jobs_run(node, proxy, tmp_path):
    """F35: a cut interrupts no function; the holder gets a lost lease, and each job has one outcome."""
    play = RabbitPlay(node.url, tmp_path)
    async with play.running("worker", through(proxy), lease=20.0) as app:
        await app.enqueue_many([app.tasks["work"].call(number, 0.5) for number in range(10)])
        await until(lambda: play.count("start") == 10, "all start")
        proxy.cut()
        await play.check(duplicates_allowed=10)
    ends = [entry.facts["outcome"] for entry in play.merged().entries if entry.kind == "end"]
    assert len(ends) >= 10
    assert set(ends) == {"returned"}


@pytest.mark.parametrize(
    "verdict", [Reschedule(0.0, b"again"), Reschedule(0.3, b"later"), Bury("why", b"trail")], ids=str
)
async def test_a_cut_while_a_verdict_travels(node, proxy, queue, verdict):
    """F35: a verdict cut around the confirm of its copy is carried out when repeated; a copy too many is the same."""
    async with open_backend(f"{node.url}?min_queue_age=0.1") as sender, open_backend(through(proxy)) as backend:
        await sender.publish([Outgoing(queue, "1", b"job")])
        async with backend.consume([queue], lease=30.0) as source:
            [held] = await source.receive(1)
            proxy.cut_before(1)
            with pytest.raises(BrokerUnavailable):
                await source.settle([(held, verdict)])
            assert not await patiently(lambda: source.settle([(held, verdict)]))
        async with sender.consume([queue], lease=30.0) as source:
            found = []
            with anyio.move_on_after(1.5):
                while True:
                    found += await source.receive(5)
            assert not await source.settle([(one, ACK) for one in found])
        letters = await sender.admin.letters(queue, limit=10)
        if isinstance(verdict, Bury):
            assert (len(found), [letter.envelope for letter in letters]) == (0, [b"job"])
        else:
            assert not letters
            assert 1 <= len(found) <= 2
            assert {(one.envelope, one.trail) for one in found} == {(b"job", verdict.trail)}
        await sender.admin.delete(queue)


# ── links that are bad all the time ──────────────────────────────────────────────────────────────


async def test_a_slow_link(node, proxy, tmp_path):
    """F38: 100 ms of delay each way, more or less, and 64 kB/s: slower, and right."""
    play = RabbitPlay(node.url, tmp_path)
    async with play.running(
        "worker", through(proxy, "min_queue_age=0.1&timeout=20"), lease=20.0, concurrency=20
    ) as app:
        await app.tasks["work"].enqueue(0)
        proxy.delay(0.1, jitter=0.05)
        proxy.throttle(64_000)
        await app.enqueue_many([app.tasks["work"].call(number) for number in range(1, 61)])
        await play.check(delta=5.0, time_limit=20.0)
    assert play.count("event", name="broker.lost") == 0


async def test_byte_by_byte(node, proxy, queue):
    """F39: every byte in a packet of its own, both ways; a body full of frame ends arrives as it was."""
    body = b"\xce\x01\x00\x01\xceAMQP\x00\x00\x09\x01" * 20
    proxy.byte_by_byte()
    async with open_backend(through(proxy, "min_queue_age=0.1&timeout=20")) as backend:
        assert await backend.publish([Outgoing(queue, "1", body, b"trail")]) == [Stored()]
        async with backend.consume([queue], lease=30.0) as source:
            [found] = await source.receive(1)
            assert (found.envelope, found.trail) == (body, b"trail")
            assert not await source.settle([(found, Bury("why", b"trail"))])
        [letter] = await backend.admin.letters(queue, limit=1)
        assert (letter.envelope, letter.trail, letter.reason) == (body, b"trail", "why")
        await proxy.heal()
        await backend.admin.delete(queue)


async def test_one_side_is_cut_off(node, tmp_path):
    """F42: when no client can enqueue, workers work on; when no worker gets through, enqueueing goes on."""
    play = RabbitPlay(node.url, tmp_path)
    async with (
        ChaosProxy("127.0.0.1", node.port) as up,
        ChaosProxy("127.0.0.1", node.port) as down,
        play.app("client", through(up)) as client,
        play.running("worker", through(down), lease=5.0),
    ):
        assert await send(client, range(20)) == list(range(20))
        await up.refuse()
        up.cut()
        assert await send(client, [20, 21]) == []
        await play.quiet()
        await up.heal()
        await down.refuse()
        down.cut()
        assert await send(client, range(22, 30)) == list(range(22, 30))
        await down.heal()
        report = await play.check(duplicates_allowed=10)
    assert len([history for history in report.histories.values() if any(entry.kind == "ok" for entry in history)]) == 28


# ── sizes, and a place that is gone ──────────────────────────────────────────────────────────────


async def test_the_largest_job(node, queue):
    """F49: the largest job arrives as it was; one byte more is refused here, and the connection lives."""
    async with open_backend(f"{node.url}?min_queue_age=0.1") as backend:
        small, large, larger = await backend.publish(
            [
                Outgoing(queue, "1", b"small"),
                Outgoing(queue, "2", b"x" * MAX_JOB),
                Outgoing(queue, "3", b"x" * (MAX_JOB + 1)),
            ]
        )
        assert (small, large) == (Stored(), Stored())
        assert isinstance(larger, Refused)
        async with backend.consume([queue], lease=30.0) as source:
            found = list(await source.receive(2))
            while len(found) < 2:
                found += await source.receive(2)
            assert [len(one.envelope) for one in found] == [5, MAX_JOB]
            assert not await source.settle([(one, ACK) for one in found])
        await backend.admin.delete(queue)


async def test_dead_letters_whose_queue_was_deleted(node, queue):
    """F64: the queue for dead letters was deleted by hand: a job that is buried then is a letter all the same."""
    async with open_backend(f"{node.url}?min_queue_age=0.1") as backend:
        await backend.publish([Outgoing(queue, "1", b"job")])
        async with backend.consume([queue], lease=30.0) as source:
            [held] = await source.receive(1)
            await backend._connections.admin.call(
                "deleting", lambda channel: channel.queue_delete(layout.dead_queue(queue))
            )
            assert not await patiently(lambda: source.settle([(held, Bury("why", b"trail"))]))
            [letter] = await backend.admin.letters(queue, limit=5)
            assert (letter.envelope, letter.reason) == (b"job", "why")
        await backend.admin.delete(queue)

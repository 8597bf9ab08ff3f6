"""A network between us and Redis that cuts, hangs, delays and flaps: one job each time, and nothing is left over."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from taskcore import BrokerUnavailable
from taskcore.adapters import open_backend
from taskcore.backend import Backend, Outgoing, Source, Stored
from taskcore.faults import ChaosProxy, RedisServer
from taskcore.faults.resp import command
from taskcore.lifecycle import ACK
from tests.support.redis_play import SHORT_TIMEOUTS, Play, fds, send, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


def through(proxy: ChaosProxy, options: str = SHORT_TIMEOUTS) -> str:
    """Make the URL that leads through a proxy."""
    return f"redis://127.0.0.1:{proxy.port}/0{options}"


@asynccontextmanager
async def proxied(server: RedisServer) -> AsyncIterator[ChaosProxy]:
    """Run a proxy to the server, as a network that can be broken."""
    async with ChaosProxy("127.0.0.1", server.port) as proxy:
        yield proxy


@asynccontextmanager
async def consuming(url: str, queue: str, lease: float = 30.0) -> AsyncIterator[tuple[Backend, Source]]:
    """Open a backend and a source on one queue."""
    async with open_backend(url) as backend, backend.consume([queue], lease=lease) as source:
        yield backend, source


# ── single cuts ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["cut_before", "cut_after"])
async def test_a_cut_while_enqueueing(shared: RedisServer, how: str):
    """F33: whichever reply a cut meets, also those of connecting, an enqueue stores one job and says so."""
    async with proxied(shared) as proxy:
        for nth in range(1, 13):
            play = Play(shared.url)
            async with play.app("client", through(proxy)) as app:
                getattr(proxy, how)(nth)
                answered = []
                for number in range(8):
                    answered += await send(app, [number])
                await proxy.heal()
                answered += await send(app, [99])
                async with play.running("worker"):
                    report = await play.check()
            assert len(answered) >= 8, "one cut is worth one error at most"
            stored = {
                job for job, history in report.histories.items() if any(entry.kind == "start" for entry in history)
            }
            assert len(stored) >= len(answered)


async def test_a_delivery_whose_reply_is_lost_is_repeated(shared: RedisServer):
    """F34: jobs whose hand-out never arrived are handed out again at once, long before their lease ends; no blame."""
    async with (
        proxied(shared) as proxy,
        consuming(through(proxy), "f34", lease=600.0) as (_, source),
        open_backend(shared.url) as other,
    ):
        await other.publish([Outgoing("f34", "warm", b"warm")])
        [warm] = await source.receive(10)
        for number in range(5):
            await other.publish([Outgoing("f34", f"{number}", b"x%d" % number)])
        proxy.cut_before(1)
        with anyio.fail_after(2):
            again = await source.receive(10)
        assert (await other.admin.stats(["f34"]))[0].leased == 6
        assert [(one.envelope, one.redeliveries) for one in again] == [(b"x%d" % number, 0) for number in range(5)]
        assert await source.settle([(one, ACK) for one in [warm, *again]]) == []
        assert (await other.admin.stats(["f34"]))[0].leased == 0


async def _fall_silent_after_the_cut(proxy: ChaosProxy) -> None:
    """Let the source find no server when it repeats what was cut."""
    while proxy.down.cut_before is not None:  # noqa: ASYNC110 - a proxy tells of nothing
        await anyio.sleep(0)  # noqa: ASYNC115 - the same
    proxy.black_hole()


async def test_more_was_lost_than_is_asked_for(shared: RedisServer):
    """F34: jobs of a lost reply that the next receive has no room for are ready for other sources at once."""
    async with (
        proxied(shared) as proxy,
        consuming(through(proxy), "f34b", lease=600.0) as (_, source),
        consuming(shared.url, "f34b", lease=600.0) as (other, elsewhere),
    ):
        await other.publish([Outgoing("f34b", "warm", b"warm")])
        [warm] = await source.receive(1)
        await other.publish([Outgoing("f34b", f"{number}", b"x") for number in range(5)])
        proxy.cut_before(1)
        async with anyio.create_task_group() as failing:
            failing.start_soon(_fall_silent_after_the_cut, proxy)
            with pytest.raises(BrokerUnavailable):
                await source.receive(10)
        proxy.cut()
        await proxy.heal()
        with anyio.fail_after(3):
            two = await source.receive(2)
            rest = await elsewhere.receive(10)
        assert (len(two), len(rest)) == (2, 3)
        assert {one.redeliveries for one in [*two, *rest]} == {0}
        assert await source.settle([(one, ACK) for one in [warm, *two]]) == []
        assert await elsewhere.settle([(one, ACK) for one in rest]) == []


async def test_a_cut_while_jobs_run(shared: RedisServer):
    """F35: a cut does not disturb what runs; the settling goes through on a new connection, under the same lease."""
    play = Play(shared.url)
    async with proxied(shared) as proxy, play.running("worker", through(proxy), lease=20.0) as app:
        await app.enqueue_many([app.tasks["work"].call(number, 0.5) for number in range(10)])
        await until(lambda: play.count("start") == 10, "all start")
        proxy.cut()
        report = await play.check()
    assert all(sum(entry.kind == "start" for entry in history) == 1 for history in report.histories.values())


async def test_a_partition_with_work_in_hand(shared: RedisServer):
    """F36: a worker that is cut off for longer than its lease starts nothing of what it holds any more."""
    play = Play(shared.url)
    async with (
        proxied(shared) as proxy,
        play.app("client") as client,
        play.running("cut off", through(proxy), lease=1.0, concurrency=1),
    ):
        await client.enqueue_many([client.tasks["work"].call(number, 0.01) for number in range(100)])
        await until(lambda: play.count("settled") >= 20, "twenty jobs")
        proxy.black_hole()
        cut = play.history.now()
        async with play.running("healthy", lease=1.0):
            await play.quiet()
            healed = play.history.now()
            await proxy.heal()
            report = await play.check(duplicates_allowed=20)
    starts = [entry.at for entry in play.merged().entries if entry.kind == "start" and entry.who == "cut off"]
    assert not [at for at in starts if cut + 1.5 < at < healed], "a stale job was started"
    assert len(report.histories) == 100


# ── links that are bad all the time ──────────────────────────────────────────────────────────────


async def test_half_open(shared: RedisServer):
    """F37: a connection that is dead and says nothing is noticed within its time limit, and all goes on after."""
    play = Play(shared.url)
    async with proxied(shared) as proxy, play.running("worker", through(proxy), lease=10.0) as app:
        await send(app, range(3))
        await until(lambda: play.count("settled") == 3, "three jobs")
        proxy.black_hole()
        began = anyio.current_time()
        with pytest.raises(Exception, match=r"may or may not|cannot reach|did not answer"):
            await app.tasks["work"].enqueue(4)
        assert anyio.current_time() - began < 0.4 + 0.4 + 1.2 + 1.5
        await until(lambda: play.count("event", name="broker.lost") >= 1, "the worker notices")
        proxy.cut()
        await proxy.heal()
        healed = anyio.current_time()
        assert await send(app, [5]) or await send(app, [6])
        await until(lambda: play.count("settled") >= 4, "work goes on", within=15)
        assert anyio.current_time() - healed < 15
        await play.check()


async def test_latency(shared: RedisServer):
    """F38: 100 ms of delay each way, more or less, and 64 kB/s: slower, and right."""
    play = Play(shared.url)
    async with proxied(shared) as proxy, play.running("worker", through(proxy, ""), lease=20.0, concurrency=20) as app:
        proxy.delay(0.1, jitter=0.05)
        proxy.throttle(64_000)
        await app.enqueue_many([app.tasks["work"].call(number) for number in range(60)])
        await play.check(delta=3.0)
    assert play.count("event", name="broker.lost") == 0


async def test_byte_by_byte(shared: RedisServer):
    """F39: every byte in a packet of its own, both ways."""
    play = Play(shared.url)
    async with proxied(shared) as proxy:
        proxy.byte_by_byte()
        async with play.running("worker", through(proxy, ""), lease=20.0) as app:
            await app.enqueue_many([app.tasks["work"].call(number) for number in range(20)])
            await app.tasks["fail"].enqueue(1)
            await play.check()
    assert play.count("event", name="broker.lost") == 0


async def test_no_history_is_judged_too_early(shared: RedisServer):
    """A history is judged only after the worker has recorded each verdict that the broker carried out."""
    play = Play(shared.url)
    async with proxied(shared) as proxy, play.running("worker", through(proxy, ""), lease=20.0) as app:
        await app.tasks["fail"].enqueue(1)
        await until(lambda: play.count("start") == 3, "the last attempt")
        proxy.delay(0.5, only="down")
        await play.check()
        assert play.count("settled", verdict="bury") == play.count("event", name="job.buried") == 1


async def test_refused_and_unknown_hosts():
    """F40: a port without a listener and a host that does not exist are one clear error each, at once."""
    async with ChaosProxy("127.0.0.1", 1) as proxy:
        await proxy.refuse()
        for url in (through(proxy), "redis://host.invalid:6379/0" + SHORT_TIMEOUTS):
            with anyio.fail_after(5), pytest.raises(BrokerUnavailable, match="cannot reach Redis at"):
                async with open_backend(url):
                    pass


async def test_a_greeting_that_never_comes(own: RedisServer):
    """F37: connections that were accepted and never answered are closed when their time is over."""
    async with open_backend(own.url + "?timeout=50ms&connect_timeout=50ms") as backend:
        own.pause()
        before = fds()
        for _ in range(10):
            with pytest.raises(BrokerUnavailable):
                await backend.admin.stats(["q"])
        await anyio.lowlevel.checkpoint()
        assert fds() <= before
        own.resume()


@pytest.mark.slow
async def test_a_flapping_link(own: RedisServer):
    """F41: cut every half second, work goes on; afterwards there is no connection, task or file too many."""
    play, dice = Play(own.url), random.Random(3)
    async with proxied(own) as proxy, play.running("worker", through(proxy), lease=3.0) as app:
        await send(app, [0])
        await until(lambda: play.count("settled") == 1, "one job")
        await anyio.sleep(0.2)
        tasks, files, lines = len(asyncio.all_tasks()), fds(), proxy.connected
        flapping = True
        stored: list[int] = []

        async def flap() -> None:
            for _ in range(16):
                await anyio.sleep(0.5 * dice.random() + 0.25)
                proxy.cut()

        async def produce() -> None:
            number = 1
            while flapping:
                stored.extend(await send(app, [number]))
                number += 1
                await anyio.sleep(0.01)

        async with anyio.create_task_group() as group:
            group.start_soon(produce)
            await flap()
            flapping = False
        await play.check(duplicates_allowed=len(stored) // 10)
        assert len(stored) > 100
        await send(app, [-1])
        await play.quiet()
        await anyio.sleep(0.5)
        assert proxy.connected <= lines + 1
        assert len(asyncio.all_tasks()) <= tasks + 3 * (proxy.connected - lines)  # the proxy's own
        assert fds() <= files + 2 * (proxy.connected - lines)
        clients: Any = (await command(own.port, "CLIENT", "LIST")).splitlines()
        assert len(clients) <= lines + 2


async def test_only_the_way_of_enqueueing_is_cut(shared: RedisServer):
    """F42: when no sender gets through, workers go on; when no worker gets through, senders go on."""
    play = Play(shared.url)
    async with (
        proxied(shared) as up,
        proxied(shared) as down,
        play.app("client", through(up)) as client,
        play.running("worker", through(down), lease=5.0),
    ):
        assert await send(client, range(20)) == list(range(20))
        await up.refuse()
        up.cut()
        assert await send(client, [20, 21]) == []
        await play.quiet()
        assert play.count("settled") == 20
        await up.heal()
        await down.refuse()
        down.cut()
        assert await send(client, range(22, 30)) == list(range(22, 30))
        await down.heal()
        report = await play.check()
    assert len(report.histories) == 30


async def test_a_late_reschedule_of_a_stored_job(shared: RedisServer):
    """F33: a publish that is repeated by its caller, because its own repetition failed too, is stored once."""
    async with proxied(shared) as proxy, open_backend(through(proxy)) as backend:
        job = Outgoing("late", "only", b"x")
        await backend.publish([Outgoing("late", "other", b"x")])
        proxy.cut_before(1)
        assert [type(one) for one in await backend.publish([job])] == [Stored]
        async with consuming(shared.url, "late") as (direct, source):
            got = await source.receive(10)
            assert sorted(one.envelope for one in got) == [b"x", b"x"]
            await source.settle([(one, ACK) for one in got])
            assert (await direct.admin.stats(["late"]))[0].ready == 0


async def test_many_callers_of_a_silent_server(own: RedisServer):
    """C22: however many ask a server that is silent, each of them has an answer in its time."""
    async with proxied(own) as proxy, open_backend(through(proxy)) as backend:
        await backend.publish([Outgoing("q", "0", b"x")])
        await backend.admin.stats(["q"])
        proxy.black_hole()
        times: list[float] = []

        async def ask(number: int) -> None:
            began = anyio.current_time()
            with pytest.raises(BrokerUnavailable):
                await (backend.admin.stats(["q"]) if number % 2 else backend.admin.letters("q", limit=1))
            times.append(anyio.current_time() - began)

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(ask, number)
        assert max(times) < 0.4 + 0.4 + 1.2 + 2.0

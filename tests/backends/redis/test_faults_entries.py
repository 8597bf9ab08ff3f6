"""What others do to our keys: foreign entries, entries that vanish, keys of other types; and times that do not fit."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any

import anyio
import pytest

from taskcore import BrokerUnavailable
from taskcore.adapters import open_backend
from taskcore.backend import Outgoing, Source
from taskcore.backends.redis.layout import QueueKeys
from taskcore.faults import RedisServer
from taskcore.faults.resp import command
from taskcore.lifecycle import ACK, RELEASE, Bury, Reschedule, Verdict
from tests.support.redis_play import Play, held, key, send, until
from tests.support.worker_faults import work_by_a_wrong_clock

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

#: Entries of every wrong shape, as field, value, field, value, …
FOREIGN: dict[str, list[bytes | str]] = {
    "random": [b"\x00\xff", bytes(range(256))],
    "empty body": ["id", "x1", "envelope", ""],
    "empty everything": ["", ""],
    "truncated": ["id", "x2", "envelope", b'{"v":1,"id":"x2","task"'],
    "nested": ["id", "x3", "envelope", b"[" * 10_000],
    "nan": [
        "id",
        "x4",
        "envelope",
        b'{"v":1,"id":"x4","task":"work","queue":"q","args":{"number":NaN},"enqueued_at":0}',
    ],
    "twice": ["id", "x5", "envelope", b'{"v":2,"v":1,"id":"x5","task":"work","task":"fail"}'],
    "digits": ["id", "x6", "envelope", b'{"v":1,"id":"x6","enqueued_at":' + b"9" * 100_000 + b"}"],
    "no such format": [
        "id",
        "x7",
        "envelope",
        b'{"v":0,"id":"x7","task":"work","queue":"q","args":[],"enqueued_at":0}',
    ],
    "another program's": ["type", "invoice", "body", b'{"total": 12}', "tenant", "acme"],
    "no envelope": ["id", "x8", "trail", b"{}"],
    "other order": ["envelope", b"{}", "id", "x9"],
    "bad trail": ["id", "x10", "envelope", b"{}", "trail", b"\xfe\xfe"],
    "no text": ["id", b"\xff\xfe", "envelope", b"\xff\xfe"],
    "huge": ["blob", b"z" * 2_000_000],
}


def alarms(caplog: pytest.LogCaptureFixture) -> list[str]:
    """List what was logged as an error."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# ── foreign entries ──────────────────────────────────────────────────────────────────────────────


async def test_foreign_entries(shared: RedisServer):
    """F45, F46, F53: each foreign entry ends as a dead letter with its bytes; our jobs between them are not delayed."""
    play = Play(shared.url)
    async with play.app("client") as app:
        for number, fields in enumerate(FOREIGN.values()):
            await send(app, [number])
            await command(shared.port, "XADD", key(play.queue, "jobs"), "*", *fields)
        async with play.running("worker"):
            await until(lambda: play.count("end", outcome="returned") == len(FOREIGN), "our jobs", within=5)
            await play.quiet()
        async with open_backend(shared.url) as backend:
            letters = await backend.admin.letters(play.queue, limit=100)
            [stats] = await backend.admin.stats([play.queue])
            assert {letter.reason.partition(":")[0] for letter in letters} == {"malformed"}
            assert stats.dead == len(letters) == len(FOREIGN)
            bodies = {letter.envelope for letter in letters}
            assert await backend.admin.drop(letters[0].id)
        for name, fields in FOREIGN.items():
            raw = [part.encode() if isinstance(part, str) else part for part in fields]
            ours = raw[:3:2] == [b"id", b"envelope"] and len(raw) in {4, 6}
            assert (raw[3] if ours else b" ".join(raw)) in bodies, name


@pytest.mark.parametrize(
    "verdict", [ACK, RELEASE, Reschedule(0.05, b"t"), Reschedule(0.0, b"t"), Bury("no", b"t")], ids=repr
)
async def test_every_verdict_on_a_foreign_entry(own: RedisServer, verdict: Verdict):
    """F53: a foreign entry can be settled in every way, and leaves nothing behind when it is over."""
    async with held(own.url, "q") as (backend, source):
        await command(own.port, "XADD", key("q", "jobs"), "*", "not", "ours")
        [delivery] = await source.receive(10)
        assert await source.settle([(delivery, verdict)]) == []
        if isinstance(verdict, Reschedule) or verdict is RELEASE:
            with anyio.fail_after(3):
                [delivery] = await source.receive(10)
            assert b"ours" in delivery.envelope
            assert await source.settle([(delivery, ACK)]) == []
        [stats] = await backend.admin.stats(["q"])
        assert (stats.ready, stats.leased, stats.scheduled, stats.dead) == (0, 0, 0, int(isinstance(verdict, Bury)))
        left = {name.decode() for name in await command(own.port, "KEYS", key("q", "*"))}
        assert left <= {key("q", part) for part in ("jobs", "letters", "wake", "ended", "ended_before")}


async def test_an_entry_with_the_id_of_a_job(shared: RedisServer):
    """F46: an entry that says that it is one of our jobs does not end that job."""
    async with held(shared.url, "twin") as (backend, source):
        await backend.publish([Outgoing("twin", "1", b"real", b"", 0.5)])
        await command(shared.port, "XADD", key("twin", "jobs"), "*", "id", "1", "envelope", "forged")
        [forged] = await source.receive(1)
        await source.settle([(forged, ACK)])
        with anyio.fail_after(5):
            [real] = await source.receive(1)
        assert (forged.envelope, real.envelope) == (b"forged", b"real")
        assert await source.settle([(real, ACK)]) == []


# ── entries that vanish ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["XDEL", "XTRIM", "DEL"])
async def test_leased_entries_vanish(shared: RedisServer, how: str, caplog: pytest.LogCaptureFixture):
    """F53: an entry that vanishes while it is leased cannot be retried; it is logged, and its lease counts as lost."""
    queue = f"leased-{how}"
    async with held(shared.url, queue, lease=0.5) as (backend, source):
        await backend.publish([Outgoing(queue, f"{number}", b"x") for number in range(4)])
        mine = await source.receive(4)
        await vanish(shared.port, how, queue)
        lost = await source.settle([(mine[0], Reschedule(0.0, b"")), (mine[1], Bury("no", b"")), (mine[2], RELEASE)])
        assert lost == mine[:2]
        assert any("have disappeared" in alarm for alarm in alarms(caplog))
        caplog.clear()
        with anyio.move_on_after(1.5):
            pytest.fail(f"vanished jobs were handed out: {await source.receive(4)}")
        assert any("have disappeared" in alarm for alarm in alarms(caplog)), "the others follow after their lease"
        [stats] = await backend.admin.stats([queue])
        assert (stats.ready, stats.leased, stats.scheduled) == (0, 0, 0)


async def vanish(port: int, how: str, queue: str) -> None:
    """Delete all entries of a queue, behind the broker's back."""
    stream = key(queue, "jobs")
    if how == "XDEL":
        await command(port, "XDEL", stream, *(entry for entry, _ in await command(port, "XRANGE", stream, "-", "+")))
    elif how == "XTRIM":
        await command(port, "XTRIM", stream, "MAXLEN", 0)
    else:
        await command(port, "DEL", stream)


@pytest.mark.parametrize("how", ["XDEL", "XTRIM", "DEL"])
async def test_ready_entries_vanish(shared: RedisServer, how: str, caplog: pytest.LogCaptureFixture):
    """F53: what vanishes while it waits is noticed when the queue is empty: an alarm, and its ids are free again."""
    queue = f"ready-{how}"
    async with held(shared.url, queue) as (backend, source):
        await backend.publish([Outgoing(queue, f"{number}", b"x") for number in range(30)])
        await vanish(shared.port, how, queue)
        with anyio.move_on_after(0.5):
            pytest.fail(f"vanished jobs were handed out: {await source.receive(4)}")
        [alarm, *_] = [alarm for alarm in alarms(caplog) if "have disappeared" in alarm]
        assert alarm.startswith("30 jobs of queue")
        assert await backend.admin.locate(queue, "7") is None
        [answer] = await backend.publish([Outgoing(queue, "7", b"again")])
        assert type(answer).__name__ == "Stored"
        with anyio.fail_after(5):
            [again] = await source.receive(4)
        assert again.envelope == b"again"
        caplog.clear()
        await source.settle([(again, ACK)])
        with anyio.move_on_after(0.3):
            await source.receive(1)
        assert alarms(caplog) == []


async def test_the_body_of_a_scheduled_job_vanishes(shared: RedisServer, caplog: pytest.LogCaptureFixture):
    """F53: a scheduled job whose bytes are gone is logged when it is due, and delays nothing."""
    async with held(shared.url, "bodies") as (backend, source):
        await backend.publish([Outgoing("bodies", f"{number}", b"%d" % number, b"", 0.2) for number in range(2)])
        await command(shared.port, "HDEL", key("bodies", "bodies"), "0")
        with anyio.fail_after(5):
            [one] = await source.receive(10)
        assert one.envelope == b"1"
        assert [alarm for alarm in alarms(caplog) if alarm.startswith("1 jobs")]


# ── keys of another type ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("part", [name.rpartition(":")[2] for name in QueueKeys("tc", "q").all])
async def test_a_key_of_another_type(own: RedisServer, part: str):
    """F53: whichever key has another type, nothing is done by halves, and the text says what to do."""
    async with held(own.url, "q", lease=0.6) as (backend, source):
        await backend.publish([Outgoing("q", f"{number}", b"x") for number in range(8)])
        mine = await source.receive(4)
        before = await everything(own.port, except_for=part)
        kept = await command(own.port, "DUMP", key("q", part))
        await command(own.port, "SET", key("q", part), "x")
        jobs = [Outgoing("q", "new", b"x"), Outgoing("q", "later", b"x", b"", 60.0)]
        verdicts: list[Verdict] = [Reschedule(0.0, b""), Reschedule(60.0, b""), Bury("no", b""), ACK]
        refused = 0
        for call in (backend.publish(jobs), source.settle(list(zip(mine, verdicts, strict=True)))):
            text = await refusal(call)
            assert not text or ("holds something that is not ours" in text and "?prefix=" in text)
            refused += bool(text)
        if refused == 2:
            assert await everything(own.port, except_for=part) == before
        assert refused, "foreign data were taken for ours"
        await command(own.port, "DEL", key("q", part))
        if kept is not None:
            await command(own.port, "RESTORE", key("q", part), 0, kept)
        await anyio.sleep(0.7)
        seen: list[bytes] = []
        with anyio.move_on_after(1.0):
            while True:
                got = await source.receive(10)
                assert await source.settle([(one, ACK) for one in got]) == []
                seen += [one.receipt.id for one in got]
        assert len(seen) == len(set(seen)), "a job was there twice"


async def refusal(call: Awaitable[Any]) -> str:
    """Return the text of the error, if there is one."""
    try:
        await call
    except BrokerUnavailable as error:
        return str(error)
    return ""


async def everything(port: int, *, except_for: str) -> dict[bytes, Any]:
    """Read all keys and what they hold."""
    names = sorted(await command(port, "KEYS", "tc:{q}:*"))
    skip = {key("q", except_for).encode(), key("q", "wake").encode()}
    return {name: await command(port, "DUMP", name) for name in names if name not in skip}


async def test_no_receiver_spins_where_none_can_be_woken(own: RedisServer, caplog: pytest.LogCaptureFixture):
    """A worker that may not wait for tokens says so once, looks now and then, not all the time, and gets its jobs."""
    await command(own.port, "ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-blpop")
    async with held(own.url.replace("redis://", "redis://app:pw@"), "q") as (backend, source):
        before = await commands(own.port)
        with anyio.move_on_after(4.0):
            await source.receive(1)
        assert await commands(own.port) - before < 150, "a few a second, and what the scripts do counts"
        assert [alarm for alarm in alarms(caplog) if "cannot receive wake-ups" in alarm] == alarms(caplog) != []
        await backend.publish([Outgoing("q", "1", b"x")])
        with anyio.fail_after(4.0):
            assert len(await source.receive(1)) == 1


async def commands(port: int) -> int:
    """Count the commands that the server has carried out."""
    info: bytes = await command(port, "INFO", "stats")
    return int(info.split(b"total_commands_processed:")[1].split()[0])


# ── times ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("hours", [-24, -1, 1, 24])
async def test_clocks_that_are_wrong(shared: RedisServer, hours: int):
    """F57: a worker whose clock is hours or days wrong starts nothing early or late, and holds its leases."""
    await work_by_a_wrong_clock(Play(shared.url), hours, delta=0.3, within=1.5)


@pytest.mark.slow
async def test_settling_around_the_end_of_a_lease(shared: RedisServer):
    """F62: five hundred settlings a hair before or after a lease ends: each job is accepted exactly once."""
    lease = 0.5
    accepted: list[bytes] = []
    async with (
        held(shared.url, "edge", lease=lease) as (backend, source),
        held(shared.url, "edge", lease=60.0) as (_, heir),
    ):
        for round_ in range(5):
            await backend.publish(
                [Outgoing("edge", f"{round_}.{number}", b"%d.%d" % (round_, number)) for number in range(100)]
            )
            mine: list[Any] = []
            began = anyio.current_time()
            while len(mine) < 100:
                mine += await source.receive(100)
            async with anyio.create_task_group() as group:
                group.start_soon(inherit, heir, accepted, 5)
                group.start_soon(inherit, heir, accepted, 1)
                for index, one in enumerate(mine):
                    await anyio.sleep_until(began + lease - 0.05 + index / 1000)
                    if not await source.settle([(one, ACK)]):
                        accepted.append(one.envelope)
                await until(lambda: len(accepted) >= 100 * (round_ + 1))  # noqa: B023
                group.cancel_scope.cancel()
    assert len(accepted) == len(set(accepted)) == 500


async def inherit(heir: Source, accepted: list[bytes], limit: int) -> None:
    """Take whatever lease ends, and settle it."""
    while True:
        theirs = await heir.receive(limit)
        assert await heir.settle([(one, ACK) for one in theirs]) == []
        accepted += [one.envelope for one in theirs]

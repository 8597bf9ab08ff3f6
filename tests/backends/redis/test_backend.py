"""What is special about the backend on Redis: what it remembers, how it grows, limits, prefixes, URLs, versions."""

from __future__ import annotations

import os
import time

import anyio
import pytest

from taskcore import BrokerUnavailable, EnqueueRefused, InvalidURL
from taskcore.backend import STORED, Backend, Duplicate, Outgoing, Refused, Source, Stored
from taskcore.backends.redis import RedisBackend
from taskcore.connections.redis import link
from taskcore.faults import RedisServer
from taskcore.faults.resp import command
from taskcore.lifecycle import ACK, Bury, Reschedule
from tests.support.real import require
from tests.support.redis_play import Play, held, key, send

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


# ── growing ──────────────────────────────────────────────────────────────────────────────────────


async def test_nothing_grows(own: RedisServer):
    """C23: after thousands of jobs, retries, delays and dead letters were drained, the keys are what they were."""
    async with held(own.url) as (backend, source):
        await cycle(backend, source, 0)
        names, sizes = await keys_and_sizes(own.port)
        for round_ in range(1, 6):
            await cycle(backend, source, round_)
        after_names, after = await keys_and_sizes(own.port)
    assert after_names - {key("q", "wake").encode()} == names - {key("q", "wake").encode()}, (
        "a token may be left or not"
    )
    for part in sizes:
        assert after[part] <= sizes[part] + 1, part
    ttls = [await command(own.port, "PTTL", key("q", part)) for part in ("ended", "ended_before")]
    assert all(ttl == -2 or 0 < ttl <= 120_000 for ttl in ttls), "what is remembered has a time to live"


async def cycle(backend: Backend, source: Source, round_: int) -> None:
    """Run a thousand jobs to every verdict."""
    jobs = [Outgoing("q", f"{round_}.{number}", b"x" * 50, b"", 0.01 * (number % 2)) for number in range(1000)]
    await backend.publish(jobs)
    ended = 0
    while ended < 1000:
        batch = await source.receive(200)
        verdicts = []
        for one in batch:
            first = not one.trail and one.redeliveries == 0
            number = int(one.receipt.id.decode().partition(".")[2])
            verdict = {0: Reschedule(0.0, b"t"), 1: Reschedule(0.01, b"t"), 2: Bury("no", b"t")}.get(number % 5, ACK)
            verdicts.append((one, verdict if first else ACK))
        assert await source.settle(verdicts) == []
        ended += sum(not isinstance(verdict, Reschedule) for _, verdict in verdicts)
    for letter in await backend.admin.letters("q", limit=1000):
        await backend.admin.drop(letter.id)


async def keys_and_sizes(port: int) -> tuple[set[bytes], dict[str, int]]:
    """Return the keys (but for those that remember ids) and how many elements each part has."""
    names = set(await command(port, "KEYS", "*")) - {
        key("q", part).encode() for part in ("ended", "ended_before", "wake")
    }
    sizes = dict.fromkeys(("redeliveries", "bodies", "places"), "HLEN") | dict.fromkeys(("leases", "schedule"), "ZCARD")
    sizes |= dict.fromkeys(("jobs", "letters"), "XLEN") | {"wake": "LLEN"}
    return names, {part: await command(port, size, key("q", part)) for part, size in sizes.items()}


async def test_ids_are_remembered_for_their_window(own: RedisServer):
    """An ended id is a duplicate for a minute; the sets that remember take turns, and are gone after two minutes."""
    async with held(own.url) as (backend, source):

        async def end(name: str) -> None:
            await backend.publish([Outgoing("q", name, b"x")])
            await source.settle([(one, ACK) for one in await source.receive(10)])

        async def left(milliseconds: int) -> None:
            for part in ("ended", "ended_before"):
                await command(own.port, "PEXPIRE", key("q", part), milliseconds)

        await end("1")
        assert 60_000 < await command(own.port, "PTTL", key("q", "ended")) <= 120_000
        await command(own.port, "PEXPIRE", key("q", "ended"), 59_000)  # 61 seconds have passed
        await end("2")
        assert await command(own.port, "SMEMBERS", key("q", "ended")) == [b"2"]
        assert await command(own.port, "SMEMBERS", key("q", "ended_before")) == [b"1"]
        answers = await backend.publish([Outgoing("q", name, b"x") for name in ("1", "2")])
        assert [type(answer) for answer in answers] == [Duplicate] * 2
        await left(1)
        await anyio.sleep(0.01)
        answers = await backend.publish([Outgoing("q", name, b"x") for name in ("1", "2")])
        assert [type(answer) for answer in answers] == [Stored] * 2


LOAD = """
local first = tonumber(ARGV[1])
for number = first, first + tonumber(ARGV[2]) - 1 do
  local id = 'load-' .. number
  if ARGV[3] == '0' then
    redis.call('HSET', KEYS[2], id, redis.call('XADD', KEYS[1], '*', 'id', id, 'envelope', 'x'))
  else
    redis.call('ZADD', KEYS[3], 9999999999999, id)
    redis.call('HSET', KEYS[4], id, '0:x')
    redis.call('HSET', KEYS[2], id, 'z')
  end
end
"""


@pytest.mark.slow
async def test_a_million_jobs_do_not_slow_receiving():
    """A hundred jobs are handed out as quickly from a million and 100,000 scheduled ones as from a thousand."""
    async with (
        require(RedisServer)(config={"appendonly": "no"}) as server,
        held(server.url, lease=60.0) as (backend, source),
    ):
        names = [key("q", part) for part in ("jobs", "places", "schedule", "bodies")]

        async def load(first: int, count: int, *, later: bool) -> None:
            for start in range(first, first + count, 20_000):
                some = min(20_000, first + count - start)
                await command(server.port, "EVAL", LOAD, 4, *names, start, some, int(later))

        async def measure() -> float:
            took = []
            for _ in range(9):
                began = time.perf_counter()
                batch = await source.receive(100)
                took.append(time.perf_counter() - began)
                assert len(batch) == 100
                await source.settle([(one, ACK) for one in batch])
            return sorted(took)[4]

        await load(0, 1_000, later=False)
        few = await measure()
        await load(1_000, 1_000_000, later=False)
        await load(2_000_000, 100_000, later=True)
        many = await measure()
        [stats] = await backend.admin.stats(["q"])
        assert stats.ready > 999_000
        assert stats.scheduled == 100_000
    assert many < 5 * few + 0.01, f"{few * 1000:.2f} ms for 100 of 1,000, {many * 1000:.2f} ms of 1,000,000"


# ── limits, prefixes, URLs ───────────────────────────────────────────────────────────────────────


async def test_the_limit_of_a_queue(own: RedisServer):
    """With ?limit a full queue refuses, to the job; what runs and what is dead counts; replaying needs no room."""
    async with held(own.url + "?limit=5") as (backend, source):
        answers = await backend.publish(
            [Outgoing("q", f"{number}", b"x", b"", 60.0 * (number % 2)) for number in range(7)]
        )
        refusals = [answer for answer in answers if isinstance(answer, Refused)]
        assert len(refusals) == 2
        assert answers.count(STORED) == 5
        assert "5 jobs and dead letters" in refusals[0].why
        [one] = await source.receive(1)
        await source.settle([(one, Bury("no", b""))])
        assert [type(answer) for answer in await backend.publish([Outgoing("q", "8", b"x")])] == [Refused]
        [letter] = await backend.admin.letters("q", limit=10)
        assert isinstance(await backend.admin.replay(letter.id, Outgoing("q", "0-again", b"x")), Stored)
        assert [type(answer) for answer in await backend.publish([Outgoing("other", "8", b"x")])] == [Stored]
    play = Play(own.url)
    async with play.app("client", own.url + "?limit=2") as app:
        assert await send(app, range(2)) == [0, 1]
        with pytest.raises(EnqueueRefused, match="full"):
            await app.tasks["work"].enqueue(3)


async def test_prefixes_keep_applications_apart(own: RedisServer):
    """Two applications with different prefixes share a server and a queue's name, and nothing else."""
    async with held(own.url + "?prefix=one") as (one, ones), held(own.url + "?prefix=two") as (two, twos):
        await one.publish([Outgoing("q", "1", b"for one")])
        await two.publish([Outgoing("q", "1", b"for two")])
        assert [job.envelope for job in await ones.receive(10)] == [b"for one"]
        assert [job.envelope for job in await twos.receive(10)] == [b"for two"]
        await one.admin.delete("q")
        assert await one.admin.queues() == []
        assert (await two.admin.stats(["q"]))[0].leased == 1
        names = await command(own.port, "KEYS", "*")
        assert {name.partition(b":")[0] for name in names} == {b"two"}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://localhost?limt=5", "known are prefix, limit"),
        ("redis://localhost?limit=0", "limit: expected a whole number of at least 1"),
        ("redis://localhost?limit=many", "limit: expected a whole number"),
        ("redis://localhost?prefix={x}", "prefix: expected letters"),
        ("redis://localhost?timeout=0s", "timeout: expected a time above 0"),
        ("redis://localhost?timeout=soon", "timeout:"),
        ("redis://localhost:port", "not host or host:port"),
        ("redis://localhost:99999", "the port of localhost"),
        ("redis://localhost/mail", "the database: expected a number"),
        ("redis://localhost/0/1", "more path than expected"),
        ("redis://:secret#1@localhost", "# is written %23"),
        ("redis://:secret/1@localhost", "/ %2F"),
        ("redis://me:secret?1@localhost", "? %3F"),
        ("redis://localhost/0#x", "a # in a name is written %23"),
        ("redis://localhost?ssl_ca_certs=/nowhere/ca.pem", "ssl_ca_certs:"),
        ("redis://localhost?tls=perhaps", '"yes" or "no"'),
        ("redis://localhost?ssl_cert_reqs=none", "unknown option 'ssl_cert_reqs'"),
        ("rediss://localhost?ssl_check_hostname=no", "unknown option 'ssl_check_hostname'"),
        ("redis+sentinel://localhost:26379", "the service's name is missing"),
        ("redis+cluster://localhost:7000/3", "a cluster has database 0 only"),
        ("unix://host/path", "no host"),
    ],
)
def test_urls_that_cannot_be_meant(url: str, says: str):
    """A URL with a typo or an unknown option is refused at once, with what is wrong and without secrets."""
    with pytest.raises(InvalidURL) as refused:
        RedisBackend(url)
    assert says in str(refused.value)
    assert "TC103" in str(refused.value)
    assert "secret" not in str(refused.value)


async def test_an_old_server_is_refused(shared: RedisServer, monkeypatch: pytest.MonkeyPatch):
    """A server that is older than what works is refused at the start, and the text has both versions."""
    monkeypatch.setattr(link, "OLDEST_VERSION", (99, 0))
    with pytest.raises(BrokerUnavailable, match=rf"is Redis {shared.version.rpartition('.')[0]}") as refused:
        async with RedisBackend(shared.url):
            pass
    assert "oldest that works" in str(refused.value)


async def test_no_file_is_left_open(shared: RedisServer):
    """A backend that was opened and closed fifty times leaves no connection and no file."""
    async with held(shared.url):
        pass
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - numbers only
    for _ in range(50):
        async with held(shared.url) as (backend, _):
            await backend.publish([Outgoing("q", "1", b"x")])
    await anyio.sleep(0.1)
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208 - as above

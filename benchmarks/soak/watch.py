"""Looking at the run while it goes on: who is listed as a worker, how large processes are, what the broker holds."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from math import inf
from pathlib import Path
from uuid import uuid4

import anyio
import nats
from redis.asyncio import Redis

from benchmarks.soak.app import size_of
from benchmarks.soak.harness import SoakHarness
from benchmarks.soak.ledger import LedgerLine, read_beside
from taskcore import App
from taskcore.errors import BrokerUnavailable, EnqueueRefused, EnqueueUncertain
from taskcore.faults import NatsServer, RabbitServer, RedisServer, Server

__all__ = ["count", "probe", "rest", "watch"]

LOOK_EACH = 2.0  #: seconds between two looks
CONSUMERS_EACH = 30.0  #: … at the broker's consumers: RabbitMQ's own tool for that is slow
PROBE_EACH = 0.5  #: seconds between two jobs that show whether the machine keeps up
LISTED_WITHIN = 20.0  #: seconds in which the roster has to become true when nothing is broken any more
STARTED_AT = 18  #: where ``stat`` tells when a process began, counted from behind its state
ESTABLISHED = "01"  #: a state of a connection, as Linux writes it


async def watch(app: App, harness: SoakHarness) -> None:
    """Write down the sizes of all members and servers, and the roster, for ever."""
    while True:
        began = time.time()
        for member in harness.members.values():
            if (pid := member.pid) is not None and (size := size_of(pid)):
                harness.ledger.write("size", of=member.who, **size)
        for role, server in harness.servers.items():
            harness.ledger.write("size", of=role, connections=_connections(server.port))
        with suppress(BrokerUnavailable):
            listed = {worker.pid for worker in await app.workers()}
            harness.ledger.write("roster", listed=sorted(listed), gone=[pid for pid in listed if not _lives(pid)])
        await anyio.sleep(LOOK_EACH)
        _note_stall(harness, began, time.time() - began - LOOK_EACH)


async def count(harness: SoakHarness) -> None:
    """Write down how many consumers the broker has, for ever."""
    while "broker" in harness.servers:
        # A task of its own: a client whose connection is lost may cancel the task that waits for its answer.
        asking = asyncio.ensure_future(_consumers(harness.servers["broker"]))
        try:
            await asyncio.wait({asking})
        finally:
            asking.cancel()
        if not asking.cancelled() and asking.exception() is None:  # else the server was killed, or is just starting
            harness.ledger.write("size", of="broker", consumers=asking.result())
        await anyio.sleep(CONSUMERS_EACH)


def _note_stall(harness: SoakHarness, began: float, seconds: float) -> None:
    """Note that something took so long that leases may have run out."""
    if seconds > harness.spec.lease / 4:
        harness.ledger.write("stall", began=began, seconds=seconds)


async def probe(app: App, harness: SoakHarness) -> None:
    """Send a job now and then, without a proxy, for ever; note when that took so long that leases may have run out.

    A machine that is busy with other programs may leave a server, its disk or a worker without a turn for seconds.
    """
    while True:
        began, job = time.time(), f"fast-{uuid4().hex[:16]}"
        harness.ledger.write("sending", job)
        try:
            await app.send(app.tasks["fast"].using(queue=harness.queue, id=job).call(0))
        except (BrokerUnavailable, EnqueueRefused) as error:
            harness.ledger.write("refused", job, why=error.what)
        except EnqueueUncertain as error:
            harness.ledger.write("uncertain", job, why=error.what)
        else:
            harness.ledger.write("confirmed", job)
        await anyio.sleep(PROBE_EACH)
        _note_stall(harness, began, time.time() - began - PROBE_EACH)


async def rest(app: App, harness: SoakHarness, *, are_working: bool) -> None:
    """Wait until the roster is true, and write down what is wrong with it after that time.

    :param are_working: the workers have not been stopped.
    """
    until = time.monotonic() + LISTED_WITHIN
    while True:
        living = _living(await read_beside(harness.folder)) if are_working else {}
        listed = {worker.pid for worker in await app.workers()}
        wrong = [f"{who} lives and is not listed as a worker" for pid, who in living.items() if pid not in listed]
        wrong += [f"process {pid} is listed as a worker and does not live" for pid in listed if pid not in living]
        names = {who.partition(".")[0] for who in living.values()}
        # One that reloads waits for a change of its code after a job has ended its process.
        expected = [one.name for one in harness.workers if are_working and not getattr(one, "reloads", False)]
        wrong += [f"no process of {name} works" for name in expected if name not in names]
        if not wrong or time.monotonic() > until:
            harness.ledger.write("roster at rest", why="; ".join(wrong))
            return
        await anyio.sleep(LOOK_EACH / 4)


def _living(lines: Iterable[LedgerLine]) -> dict[int, str]:
    """Return the worker processes that have entered their lifespan and not left it, by process id."""
    found: dict[int, LedgerLine] = {}
    for line in lines:
        if line.what == "entered":
            found[int(line.facts["pid"])] = line
        elif line.what == "left":
            found.pop(int(line.facts["pid"]), None)
    return {pid: line.who for pid, line in found.items() if _lives(pid, line.at)}


def _lives(pid: int, seen: float = inf) -> bool:
    """Tell whether a process lives; one that began after it was seen is another, which got the number of a dead one."""
    with suppress(OSError):
        state, *facts = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(facts[STARTED_AT]) / os.sysconf("SC_CLK_TCK")
        return state != "Z" and time.time() - age <= seen + 1.0
    return False


def _connections(port: int) -> int:
    """Count the established connections to a port of this machine."""
    wanted, number = f":{port:04X}", 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            rows = (row.split() for row in Path(table).read_text("ascii").splitlines()[1:])
            number += sum(row[1].endswith(wanted) and row[3] == ESTABLISHED for row in rows)
    return number


async def _consumers(server: Server) -> int:
    """Count the consumers of the broker."""
    match server:
        case RedisServer():
            return await _redis_consumers(server.url)
        case NatsServer():
            client = await nats.connect(server.url)
            try:
                return sum(stream.state.consumer_count for stream in await client.jetstream().streams_info())
            finally:
                await client.close()
        case RabbitServer():
            return len((await server.control("list_consumers", "-q")).splitlines())
        case _:
            raise NotImplementedError(server)


async def _redis_consumers(url: str) -> int:
    number = 0
    async with Redis.from_url(url, decode_responses=True) as client:
        async for key in client.scan_iter(_type="STREAM"):
            number += sum(int(group["consumers"]) for group in await client.xinfo_groups(key))
    return number

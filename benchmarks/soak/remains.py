"""What is left when all is quiet: by the look-ups of the library, and by those of the servers."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import nats
import psycopg
from redis.asyncio import Redis

from benchmarks.soak.app import SCHEDULE
from benchmarks.soak.evidence import Remains
from benchmarks.soak.harness import SoakHarness
from benchmarks.soak.members import RUN
from taskcore import App
from taskcore.conformance.checking import collect
from taskcore.errors import BrokerUnavailable
from taskcore.faults import NatsServer, RabbitServer, RedisServer, Server
from taskcore.records.names import outcome_name

__all__ = ["look", "wait_until_quiet"]

LOOK_EACH = 0.5  #: seconds between two looks at the queue
QUIET_FOR = 4.0  #: seconds for which it has to be empty: longer than the longest delay that a broker may not count
NUMBERS_WITHIN = 15.0  #: seconds for RabbitMQ's numbers of messages to become true; it renews them each 5 s
PAGE = 200  #: records in one question
MAY_STAY = {"queues", "ended", "ended_before", "wake"}  #: keys of a Redis queue that end by themselves, or stay with it
INDEX = "schedules/"  #: how the few records begin by which schedules are found; they stay
STREAMS = {"jobs", "letters"}  #: … and those that stay, empty
QUEUE_NAMES = "tc.queues"  #: RabbitMQ's queue that holds the names of all queues, one message each

Waste = list[tuple[str, str]]


async def wait_until_quiet(app: App, queues: Sequence[str], ids: Iterable[str], *, within: float) -> float:
    """Wait until all of these jobs have an outcome and the queues are empty; return how many seconds it took."""
    began, quiet_since, open_ids = time.monotonic(), None, list(ids)
    with anyio.move_on_after(within):
        while True:
            try:
                open_ids = await _without_outcome(app, open_ids)
                found = [await app.stats(queue) for queue in queues]
                busy = bool(open_ids) or any(stats.unfinished for stats in found)
            except BrokerUnavailable:
                busy = True
            now = time.monotonic()
            quiet_since = None if busy else quiet_since or now
            if quiet_since is not None and now - quiet_since >= QUIET_FOR:
                return quiet_since - began
            await anyio.sleep(LOOK_EACH)
    return within


async def _without_outcome(app: App, ids: Sequence[str]) -> list[str]:
    store = app.components.store
    assert store is not None, "every app of a soak has a store"
    left = []
    for start in range(0, len(ids), PAGE):
        some = ids[start : start + PAGE]
        records = await store.get_many([outcome_name(job) for job in some])
        left += [job for job, record in zip(some, records, strict=True) if record is None]
    return left


async def look(app: App, harness: SoakHarness, ids: Iterable[str], waited: float) -> Remains:
    """Look at everything, then drop the dead letters and look for what stays all the same."""
    snapshot = await collect(app, harness.queues, ids)
    for queue in harness.queues:
        async for letter in app.dead_letters.read(queue):
            await app.dead_letters.drop(letter.id)
    await app.schedules.remove(SCHEDULE)
    await anyio.sleep(QUIET_FOR)  # marks of deleted records go a moment later
    waste: Waste = [("", f"a process that lives on: {process}") for process in _processes(harness.folder)]
    for queue in harness.queues:
        if dead := (await app.stats(queue)).dead:
            waste.append(("", f"{dead} dead letters in {queue}, after all were dropped"))
    for server in harness.servers.values():
        waste += await _waste_of(server)
    if (harness.folder / "records.db").exists():
        waste += _sqlite_waste(harness.folder / "records.db")
    return Remains(snapshot, waste, waited)


def _processes(folder: Path) -> Iterator[str]:
    """Yield the processes of this run that are still there."""
    mark = f"{RUN}={folder}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (place / "environ").read_bytes().split(b"\0") and int(place.name) != os.getpid():
                yield f"{place.name} {(place / 'cmdline').read_bytes().replace(bytes(1), b' ')[:120].decode()}"
        except OSError:
            continue


async def _waste_of(server: Server) -> Waste:
    match server:
        case RedisServer():
            return [one async for one in _redis_waste(server.url)]
        case NatsServer():
            return await _nats_waste(server.url)
        case RabbitServer():
            return await _rabbit_waste(server)
        case _:
            return await _postgres_waste(server.url)


async def _rabbit_waste(server: RabbitServer) -> Waste:
    """Wait for the numbers of quorum queues: the server renews them every few seconds only."""
    waste = Waste()
    with anyio.move_on_after(NUMBERS_WITHIN):
        while True:
            told = [
                line.split("\t")
                for line in (await server.control("list_queues", "-q", "name", "messages")).splitlines()
            ]
            waste = [
                ("", f"{line[1]} messages in {line[0]}")
                for line in told
                if line[-1].isdigit() and int(line[-1]) and line[0] != QUEUE_NAMES
            ]
            if not waste:
                return waste
            await anyio.sleep(LOOK_EACH)
    return waste


def _record_waste(name: str, *, ends: bool) -> Iterator[tuple[str, str]]:
    """Judge one record: it must have an end, and a marker of a start goes with its job."""
    if not ends and not name.startswith(INDEX):
        yield "", f"the record {name} has no end"
    if name.startswith("start/"):
        yield name.split("/")[1], f"the marker {name} of a job that has ended"


async def _redis_waste(url: str) -> Any:
    async with Redis.from_url(url, decode_responses=True) as client:
        async for key in client.scan_iter(count=1000):
            part = key.rpartition(":")[2]
            if key.startswith("tcr:{"):
                for one in _record_waste(key.partition("}:")[2], ends=await client.pttl(key) != -1):
                    yield one
            elif part in STREAMS:
                if length := await client.xlen(key):
                    yield "", f"{length} entries in {key}"
            elif part not in MAY_STAY:
                yield "", f"the key {key} ({await client.type(key)!s})"


async def _nats_waste(url: str) -> Waste:
    client, waste = await nats.connect(url), Waste()
    try:
        manager = client.jetstream()
        for stream in await manager.streams_info():
            name = stream.config.name or ""
            if name.endswith("-store"):
                info = await manager.stream_info(name, subjects_filter=">")
                for subject in info.state.subjects or {}:
                    headers = (await manager.get_last_msg(name, subject)).headers or {}
                    if "Tc-Gone" in headers:
                        waste.append(("", f"the mark of a deleted record {subject}"))
                    else:
                        waste += _record_waste(subject.split(".", 2)[2], ends="Nats-TTL" in headers)
            elif stream.state.messages:
                waste.append(("", f"{stream.state.messages} messages in {name}"))
    finally:
        await client.close()
    return waste


RECORDS = "SELECT key, ends IS NOT NULL FROM taskcore_records"


def _sqlite_waste(path: Path) -> Waste:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        return [one for key, ends in connection.execute(RECORDS) for one in _record_waste(key, ends=bool(ends))]


async def _postgres_waste(url: str) -> Waste:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        found = await (await connection.execute(RECORDS)).fetchall()
    return [one for key, ends in found for one in _record_waste(key, ends=bool(ends))]

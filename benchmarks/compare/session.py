"""One run: for each broker a private server, the raw client, taskcore, then the peers; records as they come."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from benchmarks.compare.peers import PARTS, Installed, measure_peer
from benchmarks.compare.raw import Raw, measure_raw
from taskcore.testing.bench import (
    BROKERS,
    Contestant,
    NotHere,
    Progress,
    Record,
    Size,
    Skipped,
    ground_on,
    measure_on,
    plain,
    private_server,
    show,
)
from taskcore.testing.bench.proc import cpu_of, has_proc
from taskcore.testing.bench.scenarios import Scenario
from taskcore.testing.faults import RedisServer, Server, ServerMissing
from taskcore.testing.faults import sockets as plain_sockets

__all__ = ["Plan", "run"]


class Plan(NamedTuple):
    """What is to be measured."""

    brokers: list[str]
    scenarios: Mapping[str, Scenario]
    size: Size
    installed: Installed
    raw: bool = True


def raw_of(broker: str, url: str) -> Raw:
    """The bare loop for a broker; imported here, because each needs a client library."""
    if broker == "memory":
        from benchmarks.compare.raw_memory import RawMemory

        return RawMemory(url)
    if broker == "redis":
        from benchmarks.compare.raw_redis import RawRedis

        return RawRedis(url)
    if broker == "nats":
        from benchmarks.compare.raw_nats import RawNats

        return RawNats(url)
    from benchmarks.compare.raw_rabbitmq import RawRabbit

    return RawRabbit(url)


async def run(plan: Plan, progress: Progress, tell: Callable[[Record], None]) -> dict[str, str]:
    """Measure everything; returns the versions of the servers."""
    versions: dict[str, str] = {}
    for broker in plan.brokers:
        try:
            async with _server(broker) as server:
                if server is not None:
                    versions[server.program] = server.version
                await _on(broker, server, plan, progress, tell)
        except NotHere as error:
            progress.ends(broker, "all", 0.0, f"skipped: {plain(error)}")
            tell(Skipped(broker=broker, who="all", scenario="all", why=plain(error)))
    return versions


@asynccontextmanager
async def _server(broker: str) -> AsyncIterator[Server | None]:
    if broker != "postgresql":
        async with private_server(broker) as server:
            yield server
        return
    try:
        from taskcore.testing.faults import PostgresServer
    except ImportError as error:
        raise NotHere("this checkout cannot start a PostgreSQL") from error
    try:
        server = PostgresServer(config={"shared_buffers": "256MB"})
    except ServerMissing as error:
        raise NotHere(plain(error)) from error
    async with server:
        yield server


async def _on(
    broker: str, server: Server | None, plan: Plan, progress: Progress, tell: Callable[[Record], None]
) -> None:
    if broker in BROKERS:
        if plan.raw and {"enqueue", "drain"} & plan.scenarios.keys():
            await _raw(broker, server, plan, progress, tell)
        try:
            async with ground_on(broker, server, plan.size) as ground:
                await measure_on(ground, plan.scenarios, progress, tell, done=0, all=len(plan.scenarios))
        except NotHere as error:
            progress.ends(broker, "all", 0.0, f"taskcore skipped: {plain(error)}")
            tell(Skipped(broker=broker, who="taskcore", scenario="all", why=plain(error)))
    if server is None:
        return
    peers = plan.installed.on(broker)
    if not peers:
        return
    async with _results(broker, server) as results_url:
        for peer, home in peers:
            await _empty(broker, server)
            await measure_peer(
                peer, home, broker=broker, url=server.url, results_url=results_url, size=plan.size,
                parts=[part for part in PARTS if part in plan.scenarios], progress=progress, tell=tell,
                broker_cpu=lambda: cpu_of(server.pid) if has_proc() else None,
            )  # fmt: skip


async def _raw(
    broker: str, server: Server | None, plan: Plan, progress: Progress, tell: Callable[[Record], None]
) -> None:
    progress.begins(broker, "raw client", 0, 1)
    start = time.monotonic()
    try:
        raw = raw_of(broker, "" if server is None else server.url)
    except ModuleNotFoundError as error:
        tell(Skipped(broker=broker, who="raw client", scenario="all", why=f"{error.name} is not installed"))
        return
    figures = await measure_raw(raw, broker, rounds=plan.size.rounds, seconds=plan.size.seconds)
    tell(Contestant(who=f"raw client, {broker}", version="", settings=raw.how))
    for figure in figures:
        tell(figure)
    outcome = "; ".join(f"{one.scenario}, {one.name} {show(one.median)}" for one in figures)
    progress.ends(broker, "raw client", time.monotonic() - start, outcome)


@asynccontextmanager
async def _results(broker: str, server: Server) -> AsyncIterator[str]:
    """Where peers keep results: in the broker if it is Redis, else in a Redis of their own; none for PostgreSQL."""
    if broker == "redis":
        yield server.url
    elif broker == "postgresql":
        yield ""
    else:
        try:
            other = RedisServer(config={"appendfsync": "everysec"})
        except ServerMissing:
            yield ""
            return
        async with other:
            yield other.url


async def _empty(broker: str, server: Server) -> None:
    """What one peer left in Redis is not to weigh on the next; elsewhere queues have names of their own."""
    if broker == "redis":
        await plain_sockets.ask(server.port, b"FLUSHALL\r\n")

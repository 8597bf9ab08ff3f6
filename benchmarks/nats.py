"""taskcore on NATS JetStream, beside the bare limits of the client library in the same run.

    python benchmarks/nats.py [--jobs 20000] [--rounds 3] [--parked 100000] [--only drain] [--json]

Starts a private server with file storage. Each of our figures stands beside the raw one that was measured in the same
round, and the ratio of both: figures depend on the machine, ratios hardly do.

    enqueue_many     enqueue_many of packed calls        raw: publishes with a reply inbox of their own, 1000 in flight
    drain            a worker, a task that does nothing  raw: overlapping pulls of 200, an ack for each, 0 work
    enqueue          one awaited enqueue after another   raw: js.publish awaited one after another
    latency          enqueue until the function starts, one job every 5 ms
    parked           jobs scheduled for next year: how long it takes, what the idle server needs
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.remove(str(Path(__file__).parent))  # where this file would be the module "nats"

import anyio
import nats
from nats.aio.client import Client

from taskcore import App
from taskcore.faults import NatsServer

PAYLOAD = "x" * 150  # an envelope of about 200 bytes and more
IN_FLIGHT = 1000
PULL = 200


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parked", type=int, default=100_000)
    parser.add_argument("--only", default="", help="one of the names above")
    parser.add_argument("--version", default="", help="of the server")
    parser.add_argument("--json", action="store_true", help="one object per line, for machines")
    options = parser.parse_args()
    anyio.run(measure, options)


async def measure(options: argparse.Namespace) -> None:
    """Measure all figures, on one server."""
    pairs: dict[str, tuple[Callable[..., Awaitable[float]], Callable[..., Awaitable[float]], int]] = {
        "enqueue_many": (raw_publish, our_publish, options.jobs),
        "drain": (raw_drain, our_drain, options.jobs),
        "enqueue": (raw_one_by_one, our_one_by_one, options.jobs // 10),
    }
    async with NatsServer(version=options.version) as server:
        if not options.json:
            print(f"nats-server {server.version}, load {os.getloadavg()[0]:.1f}")
        for name, (raw, ours, jobs) in pairs.items():
            if options.only in {"", name}:
                found = [(await raw(server, jobs), await ours(server, jobs)) for _ in range(options.rounds)]
                show(options, name, found)
        if options.only in {"", "latency"}:
            values = sorted(await latency(server, 400))
            report(options, "enqueue → start p50", values[len(values) // 2], "ms")
            report(options, "enqueue → start p99", values[len(values) * 99 // 100], "ms")
        if options.only in {"", "parked"}:
            await parked(options, server)


def show(options: argparse.Namespace, name: str, found: list[tuple[float, float]]) -> None:
    """Write both medians and the median of the ratios."""
    raw = statistics.median(pair[0] for pair in found)
    ours = statistics.median(pair[1] for pair in found)
    ratio = statistics.median(pair[1] / pair[0] for pair in found)
    if options.json:
        print(json.dumps({"name": name, "raw": raw, "ours": ours, "ratio": ratio, "rounds": found}))
    else:
        print(f"{name:22} {ours:>10,.0f}/s   raw {raw:>10,.0f}/s   {ratio:6.0%}")


def report(options: argparse.Namespace, name: str, value: float, unit: str) -> None:
    """Write one figure."""
    print(
        json.dumps({"name": name, "value": value, "unit": unit})
        if options.json
        else f"{name:22} {value:>10,.2f} {unit}"
    )


# ── raw ──────────────────────────────────────────────────────────────────────────────────────────


async def raw_stream(client: Client) -> Any:
    """Create a fresh work-queue stream in files."""
    js = client.jetstream()
    with suppress(nats.js.errors.NotFoundError):
        await js.delete_stream("raw")
    await js.add_stream(name="raw", subjects=["raw.*"], retention="workqueue", storage="file")
    return js


async def raw_publish(server: NatsServer, jobs: int) -> float:
    """Measure publishes per second, each confirmed, a thousand in flight."""
    client = await nats.connect(server.url)
    await raw_stream(client)
    seconds = await publish_window(client, jobs)
    await client.close()
    return jobs / seconds


async def publish_window(client: Client, jobs: int) -> float:
    """Return the seconds for so many."""
    inbox, confirmed, room = client.new_inbox(), 0, anyio.Event()

    async def heard(message: Any) -> None:
        nonlocal confirmed, room
        assert b'"error"' not in message.data
        confirmed += 1
        if confirmed % (IN_FLIGHT // 2) == 0 or confirmed == jobs:
            room.set()

    await client.subscribe(inbox, cb=heard)
    body = PAYLOAD.encode() + b"." * 50
    began = time.perf_counter()
    for sent in range(jobs):
        if sent - confirmed >= IN_FLIGHT:
            room = anyio.Event()
            await room.wait()
        await client.publish(f"raw.{sent}", body, reply=inbox)
    while confirmed < jobs:
        room = anyio.Event()
        with anyio.move_on_after(0.05):
            await room.wait()
    return time.perf_counter() - began


async def raw_drain(server: NatsServer, jobs: int) -> float:
    """Return the jobs per second through overlapping pulls, each acknowledged, unconfirmed."""
    client = await nats.connect(server.url)
    js = await raw_stream(client)
    await publish_window(client, jobs)
    await js.add_consumer("raw", durable_name="w", ack_policy="explicit", max_ack_pending=-1)
    inbox, taken, done = client.new_inbox(), 0, anyio.Event()
    request = json.dumps({"batch": PULL, "expires": 5_000_000_000}).encode()

    async def heard(message: Any) -> None:
        nonlocal taken
        if not message.reply:
            return
        taken += 1
        await client.publish(message.reply, b"+ACK")
        if taken % PULL == 0:
            await client.publish("$JS.API.CONSUMER.MSG.NEXT.raw.w", request, reply=inbox)
        if taken >= jobs:
            done.set()

    await client.subscribe(inbox, cb=heard)
    began = time.perf_counter()
    for _ in range(2):
        await client.publish("$JS.API.CONSUMER.MSG.NEXT.raw.w", request, reply=inbox)
    await done.wait()
    await client.flush()
    seconds = time.perf_counter() - began
    await client.close()
    return jobs / seconds


async def raw_one_by_one(server: NatsServer, jobs: int) -> float:
    """Return the awaited publishes per second."""
    client = await nats.connect(server.url)
    js = await raw_stream(client)
    body = PAYLOAD.encode() + b"." * 50
    began = time.perf_counter()
    for number in range(jobs):
        await js.publish(f"raw.{number}", body)
    seconds = time.perf_counter() - began
    await client.close()
    return jobs / seconds


# ── ours ─────────────────────────────────────────────────────────────────────────────────────────


def make_app(server: NatsServer) -> App:
    """Make an app with the task that does nothing, and no results."""
    app = App(server.url, store="none")

    @app.task(name="noop")
    async def noop(text: str) -> None:
        pass

    return app


async def our_publish(server: NatsServer, jobs: int) -> float:
    """Return the jobs per second through enqueue_many."""
    app = make_app(server)
    calls = [app.tasks["noop"].call(PAYLOAD) for _ in range(jobs)]
    async with app:
        await app.enqueue_many(calls[:1])
        began = time.perf_counter()
        await app.enqueue_many(calls[1:])
        seconds = time.perf_counter() - began
        await app.components.backend.admin.delete("default")
    return jobs / seconds


async def our_drain(server: NatsServer, jobs: int) -> float:
    """Return the jobs per second, from the worker's start to the last end."""
    app = make_app(server)
    async with app:
        await app.enqueue_many(app.tasks["noop"].call(PAYLOAD) for _ in range(jobs))
        began = time.perf_counter()
        async with app.running():
            while app.counters.get("job.succeeded", 0) < jobs:  # noqa: ASYNC110 - nothing tells us
                await anyio.sleep(0.001)
            seconds = time.perf_counter() - began
        await app.components.backend.admin.delete("default")
    return jobs / seconds


async def our_one_by_one(server: NatsServer, jobs: int) -> float:
    """Return the awaited enqueues per second."""
    app = make_app(server)
    async with app:
        noop = app.tasks["noop"]
        await noop.enqueue(PAYLOAD)
        began = time.perf_counter()
        for _ in range(jobs):
            await noop.enqueue(PAYLOAD)
        seconds = time.perf_counter() - began
        await app.components.backend.admin.delete("default")
    return jobs / seconds


async def latency(server: NatsServer, jobs: int) -> list[float]:
    """Return the milliseconds from enqueue to the function's start."""
    app, starts = App(server.url, store="none"), []

    @app.task(name="stamp")
    async def stamp(sent: float) -> None:
        starts.append((time.perf_counter() - sent) * 1e3)

    async with app.running():
        for _ in range(jobs + 20):
            await stamp.enqueue(time.perf_counter())
            await anyio.sleep(0.005)
        await app.drain("default", timeout=10)
        await app.components.backend.admin.delete("default")
    return starts[20:]


async def parked(options: argparse.Namespace, server: NatsServer) -> None:
    """Measure jobs for next year: how fast they are parked, and what the server needs for them when nothing happens."""
    app = make_app(server)
    async with app:
        noop = app.tasks["noop"].using(delay=365 * 86_400.0)
        calls = [noop.call(PAYLOAD) for _ in range(options.parked)]
        began = time.perf_counter()
        await app.enqueue_many(calls)
        report(options, f"{options.parked:,} parked", options.parked / (time.perf_counter() - began), "jobs/s")
        async with app.running():
            await anyio.sleep(5)
            before = cpu_seconds(server)
            await anyio.sleep(5)
            report(options, "idle server", (cpu_seconds(server) - before) / 5 * 100, "% of a core")
        stats = await app.stats("default")
        assert stats.scheduled == options.parked, stats
        await app.components.backend.admin.delete("default")


def cpu_seconds(server: NatsServer) -> float:
    """Return the processor time of the server so far."""
    child: Any = server._child  # noqa: SLF001 - our own kit
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()

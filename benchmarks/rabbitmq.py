"""How much of RabbitMQ does taskcore reach? A private node, the client library's limits and ours, in one run.

    python benchmarks/rabbitmq.py [--jobs 20000] [--rounds 3] [--json]

Starts a node of its own on a free port; quorum queues, persistent messages, confirms. Prints medians and the ratio to
the raw limit that was measured beside it: ratios hold from machine to machine, figures do not.

    enqueue_many       batches of 500 calls            raw: hand-packed frames on aiormq's write queue, one wait
    later              enqueue_many with a delay           raw: the same as above, into one queue
    drain              one worker, a no-op task        raw: aiormq, prefetch 1000, one multiple ack per 100
    one enqueue        awaited one by one              raw: aiormq, one publish awaited after the other
    levels             broker CPU of a delayed job, by how many delay levels it passes; nothing raw beside it
    start, p50 / p99   enqueue until the function starts, one job at a time, 50 a second
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiormq
import anyio
import anyio.lowlevel
from aiormq.abc import ChannelFrame
from pamqp import commands

from taskcore import App
from taskcore.bench.proc import cpu_of
from taskcore.faults import RabbitServer

PAYLOAD = "x" * 60  #: with it an envelope has about 200 bytes
QUORUM = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000, "x-overflow": "reject-publish"}
WINDOW, BATCH, ACK_EVERY, PREFETCH = 1_000, 500, 100, 1_000
SINGLES, PACED = 500, 150
RAW = {"later": "enqueue"}  #: what ours is compared with, where it is called something else


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one object per line, for machines")
    options = parser.parse_args()
    anyio.run(measure, options.jobs, options.rounds, options.json)


async def measure(jobs: int, rounds: int, as_json: bool) -> None:
    """Run all rounds on one node; raw and ours in turn, so that both see the same machine."""
    figures: dict[str, list[float]] = {}

    async def note(name: str, what: Callable[[], Awaitable[float]]) -> None:
        figures.setdefault(name, []).append(await what())

    async with RabbitServer() as node:
        for _ in range(rounds):
            await note("raw enqueue", lambda: raw_publish(node.url, jobs))
            await note("raw drain", lambda: raw_drain(node.url, jobs))
            async with App(f"{node.url}?min_queue_age=0.5", store="none", keep_result=None) as app:
                await note("our enqueue", lambda: our_publish(app, jobs))
                await note("our later", lambda: our_publish(app, jobs, delay=86_400.0))
                await note("our drain", lambda: our_drain(app, jobs))
            await note("raw one", lambda: raw_one(node.url))
            async with App(f"{node.url}?min_queue_age=0.5", store="none", keep_result=None) as app:
                await note("our one", lambda: our_one(app))
        async with App(f"{node.url}?min_queue_age=0.5", store="none", keep_result=None) as app:
            waits = await latencies(app)
            levels = {number: await cpu_of_levels(app, node, number, min(jobs, 2_000)) for number in (1, 3, 5)}
    show(figures, waits, as_json=as_json)
    for number, cost in levels.items():
        row = {"name": f"levels {number}", "unit": "µs broker CPU/job", "ours": cost}
        print(json.dumps(row) if as_json else f"{row['name']:10} {cost:>10,.0f} {row['unit']}")


def show(figures: dict[str, list[float]], waits: list[float], *, as_json: bool) -> None:
    """Write ours, raw, and how much of it that is."""
    rows = []
    for name, unit in (("enqueue", "jobs/s"), ("later", "jobs/s"), ("drain", "jobs/s"), ("one", "enqueues/s")):
        ours, raw = statistics.median(figures[f"our {name}"]), statistics.median(figures[f"raw {RAW.get(name, name)}"])
        rows.append({"name": name, "unit": unit, "ours": ours, "raw": raw, "ratio": ours / raw})
    waits.sort()
    p50, p99 = (1000 * waits[int(part * (len(waits) - 1))] for part in (0.5, 0.99))
    if as_json:
        for row in rows:
            print(json.dumps(row))
        print(json.dumps({"name": "start", "unit": "ms", "p50": p50, "p99": p99}))
        return
    for row in rows:
        print(f"{row['name']:10} {row['ours']:>10,.0f} of {row['raw']:>10,.0f} {row['unit']:11} {row['ratio']:.0%}")
    print(f"start      p50 {p50:.2f} ms, p99 {p99:.2f} ms")


# ── ours ─────────────────────────────────────────────────────────────────────────────────────────

started: list[float] = []


def declare(app: App) -> Any:
    """Return the task that does nothing."""
    if "bench.nothing" in app.tasks:
        return app.tasks["bench.nothing"]

    @app.task(name="bench.nothing", queue="bench", keep_result=None)
    async def nothing(text: str) -> None:  # noqa: ARG001 - what travels
        started.append(time.perf_counter())

    return nothing


async def our_publish(app: App, jobs: int, *, delay: float = 0.0) -> float:
    """Enqueue calls that were packed before, in batches."""
    task = declare(app)
    if not delay:
        await task.enqueue("opens the queue")
    calls = [task.using(delay=delay).call(PAYLOAD) for _ in range(jobs)]
    began = time.perf_counter()
    for start in range(0, jobs, BATCH):
        await app.enqueue_many(calls[start : start + BATCH])
    return jobs / (time.perf_counter() - began)


async def our_drain(app: App, jobs: int) -> float:
    """Wait until the last job has started and is settled."""
    started.clear()
    began = time.perf_counter()
    async with app.running():
        while app.counters["job.succeeded"] <= jobs:  # noqa: ASYNC110 - counters have no event
            await anyio.sleep(0.002)
        return jobs / (time.perf_counter() - began)


async def our_one(app: App) -> float:
    """Enqueue one after the other."""
    task = declare(app)
    await task.enqueue("opens the queue")
    began = time.perf_counter()
    for _ in range(SINGLES):
        await task.enqueue(PAYLOAD)
    seconds = time.perf_counter() - began
    await app.purge("bench")
    return SINGLES / seconds


async def cpu_of_levels(app: App, node: RabbitServer, number: int, jobs: int) -> float:
    """Measure from the first enqueue until the last job is ready, in microseconds a job; delays have so many bits."""
    task, delay = declare(app), 0.125 * (2**number - 1) * 2 ** (5 - number)  # between 2 and 4 seconds, the longest way
    await app.purge("bench")
    before = cpu_of(node.pid)
    for _ in range(0, jobs, BATCH):
        await app.enqueue_many([task.using(delay=delay).call(PAYLOAD) for _ in range(BATCH)])
    while (await app.stats("bench")).ready < jobs:  # noqa: ASYNC110 - the broker does not tell
        await anyio.sleep(0.05)
    return (cpu_of(node.pid) - before) / jobs * 1e6


async def latencies(app: App) -> list[float]:
    """Measure from before the enqueue until the function runs, with time between."""
    task = declare(app)
    waits = []
    async with app.running():
        await task.enqueue("opens the queue")
        await anyio.sleep(0.3)
        for _ in range(PACED):
            started.clear()
            began = time.perf_counter()
            await task.enqueue(PAYLOAD)
            while not started:
                await anyio.lowlevel.checkpoint()
            waits.append(started[0] - began)
            await anyio.sleep(0.02)
    return waits


# ── the client library's limits ──────────────────────────────────────────────────────────────────


async def connected(url: str) -> tuple[Any, Any]:
    """Open a connection and a channel with confirms; declare an empty queue."""
    connection = await aiormq.connect(url)
    channel = await connection.channel(publisher_confirms=True)
    await channel.queue_declare("raw", durable=True, arguments=QUORUM)
    return connection, channel


BODY = b"x" * 200


async def raw_publish(url: str, jobs: int) -> float:
    """Put frames packed in one piece on the library's write queue; wait once for a thousand confirms."""
    connection, channel = await connected(url)
    await channel.queue_purge("raw")
    began = time.perf_counter()
    for start in range(0, jobs, WINDOW):
        await _window(channel, min(WINDOW, jobs - start))
    seconds = time.perf_counter() - began
    await connection.close()
    return jobs / seconds


async def _window(channel: Any, count: int) -> None:
    loop = asyncio.get_running_loop()
    method = struct.pack(">HHH", 60, 40, 0) + b"\x00\x03raw\x01"
    head = struct.pack(">BHI", 1, channel.number, len(method)) + method + b"\xce"
    out = bytearray()
    async with channel.lock:
        waiting = []
        for _ in range(count):
            channel.delivery_tag += 1
            text = b"%x" % channel.delivery_tag
            properties = struct.pack(">HHQH", 60, 0, len(BODY), (1 << 12) | (1 << 7)) + b"\x02"
            properties += bytes((len(text),)) + text
            out += head + struct.pack(">BHI", 2, channel.number, len(properties)) + properties + b"\xce"
            out += struct.pack(">BHI", 3, channel.number, len(BODY)) + BODY + b"\xce"
            waiting.append(channel.confirmations.setdefault(channel.delivery_tag, loop.create_future()))
        await channel.write_queue.put(ChannelFrame(payload=bytes(out), should_close=False))
    await asyncio.gather(*waiting)


async def raw_drain(url: str, jobs: int) -> float:
    """Consume with a callback for each message and one multiple ack for a hundred."""
    connection, channel = await connected(url)
    done, count = asyncio.Event(), 0

    async def on_message(message: Any) -> None:
        nonlocal count
        count += 1
        if not count % ACK_EVERY or count == jobs:
            await channel.basic_ack(message.delivery.delivery_tag, multiple=True, wait=False)
        if count == jobs:
            done.set()

    await channel.basic_qos(prefetch_count=PREFETCH)
    began = time.perf_counter()
    await channel.basic_consume("raw", on_message)
    await done.wait()
    seconds = time.perf_counter() - began
    await connection.close()
    return jobs / seconds


async def raw_one(url: str) -> float:
    """Await the library's own publish each time."""
    connection, channel = await connected(url)
    properties = commands.Basic.Properties(delivery_mode=2)
    began = time.perf_counter()
    for _ in range(SINGLES):
        await channel.basic_publish(BODY, routing_key="raw", properties=properties, mandatory=True)
    seconds = time.perf_counter() - began
    await channel.queue_purge("raw")
    await connection.close()
    return SINGLES / seconds


if __name__ == "__main__":
    main()

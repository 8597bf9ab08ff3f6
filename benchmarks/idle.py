"""What does an idle worker cost? One worker on many queues, a private server, and nothing to do.

    python benchmarks/idle.py BROKER [--queues 1000] [--seconds 30] [--version 7] [--json]

BROKER is memory, redis, valkey, rabbitmq or nats. The worker is a process of its own.

    open       seconds until the worker is ready, on new queues; until it would start a job of any of them
    reopen     the same with a second worker, after the first has stopped
    requests   what the worker sends in a second: commands of Redis, messages of NATS, method frames of AMQP
    answers    NATS only: what the server sends in a second
    inside     Redis only: commands in a second that the worker's scripts call
    cpu        of the worker's process, in percent of a core
    start      from an enqueue to the function's start on a queue chosen at random, milliseconds
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))  # where another file would be the module "nats"

import anyio
import anyio.abc
import msgspec

from taskcore import App
from taskcore.connections.amqp.frames import METHOD, split_frames
from taskcore.faults import NatsServer, RedisServer, ValkeyServer
from taskcore.faults.rabbitmq import RabbitServer
from taskcore.faults.resp import command
from taskcore.faults.sockets import HOST, ask, free_port

CALM: Final = 3.0  #: seconds in a row …
CALM_CPU: Final = 5.0  #: … in which a worker uses less than so many percent of a core, when it has prepared everything
JOBS: Final = 20  #: whose latency is measured


class Counts(NamedTuple):
    """What the broker has seen so far."""

    requests: int = 0
    answers: int = 0
    inside: int = 0


class Cost(NamedTuple):
    """What one worker costs; see the top of this file."""

    open: float
    settled: float
    requests: float
    answers: float
    inside: float
    cpu: float
    starts: list[float]

    @property
    def start(self) -> float:
        """The median of the milliseconds from an enqueue to the start."""
        return statistics.median(self.starts)


class Place(NamedTuple):
    """A broker to measure at.

    :param url: for the worker.
    :param client_url: for the sender, which is not to be counted.
    """

    url: str
    client_url: str
    version: str
    seen: Callable[[], Awaitable[Counts]]


def main() -> None:
    """Measure, print; or be the worker."""
    if sys.argv[1:2] == ["worker"]:
        anyio.run(work, sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("broker", choices=PLACES)
    parser.add_argument("--queues", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--version", default="", help="of the server")
    parser.add_argument("--json", action="store_true", help="one object, for machines")
    options = parser.parse_args()
    anyio.run(show, options)


async def show(options: argparse.Namespace) -> None:
    """Measure two workers in turn, and print."""
    async with PLACES[options.broker](options.version) as place:
        first = await cost_of(place, options.queues, options.seconds)
        again = await cost_of(place, options.queues, 1.0) if place.url != "memory://" else first
        found = first._asdict() | {"reopen": again.open, "resettled": again.settled}
        if options.json:
            print(json.dumps({"broker": options.broker, "version": place.version, **found}))
            return
        print(f"{options.broker} {place.version}, {options.queues} queues, load {os.getloadavg()[0]:.1f}")
        print(f"open       {first.open:8.1f} s, everything prepared {first.settled:.1f} s later")
        print(f"reopen     {again.open:8.1f} s, everything prepared {again.settled:.1f} s later")
        for name in ("requests", "answers", "inside"):
            print(f"{name:10} {found[name]:8.1f} /s")
        print(f"cpu        {first.cpu:8.2f} %")
        if first.starts:
            print(f"start      {first.start:8.1f} ms, at most {max(first.starts):.1f} ms")


# ── the worker ───────────────────────────────────────────────────────────────────────────────────


def make_app(url: str) -> App:
    """Make an app with one task, which tells how long its job was on the way."""
    app = App(url, store="none")

    @app.task(name="stamp")
    async def stamp(sent: float) -> None:
        print(f"started {(time.time() - sent) * 1e3}", flush=True)

    return app


def names(queues: int) -> list[str]:
    """Name so many queues."""
    return [f"tenant-{number:04}" for number in range(queues)]


async def work(url: str, queues: int, own_seconds: float) -> None:
    """Work until standard input ends; with a time, count the own processor time instead: memory has no other side."""
    app = make_app(url)
    async with app.running(queues=names(queues), concurrency=10):
        print("ready", flush=True)
        if not own_seconds:
            await anyio.to_thread.run_sync(sys.stdin.readline)
            return
        await anyio.sleep(1)
        before = time.process_time()
        await anyio.sleep(own_seconds)
        print(f"cpu {(time.process_time() - before) / own_seconds * 100}", flush=True)
        task = app.tasks["stamp"]
        for queue in random.sample(names(queues), min(JOBS, queues)):
            await task.using(queue=queue).enqueue(time.time())
            await anyio.sleep(0.05)


class Lines:
    """The lines that the worker writes."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self._rest = b""

    async def next(self, word: str) -> list[str]:
        """Return the words behind this one, on the first line that begins with it."""
        while True:
            while b"\n" not in self._rest:
                assert self._process.stdout is not None
                self._rest += await self._process.stdout.receive()
            line, _, self._rest = self._rest.partition(b"\n")
            first, *others = line.decode().split()
            if first == word:
                return others


# ── measuring ────────────────────────────────────────────────────────────────────────────────────


async def cost_of(place: Place, queues: int, seconds: float) -> Cost:
    """Run a worker on so many queues; return what it costs while it is idle for so many seconds."""
    own = seconds if place.url == "memory://" else 0.0
    arguments = [sys.executable, __file__, "worker", place.url, str(queues), str(own)]
    began = time.monotonic()
    async with await anyio.open_process(arguments, stderr=None) as process:
        lines = Lines(process)
        try:
            await lines.next("ready")
            opened = time.monotonic() - began
            if own:
                [cpu] = await lines.next("cpu")
                starts = [float((await lines.next("started"))[0]) for _ in range(min(JOBS, queues))]
                return Cost(opened, 0.0, 0.0, 0.0, 0.0, float(cpu), starts)
            settled = await calm(process.pid)
            before, busy = await place.seen(), cpu_seconds(process.pid)
            await anyio.sleep(seconds)
            after, used = await place.seen(), cpu_seconds(process.pid) - busy
            starts = await latencies(place, queues, lines)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(20):
                assert process.stdin is not None
                await process.stdin.aclose()
                await process.wait()
    requests, answers, inside = ((late - early) / seconds for early, late in zip(before, after, strict=True))
    return Cost(opened, settled, requests, answers, inside, used / seconds * 100, starts)


async def calm(pid: int) -> float:
    """Wait until the worker has prepared everything; return how long that took."""
    began = still = time.monotonic()
    with anyio.move_on_after(120):
        while time.monotonic() - still < CALM:
            before = cpu_seconds(pid)
            await anyio.sleep(0.5)
            if (cpu_seconds(pid) - before) / 0.5 * 100 > CALM_CPU:
                still = time.monotonic()
    return still - began


async def latencies(place: Place, queues: int, lines: Lines) -> list[float]:
    """Return the milliseconds until the starts of jobs on queues at random, one after another."""
    app = make_app(place.client_url)
    starts: list[float] = []
    async with app:
        task = app.tasks["stamp"]
        for queue in random.sample(names(queues), min(JOBS, queues)):
            await anyio.sleep(0.05)
            await task.using(queue=queue).enqueue(time.time())
            with anyio.fail_after(20):
                starts.append(float((await lines.next("started"))[0]))
    return starts


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ── brokers ──────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def on_memory(_: str) -> AsyncIterator[Place]:
    """Measure at no server."""

    async def count() -> Counts:
        return Counts()

    yield Place("memory://", "memory://", "", count)


@asynccontextmanager
async def on_redis(version: str) -> AsyncIterator[Place]:
    """Measure at Redis."""
    async with RedisServer(version=version) as server:
        yield redis_place(server)


@asynccontextmanager
async def on_valkey(version: str) -> AsyncIterator[Place]:
    """Measure at Valkey."""
    async with ValkeyServer(version=version) as server:
        yield redis_place(server)


def redis_place(server: RedisServer) -> Place:
    """Count what clients send and what their scripts call; a question for that costs one INFO."""
    asked = 0

    async def count() -> Counts:
        nonlocal asked
        info: bytes = await command(server.port, "INFO", "commandstats")
        asked += 1
        calls = {name: int(count) for name, count in re.findall(r"cmdstat_([a-z|_]+):calls=(\d+)", info.decode())}
        sent = {"evalsha", "eval", "blpop", "lpush", "ping", "info", "exists"} & calls.keys()
        total = sum(calls.values())
        requests = sum(calls[name] for name in sent)
        return Counts(requests - asked, 0, total - requests)

    return Place(server.url, server.url, server.version, count)


@asynccontextmanager
async def on_nats(version: str) -> AsyncIterator[Place]:
    """Measure at NATS."""
    monitor = free_port()
    async with NatsServer(version=version, config={"http": f"{HOST}:{monitor}"}) as server:
        yield nats_place(server, monitor)


def nats_place(server: NatsServer, monitor: int) -> Place:
    """Count messages of all clients, by the server's monitoring port."""

    async def count() -> Counts:
        page = await ask(monitor, b"GET /varz HTTP/1.0\r\n\r\n", until=b"\n}")
        found = msgspec.json.decode(page[page.index(b"{") :])
        return Counts(found["in_msgs"], found["out_msgs"])

    return Place(server.url, server.url, server.version, count)


@asynccontextmanager
async def on_rabbitmq(version: str) -> AsyncIterator[Place]:
    """Measure at RabbitMQ."""
    async with RabbitServer(version=version) as server, FrameCounter(server.port) as counter:
        yield rabbit_place(server, counter)


def rabbit_place(server: RabbitServer, counter: FrameCounter) -> Place:
    """Count method frames on their way to the server."""

    async def count() -> Counts:
        return Counts(counter.methods)

    counted = server.url.replace(f":{server.port}/", f":{counter.port}/")
    return Place(counted, server.url, server.version, count)


class FrameCounter:
    """Passes AMQP connections on, and counts the method frames from clients."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.port = free_port()
        self.methods = 0

    async def __aenter__(self) -> Self:
        """Listen."""
        self._group = await anyio.create_task_group().__aenter__()
        self._listener = await anyio.create_tcp_listener(local_host=HOST, local_port=self.port)
        self._group.start_soon(self._listener.serve, self._serve)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close everything."""
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(None, None, None)
        await self._listener.aclose()

    async def _serve(self, client: anyio.abc.SocketStream) -> None:
        async with client, await anyio.connect_tcp(HOST, self._target) as server, anyio.create_task_group() as group:
            group.start_soon(partial(self._pass_on, client, server, counts=True))
            await self._pass_on(server, client, counts=False)
            group.cancel_scope.cancel()

    async def _pass_on(self, source: anyio.abc.SocketStream, to: anyio.abc.SocketStream, *, counts: bool) -> None:
        rest, greeted = b"", False
        try:
            async for data in source:
                await to.send(data)
                if counts:
                    rest += data
                    if not greeted:
                        rest, greeted = rest[8:], True  # the protocol's header
                    done = 0
                    for kind, _, _, end in split_frames(rest):
                        self.methods += kind == METHOD
                        done = end + 1
                    rest = rest[done:]
            await to.send_eof()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            await to.aclose()


PLACES: Final[dict[str, Callable[[str], Any]]] = {
    "memory": on_memory,
    "redis": on_redis,
    "valkey": on_valkey,
    "rabbitmq": on_rabbitmq,
    "nats": on_nats,
}


if __name__ == "__main__":
    main()

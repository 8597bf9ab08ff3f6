"""What it costs to wait, and to keep: an idle worker, jobs that are queued, and what they leave behind."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from urllib.parse import urlsplit, urlunsplit

import anyio

from taskcore.bench.environment import BenchEnvironment, NotHere
from taskcore.bench.figures import Figure
from taskcore.bench.proc import folder_size, has_proc, memory_of
from taskcore.bench.tally import Tally, payload
from taskcore.bench.workers import WorkerProcesses
from taskcore.faults.proxy import ChaosProxy
from taskcore.faults.sockets import HOST

__all__ = ["idling", "storage"]

REST_AFTER = 1.5  #: seconds until a worker that has nothing to do is really at rest
PORTS = {"redis": 6379, "valkey": 6379, "nats": 4222, "amqp": 5672}


async def idling(environment: BenchEnvironment) -> list[Figure]:
    """Run a worker without jobs: requests to the broker, CPU of both. The connection goes through a counting relay."""
    if environment.is_local:
        return await _idling_here(environment)
    if not has_proc():
        raise NotHere("this system has no /proc to read CPU times from")
    queue, seconds = environment.new_queue(), environment.size.idle
    host, port, relayed = _relayed(environment.url)
    async with AsyncExitStack() as exits:
        app = await exits.enter_async_context(environment.app(queue))
        await app.tasks["bench.noop"].enqueue(payload(0))  # the queue is there
        await app.purge(queue)
        alone = await _broker_rate(environment, seconds)
        relay = await exits.enter_async_context(ChaosProxy(host, port))
        url = relayed.replace("PORT", str(relay.port))
        workers: WorkerProcesses = environment.processes(app, queue, url=url, counts=False)
        await exits.enter_async_context(workers)
        await anyio.sleep(REST_AFTER)
        requests, cpu, start = relay.up.chunks, workers.cpu(), time.monotonic()
        broker = await _broker_rate(environment, seconds)
        seconds = time.monotonic() - start
        requests, cpu = relay.up.chunks - requests, workers.cpu() - cpu
        await workers.dismiss()
    await environment.clean_up()
    figures = [
        environment.figure("idle", "requests to the broker", "/s", (requests / seconds,), "less"),
        environment.figure("idle", "worker CPU", "% of a core", (cpu / seconds * 100,), "less"),
    ]
    if broker is not None and alone is not None:
        more = max(broker - alone, 0.0) * 100
        figures.append(environment.figure("idle", "broker CPU, more than without", "% of a core", (more,), "less"))
    return figures


async def _idling_here(environment: BenchEnvironment) -> list[Figure]:
    queue, tally = environment.new_queue(), Tally()
    async with environment.app(queue, tally=tally) as app, environment.workers(app, queue, tally):
        await anyio.sleep(REST_AFTER)
        cpu = time.process_time()
        await anyio.sleep(environment.size.idle)
        cpu = time.process_time() - cpu
    return [environment.figure("idle", "worker CPU", "% of a core", (cpu / environment.size.idle * 100,), "less")]


async def _broker_rate(environment: BenchEnvironment, seconds: float) -> float | None:
    """Measure the cores that the broker uses, over some seconds."""
    before = environment.broker_cpu()
    await anyio.sleep(seconds)
    after = environment.broker_cpu()
    return None if before is None or after is None else (after - before) / seconds


def _relayed(url: str) -> tuple[str, int, str]:
    """Return where the broker is, and its URL with ``PORT`` on this machine instead.

    :raises NotHere: this kind of URL leads to more than one place, or through TLS.
    """
    parts = urlsplit(url)
    if parts.scheme not in PORTS or parts.hostname is None or "," in parts.netloc:
        raise NotHere(f"no relay for {parts.scheme}:// URLs of this form")
    user, at, _ = parts.netloc.rpartition("@")
    relayed = urlunsplit(parts._replace(netloc=f"{user}{at}{HOST}:PORT"))
    return parts.hostname, parts.port or PORTS[parts.scheme], relayed


async def storage(environment: BenchEnvironment) -> list[Figure]:
    """Measure what queued jobs take up in the broker, and what is left when they have all run."""
    server, jobs = environment.private(), environment.size.stored
    if not has_proc():
        raise NotHere("this system has no /proc to read memory from")
    queue, tally = environment.new_queue(), Tally()

    def memory_used() -> tuple[int, int]:
        return folder_size(server.data), memory_of(server.pid)

    async with environment.app(queue, tally=tally) as app:
        task = app.tasks["bench.noop"]
        await app.enqueue_many([task.call(payload(0)) for _ in range(100)])
        await app.purge(queue)
        disk, memory = memory_used()
        await app.enqueue_many([task.call(payload(number)) for number in range(jobs)])
        await anyio.sleep(1.0)  # files are written a little later
        disk_full, memory_full = memory_used()
        async with environment.workers(app, queue, tally) as workers:
            await workers.count_to(jobs, within=120.0)
            await environment.settled(app, queue)
            await workers.dismiss()
        await anyio.sleep(1.0)
        disk_left, memory_left = memory_used()
    await environment.clean_up()
    return [
        environment.figure("storage", name, "bytes/job", (max(value, 0) / jobs,), "less", {"jobs": jobs})
        for name, value in (
            ("disk while queued", disk_full - disk),
            ("memory while queued", memory_full - memory),
            ("disk left when all have run", disk_left - disk),
            ("memory left when all have run", memory_left - memory),
        )
    ]

"""What it costs to wait, and to keep: an idle worker, jobs that are queued, and what they leave behind."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from urllib.parse import urlsplit, urlunsplit

import anyio

from taskcore.bench.environment import Ground, NotHere
from taskcore.bench.figures import Figure
from taskcore.bench.proc import folder_size, has_proc, memory_of
from taskcore.bench.tally import Tally, payload
from taskcore.bench.workers import Processes
from taskcore.faults.proxy import ChaosProxy
from taskcore.faults.sockets import HOST

__all__ = ["idling", "storage"]

CALM = 1.5  #: seconds until a worker that has nothing to do is really at rest
PORTS = {"redis": 6379, "valkey": 6379, "nats": 4222, "amqp": 5672}


async def idling(ground: Ground) -> list[Figure]:
    """One worker without any job: requests to the broker, CPU of both. The connection goes through a counting relay."""
    if ground.is_local:
        return await _idling_here(ground)
    if not has_proc():
        raise NotHere("this system has no /proc to read CPU times from")
    queue, seconds = ground.new_queue(), ground.size.idle
    host, port, relayed = _relayed(ground.url)
    async with AsyncExitStack() as exits:
        app = await exits.enter_async_context(ground.app(queue))
        await app.tasks["bench.noop"].enqueue(payload(0))  # the queue is there
        await app.purge(queue)
        alone = await _broker_rate(ground, seconds)
        relay = await exits.enter_async_context(ChaosProxy(host, port))
        url = relayed.replace("PORT", str(relay.port))
        crew: Processes = ground.processes(app, queue, url=url, counts=False)
        await exits.enter_async_context(crew)
        await anyio.sleep(CALM)
        requests, cpu, start = relay.up.chunks, crew.cpu(), time.monotonic()
        broker = await _broker_rate(ground, seconds)
        seconds = time.monotonic() - start
        requests, cpu = relay.up.chunks - requests, crew.cpu() - cpu
        await crew.dismiss()
    await ground.clean_up()
    figures = [
        ground.figure("idle", "requests to the broker", "/s", (requests / seconds,), "less"),
        ground.figure("idle", "worker CPU", "% of a core", (cpu / seconds * 100,), "less"),
    ]
    if broker is not None and alone is not None:
        more = max(broker - alone, 0.0) * 100
        figures.append(ground.figure("idle", "broker CPU, more than without", "% of a core", (more,), "less"))
    return figures


async def _idling_here(ground: Ground) -> list[Figure]:
    queue, tally = ground.new_queue(), Tally()
    async with ground.app(queue, tally=tally) as app, ground.crew(app, queue, tally):
        await anyio.sleep(CALM)
        cpu = time.process_time()
        await anyio.sleep(ground.size.idle)
        cpu = time.process_time() - cpu
    return [ground.figure("idle", "worker CPU", "% of a core", (cpu / ground.size.idle * 100,), "less")]


async def _broker_rate(ground: Ground, seconds: float) -> float | None:
    """Cores that the broker uses, over some seconds."""
    before = ground.broker_cpu()
    await anyio.sleep(seconds)
    after = ground.broker_cpu()
    return None if before is None or after is None else (after - before) / seconds


def _relayed(url: str) -> tuple[str, int, str]:
    """Where the broker is, and its URL with ``PORT`` on this machine instead.

    :raises NotHere: this kind of URL leads to more than one place, or through TLS.
    """
    parts = urlsplit(url)
    if parts.scheme not in PORTS or parts.hostname is None or "," in parts.netloc:
        raise NotHere(f"no relay for {parts.scheme}:// URLs of this form")
    user, at, _ = parts.netloc.rpartition("@")
    relayed = urlunsplit(parts._replace(netloc=f"{user}{at}{HOST}:PORT"))
    return parts.hostname, parts.port or PORTS[parts.scheme], relayed


async def storage(ground: Ground) -> list[Figure]:
    """What queued jobs take up in the broker, and what is left when they have all run."""
    server, jobs = ground.private(), ground.size.stored
    if not has_proc():
        raise NotHere("this system has no /proc to read memory from")
    queue, tally = ground.new_queue(), Tally()

    def look() -> tuple[int, int]:
        return folder_size(server.data), memory_of(server.pid)

    async with ground.app(queue, tally=tally) as app:
        task = app.tasks["bench.noop"]
        await app.enqueue_many([task.call(payload(0)) for _ in range(100)])
        await app.purge(queue)
        disk, memory = look()
        await app.enqueue_many([task.call(payload(number)) for number in range(jobs)])
        await anyio.sleep(1.0)  # files are written a little later
        disk_full, memory_full = look()
        async with ground.crew(app, queue, tally) as crew:
            await crew.count_to(jobs, within=120.0)
            await ground.settled(app, queue)
            await crew.dismiss()
        await anyio.sleep(1.0)
        disk_left, memory_left = look()
    await ground.clean_up()
    return [
        ground.figure("storage", name, "bytes/job", (max(value, 0) / jobs,), "less", {"jobs": jobs})
        for name, value in (
            ("disk while queued", disk_full - disk),
            ("memory while queued", memory_full - memory),
            ("disk left when all have run", disk_left - disk),
            ("memory left when all have run", memory_left - memory),
        )
    ]

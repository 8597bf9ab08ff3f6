"""Plays of faults on Redis: apps and workers on one queue, everything written down, and a judge at the end.

play = Play(server.url)
async with play.app("client", proxied_url) as app: ...      in this process
async with play.worker(tmp_path, "w1", url): ...            a real process
report = await play.check()                                 what is left, asked directly; nothing may be broken
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import secrets
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from taskcore import App, BrokerUnavailable, EnqueueUncertain, Retry, current
from taskcore.adapters import open_backend, open_store
from taskcore.backend import Backend, Source
from taskcore.conformance.checking import History, RecordingBackend, Report, check_history, collect
from taskcore.faults import WorkerProcess
from taskcore.faults.resp import command

SCRIPT = Path(__file__).with_name("redis_worker.py")
SHORT_TIMEOUTS = "?timeout=400ms&connect_timeout=400ms"  #: so that faults are noticed soon
ATTEMPTS, CRASHES = 3, 3


#: Ways in which a function takes its process with it; the first is what the system does when memory runs out.
DEADLY: dict[str, Callable[[], object]] = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "left": lambda: os._exit(1),
    "crashed": lambda: ctypes.string_at(0),
}


def declare(app: App, history: History, queue: str, who: str) -> None:
    """Declare the tasks of every play."""
    options: dict[str, Any] = {
        "queue": queue,
        "retry": Retry(attempts=ATTEMPTS, base=0.05, factor=1.0, jitter="none"),
        "crashes": CRASHES,
    }

    @app.task(name="work", **options)
    async def work(number: int, seconds: float = 0.0) -> int:
        with history.run(current(), who=who):
            await anyio.sleep(seconds)
            history.effect(f"{queue}/{number}", current().job_id, who=who)
            return number

    @app.task(name="fail", **options)
    async def fail(number: int) -> None:
        with history.run(current(), who=who):
            raise ValueError(number)

    @app.task(name="once_bitten", **options)
    async def once_bitten(number: int) -> int:
        with history.run(current(), who=who):
            if current().attempt == 1:
                raise ValueError(number)
            return number

    @app.task(name="block", **options)
    async def block(seconds: float) -> None:
        with history.run(current(), who=who):
            if current().crashes == 0 and current().fence == 1:
                time.sleep(seconds)  # noqa: ASYNC251 - that is the fault

    @app.task(name="kill", **options)
    async def kill(ways: str = "killed") -> None:
        with history.run(current(), who=who):
            each = ways.split()
            DEADLY[each[(current().fence - 1) % len(each)]]()


class Play:
    """One queue of its own, and the history of what happened on it.

    :param url: how to reach the broker without any fault in between.
    :param store: where results and start markers are kept; None: in the broker.
    """

    def __init__(self, url: str, *, queue: str | None = None, store: str | None = None) -> None:
        self.url = url
        self.store = store
        self.queue = queue or f"play-{secrets.token_hex(4)}"
        self.history = History()
        self.files: list[Path] = []

    @asynccontextmanager
    async def app(
        self,
        who: str,
        url: str | None = None,
        *,
        around: Callable[[Backend], Backend] = lambda one: one,
        **settings: Any,
    ) -> AsyncIterator[App]:
        """Open an app of this process, with the tasks of every play."""
        url = url or self.url
        backend = RecordingBackend(around(open_backend(url)), self.history, who)
        app = App(
            backend,
            store=open_store(self.store or url),
            **{"lease": 5.0, "concurrency": 10, "send_timeout": 10.0, **settings},
        )
        self.history.listen(app, who=who)
        declare(app, self.history, self.queue, who)
        async with app:
            yield app

    @asynccontextmanager
    async def running(self, who: str, url: str | None = None, **settings: Any) -> AsyncIterator[App]:
        """Open an app that also works."""
        async with self.app(who, url, **settings) as app, app.running():
            yield app

    def worker(self, folder: Path, who: str, url: str | None = None, **orders: Any) -> WorkerProcess:
        """Start a worker in a process of its own; it prints "ready" when it is."""
        crash_at, nth, script = orders.pop("crash_at", None), orders.pop("nth", 1), orders.pop("script", SCRIPT)
        url = url or self.url
        text = json.dumps({"url": url, "store": self.store or url, "queue": self.queue, **orders})
        worker = WorkerProcess(script, text, folder=folder, who=who, crash_at=crash_at, nth=nth, history=self.history)
        self.files.append(worker.history)
        return worker

    def merged(self) -> History:
        """Merge what this process and all workers have recorded."""
        merged = History.load(self.files)
        merged.extend(self.history.entries)
        return merged

    def count(self, kind: str, **facts: Any) -> int:
        """Count how often something happened so far."""
        return sum(
            entry.kind == kind and all(entry.facts.get(name) == value for name, value in facts.items())
            for entry in self.merged().entries
        )

    async def quiet(self, url: str | None = None, *, within: float = 30.0) -> None:
        """Wait until the queue holds nothing but dead letters."""
        async with open_backend(url or self.url) as backend:
            with anyio.move_on_after(within):
                while True:
                    [stats] = await backend.admin.stats([self.queue])
                    if not stats.unfinished:
                        return
                    await anyio.sleep(0.05)
        raise TimeoutError(f"after {within:g} s there is still {stats}")

    async def recorded(self, *, within: float = 5.0) -> History:
        """Merge the histories of all processes, as soon as the living ones owe no entry any more.

        A queue is quiet when the broker has carried out the last verdict; its answer may still be on its way then, and
        the worker has not recorded yet what it learns from it. A worker that owes an entry for longer is judged anyway.
        """
        deadline = anyio.current_time() + within
        while owed(history := self.merged()) and anyio.current_time() < deadline:  # noqa: ASYNC110 - files have no events
            await anyio.sleep(0.02)
        return history

    async def check(self, url: str | None = None, **allowed: Any) -> Report:
        """Wait until everything is quiet, look what is left, and demand that no promise was broken."""
        await self.quiet(url)
        history = await self.recorded()
        ids = {entry.job for entry in history.entries if entry.kind == "invoke"}
        url = url or self.url
        async with App(url, store=self.store or url) as app:
            final = await collect(app, [self.queue], ids)
        limits: dict[str, Any] = {"attempts": ATTEMPTS, "crashes": CRASHES, "delta": 1.0, "time_limit": 10.0}
        report = check_history(history, final, **{**limits, **allowed})
        assert not report.broken, str(report)
        return report


#: How a worker reports that it is done with a job that it received.
ENDS = {f"job.{how}" for how in (
    "succeeded", "retried", "buried", "released", "cancelled", "expired", "lost",
    "parked", "skipped", "deferred", "failed",
)}  # fmt: skip


def owed(history: History) -> set[tuple[str, str]]:
    """Find the living workers that have not yet recorded what became of a job that they received."""
    dead = {entry.who for entry in history.entries if entry.kind == "died"}
    open_ends: Counter[tuple[str, str]] = Counter()
    for entry in history.entries:
        name = entry.facts.get("name") if entry.kind == "event" else None
        if name == "received":
            open_ends[entry.who, entry.job] += 1
        elif name in ENDS:
            open_ends[entry.who, entry.job] -= 1
    return {(who, job) for (who, job), number in open_ends.items() if number > 0 and who not in dead}


async def until(true: Callable[[], bool], what: str = "it", *, within: float = 20.0) -> None:
    """Wait until something has happened."""
    with anyio.move_on_after(within):
        while not true():  # noqa: ASYNC110 - other processes and histories have no events
            await anyio.sleep(0.005)
        return
    raise TimeoutError(f"{what}: not within {within:g} s")


async def send(app: App, numbers: Iterable[int], *, task: str = "work", **arguments: Any) -> list[int]:
    """Enqueue one after the other, as a program that takes no for an answer; which were answered with OK."""
    stored: list[int] = []
    for number in numbers:
        try:
            await app.tasks[task].enqueue(number, **arguments)
        except (BrokerUnavailable, EnqueueUncertain):
            await anyio.sleep(0.05)
        else:
            stored.append(number)
    return stored


# ── at the seam ──────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def held(url: str, *queues: str, lease: float = 30.0) -> AsyncIterator[tuple[Backend, Source]]:
    """Open a backend, and a source on these queues or on "q"."""
    async with open_backend(url) as backend, backend.consume(queues or ["q"], lease=lease) as source:
        yield backend, source


def key(queue: str, part: str) -> str:
    """Return the name of one of a queue's keys."""
    return f"tc:{{{queue}}}:{part}"


def with_tls(folder: Path, name: str, port: int) -> dict[str, Any]:
    """Return the settings of a server that speaks TLS on another port."""
    return {
        "tls-port": port,
        "tls-cert-file": folder / f"{name}.pem",
        "tls-key-file": folder / f"{name}.key",
        "tls-ca-cert-file": folder / "ca.pem",
        "tls-auth-clients": "no",
    }


def fds() -> int:
    """List the file descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - numbers only


async def calls(port: int, *names: str) -> int:
    """Count how often clients and scripts have used these commands; without names: any."""
    info: bytes = await command(port, "INFO", "commandstats")
    found = re.findall(r"cmdstat_([a-z|_]+):calls=(\d+)", info.decode())
    return sum(int(count) for name, count in found if not names or name in names)

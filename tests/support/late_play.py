"""A play of real workers whose calls to broker and store come late, fail, or lose their replies; the checker judges it.

Time is virtual and leases are shorter than the calls may take, so that between a request and its answer everything else
of a worker gets its turn: extensions, news of cancellations, the end of a job, a shutdown.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import anyio
import msgspec

from taskcore import App, Retry, current
from taskcore.backend import Backend
from taskcore.backends.memory import MemoryBackend
from taskcore.conformance.checking import Expectations, History, RecordingBackend, Report, check_history, collect
from taskcore.conformance.checking.job_histories import JobHistory, read
from taskcore.conformance.checking.report import Violation
from taskcore.conformance.checking.snapshot import Snapshot
from taskcore.errors import BrokerUnavailable, TaskcoreError
from taskcore.faults import FlakyBackend, FlakyStore
from taskcore.faults.calls import CallFault
from taskcore.stores.memory import MemoryStore
from taskcore.worker.runners.threads import DaemonThreadPool
from tests.support.virtual import EPOCH, VirtualLoop, clock

__all__ = ["ATTEMPTS", "LEASE", "NOTICED", "QUIET", "WORKERS", "JobPlan", "LateLoop", "Plan", "Stop", "play"]

LEASE = 4.0  #: seconds; shorter than most of the faults that a plan draws
HEAL = 40.0  #: seconds after which everything goes well
QUIET = 3_000.0  #: seconds within which all jobs have ended then
ATTEMPTS, CRASHES = 3, 3
CLIENT, WORKERS = "client", ("w1", "w2")
QUEUE = "late"
KEY_WINDOW = 10_000.0
RETRY = Retry(attempts=ATTEMPTS, base=0.5, factor=2, jitter="none")

#: Events of a worker that tell of a verdict which it had carried out.
NOTICED: Mapping[str, tuple[str, ...]] = {
    "ack": (
        "job.succeeded", "job.failed", "job.duplicate", "job.skipped", "job.cancelled", "job.expired",
        "settle.unconfirmed", "job.lost",
    ),
    "bury": ("job.buried", "settle.unconfirmed"),
    "reschedule": ("job.retried", "job.deferred", "job.parked", "job.released", "settle.unconfirmed"),
    "release": ("job.released", "settle.unconfirmed"),
}  # fmt: skip


class JobPlan(NamedTuple):
    """One job, and what its caller does.

    :param at: when it is enqueued.
    :param seconds: how long its function takes.
    :param fails: how many of its attempts fail.
    :param cancel: seconds after its enqueue at which its caller cancels it.
    """

    task: str = "work"
    at: float = 0.0
    seconds: float = 0.0
    fails: int = 0
    key: str | None = None
    delay: float = 0.0
    expires: float | None = None
    timeout: float | None = None
    cancel: float | None = None


class Stop(NamedTuple):
    """A worker stops, or is killed, and another one takes its place."""

    worker: str
    at: float
    grace: float | None  #: None: it is killed


class Plan(NamedTuple):
    """What happens.

    :param always, next: by actor and verb (those of a store begin with ``store.``): what goes wrong at each call until
        everything heals, and at the first calls.
    :param removes: whether the broker can take a waiting job back.
    """

    jobs: Sequence[JobPlan]
    always: Mapping[tuple[str, str], CallFault] = {}
    next: Mapping[tuple[str, str], Sequence[CallFault | None]] = {}
    stops: Sequence[Stop] = ()
    removes: bool = True


class LateLoop(VirtualLoop):
    """Virtual time that stands still while a function runs in a thread."""

    def __init__(self) -> None:
        super().__init__()
        wait, self.in_threads = self._jumping.select, 0

        def select(timeout: float | None = None) -> Any:
            return wait(None if self.in_threads and timeout != 0 else timeout)

        self._jumping.select = select  # type: ignore[method-assign]


class NoRemoval(MemoryBackend):
    """A broker that cannot take back a job that waits."""

    @property
    def features(self):
        """Return all features but that one."""
        return msgspec.structs.replace(super().features, remove="absent")

    @property
    def admin(self):
        """Return the look-ups; nothing is removed."""
        admin = super().admin

        async def remove(queue: str, job_id: str) -> bool:
            await anyio.lowlevel.checkpoint()
            return False

        admin.remove = remove
        return admin


def play(plan: Plan) -> Report:
    """Play a plan to its end, and judge it."""

    async def run() -> Report:
        return await _Play(plan).run()

    return anyio.run(run, backend_options={"loop_factory": LateLoop})


class _Play:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.broker: Backend = MemoryBackend() if plan.removes else NoRemoval()
        self.store = MemoryStore()
        self.history = History(clock=_clock_of_threads())
        self.faults: list[FlakyBackend | FlakyStore] = []
        self.lives: Counter[str] = Counter()
        self.stopped: set[str] = set()
        self.apps: list[App] = []
        self.over = anyio.Event()

    async def run(self) -> Report:
        """Play."""
        with _counting_threads():
            async with anyio.create_task_group() as group:
                client, tasks = self._app(CLIENT, CLIENT)
                async with client:
                    for worker in WORKERS:
                        group.start_soon(self._life, worker)
                    async with anyio.create_task_group() as callers:
                        callers.start_soon(self._heal)
                        for number, job in enumerate(self.plan.jobs):
                            callers.start_soon(self._call, tasks, number, job)
                    await client.drain(timeout=QUIET)
                    self.over.set()
        return await self._judge()

    # ── the cast ──

    def _app(self, role: str, who: str) -> tuple[App, Mapping[str, Any]]:
        """Make the app of one process: its connections, its faults, its tasks."""
        backend = FlakyBackend(RecordingBackend(self.broker, self.history, who))
        store = FlakyStore(self.store)
        for faulty, prefix in ((backend, ""), (store, "store.")):
            if anyio.current_time() >= HEAL:
                continue
            self.faults.append(faulty)
            for (actor, verb), fault in self.plan.always.items():
                if actor == role and verb.startswith(prefix):
                    faulty.always(verb.removeprefix(prefix), fault)
            for (actor, verb), script in self.plan.next.items():
                if actor == role and verb.startswith(prefix):
                    faulty.play(verb.removeprefix(prefix), script)
        app = App(backend, store=store, clock=clock, lease=LEASE, source=who, keep_result=100_000.0, send_timeout=600.0)
        self.history.listen(app, who=who)
        self.apps.append(app)
        return app, declare(app, self.history, who)

    async def _life(self, role: str) -> None:
        """Let one worker live after the other."""
        stops = sorted((stop for stop in self.plan.stops if stop.worker == role), key=lambda stop: stop.at)
        for stop in stops:
            await self._live(role, stop)
        await self._live(role, None)

    async def _live(self, role: str, stop: Stop | None) -> None:
        self.lives[role] += 1
        who = f"{role}.{self.lives[role]}"
        app, _ = self._app(role, who)
        with anyio.CancelScope() as life:
            async with app, app.running(grace=3.0 if stop is None else stop.grace or 0.0, concurrency=3):
                if stop is None:
                    await self.over.wait()
                    return
                with anyio.move_on_after(max(stop.at - anyio.current_time(), 0.0)):
                    await self.over.wait()
                self.stopped.add(who)
                if stop.grace is None:
                    self.history.record("died", "", who=who)
                    life.cancel()

    async def _heal(self) -> None:
        await anyio.sleep(HEAL)
        for faulty in self.faults:
            faulty.heal()

    async def _call(self, tasks: Mapping[str, Any], number: int, job: JobPlan) -> None:
        """Do what one caller does."""
        await anyio.sleep(job.at)
        job_id = f"job-{number}"
        using = tasks[job.task].using(
            id=None if job.key else job_id, key=job.key, delay=job.delay, expires=job.expires, timeout=job.timeout
        )
        word = job.key or job_id
        try:
            sent = await using.enqueue(word, job.seconds, job.fails)
        except TaskcoreError:
            return
        if job.cancel is None:
            return
        await anyio.sleep(job.cancel)
        cancelled = None
        while cancelled is None:
            try:
                cancelled = await sent.cancel()
            except BrokerUnavailable:  # the reply may be lost: a caller asks again
                await anyio.sleep(1.0)
        if cancelled:
            self.history.record("cancelled", sent.id, who=CLIENT)

    # ── the judgement ──

    async def _judge(self) -> Report:
        parts = SimpleNamespace(backend=self.broker, store=self.store)
        place: Any = SimpleNamespace(components=parts)
        tasks = self.history.tasks
        snapshot = await collect(place, [QUEUE], tasks)
        report = check_history(
            self.history,
            snapshot,
            attempts=ATTEMPTS,
            crashes=CRASHES,
            delta=0.01,
            duplicates_allowed="unsettled",
            at_most_once=lambda job: tasks.get(job) == "once",
            expectations=Expectations.from_features(self.broker.features, has_store=True, key_window=KEY_WINDOW),
        )
        jobs = read(self.history.entries)
        gone = [one for job in jobs.by_job.values() for one in self._gone_silently(job, snapshot, jobs.died)]
        return msgspec.structs.replace(report, lost=[*report.lost, *gone])

    def _gone_silently(self, job: JobHistory, snapshot: Snapshot, died: set[str]) -> Iterator[Violation]:
        """Yield what was carried out and not told by a worker that lived on, and outcomes that no run explains."""
        once = self.history.tasks.get(job.job) == "once"
        for entry in job.settled:
            if entry.who not in died | self.stopped and not job.has_event(
                *NOTICED[entry.facts["verdict"]], who=entry.who
            ):
                yield Violation(job.job, f"{entry.who} ended it by {entry.facts['verdict']} and told nothing")
        acked = [entry for entry in job.settled if entry.facts["verdict"] == "ack" and entry.who not in died]
        if once and acked and not job.runs and job.job not in snapshot.outcomes and not job.has_event("job.lost"):
            yield Violation(job.job, "the broker has forgotten it, it never started, and nothing says so")
        returned = any(run.outcome == "returned" for run in job.runs)
        keyed = any("key" in entry.facts for entry in job.invokes)
        if snapshot.outcomes.get(job.job) == "succeeded" and not returned and not keyed:
            yield Violation(job.job, "succeeded, and no run of it returned")


def declare(app: App, history: History, who: str) -> dict[str, Any]:
    """Declare the tasks in the app of one process; what runs there is recorded under its name."""
    options: Any = {"queue": QUEUE, "retry": RETRY, "crashes": CRASHES, "key_window": KEY_WINDOW}

    @app.task(name="work", **options)
    async def work(word: str, seconds: float, fails: int) -> str:
        with history.run(current(), who=who):
            if seconds:
                await anyio.sleep(seconds)
            return _end(word, fails, who)

    @app.task(name="once", delivery="at_most_once", **options)
    async def once(word: str, seconds: float, fails: int) -> str:
        with history.run(current(), who=who):
            if seconds:
                await anyio.sleep(seconds)
            return _end(word, fails, who)

    @app.task(name="thread", **options)
    def thread(word: str, seconds: float, fails: int) -> str:
        with history.run(current(), who=who):
            return _end(word, fails, who)

    return {"work": work, "once": once, "thread": thread}


def _end(word: str, fails: int, who: str) -> str:
    job = current()
    if job.attempt <= fails:
        raise ConnectionError(f"{word} failed in attempt {job.attempt}")
    return f"{word} by {who} with fence {job.fence}"


def _clock_of_threads() -> Callable[[], float]:
    """Make a clock that threads can read, too."""
    loop = asyncio.get_running_loop()
    return lambda: EPOCH + loop.time()


@contextmanager
def _counting_threads() -> Iterator[None]:
    """Let the loop know how many functions run in threads."""
    loop, run = asyncio.get_running_loop(), DaemonThreadPool.run
    assert isinstance(loop, LateLoop)

    async def counted(self: DaemonThreadPool, *args: Any) -> Any:
        loop.in_threads += 1
        try:
            return await run(self, *args)
        finally:
            loop.in_threads -= 1

    with patch.object(DaemonThreadPool, "run", counted):
        yield

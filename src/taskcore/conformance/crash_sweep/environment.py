"""The environment of a scenario: one app, one queue, scripted tasks, and workers that die on command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec

from taskcore.app import App
from taskcore.conformance.checking import Actors, History
from taskcore.conformance.step_worker import StepWorker
from taskcore.control import Reject, RetryLater, Snooze
from taskcore.policy import Retry
from taskcore.task import Job, Task
from taskcore.testing.crash_points import SimulatedCrash, crash_at
from taskcore.worker.context import current

__all__ = ["ATTEMPTS", "CRASHES", "ERRORS", "KEEP_RESULT", "KEY_WINDOW", "StartLog", "StartRecord", "SweepEnvironment"]

KEY_WINDOW = 8  #: leases
ATTEMPTS, CRASHES = 3, 3
CLIENT = "client"
KEEP_RESULT = 10_000.0  #: seconds for which results can be asked for


class Hopeless(Exception):
    """Not worth another attempt."""


class StartRecord(msgspec.Struct, frozen=True):
    """One start, as the function saw it."""

    job: str
    attempt: int
    fence: int
    text: str


class StartLog:
    """Every start, in memory or in a file that survives the process."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lines: list[StartRecord] = []

    def write(self, line: StartRecord) -> None:
        """Add one more start."""
        if self._path is None:
            self._lines.append(line)
            return
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")

    def read(self) -> list[StartRecord]:
        """Return all starts."""
        if self._path is None:
            return self._lines
        lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        return [msgspec.json.decode(line, type=StartRecord) for line in lines]


class SweepEnvironment:
    """The job ``a``, sometimes a job ``b`` beside it, and their workers.

    :param mark: what makes the names of this scenario its own.
    :param lease: seconds.
    :param starts: where starts are written down.
    :param margin: seconds that a broker may be late.
    :param history: where everything that happens is written down, under the name of the acting process.
    :param prefix: how the names of those begin who act here, for a history that is put together from several.
    """

    def __init__(
        self,
        app: App,
        queue: str,
        starts: StartLog,
        *,
        mark: str,
        lease: float,
        margin: float,
        history: History,
        prefix: str = "",
    ) -> None:
        self.app, self.queue, self.starts, self.mark, self.history = app, queue, starts, mark, history
        self.actors = Actors(history, app, prefix=prefix)
        self.actors.switch_to(self.actors.enter(CLIENT))
        self.lease, self.margin = lease, margin
        self.acts: list[str] = []  # what the function does in its next starts
        self.always = "succeed"  # and what the job ``a`` does afterwards
        self.key: str | None = None
        self.letter: str | None = None
        self.replayed: str | None = None
        self.crashes = 0
        self.written: Mapping[str, float | None] = {}
        self._living: list[tuple[str, str, StepWorker]] = []  # name, the name that acted before, its worker
        declare: Any = app.task
        options = {"queue": queue, "key_window": KEY_WINDOW * lease, "keep_result": KEEP_RESULT, "crashes": CRASHES}
        again = Retry(attempts=ATTEMPTS, base=lease / 16, factor=1, jitter="none", give_up_on=(Hopeless,))
        self.work: Task[..., Any] = declare(name="scenario.work", retry=again, **options)(self._function())
        self.last: Task[..., Any] = declare(name="scenario.last", retry=1, **options)(self._function())
        self.once: Task[..., Any] = declare(name="scenario.once", delivery="at_most_once", **options)(self._function())

    # ── names ──

    def id(self, name: str) -> str:
        """Return the id of the job of this name."""
        return f"{self.mark}-{name}"

    def handle(self, name: str = "a", task: Task[..., Any] | None = None) -> Job[Any]:
        """Return the handle of a job."""
        job = (task or self.work).job(self.id(name))
        return Job(job.id, job.task, self.queue, self.key)

    def task_of(self, operation: str) -> Task[..., Any]:
        """Return the task whose job the operation is about."""
        return {"exhaust": self.last, "once": self.once}.get(operation, self.work)

    # ── small steps ──

    async def send(self, task: Task[..., Any], *, delay: float = 0.0, expires: float | None = None) -> Job[Any]:
        """Enqueue the job ``a``."""
        return await task.using(id=self.id("a"), key=self.key, delay=delay, expires=expires).enqueue("a")

    async def step_worker(self) -> StepWorker:
        """Start a new worker; from now on it acts, until it is dead."""
        before, name = self.actors.current, self.actors.enter("worker")
        step_worker = await StepWorker(
            self.app, [self.queue], lease=self.lease, name=f"{name}-{self.mark}"
        ).__aenter__()
        self._living.append((name, before, step_worker))
        self.actors.switch_to(name)
        return step_worker

    async def end_workers(self) -> None:
        """End all workers: what they hold comes back when its lease is over."""
        while self._living:
            name, before, step_worker = self._living.pop()
            if step_worker.executions:
                self.actors.record_death(name)
            await step_worker.__aexit__(None, None, None)
            self.actors.switch_to(before)

    def died(self) -> None:
        """Record the death of the acting process; a new client acts next if it was a client."""
        name = self.actors.current
        self.actors.record_death(name)
        if not self._living:
            self.actors.switch_to(self.actors.enter(CLIENT))

    async def take(self, step_worker: StepWorker) -> Any:
        """Take the next delivery, wherever it is in its waiting."""
        job = await step_worker.take(within=4 * self.lease + 2 * self.margin)
        assert job is not None, "there should be a job, and none is handed out"
        return job

    async def outlast(self) -> None:
        """Wait until a lease is over."""
        await anyio.sleep(self.lease + self.margin + self.lease / 64)

    async def die_running(self) -> None:
        """Let a worker die while the function runs."""
        self.crashes += 1
        step_worker = await self.step_worker()
        job = await self.take(step_worker)
        try:
            with crash_at("run.returned"):
                await step_worker.perform(job)
        except SimulatedCrash:
            self.died()
        else:
            raise AssertionError("the function should have started")
        finally:
            await self.end_workers()
        await self.outlast()

    async def fail_once(self) -> None:
        """Let an attempt fail and be settled."""
        self.acts.insert(0, "fail")
        step_worker = await self.step_worker()
        assert await step_worker.work(await self.take(step_worker))
        await self.end_workers()

    def _function(self) -> Callable[[str], Awaitable[str]]:
        async def work(word: str) -> str:  # noqa: ARG001 - every task has an argument
            job = current()
            text = f"{job.job_id}#{len(self.starts.read()) + 1}"
            self.starts.write(StartRecord(job.job_id, job.attempt, job.fence, text))
            afterwards = self.always if job.job_id == self.id("a") else "succeed"
            act = self.acts.pop(0) if self.acts else afterwards
            with self.history.run(job):
                if act in ERRORS:
                    raise ERRORS[act](text, self.lease / 8)
            return text if act != "unencodable" else 3j  # type: ignore[return-value]  # that is the point

        return work


ERRORS: dict[str, Callable[[str, float], Exception]] = {
    "fail": lambda text, _: RuntimeError(text),
    "exhaust": lambda text, _: RuntimeError(text),
    "give_up": lambda text, _: Hopeless(text),
    "later": lambda text, after: RetryLater(after, text),
    "soon": lambda text, after: RetryLater(after / 64, text),  # on a real broker due before its sender has an answer
    "snooze": lambda _, after: Snooze(after),
    "reject": lambda text, _: Reject(text),
}

"""The ground of a drill: one app, one queue, tasks that do what they are told, workers that die when they are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec

from taskcore.app import App
from taskcore.conformance.checking import Cast, History
from taskcore.conformance.step_worker import StepWorker
from taskcore.lifecycle import Reject, RetryLater, Snooze
from taskcore.policy import Retry
from taskcore.task import Job, Task
from taskcore.testing.crash_points import SimulatedCrash, crash_at
from taskcore.worker.context import current

__all__ = ["ATTEMPTS", "CRASHES", "ERRORS", "KEEP", "KEY_WINDOW", "Ground", "Ledger", "Line"]

KEY_WINDOW = 8  #: leases
ATTEMPTS, CRASHES = 3, 3
CLIENT = "client"
KEEP = 10_000.0  #: seconds for which results can be asked for


class Hopeless(Exception):
    """Not worth another attempt."""


class Line(msgspec.Struct, frozen=True):
    """One start, as the function saw it."""

    job: str
    attempt: int
    fence: int
    text: str


class Ledger:
    """Every start, in memory or in a file that survives the process."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lines: list[Line] = []

    def write(self, line: Line) -> None:
        """One more start."""
        if self._path is None:
            self._lines.append(line)
            return
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")

    def read(self) -> list[Line]:
        """All of them."""
        if self._path is None:
            return self._lines
        lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        return [msgspec.json.decode(line, type=Line) for line in lines]


class Ground:
    """The job ``a``, sometimes a job ``b`` beside it, and whoever works on them.

    :param mark: what makes the names of this drill its own.
    :param lease: seconds.
    :param ledger: where starts are written down.
    :param margin: seconds that a broker may be late.
    :param history: where everything is written down that happens, under the name of whoever acts.
    :param prefix: how the names of those begin who act here, for a history that is put together from several.
    """

    def __init__(
        self,
        app: App,
        queue: str,
        ledger: Ledger,
        *,
        mark: str,
        lease: float,
        margin: float,
        history: History,
        prefix: str = "",
    ) -> None:
        self.app, self.queue, self.ledger, self.mark, self.history = app, queue, ledger, mark, history
        self.cast = Cast(history, app, prefix=prefix)
        self.cast.turn(self.cast.enter(CLIENT))
        self.lease, self.margin = lease, margin
        self.acts: list[str] = []  # what the function does in its next starts
        self.always = "succeed"  # and what the job ``a`` does afterwards
        self.key: str | None = None
        self.letter: str | None = None
        self.replayed: str | None = None
        self.crashes = 0
        self.written: Mapping[str, float | None] = {}
        self._living: list[tuple[str, str, StepWorker]] = []  # who came after whom, and his hands
        declare: Any = app.task
        options = {"queue": queue, "key_window": KEY_WINDOW * lease, "keep_result": KEEP, "crashes": CRASHES}
        again = Retry(attempts=ATTEMPTS, base=lease / 16, factor=1, jitter="none", give_up_on=(Hopeless,))
        self.work: Task[..., Any] = declare(name="drill.work", retry=again, **options)(self._function())
        self.last: Task[..., Any] = declare(name="drill.last", retry=1, **options)(self._function())
        self.once: Task[..., Any] = declare(name="drill.once", delivery="at_most_once", **options)(self._function())

    # ── names ──

    def id(self, name: str) -> str:
        """The id of the job of this name."""
        return f"{self.mark}-{name}"

    def handle(self, name: str = "a", task: Task[..., Any] | None = None) -> Job[Any]:
        """The handle of a job."""
        job = (task or self.work).job(self.id(name))
        return Job(job.id, job.task, self.queue, self.key)

    def task_of(self, operation: str) -> Task[..., Any]:
        """The task whose job the operation is about."""
        return {"exhaust": self.last, "once": self.once}.get(operation, self.work)

    # ── small steps ──

    async def send(self, task: Task[..., Any], *, delay: float = 0.0, expires: float | None = None) -> Job[Any]:
        """Enqueue the job ``a``."""
        return await task.using(id=self.id("a"), key=self.key, delay=delay, expires=expires).enqueue("a")

    async def hands(self) -> StepWorker:
        """A new worker; from now on it acts, until it is dead."""
        before, name = self.cast.on_stage, self.cast.enter("worker")
        hands = await StepWorker(self.app, [self.queue], lease=self.lease, name=f"{name}-{self.mark}").__aenter__()
        self._living.append((name, before, hands))
        self.cast.turn(name)
        return hands

    async def bury_workers(self) -> None:
        """All workers are dead: what they hold comes back when its lease is over."""
        while self._living:
            name, before, hands = self._living.pop()
            if hands.in_hand:
                self.cast.dies(name)
            await hands.__aexit__(None, None, None)
            self.cast.turn(before)

    def died(self) -> None:
        """Whoever acts is dead; the next client takes the stage if it was one."""
        name = self.cast.on_stage
        self.cast.dies(name)
        if not self._living:
            self.cast.turn(self.cast.enter(CLIENT))

    async def take(self, hands: StepWorker) -> Any:
        """The next delivery, wherever it is in its waiting."""
        job = await hands.take(within=4 * self.lease + 2 * self.margin)
        assert job is not None, "there should be a job, and nobody gets it"
        return job

    async def outlast(self) -> None:
        """Wait until a lease is over."""
        await anyio.sleep(self.lease + self.margin + self.lease / 64)

    async def die_running(self) -> None:
        """A worker dies while the function runs."""
        self.crashes += 1
        hands = await self.hands()
        job = await self.take(hands)
        try:
            with crash_at("run.returned"):
                await hands.perform(job)
        except SimulatedCrash:
            self.died()
        else:
            raise AssertionError("the function should have started")
        finally:
            await self.bury_workers()
        await self.outlast()

    async def fail_once(self) -> None:
        """An attempt fails and is settled."""
        self.acts.insert(0, "fail")
        hands = await self.hands()
        assert await hands.work(await self.take(hands))
        await self.bury_workers()

    def _function(self) -> Callable[[str], Awaitable[str]]:
        async def work(word: str) -> str:  # noqa: ARG001 - every task has an argument
            job = current()
            text = f"{job.job_id}#{len(self.ledger.read()) + 1}"
            self.ledger.write(Line(job.job_id, job.attempt, job.fence, text))
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

"""The system under test: a harness with real parts on it, and one scripted task.

    system = SystemUnderTest(harness)        an app, a queue, two workers' workers, and the task ``model.work``
    system.acts["A"] = FAIL      what the next start of job A will do

Times are in units of lease / 32, so that under a virtual clock every time is exact.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import msgspec

from taskcore.app import App
from taskcore.backend import Letter, Outgoing
from taskcore.conformance.checking import (
    Actors,
    Expectations,
    History,
    RecordingBackend,
    Report,
    check_history,
    collect,
)
from taskcore.conformance.harness import CLOCK_TOLERANCE, Harness
from taskcore.conformance.model.connection_faults import CutBackend, FaultyConnection
from taskcore.conformance.step_worker import StepWorker
from taskcore.control import Reject, RetryLater, Snooze
from taskcore.observe import Event
from taskcore.policy import Retry
from taskcore.records.names import outcome_name, start_name
from taskcore.results import StoredOutcome, decode_outcome
from taskcore.store import Store
from taskcore.task import Job, Task
from taskcore.worker.context import current

__all__ = ["ACTS", "ATTEMPTS", "CRASHES", "WORKERS", "Act", "Start", "SystemUnderTest"]

ATTEMPTS, CRASHES = 3, 3
WORKERS = ("1", "2")
UNITS_PER_LEASE = 32  #: units of virtual time
VERDICT_UNITS: Final = 0.125  #: units: about a millisecond on a real broker, over before the verdict is carried out
KEEP_UNITS = 20_000  #: how long results are kept: longer than any example lasts
CALL_TIMEOUT = 30.0  #: seconds that a call to a broker may take at most; its own limit is shorter
CLIENT, STRANGER = "client", "stranger"


class RetryableError(Exception):
    """Worth another attempt."""


class PermanentError(Exception):
    """Not worth another attempt."""


class Act(NamedTuple):
    """What a start does, how the notes tell it, and after how many units it wants to be back."""

    name: str
    error: Callable[[str, float], Exception] | None
    after: float = 0


SUCCEED: Final = Act("succeeds", None)
UNENCODABLE: Final = Act("returns what cannot be encoded", None)
ACTS: Final = {
    act.name: act
    for act in (
        SUCCEED,
        Act("fails", lambda text, _: RetryableError(text)),
        Act("fails for good", lambda text, _: PermanentError(text)),
        Act("wants to be tried later", lambda text, after: RetryLater(after, text), 12),
        Act("snoozes", lambda _, after: Snooze(after), VERDICT_UNITS),
        Act("rejects", lambda text, _: Reject(text)),
        UNENCODABLE,
    )
}


class Start(NamedTuple):
    """One start of the function, as the function saw it."""

    job: str
    at: float
    attempt: int
    crashes: int
    fence: int
    word: str
    act: Act
    text: str  # the value it returns or the message that it raises; no two starts have the same


class SystemUnderTest:
    """Everything real. Its methods are steps.

    Everything that passes the seam and every start is written into ``history``, under the name of the acting process.

    :param within: seconds for which a worker waits for a job that may be there.
    """

    app: App
    queue: str
    work: Task[..., Any]
    once: Task[..., Any]
    store: Store | None
    actors: Actors

    def __init__(self, harness: Harness, *, within: float) -> None:
        self.harness = harness
        self.unit = harness.lease / UNITS_PER_LEASE
        self.key_window = 4 * harness.lease
        self.connection = FaultyConnection()
        self.acts: dict[str, Act] = {}
        self.starts: list[Start] = []
        self.events: list[Event] = []
        self.workers: dict[str, StepWorker] = {}
        self._within = within
        self.names = {STRANGER: STRANGER}  # role → name of its present process
        self.history = History(clock=harness.now)
        self.last = 0.0  # when the last step was over

    async def open(self) -> None:
        """Connect, declare the tasks, start the workers."""
        harness = await self.harness.__aenter__()
        backend = RecordingBackend(CutBackend(await harness.backend(), self.connection), self.history)
        self.store = await harness.store() if harness.has_store else None
        self.queue = harness.queue()
        self.app = App(
            backend, store=self.store, clock=harness.now, lease=harness.lease, keep_result=KEEP_UNITS * self.unit
        )
        retry = Retry(attempts=ATTEMPTS, base=4 * self.unit, factor=2, jitter="none", give_up_on=(PermanentError,))
        declare: Any = self.app.task  # the function is a closure, and its queue is known only now
        options = {"queue": self.queue, "retry": retry, "crashes": CRASHES, "key_window": self.key_window}
        self.work = declare(name="model.work", **options)(self._function())
        self.once = declare(name="model.once", delivery="at_most_once", **options)(self._function())
        self.app.on_event(self.events.append)
        self.actors = Actors(self.history, self.app)
        self.names[CLIENT] = self.actors.enter(CLIENT)
        await self.app.__aenter__()
        for worker in WORKERS:
            await self.start_worker(worker)

    async def close(self) -> None:
        """Leave no traces."""
        for step_worker in self.workers.values():
            await step_worker.__aexit__(None, None, None)
        await self.app.__aexit__(None, None, None)
        await self.harness.__aexit__(None, None, None)

    async def start_worker(self, worker: str) -> None:
        """Start a new worker process in this role; the one before it dies."""
        if worker in self.workers:
            await self.workers[worker].__aexit__(None, None, None)
        self.names[worker] = self.actors.enter(f"worker-{worker}")
        self.workers[worker] = StepWorker(self.app, [self.queue], name=self.names[worker])
        await self.workers[worker].__aenter__()

    async def die(self, role: str) -> None:
        """Record the death of this role's process; another one takes its place."""
        self.actors.record_death(self.names[role])
        if role in WORKERS:
            await self.start_worker(role)
        else:
            self.names[role] = self.actors.enter(role)

    async def check_history(self) -> Report:
        """Ask the checker, which knows nothing of the model: by the history, and by what is left."""
        harness, tasks = self.harness, self.history.tasks
        final = await collect(harness, [self.queue], tasks)
        delta = harness.margin + harness.features.delay_error + CLOCK_TOLERANCE
        return check_history(
            self.history,
            final,
            attempts=ATTEMPTS,
            crashes=CRASHES,
            delta=delta,
            duplicates_allowed="unsettled",
            at_most_once=lambda job: tasks.get(job) == self.once.name,
            time_limit=CALL_TIMEOUT,
            expectations=Expectations.from_features(
                harness.features, has_store=harness.has_store, key_window=self.key_window - delta
            ),
        )

    def now(self) -> float:
        """Return the seconds since the epoch, inside of a step."""
        return self.harness.now()

    async def take(self, worker: str, within: float | None = None) -> Any:
        """Take the next job for this worker, or None, and tell when it was taken."""
        job = await self.workers[worker].take(within=self._within if within is None else within)
        return job, self.now()

    async def timed(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Do something, and remember when it was over, however it ended."""
        try:
            return await function(*args)
        finally:
            self.last = self.now()

    async def outcome_of(self, job_id: str) -> StoredOutcome | None:
        """Return how a job ended, as the store has it."""
        if self.store is None:
            return None
        record = await self.store.get(outcome_name(job_id))
        return decode_outcome(record.value) if record is not None else None

    async def markers(self, job_id: str) -> list[str]:
        """Return the start markers that are left of a job."""
        names = [start_name(job_id, copy) for copy in range(40)]
        return [name for name in names if self.store is not None and await self.store.get(name) is not None]

    async def records(self) -> list[str]:
        """Return every record of ours that is left."""
        written = sorted(self.harness.written)
        return [name for name in written if self.store is not None and await self.store.get(name) is not None]

    async def letters(self) -> list[Letter]:
        """Return all dead letters."""
        return list(await self.app.components.backend.admin.letters(self.queue, limit=1000))

    async def publish_raw(self, job_id: str, data: bytes) -> None:
        """Publish bytes that are not ours."""
        await self.app.components.backend.publish([Outgoing(self.queue, job_id, data)])

    async def enqueue(self, call: Any) -> Job[Any]:
        """Send one call."""
        return await self.app.send(call)

    def _function(self) -> Callable[[str], Awaitable[str]]:
        async def work(word: str) -> str:
            job = current()
            act = self.acts.get(job.job_id, SUCCEED)
            text = f"{word}#{len(self.starts) + 1}"
            self.starts.append(Start(job.job_id, self.now(), job.attempt, job.crashes, job.fence, word, act, text))
            with self.history.run(job):
                if act.error is not None:
                    raise act.error(text, act.after * self.unit)
            return text if act is not UNENCODABLE else 3j  # type: ignore[return-value]  # that is the point

        return work


def value_of(outcome: StoredOutcome) -> str:
    """Decode the value of a job that succeeded."""
    return msgspec.json.decode(bytes(outcome.result), type=str)

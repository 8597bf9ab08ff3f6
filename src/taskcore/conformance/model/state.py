"""The state of the model: the system under test, what the model believes of it, and the steps so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import Any

from taskcore.conformance.checking import GuaranteesBroken
from taskcore.conformance.clauses import ClauseViolated
from taskcore.conformance.model.job import JobModel
from taskcore.conformance.model.steps import Steps
from taskcore.conformance.model.system import CLIENT, WORKERS, SystemUnderTest
from taskcore.envelope import decode_envelope
from taskcore.errors import MalformedEnvelope
from taskcore.results import decode_outcome
from taskcore.testing.crash_points import crash_at
from taskcore.toolkit.failpoints import FAILPOINTS
from taskcore.worker.decide import Settlement
from taskcore.worker.execution import Execution

__all__ = ["HeldDelivery", "ModelState"]


def _same_outcome(one: JobModel, other: JobModel) -> bool:
    first, second = one.outcome, other.outcome
    return first is not None and second is not None and bytes(first.result) == bytes(second.result)


class HeldDelivery:
    """A delivery that a worker holds. ``model`` None: foreign bytes."""

    def __init__(self, model: JobModel | None, job: Execution, until: float) -> None:
        self.model, self.job, self.until = model, job, until
        self.conclusion: Settlement | None = None
        self.started = self.performed = self.tried = self.settled = False


class ModelState:
    """Everything that the verbs of the model share.

    :param exact: time is virtual, so nothing is ever late and each lease ends at a known moment.
    """

    def __init__(self, system: SystemUnderTest, step: Steps, *, exact: bool) -> None:
        self.system, self.step, self.exact = system, step, exact
        self.models: list[JobModel] = []
        self.held: dict[str, list[HeldDelivery]] = {worker: [] for worker in WORKERS}
        self.foreign: set[bytes] = set()
        self.notes: list[str] = []
        self.expected_events: Counter[str] = Counter()  # events that have to be there at the end (C19)
        self.clock = 0.0
        self.dark_until = float("-inf")  # until when a dead worker may hold a job that the model does not know of
        self.failed = False
        self.margin = 0.0

    def note(self, sentence: str) -> None:
        """Add a sentence to the notes."""
        self.notes.append(sentence)

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Add the notes to whatever goes wrong inside."""
        try:
            yield
        except ClauseViolated as broken:
            self.failed = True
            told = ClauseViolated(broken.what, broken.clause)
            told.args = (f"{'; '.join(self.notes)} → {broken}",)
            raise told from None
        except GuaranteesBroken as broken:
            self.failed = True
            raise GuaranteesBroken(broken.report, "; ".join(self.notes)) from None
        except Exception as error:
            self.failed = True
            error.add_note(f"steps: {'; '.join(self.notes)}")
            raise

    def run(self, function: Callable[..., Any], *args: Any, crash: int | None = None, by: str = CLIENT) -> Any:
        """Run one step of the system, perhaps ended by a crash at the n-th point that it passes.

        :param by: the actor: a client, a foreign sender, or this worker.
        """
        try:
            # Where a retry is two steps, a death in between leaves two jobs: the sweep plays that, not this model.
            among = None if self.system.harness.features.atomic_retry else FAILPOINTS
            with crash_at(visit=crash, among=among), self.system.actors.acting(self.system.names[by]):
                return self.step(self.system.timed, function, *args)
        finally:
            self.clock = self.system.last

    def now(self) -> float:
        """Return the system's time after the last step."""
        return self.clock

    # ── looking ──

    def look(self) -> None:
        """Compare the ends of all jobs with what the store says."""
        if self.system.store is None:
            return
        for model in self.models:
            model.observe(self.run(self.system.outcome_of, model.id), self.now())
        self.check_keys()

    def check_keys(self) -> None:
        """Check that a key has one committed outcome within its window, and every job with that key gets it (C10)."""
        done = [(t, t.committed_at) for t in self.models if t.committed_at is not None]
        for (one, first), (other, second) in combinations(done, 2):
            near = abs(first - second) < self.system.key_window
            if one.key is not None and one.key == other.key and near and not _same_outcome(one, other):
                one.violated("C10", f"and {other.name} have one key and two outcomes")

    def model_of(self, envelope: bytes) -> JobModel | None:
        """Find the job of these bytes; None: they are foreign."""
        if envelope in self.foreign:
            return None
        try:
            job_id = decode_envelope(envelope).id
        except MalformedEnvelope:
            raise ClauseViolated(f"bytes that no client sent were handed out: {envelope!r}", "C2") from None
        for model in self.models:
            if model.id == job_id:
                return model
        raise ClauseViolated(f"a job that was never enqueued was handed out: {job_id}", "C2")

    def same_key(self, model: JobModel) -> list[JobModel]:
        """Return the other jobs with its key."""
        return [
            other for other in self.models if other is not model and model.key is not None and other.key == model.key
        ]

    def forget_key(self, model: JobModel) -> None:
        """Note that its key may be free from now on."""
        for one in (model, *self.same_key(model)):
            one.deadline_of_key = float("-inf")

    def note_offered_outcome(self, held: HeldDelivery) -> None:
        """Note an outcome that a worker is about to write."""
        if held.model is not None and held.conclusion is not None and held.conclusion.stored is not None:
            outcome = decode_outcome(held.conclusion.stored)
            held.model.outcomes_offered.append(outcome)
            if held.started:
                held.model.own_offers.append((outcome, self.now()))

    def died(self, worker: str, *, surely: bool = True) -> None:
        """Note that the worker is dead, and start another one in its place.

        :param surely: otherwise it died only if it held something; without that, its death cannot be told from leaving.
        """
        died = surely or bool(self.held[worker])
        self.held[worker].clear()
        self.run(self.system.die if died else self.system.start_worker, worker)

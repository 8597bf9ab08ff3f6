"""The rules of the model: its verbs put together, whole lives of jobs, and the end, where everything has to add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from taskcore.conformance.checking import Report
from taskcore.conformance.harness import Harness
from taskcore.conformance.model.job import ABSENT, JobModel
from taskcore.conformance.model.state import HeldDelivery
from taskcore.conformance.model.steps import real_steps, virtual_steps
from taskcore.conformance.model.system import ACTS, KEEP_UNITS, SystemUnderTest
from taskcore.conformance.model.working import Working

__all__ = ["DELIVERY_EVENTS", "ModelRules", "open_rules"]

MAX_DELIVERIES = 300  #: deliveries after which what is left will never end
STORAGE_HORIZON = 8 * 86_400.0  #: seconds after which nothing of ours may be left in a store
LONGEST_WAIT = 200  #: units: longer than any pause before another attempt, and than any lease

#: What may happen to one delivery in a life: what the function does, or how the worker fails.
DELIVERY_EVENTS = (
    *ACTS,
    "its worker dies running it",
    "its worker dies before it starts",
    "its lease ends",
    "another worker has it meanwhile",
    "another worker ends it meanwhile",
    "another job has its key meanwhile",
    "it is given back",
)


class ModelRules(Working):
    """Everything that may happen, and the end."""

    def live(self, events: Sequence[str], *, key: str | None = None) -> None:
        """Play the life of one job: a delivery for each of these events, as long as it goes on."""
        model = self.enqueue(key=key)
        for event in events:
            held = None if model.is_over else self._take_own(model)
            if held is None:
                return
            self._apply(held, event)

    def _take_own(self, model: JobModel) -> HeldDelivery | None:
        """Take its next delivery; other jobs in the way are worked off, so that no event is wasted on them."""
        for _ in range(MAX_DELIVERIES):
            held = self.take("1", within=LONGEST_WAIT * self.system.unit)
            if held is None or held.model is model:
                return held
            self.work("1", held, "succeeds")
        return None

    def _apply(self, held: HeldDelivery, event: str) -> None:
        match event:
            case "its worker dies running it":
                if self.perform("1", held, ACTS["succeeds"]):
                    self.die("1")
            case "its worker dies before it starts":
                self.die("1")
            case "it is given back":
                self.release("1", held)
            case "its lease ends":
                self.perform("1", held, ACTS["succeeds"])
                self.wait(33)
                self.extend("1", held)
                self.settle("1", held)
            case "another worker has it meanwhile":
                self._overtake(held, "fails")
            case "another worker ends it meanwhile":
                self._overtake(held, "rejects")
            case "another job has its key meanwhile":
                self._lose_key(held)
            case _:
                self.work("1", held, event)

    def _overtake(self, held: HeldDelivery, act: str) -> None:
        """Let one worker be too slow and the next have the job; the last holder settles first if that ends the job."""
        self.perform("1", held, ACTS["succeeds"])
        self.wait(33)
        other = self.take("2")
        if other is not None:
            self.perform("2", other, ACTS[act])
            if act == "rejects":
                self.settle("2", other)
            self.look()
        self.extend("1", held)
        self.settle("1", held)
        self.look()
        if other is not None and other in self.held["2"]:
            self.settle("2", other)

    def _lose_key(self, held: HeldDelivery) -> None:
        """Let its key be lost with its lease; another job takes the key and is done before the first one settles."""
        self.perform("1", held, ACTS["succeeds"])
        if held.model is not None and held.model.key is not None:
            self.twin(held.model)
        self.wait(33)
        self.take("2")
        other = self.take("2")
        if other is not None:
            self.work("2", other, "succeeds")
            self.look()
        self.settle("1", held)
        self.look()
        self.die("2")

    def work(self, worker: str, held: HeldDelivery, act: str) -> None:
        """Perform and settle."""
        if self.perform(worker, held, ACTS[act]):
            self.settle(worker, held)

    # ── the end ──

    def finish(self) -> None:
        """Heal everything, let healthy workers drain the queue, and see whether it adds up: C1, C4, C13, C19, C23."""
        self.note("everything heals")
        self.system.connection.heal()
        for worker in self.held:
            self.die(worker)
        self._drain()
        for model in self.models:
            if model.cancel_requested and model.outcome is None and not model.once and self.system.store is not None:
                self.cancel(model)  # a caller that was interrupted while cancelling asks again
        self.look()
        for model in self.models:
            self._check_end(model)
        self._check_letters()
        self._check_events()
        self._check_history()
        if self.exact:
            self._check_storage()

    def _drain(self) -> None:
        for _ in range(MAX_DELIVERIES):
            if not self.exact and self._is_empty():
                return  # to wait for nothing, once in each example, would take most of the time
            held = self.take("1", within=LONGEST_WAIT * self.system.unit)
            if held is None:
                return
            self.work("1", held, "succeeds")
            self.look()
        going_on = ", ".join(model.name for model in self.models if not model.is_over)
        self.models[-1].violated("C4", f"or another ({going_on}) goes on for ever")

    def _is_empty(self) -> bool:
        if self.system.harness.features.counts == "absent":  # zeros say nothing about what others hold
            return False
        stats = self.run(self.system.app.stats, self.system.queue)
        return not stats.unfinished

    def _check_end(self, model: JobModel) -> None:
        if (
            model.is_over
            and model.cancel_requested
            and model.outcome is None
            and not model.once
            and self.system.store is not None
        ):
            model.violated("C4", "is cancelled, and no record says how it ended")
        if model.is_over or ABSENT in model.states or not model.certain:
            return
        model.violated("C1", "is lost: it is nowhere, and nothing says how it ended")

    def _check_letters(self) -> None:
        for model in self.models:
            self.check_letter(model)
            if model.is_over and {state.place for state in model.states} == {"gone"} and self.letters_of(model):
                model.violated(
                    "C13", f"ended as {model.outcome.state if model.outcome else 'gone'} and has a dead letter"
                )

    def _check_events(self) -> None:
        """Check that nothing goes by without its event (C19)."""
        happened = Counter(self.system.app.counters)
        for name, times in self.expected_events.items():
            if happened[name] < times:
                self.models[-1].violated(
                    "C19", f"or another was {name} without the event: {times}, counted {happened[name]}"
                )

    def _check_history(self) -> None:
        """Check that the checker of all tests agrees, from what was recorded and from what is left alone."""
        report: Report = self.run(self.system.check_history)
        report.expect_kept()

    def _check_storage(self) -> None:
        """Check that after its time nothing is left but dead letters (C23)."""
        stats = self.run(self.system.app.stats, self.system.queue)
        if stats.unfinished:
            self.models[-1].violated("C23", f"or another is left in the queue: {stats}")
        for model in self.models:
            markers = self.run(self.system.markers, model.id)
            if markers and not model.disturbed:
                model.violated("C23", f"left behind {markers}")
        self.run(self.system.harness.sleep, STORAGE_HORIZON + KEEP_UNITS * self.system.unit)
        left = self.run(self.system.records)
        if left:
            self.models[-1].violated("C23", f"or another left behind {left}")


@contextmanager
def open_rules(make_harness: Callable[[], Harness], *, real_time: bool = False) -> Iterator[ModelRules]:
    """Open the rules on a new harness."""
    with real_steps() if real_time else virtual_steps() as step:
        harness = make_harness()
        system = SystemUnderTest(harness, within=0.3 * harness.lease if real_time else harness.lease / 4096)
        step(system.open)
        try:
            play = ModelRules(system, step, exact=not real_time)
            play.margin = harness.margin + harness.features.delay_error
            yield play
        finally:
            step(system.close)

"""What workers do in the model: take, perform, settle, give back, extend, die."""

from __future__ import annotations

from typing import Any

from taskcore.conformance.model.connection_faults import LostPart
from taskcore.conformance.model.expect import check_start, check_unstarted
from taskcore.conformance.model.job import GONE, JobModel
from taskcore.conformance.model.sending import Sending
from taskcore.conformance.model.state import HeldDelivery
from taskcore.conformance.model.system import Act
from taskcore.errors import BrokerUnavailable
from taskcore.lifecycle import Bury, Malformed
from taskcore.testing.crash_points import SimulatedCrash

__all__ = ["Working"]

BEFORE_SETTLING = {"settle.committed", "settle.ended"}
AFTER_SETTLING = {"settle.settled"}


class Working(Sending):
    """The workers' verbs."""

    # ── take ──

    def take(
        self, worker: str, *, within: float | None = None, crash: int | None = None, cut: LostPart | None = None
    ) -> HeldDelivery | None:
        """Take the next job for this worker."""
        self.system.connection.cut("receive", "reply" if cut else None)
        lease = self.system.harness.lease
        try:
            job, taken = self.run(self.system.take, worker, within, crash=crash, by=worker)
        except (SimulatedCrash, BrokerUnavailable) as error:
            self.dark_until = self.now() + lease + self.margin
            for model in self.models:
                model.unstarted_losses += model.may_wait
            if isinstance(error, SimulatedCrash):
                self.note(f"worker {worker} dies at {error.point}")
                self.died(worker)
            else:
                self.note(f"worker {worker} takes something, the connection breaks")
            return None
        finally:
            self.system.connection.heal()
        if job is None:
            self.note(f"worker {worker} finds nothing")
            self._check_nothing_is_there()
            return None
        return self._took(worker, job, taken, lease)

    def _took(self, worker: str, job: Any, taken: float, lease: float) -> HeldDelivery:
        delivery = job.delivery
        model = self.model_of(delivery.envelope)
        held = HeldDelivery(model, job, taken + lease)
        self.held[worker].append(held)
        if model is None:
            self.note(f"worker {worker} takes the stranger's bytes")
            return held
        self.note(f"worker {worker} takes {model.name}")
        if isinstance(model.held, HeldDelivery):
            model.lost(performed=model.held.performed)
        model.held = held
        self.check_replayed(model, delivery.envelope, delivery.trail)
        if delivery.envelope not in self.system.connection.sent[model.id]:
            model.violated("C2", "came with other bytes than were sent")
        model.delivered(worker, taken, lease, delivery.trail, delivery.redeliveries)
        return held

    def _check_nothing_is_there(self) -> None:
        """Check that a due job that no worker holds is handed out (C4)."""
        now = self.now() - self.margin
        for model in self.models:
            due = model.surely_waits and model.certain and all(state.due < now for state in model.states)
            free = model.lease is None or model.lease.until < now
            if due and free and self.dark_until < now and self.exact:
                model.violated("C4", "is due and free, but is not handed out")

    # ── perform ──

    def perform(self, worker: str, held: HeldDelivery, act: Act, *, crash: int | None = None) -> bool:
        """Run it; False if the worker died."""
        model, before = held.model, len(self.system.starts)
        held.performed = True
        if model is not None:
            model.unsettled += 1
            self.system.acts[model.id] = act
        crashed: SimulatedCrash | None = None
        try:
            held.conclusion = self.run(self.system.workers[worker].perform, held.job, crash=crash, by=worker)
        except SimulatedCrash as error:
            crashed = error
        if model is not None:
            self._performed(worker, held, model, before, act)
        if crashed is not None:
            self.note(f"worker {worker} dies at {crashed.point}")
            self.died(worker)
            return False
        if held.conclusion is None:
            self.held[worker].remove(held)
        elif model is None:
            assert isinstance(held.conclusion.outcome, Malformed), held.conclusion
        return True

    def _performed(self, worker: str, held: HeldDelivery, model: JobModel, before: int, act: Act) -> None:
        start = self.system.starts[before] if len(self.system.starts) > before else None
        if held.job.acked_early:
            model.acked_early, model.states, model.lease, model.held = True, {GONE}, None, None
        conclusion = held.conclusion
        if start is not None:
            self.note(f"{model.name} {act.name}")
            forgetful = self.same_key(model) or (model.key is not None and not model.counted)
            model.fenced_for = self.system.key_window if forgetful else float("inf")
            model.started(start)
            held.started = True
            if model.key is not None:
                model.deadline_of_key = self.now() + self.system.key_window
            if conclusion is not None:
                check_start(model, start, conclusion.verdict, self.system.unit)
        elif conclusion is not None:
            outcome = conclusion.outcome
            self.note(f"worker {worker} finds {model.name} {type(outcome).__name__.lower()}")
            self.forget_key(model)
            check_unstarted(model, outcome, conclusion.verdict, self.same_key(model), self.now())

    # ── settle ──

    def settle(self, worker: str, held: HeldDelivery, *, crash: int | None = None, cut: LostPart | None = None) -> None:
        """Make durable what it came to."""
        conclusion, model = held.conclusion, held.model
        if conclusion is None:
            return
        if model is None:
            self._settle_foreign(worker, held)
            return
        valid = self._is_valid(held)
        self.note_offered_outcome(held)
        if model.key is not None and isinstance(conclusion.verdict, Bury):
            self.forget_key(model)
        self.system.connection.cut("settle", cut)
        try:
            settled = self.run(self.system.workers[worker].settle, conclusion, crash=crash, by=worker)
        except SimulatedCrash as crashed:
            self.note(f"worker {worker} dies at {crashed.point}")
            model.disturbed = True
            if valid and not held.settled and not model.acked_early:
                self._crashed_settling(held, model, crashed)
            self.died(worker)
        except BrokerUnavailable:
            self.note(f"worker {worker} loses the connection while settling")
            model.disturbed = True
            if cut == "reply" and valid and not held.settled:
                self._apply_verdict(held, model)
            held.tried = True
        else:
            self.held[worker].remove(held)
            self._settled(worker, held, model, valid=valid, settled=settled)
        finally:
            self.system.connection.heal()
        self.check_letter(model)

    def _crashed_settling(self, held: HeldDelivery, model: JobModel, crash: SimulatedCrash) -> None:
        """Note what the broker knows after a crash, which depends on where the worker died."""
        if crash.point in AFTER_SETTLING:
            self._apply_verdict(held, model)
        elif crash.point not in BEFORE_SETTLING:
            model.maybe_settled(held.conclusion.verdict, self.now())  # type: ignore[union-attr]  # as below

    def _is_valid(self, held: HeldDelivery) -> bool:
        model = held.model
        return model is not None and model.held is held and self.now() < held.until

    def _settled(self, worker: str, held: HeldDelivery, model: JobModel, *, valid: bool, settled: bool) -> None:
        if model.acked_early:
            self._count(held)
        elif settled:
            self.note(f"worker {worker} settles {model.name}")
            if not valid and not held.tried and self.exact:
                model.violated("C7", "was settled under a lost lease")
            if not held.settled:
                self._apply_verdict(held, model)
            self._count(held)
        else:
            self.note(f"worker {worker} has lost {model.name}")
            self.expected_events["job.lost"] += 1
            if valid and self.exact:
                model.violated("C6", "was lost, although its lease is not over")

    def _apply_verdict(self, held: HeldDelivery, model: JobModel) -> None:
        held.settled = True
        model.settled(held.conclusion.verdict, self.now())  # type: ignore[union-attr]  # what is settled has a conclusion
        model.held = None
        model.unsettled -= held.performed
        model.unfinished -= held.started

    def _count(self, held: HeldDelivery) -> None:
        """Count what has to be among the events at the end."""
        conclusion = held.conclusion
        if conclusion is not None and isinstance(conclusion.verdict, Bury) and not held.job.acked_early:
            self.expected_events["job.buried"] += 1

    def _settle_foreign(self, worker: str, held: HeldDelivery) -> None:
        self.held[worker].remove(held)
        settled = self.run(self.system.workers[worker].settle, held.conclusion, by=worker)
        if settled:
            self.note(f"worker {worker} buries the stranger's bytes")
            self.check_foreign(held.job.delivery.envelope)
            self._count(held)

    # ── the rest ──

    def release(self, worker: str, held: HeldDelivery) -> None:
        """Give it back unstarted."""
        model, valid = held.model, self._is_valid(held)
        self.held[worker].remove(held)
        settled = self.run(self.system.workers[worker].release, held.job, by=worker)
        if model is None:
            return
        self.note(f"worker {worker} gives {model.name} back" if settled else f"worker {worker} has lost {model.name}")
        if settled != valid and self.exact:
            model.violated(
                "C7", f"was {'given back' if settled else 'lost'} although its lease is {'over' if settled else 'not'}"
            )
        if settled:
            model.states = {state._replace(due=self.now()) for state in model.states if state.place == "waiting"}
            model.lease = model.held = None
            self.expected_events["job.released"] += 1
        else:
            self.expected_events["job.lost"] += 1

    def extend(self, worker: str, held: HeldDelivery) -> None:
        """Start its lease anew."""
        valid = self._is_valid(held)
        extended = self.run(self.system.workers[worker].extend, held.job, by=worker)
        if held.model is None or held.model.acked_early:
            return
        self.note(f"worker {worker} {'extends' if extended else 'cannot extend'} its lease of {held.model.name}")
        if extended != valid and not held.settled and self.exact:
            held.model.violated("C6", f"has its lease {'revived after its end' if extended else 'ended too early'}")
        if extended and held.model.lease is not None and not held.settled:
            held.until = self.now() + self.system.harness.lease
            held.model.lease = held.model.lease._replace(until=held.until)

    def die(self, worker: str) -> None:
        """Let the worker die with everything that it holds; the broker may notice at once."""
        self.note(f"worker {worker} dies")
        if not self.exact:
            for held in self.held[worker]:
                if held.model is not None and held.model.held is held:
                    held.model.lease = None
        self.died(worker, surely=False)

    def wait(self, units: int) -> None:
        """Let time pass."""
        self.note(f"{units} pass")
        self.run(self.system.harness.sleep, units * self.system.unit)

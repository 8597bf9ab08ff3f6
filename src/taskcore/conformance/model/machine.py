"""The model: random sequences of client and worker steps, foreign bytes, crashes and lost replies, on any broker.

    TestModel = machine(Harness.in_memory).TestCase                                    # virtual time, real code
    TestModel = machine(lambda: Harness.at("redis://…"), real_time=True).TestCase      # real time, few examples

A Hypothesis state machine plays app, client and workers (all of them the real ones) beside a model of each job, and
compares after every step. It reports a failure as a list of steps, shrunk to those that matter:

    enqueue A; worker 1 takes A; A succeeds; worker 1 dies at settle.ended; … → C8 broken: A is gone from the broker, …

The rules here draw, :mod:`taskcore.conformance.model.rules` acts, :mod:`taskcore.conformance.model.job` knows what
is allowed. Hypothesis disables random rules in each example; ``swarm`` does the same with outcomes and with faults,
because an example in which everything happens never gets anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from operator import mul
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, settings, target
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from taskcore.conformance.harness import Harness
from taskcore.conformance.model.job import JobModel
from taskcore.conformance.model.rules import DELIVERY_EVENTS, ModelRules, open_rules
from taskcore.conformance.model.state import HeldDelivery
from taskcore.conformance.model.system import ACTS, WORKERS

__all__ = ["DEFAULT", "REAL_TIME", "ModelMachine", "machine"]

LIVE_JOBS = 3  #: live jobs; with more of them nothing happens often enough to any

#: The budget on memory: some seconds. And on a real broker: some minutes.
DEFAULT = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    report_multiple_bugs=False,
)
REAL_TIME = settings(DEFAULT, max_examples=30, stateful_step_count=30)

workers = st.sampled_from(WORKERS)
picks = st.integers(0, LIVE_JOBS - 1)
crashes = st.sampled_from([None, None, 1, 2, 3, 4])
cuts = st.sampled_from([None, None, "request", "reply"])
times = st.sampled_from([1, 31, 32, 33, 129])  # around a lease (32), and more than a key window (128)
names = st.sampled_from(sorted(ACTS))
delivery_events = st.sampled_from(DELIVERY_EVENTS)
lives = st.one_of(  # the same again and again is what limits are there for
    st.lists(delivery_events, min_size=2, max_size=6),
    st.builds(mul, st.lists(delivery_events, min_size=1, max_size=2), st.integers(2, 4)),
)


def when(condition: Callable[[Any], object], **drawn: Any) -> Callable[[Callable[..., None]], Any]:
    """Make a rule that acts only while a condition holds.

    In virtual time Hypothesis asks first and wastes no step. In real time the answer depends on the clock, and the same
    draws must lead to the same rules: there the rule is always drawn, and does nothing while the condition fails.
    """

    def decorate(function: Callable[..., None]) -> Any:
        @wraps(function)
        def guarded(self: ModelMachine, **values: Any) -> None:
            if not self.real_time or condition(self):
                function(self, **values)

        asked: Any = precondition(lambda self: self.real_time or bool(condition(self)))
        acts: Any = rule(**drawn)
        return asked(acts(guarded))

    return decorate


class ModelMachine(RuleBasedStateMachine):
    """The rules. ``machine`` gives it a harness."""

    make_harness: ClassVar[staticmethod[[], Harness]]
    real_time: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self._exits = ExitStack()
        self.model_rules: ModelRules = self._exits.enter_context(
            open_rules(type(self).make_harness, real_time=self.real_time)
        )
        self._acts: list[str] = sorted(ACTS)
        self._faults = True

    @initialize(acts=st.sets(names, min_size=1), faults=st.booleans())
    def swarm(self, acts: set[str], faults: bool) -> None:
        """What functions may come to in this story, and whether there are crashes and cuts."""
        self._acts, self._faults = sorted(acts), faults

    # ── clients ──

    @when(
        lambda self: self.is_room,
        key=st.sampled_from([None, None, "k"]),
        delay=st.sampled_from([0, 0, 8, 40]),
        expires=st.sampled_from([None, None, 4, 40]),
        once=st.sampled_from([False, False, False, True]),
        clash=st.sampled_from([False, False, False, True]),
        crash=crashes,
        cut=cuts,
    )
    def enqueue(self, key: Any, delay: int, expires: Any, once: Any, clash: Any, crash: Any, cut: Any) -> None:
        """A new job."""
        key = key if self.model_rules.system.store is not None and not once else None
        with self.model_rules.explaining():
            self.model_rules.enqueue(
                key=key,
                delay=delay,
                expires=None if key else expires,
                once=once,
                clash=clash and key is not None,
                crash=self._fault(crash),
                cut=self._fault(cut),
            )
            self.model_rules.look()

    @when(lambda self: self.repeatable, pick=picks, crash=crashes, cut=cuts)
    def enqueue_again(self, pick: int, crash: Any, cut: Any) -> None:
        """The same id once more."""
        with self.model_rules.explaining():
            self.model_rules.again(_choose(self.repeatable, pick), crash=self._fault(crash), cut=self._fault(cut))
            self.model_rules.look()

    @when(lambda self: self.cancellable, pick=picks, crash=crashes)
    def cancel(self, pick: int, crash: Any) -> None:
        """Keep a job from starting."""
        with self.model_rules.explaining():
            self.model_rules.cancel(_choose(self.cancellable, pick), crash=self._fault(crash))
            self.model_rules.look()

    @when(lambda self: self.buried and self.is_room, pick=picks)
    def replay(self, pick: int) -> None:
        """Send a dead letter's job again."""
        with self.model_rules.explaining():
            self.model_rules.replay(_choose(self.buried, pick))

    @when(lambda self: self.twinnable and self.is_room, pick=picks)
    def twin(self, pick: int) -> None:
        """Another job with the same key, sent by a program that knows nothing of claims."""
        with self.model_rules.explaining():
            self.model_rules.twin(_choose(self.twinnable, pick))

    @when(
        lambda self: len(self.model_rules.foreign) < LIVE_JOBS,
        data=st.sampled_from([b"", b"{", b"[]", b'{"v":1}', b"\xff\x00"]),
    )
    def stranger(self, data: bytes) -> None:
        """Bytes that are not ours."""
        if data not in self.model_rules.foreign:
            with self.model_rules.explaining():
                self.model_rules.put_foreign(data)

    # ── workers ──

    @rule(worker=workers, crash=crashes, cut=cuts)
    def take(self, worker: str, crash: Any, cut: Any) -> None:
        """Take the next job, if there is one."""
        with self.model_rules.explaining():
            self.model_rules.take(worker, crash=self._fault(crash), cut=self._fault(cut))

    @when(
        lambda self: any(self.startable(worker) for worker in WORKERS),
        worker=workers,
        pick=picks,
        act=names,
        crash=crashes,
        cut=cuts,
    )
    def work(self, worker: str, pick: int, act: str, crash: Any, cut: Any) -> None:
        """Perform and settle."""
        self._perform(worker, pick, act, crash, cut, settle=True)

    @when(lambda self: any(self.startable(worker) for worker in WORKERS), worker=workers, pick=picks, act=names)
    def perform(self, worker: str, pick: int, act: str) -> None:
        """Perform only; settling may come too late."""
        self._perform(worker, pick, act, None, None, settle=False)

    def _perform(self, worker: str, pick: int, act: str, crash: Any, cut: Any, *, settle: bool) -> None:
        worker = worker if self.startable(worker) else _other(worker)
        held = _choose(self.startable(worker), pick)
        act = act if act in self._acts else _choose(self._acts, pick)
        crash = self._fault(crash)
        with self.model_rules.explaining():
            alive = self.model_rules.perform(worker, held, ACTS[act], crash=crash if settle else None)
            if alive and settle:
                self.model_rules.settle(worker, held, crash=crash, cut=self._fault(cut))
            self.model_rules.look()

    @when(
        lambda self: any(self.concluded(worker) for worker in WORKERS),
        worker=workers,
        pick=picks,
        crash=crashes,
        cut=cuts,
    )
    def settle(self, worker: str, pick: int, crash: Any, cut: Any) -> None:
        """Settle what was performed before."""
        worker = worker if self.concluded(worker) else _other(worker)
        with self.model_rules.explaining():
            held = _choose(self.concluded(worker), pick)
            self.model_rules.settle(worker, held, crash=self._fault(crash), cut=self._fault(cut))
            self.model_rules.look()

    @when(lambda self: any(self.startable(worker) for worker in WORKERS), worker=workers, pick=picks)
    def release(self, worker: str, pick: int) -> None:
        """Give a job back unstarted."""
        worker = worker if self.startable(worker) else _other(worker)
        with self.model_rules.explaining():
            self.model_rules.release(worker, _choose(self.startable(worker), pick))

    @when(lambda self: any(self.model_rules.held.values()), worker=workers, pick=picks)
    def extend(self, worker: str, pick: int) -> None:
        """Extend a lease, or try to."""
        worker = worker if self.model_rules.held[worker] else _other(worker)
        with self.model_rules.explaining():
            self.model_rules.extend(worker, _choose(self.model_rules.held[worker], pick))

    @when(lambda self: any(self.model_rules.held.values()), worker=workers)
    def die(self, worker: str) -> None:
        """The worker's process is gone, and what it held in its hands comes back later."""
        with self.model_rules.explaining():
            self.model_rules.die(worker)

    @rule(units=times)
    def wait(self, units: int) -> None:
        """Time passes."""
        with self.model_rules.explaining():
            self.model_rules.wait(units)
            self.model_rules.look()

    @when(lambda self: self.is_room, events=lives, key=st.sampled_from([None, None, "k"]))
    def live(self, events: list[str], key: str | None) -> None:
        """A whole life: single steps hardly ever make the same job fail three times."""
        with self.model_rules.explaining():
            self.model_rules.live(events, key=key if self.model_rules.system.store is not None else None)
            self.model_rules.look()

    def teardown(self) -> None:
        """Heal, drain, and see whether everything adds up."""
        with self._exits:
            if self.model_rules.failed or not self.model_rules.models:
                return
            with self.model_rules.explaining():
                self.model_rules.finish()
            target(float(max(len(model.starts) for model in self.model_rules.models)), label="starts of one job")

    # ── what there is ──

    @property
    def is_room(self) -> bool:
        """Whether another job may live."""
        return len([model for model in self.model_rules.models if model.may_wait and model.certain]) < LIVE_JOBS

    @property
    def repeatable(self) -> list[JobModel]:
        """Jobs whose id may be sent again: still there, or ended a moment ago; where a broker notices that at all."""
        if self.model_rules.system.harness.features.dedup == "absent":
            return []
        lately = self.model_rules.now() - self.model_rules.system.harness.features.dedup_window / 2
        return [
            model
            for model in self.model_rules.models
            if (model.certain and model.key is None and model.replays is None and not model.disturbed)
            and (not model.is_over or (model.over_at is not None and model.over_at > lately))
        ]

    @property
    def cancellable(self) -> list[JobModel]:
        """Jobs that a client may cancel."""
        return (
            [model for model in self.model_rules.models if model.certain][-LIVE_JOBS:]
            if self.model_rules.system.store
            else []
        )

    @property
    def twinnable(self) -> list[JobModel]:
        """Jobs with a key."""
        return [model for model in self.model_rules.models if model.key is not None]

    @property
    def buried(self) -> list[JobModel]:
        """Jobs with a dead letter."""
        return [model for model in self.model_rules.models if {state.place for state in model.states} == {"buried"}]

    def startable(self, worker: str) -> list[HeldDelivery]:
        """What was taken, not performed, and is still ours by our own clock."""
        now = self.model_rules.now() + self.model_rules.margin / 2
        return [held for held in self.model_rules.held[worker] if not held.performed and now < held.until]

    def concluded(self, worker: str) -> list[HeldDelivery]:
        """What may be settled: performed, and not tried before unless its lease is ours by our own clock."""
        return [
            held
            for held in self.model_rules.held[worker]
            if held.conclusion is not None and (not held.tried or self.model_rules.now() < held.until)
        ]

    def _fault(self, fault: Any) -> Any:
        return fault if self._faults else None


def _choose(things: list[Any], pick: int) -> Any:
    return things[pick % len(things)]


def _other(worker: str) -> str:
    return WORKERS[1 - WORKERS.index(worker)]


def machine(
    make_harness: Callable[[], Harness], *, real_time: bool = False, budget: settings | None = None
) -> type[ModelMachine]:
    """A state machine on harnesses made by ``make_harness``; its ``TestCase`` is a test for pytest and unittest.

    :param real_time: the broker is a real one.
    :param budget: Hypothesis settings; default: ``DEFAULT``, or ``REAL_TIME``.
    """

    class Model(ModelMachine):
        pass

    Model.make_harness = staticmethod(make_harness)
    Model.real_time = real_time
    Model.TestCase.settings = budget or (REAL_TIME if real_time else DEFAULT)
    return Model

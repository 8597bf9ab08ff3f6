"""The model: random stories of clients, workers, strangers, crashes and cuts, against any broker.

    TestModel = machine(Stage.in_memory).TestCase                                    # virtual time, real code
    TestModel = machine(lambda: Stage.at("redis://…"), real_time=True).TestCase      # real time, few examples

A Hypothesis state machine plays app, client and workers (all of them the real ones) beside a model of each job, and
compares after every step. What it finds it tells as a story, shrunk to the sentences that matter:

    enqueue A; worker 1 takes A; A succeeds; worker 1 dies at settle.ended; … → C8 broken: A is gone from the broker, …

The rules draw, :mod:`taskcore.conformance.model.rules` plays, :mod:`taskcore.conformance.model.job` knows what is
allowed. Hypothesis disables random rules in each example; ``swarm`` does the same with outcomes and with faults, because a
story in which everything happens never gets anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from operator import mul
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, settings, target
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from taskcore.conformance.harness import Harness
from taskcore.conformance.model.job import Tale
from taskcore.conformance.model.rules import FATES, Play, playing
from taskcore.conformance.model.state import Item
from taskcore.conformance.model.system import ACTS, SEATS

__all__ = ["DEFAULT", "REAL_TIME", "Machine", "machine"]

AT_ONCE = 3  #: live jobs; with more of them nothing happens often enough to any

#: The budget on memory: some seconds. And on a real broker: some minutes.
DEFAULT = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    report_multiple_bugs=False,
)
REAL_TIME = settings(DEFAULT, max_examples=30, stateful_step_count=20)

seats = st.sampled_from(SEATS)
picks = st.integers(0, AT_ONCE - 1)
crashes = st.sampled_from([None, None, 1, 2, 3, 4])
cuts = st.sampled_from([None, None, "request", "reply"])
times = st.sampled_from([1, 31, 32, 33, 129])  # around a lease (32), and more than a key window (128)
names = st.sampled_from(sorted(ACTS))
fates = st.sampled_from(FATES)
lives = st.one_of(  # the same again and again is what limits are there for
    st.lists(fates, min_size=2, max_size=6),
    st.builds(mul, st.lists(fates, min_size=1, max_size=2), st.integers(2, 4)),
)


class Machine(RuleBasedStateMachine):
    """The rules. ``machine`` gives it a stage."""

    make_stage: ClassVar[staticmethod[[], Harness]]
    real_time: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self._exits = ExitStack()
        self.play: Play = self._exits.enter_context(playing(type(self).make_stage, real_time=self.real_time))
        self._acts: list[str] = sorted(ACTS)
        self._faults = True

    @initialize(acts=st.sets(names, min_size=1), faults=st.booleans())
    def swarm(self, acts: set[str], faults: bool) -> None:
        """What functions may come to in this story, and whether there are crashes and cuts."""
        self._acts, self._faults = sorted(acts), faults

    # ── clients ──

    @precondition(lambda self: self.is_room)
    @rule(
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
        key = key if self.play.world.store is not None and not once else None
        with self.play.telling():
            self.play.enqueue(
                key=key,
                delay=delay,
                expires=None if key else expires,
                once=once,
                clash=clash and key is not None,
                crash=self._fault(crash),
                cut=self._fault(cut),
            )
            self.play.look()

    @precondition(lambda self: self.repeatable)
    @rule(pick=picks, crash=crashes, cut=cuts)
    def enqueue_again(self, pick: int, crash: Any, cut: Any) -> None:
        """The same id once more."""
        with self.play.telling():
            self.play.again(_choose(self.repeatable, pick), crash=self._fault(crash), cut=self._fault(cut))
            self.play.look()

    @precondition(lambda self: self.cancellable)
    @rule(pick=picks, crash=crashes)
    def cancel(self, pick: int, crash: Any) -> None:
        """Keep a job from starting."""
        with self.play.telling():
            self.play.cancel(_choose(self.cancellable, pick), crash=self._fault(crash))
            self.play.look()

    @precondition(lambda self: self.buried and self.is_room)
    @rule(pick=picks)
    def replay(self, pick: int) -> None:
        """Send a dead letter's job again."""
        with self.play.telling():
            self.play.replay(_choose(self.buried, pick))

    @precondition(lambda self: self.twinnable and self.is_room)
    @rule(pick=picks)
    def twin(self, pick: int) -> None:
        """Another job with the same key, sent by a program that knows nothing of claims."""
        with self.play.telling():
            self.play.twin(_choose(self.twinnable, pick))

    @precondition(lambda self: len(self.play.foreign) < AT_ONCE)
    @rule(data=st.sampled_from([b"", b"{", b"[]", b'{"v":1}', b"\xff\x00"]))
    def stranger(self, data: bytes) -> None:
        """Bytes that are not ours."""
        if data not in self.play.foreign:
            with self.play.telling():
                self.play.put_foreign(data)

    # ── workers ──

    @rule(seat=seats, crash=crashes, cut=cuts)
    def take(self, seat: str, crash: Any, cut: Any) -> None:
        """Take the next job, if there is one."""
        with self.play.telling():
            self.play.take(seat, crash=self._fault(crash), cut=self._fault(cut))

    @precondition(lambda self: any(self.startable(seat) for seat in SEATS))
    @rule(seat=seats, pick=picks, act=names, crash=crashes, cut=cuts)
    def work(self, seat: str, pick: int, act: str, crash: Any, cut: Any) -> None:
        """Perform and settle."""
        self._perform(seat, pick, act, crash, cut, settle=True)

    @precondition(lambda self: any(self.startable(seat) for seat in SEATS))
    @rule(seat=seats, pick=picks, act=names)
    def perform(self, seat: str, pick: int, act: str) -> None:
        """Perform only; settling may come too late."""
        self._perform(seat, pick, act, None, None, settle=False)

    def _perform(self, seat: str, pick: int, act: str, crash: Any, cut: Any, *, settle: bool) -> None:
        seat = seat if self.startable(seat) else _other(seat)
        item = _choose(self.startable(seat), pick)
        act = act if act in self._acts else _choose(self._acts, pick)
        crash = self._fault(crash)
        with self.play.telling():
            alive = self.play.perform(seat, item, ACTS[act], crash=crash if settle else None)
            if alive and settle:
                self.play.settle(seat, item, crash=crash, cut=self._fault(cut))
            self.play.look()

    @precondition(lambda self: any(self.concluded(seat) for seat in SEATS))
    @rule(seat=seats, pick=picks, crash=crashes, cut=cuts)
    def settle(self, seat: str, pick: int, crash: Any, cut: Any) -> None:
        """Settle what was performed before."""
        seat = seat if self.concluded(seat) else _other(seat)
        with self.play.telling():
            item = _choose(self.concluded(seat), pick)
            self.play.settle(seat, item, crash=self._fault(crash), cut=self._fault(cut))
            self.play.look()

    @precondition(lambda self: any(self.startable(seat) for seat in SEATS))
    @rule(seat=seats, pick=picks)
    def release(self, seat: str, pick: int) -> None:
        """Give a job back unstarted."""
        seat = seat if self.startable(seat) else _other(seat)
        with self.play.telling():
            self.play.release(seat, _choose(self.startable(seat), pick))

    @precondition(lambda self: any(self.play.items.values()))
    @rule(seat=seats, pick=picks)
    def extend(self, seat: str, pick: int) -> None:
        """Extend a lease, or try to."""
        seat = seat if self.play.items[seat] else _other(seat)
        with self.play.telling():
            self.play.extend(seat, _choose(self.play.items[seat], pick))

    @precondition(lambda self: any(self.play.items.values()))
    @rule(seat=seats)
    def die(self, seat: str) -> None:
        """The worker's process is gone, and what it held in its hands comes back later."""
        with self.play.telling():
            self.play.die(seat)

    @rule(units=times)
    def wait(self, units: int) -> None:
        """Time passes."""
        with self.play.telling():
            self.play.wait(units)
            self.play.look()

    @precondition(lambda self: self.is_room)
    @rule(fates=lives, key=st.sampled_from([None, None, "k"]))
    def live(self, fates: list[str], key: str | None) -> None:
        """A whole life: single steps hardly ever make the same job fail three times."""
        with self.play.telling():
            self.play.live(fates, key=key if self.play.world.store is not None else None)
            self.play.look()

    def teardown(self) -> None:
        """Heal, drain, and see whether everything adds up."""
        with self._exits:
            if self.play.failed or not self.play.tales:
                return
            with self.play.telling():
                self.play.finish()
            target(float(max(len(tale.starts) for tale in self.play.tales)), label="starts of one job")

    # ── what there is ──

    @property
    def is_room(self) -> bool:
        """Whether another job may live."""
        return len([tale for tale in self.play.tales if tale.may_wait and tale.certain]) < AT_ONCE

    @property
    def repeatable(self) -> list[Tale]:
        """Jobs whose id may be sent again: still there, or ended a moment ago; where a broker notices that at all."""
        if self.play.world.stage.features.dedup == "absent":
            return []
        lately = self.play.now() - self.play.world.stage.features.dedup_window / 2
        return [
            tale
            for tale in self.play.tales
            if (tale.certain and tale.key is None and tale.replays is None and not tale.disturbed)
            and (not tale.is_over or (tale.over_at is not None and tale.over_at > lately))
        ]

    @property
    def cancellable(self) -> list[Tale]:
        """Jobs that somebody may want to cancel."""
        return [tale for tale in self.play.tales if tale.certain][-AT_ONCE:] if self.play.world.store else []

    @property
    def twinnable(self) -> list[Tale]:
        """Jobs with a key."""
        return [tale for tale in self.play.tales if tale.key is not None]

    @property
    def buried(self) -> list[Tale]:
        """Jobs with a dead letter."""
        return [tale for tale in self.play.tales if {state.place for state in tale.states} == {"buried"}]

    def startable(self, seat: str) -> list[Item]:
        """What was taken, not performed, and is still ours by our own clock."""
        now = self.play.now() + self.play.margin / 2
        return [item for item in self.play.items[seat] if not item.performed and now < item.until]

    def concluded(self, seat: str) -> list[Item]:
        """What may be settled: performed, and not tried before unless its lease is ours by our own clock."""
        return [
            item
            for item in self.play.items[seat]
            if item.conclusion is not None and (not item.tried or self.play.now() < item.until)
        ]

    def _fault(self, fault: Any) -> Any:
        return fault if self._faults else None


def _choose(things: list[Any], pick: int) -> Any:
    return things[pick % len(things)]


def _other(seat: str) -> str:
    return SEATS[1 - SEATS.index(seat)]


def machine(
    make_stage: Callable[[], Harness], *, real_time: bool = False, budget: settings | None = None
) -> type[Machine]:
    """A state machine on stages made by ``make_stage``; its ``TestCase`` is a test for pytest and unittest.

    :param real_time: the broker is a real one.
    :param budget: Hypothesis settings; default: ``DEFAULT``, or ``REAL_TIME``.
    """

    class Model(Machine):
        pass

    Model.make_stage = staticmethod(make_stage)
    Model.real_time = real_time
    Model.TestCase.settings = budget or (REAL_TIME if real_time else DEFAULT)
    return Model

"""The scene: a world, what the model believes of it, and the story so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import Any

from taskcore.conformance.checking import PromisesBroken
from taskcore.conformance.model.job import Broken, Tale
from taskcore.conformance.model.steps import Steps
from taskcore.conformance.model.system import CLIENT, SEATS, World
from taskcore.envelope import decode_envelope
from taskcore.errors import MalformedEnvelope
from taskcore.results import decode_outcome
from taskcore.testing.crash_points import crash_at
from taskcore.toolkit.failpoints import FAILPOINTS
from taskcore.worker.decide import Settlement
from taskcore.worker.execution import Execution

__all__ = ["Item", "Scene"]


def _same_outcome(one: Tale, other: Tale) -> bool:
    first, second = one.ending, other.ending
    return first is not None and second is not None and bytes(first.result) == bytes(second.result)


class Item:
    """A delivery in somebody's hands. ``tale`` None: bytes that somebody else put there."""

    def __init__(self, tale: Tale | None, job: Execution, until: float) -> None:
        self.tale, self.job, self.until = tale, job, until
        self.conclusion: Settlement | None = None
        self.started = self.performed = self.tried = self.told = False


class Scene:
    """Everything that the verbs of the model share.

    :param exact: time is virtual, so nothing is ever late and each lease ends at a known moment.
    """

    def __init__(self, world: World, step: Steps, *, exact: bool) -> None:
        self.world, self.step, self.exact = world, step, exact
        self.tales: list[Tale] = []
        self.items: dict[str, list[Item]] = {seat: [] for seat in SEATS}
        self.foreign: set[bytes] = set()
        self.story: list[str] = []
        self.told: Counter[str] = Counter()  # events that have to be there at the end (C19)
        self.clock = 0.0
        self.dark_until = float("-inf")  # until when somebody dead may hold something that we do not know of
        self.failed = False
        self.margin = 0.0

    def tell(self, sentence: str) -> None:
        """One more sentence of the story."""
        self.story.append(sentence)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Whatever goes wrong inside becomes a story."""
        try:
            yield
        except Broken as broken:
            self.failed = True
            story = Broken(broken.clause, broken.what)
            story.args = (f"{'; '.join(self.story)} → {broken}",)
            raise story from None
        except PromisesBroken as broken:
            self.failed = True
            raise PromisesBroken(broken.report, "; ".join(self.story)) from None
        except Exception as error:
            self.failed = True
            error.add_note(f"story: {'; '.join(self.story)}")
            raise

    def run(self, function: Callable[..., Any], *args: Any, crash: int | None = None, by: str = CLIENT) -> Any:
        """One step of the world, perhaps ended by a crash at the so-manieth point that it passes.

        :param by: who does it: a client, a stranger, or the worker on this seat.
        """
        try:
            # Where a retry is two steps, a death in between leaves two jobs: the sweep plays that, not this model.
            among = None if self.world.stage.features.atomic_retry else FAILPOINTS
            with crash_at(visit=crash, among=among), self.world.cast.acting(self.world.names[by]):
                return self.step(self.world.at_once, function, *args)
        finally:
            self.clock = self.world.last

    def now(self) -> float:
        """The world's time after the last step."""
        return self.clock

    # ── looking ──

    def look(self) -> None:
        """What the store says about the ends of all jobs."""
        if self.world.store is None:
            return
        for tale in self.tales:
            tale.observe(self.run(self.world.ending, tale.id), self.now())
        self.check_keys()

    def check_keys(self) -> None:
        """One committed outcome for a key within its window, and everybody with that key gets it (C10)."""
        done = [(t, t.committed_at) for t in self.tales if t.committed_at is not None]
        for (one, first), (other, second) in combinations(done, 2):
            near = abs(first - second) < self.world.key_window
            if one.key is not None and one.key == other.key and near and not _same_outcome(one, other):
                one.broken("C10", f"and {other.name} have one key and two outcomes")

    def tale_of(self, envelope: bytes) -> Tale | None:
        """Whose bytes these are; None: somebody else's."""
        if envelope in self.foreign:
            return None
        try:
            job_id = decode_envelope(envelope).id
        except MalformedEnvelope:
            raise Broken("C2", f"bytes that nobody sent were handed out: {envelope!r}") from None
        for tale in self.tales:
            if tale.id == job_id:
                return tale
        raise Broken("C2", f"a job that nobody enqueued was handed out: {job_id}")

    def same_key(self, tale: Tale) -> list[Tale]:
        """The other jobs with its key."""
        return [other for other in self.tales if other is not tale and tale.key is not None and other.key == tale.key]

    def forget_key(self, tale: Tale) -> None:
        """Its key may be free from now on."""
        for one in (tale, *self.same_key(tale)):
            one.deadline_of_key = float("-inf")

    def offer(self, item: Item) -> None:
        """Somebody is about to write this ending."""
        if item.tale is not None and item.conclusion is not None and item.conclusion.stored is not None:
            ending = decode_outcome(item.conclusion.stored)
            item.tale.endings_offered.append(ending)
            if item.started:
                item.tale.own_offers.append((ending, self.now()))

    def died(self, seat: str, *, surely: bool = True) -> None:
        """The worker on this seat is dead; another one sits down.

        :param surely: else he died only if he held something; without that nobody can tell it from leaving.
        """
        died = surely or bool(self.items[seat])
        self.items[seat].clear()
        self.run(self.world.die if died else self.world.seat, seat)

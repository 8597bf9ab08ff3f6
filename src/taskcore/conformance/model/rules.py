"""A play: the verbs of the model put together, whole lives of jobs, and the end at which everything has to add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from taskcore.conformance.checking import Report
from taskcore.conformance.harness import Harness
from taskcore.conformance.model.job import ABSENT, Tale
from taskcore.conformance.model.state import Item
from taskcore.conformance.model.steps import real_steps, virtual_steps
from taskcore.conformance.model.system import ACTS, KEEP_UNITS, World
from taskcore.conformance.model.working import Working

__all__ = ["FATES", "Play", "playing"]

ROUNDS = 300  #: hand-outs after which what is left will never end
FOREVER = 8 * 86_400.0  #: seconds after which nothing of ours may be left in a store
LONGEST = 200  #: units: longer than any pause before another attempt, and than any lease

#: What may happen to one delivery in a life: what the function does, or how the worker fails.
FATES = (
    *ACTS,
    "its worker dies running it",
    "its worker dies before it starts",
    "its lease ends",
    "another worker has it meanwhile",
    "another worker ends it meanwhile",
    "another job has its key meanwhile",
    "it is given back",
)


class Play(Working):
    """Everything that may happen, and the end."""

    def live(self, fates: Sequence[str], *, key: str | None = None) -> None:
        """The life of one job: a delivery for each of these fates, as long as it goes on."""
        tale = self.enqueue(key=key)
        for fate in fates:
            item = None if tale.is_over else self._take_own(tale)
            if item is None:
                return
            self._suffer(item, fate)

    def _take_own(self, tale: Tale) -> Item | None:
        """Its next delivery; whatever else is in the way is worked off, so that no fate is wasted on it."""
        for _ in range(ROUNDS):
            item = self.take("1", patience=LONGEST * self.world.unit)
            if item is None or item.tale is tale:
                return item
            self.work("1", item, "succeeds")
        return None

    def _suffer(self, item: Item, fate: str) -> None:
        match fate:
            case "its worker dies running it":
                if self.perform("1", item, ACTS["succeeds"]):
                    self.die("1")
            case "its worker dies before it starts":
                self.die("1")
            case "it is given back":
                self.release("1", item)
            case "its lease ends":
                self.perform("1", item, ACTS["succeeds"])
                self.wait(33)
                self.extend("1", item)
                self.settle("1", item)
            case "another worker has it meanwhile":
                self._overtake(item, "fails")
            case "another worker ends it meanwhile":
                self._overtake(item, "rejects")
            case "another job has its key meanwhile":
                self._lose_key(item)
            case _:
                self.work("1", item, fate)

    def _overtake(self, item: Item, act: str) -> None:
        """One worker is too slow, the next one has it; whoever has it last settles first if that ends the job."""
        self.perform("1", item, ACTS["succeeds"])
        self.wait(33)
        other = self.take("2")
        if other is not None:
            self.perform("2", other, ACTS[act])
            if act == "rejects":
                self.settle("2", other)
            self.look()
        self.extend("1", item)
        self.settle("1", item)
        self.look()
        if other is not None and other in self.items["2"]:
            self.settle("2", other)

    def _lose_key(self, item: Item) -> None:
        """Its hold ends with its lease; another job takes the key and is done before the first one settles."""
        self.perform("1", item, ACTS["succeeds"])
        if item.tale is not None and item.tale.key is not None:
            self.twin(item.tale)
        self.wait(33)
        self.take("2")
        other = self.take("2")
        if other is not None:
            self.work("2", other, "succeeds")
            self.look()
        self.settle("1", item)
        self.look()
        self.die("2")

    def work(self, seat: str, item: Item, act: str) -> None:
        """Perform and settle."""
        if self.perform(seat, item, ACTS[act]):
            self.settle(seat, item)

    # ── the end ──

    def finish(self) -> None:
        """Heal everything, let healthy workers drain the queue, and see whether it adds up: C1, C4, C13, C19, C23."""
        self.tell("everything heals")
        self.world.line.heal()
        for seat in self.items:
            self.die(seat)
        self._drain()
        for tale in self.tales:
            if tale.asked and tale.ending is None and not tale.once and self.world.store is not None:
                self.cancel(tale)  # whoever was interrupted while cancelling asks again
        self.look()
        for tale in self.tales:
            self._check_end(tale)
        self._check_letters()
        self._check_events()
        self._judge()
        if self.exact:
            self._check_storage()

    def _drain(self) -> None:
        for _ in range(ROUNDS):
            if not self.exact and self._is_empty():
                return  # to wait for nothing, once in each story, would take most of the time
            item = self.take("1", patience=LONGEST * self.world.unit)
            if item is None:
                return
            self.work("1", item, "succeeds")
            self.look()
        going_on = ", ".join(tale.name for tale in self.tales if not tale.is_over)
        self.tales[-1].broken("C4", f"or another ({going_on}) goes on for ever")

    def _is_empty(self) -> bool:
        if self.world.stage.features.counts == "absent":  # zeros say nothing about what others hold
            return False
        stats = self.run(self.world.app.stats, self.world.queue)
        return not stats.ready + stats.leased + stats.scheduled

    def _check_end(self, tale: Tale) -> None:
        if tale.is_over and tale.asked and tale.ending is None and not tale.once and self.world.store is not None:
            tale.broken("C4", "is cancelled, and nobody will ever read how it ended")
        if tale.is_over or ABSENT in tale.states or not tale.certain:
            return
        tale.broken("C1", "is lost: it is nowhere, and nothing says how it ended")

    def _check_letters(self) -> None:
        for tale in self.tales:
            self.check_letter(tale)
            if tale.is_over and {state.place for state in tale.states} == {"gone"} and self.letters_of(tale):
                tale.broken("C13", f"ended as {tale.ending.state if tale.ending else 'gone'} and has a dead letter")

    def _check_events(self) -> None:
        """Nothing goes by without its event (C19)."""
        happened = Counter(self.world.app.counters)
        for name, times in self.told.items():
            if happened[name] < times:
                self.tales[-1].broken(
                    "C19", f"or another was {name} without the event: {times}, counted {happened[name]}"
                )

    def _judge(self) -> None:
        """The checker of all tests has the same opinion, from what was written down and from what is left alone."""
        report: Report = self.run(self.world.judge)
        report.expect_kept()

    def _check_storage(self) -> None:
        """After its time nothing is left but dead letters (C23)."""
        stats = self.run(self.world.app.stats, self.world.queue)
        if stats.ready or stats.leased or stats.scheduled:
            self.tales[-1].broken("C23", f"or another is left in the queue: {stats}")
        for tale in self.tales:
            markers = self.run(self.world.markers, tale.id)
            if markers and not tale.disturbed:
                tale.broken("C23", f"left behind {markers}")
        self.run(self.world.stage.sleep, FOREVER + KEEP_UNITS * self.world.unit)
        left = self.run(self.world.records)
        if left:
            self.tales[-1].broken("C23", f"or another left behind {left}")


@contextmanager
def playing(make_stage: Callable[[], Harness], *, real_time: bool = False) -> Iterator[Play]:
    """A play on a new stage."""
    with real_steps() if real_time else virtual_steps() as step:
        stage = make_stage()
        world = World(stage, patience=0.3 * stage.lease if real_time else stage.lease / 4096)
        step(world.open)
        try:
            play = Play(world, step, exact=not real_time)
            play.margin = stage.margin + stage.features.delay_error
            yield play
        finally:
            step(world.close)

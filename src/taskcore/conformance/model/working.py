"""What workers do in the model: take, perform, settle, give back, extend, die."""

from __future__ import annotations

from typing import Any

from taskcore.conformance.model.connection_faults import Cut
from taskcore.conformance.model.expect import check_start, check_unstarted
from taskcore.conformance.model.job import GONE, Tale
from taskcore.conformance.model.sending import Sending
from taskcore.conformance.model.state import Item
from taskcore.conformance.model.system import Act
from taskcore.errors import BrokerUnavailable
from taskcore.lifecycle import Bury, Malformed
from taskcore.testing.crash_points import SimulatedCrash

__all__ = ["Working"]

BEFORE_TELLING = {"settle.committed", "settle.ended"}
AFTER_TELLING = {"settle.settled"}


class Working(Sending):
    """The workers' verbs."""

    # ── take ──

    def take(
        self, seat: str, *, patience: float | None = None, crash: int | None = None, cut: Cut | None = None
    ) -> Item | None:
        """The next job for this seat."""
        self.world.line.cut("receive", "reply" if cut else None)
        lease = self.world.stage.lease
        try:
            job, taken = self.run(self.world.take, seat, patience, crash=crash, by=seat)
        except (SimulatedCrash, BrokerUnavailable) as error:
            self.dark_until = self.now() + lease + self.margin
            for tale in self.tales:
                tale.unstarted_losses += tale.may_wait
            if isinstance(error, SimulatedCrash):
                self.tell(f"worker {seat} dies at {error.point}")
                self.died(seat)
            else:
                self.tell(f"worker {seat} takes something, the connection breaks")
            return None
        finally:
            self.world.line.heal()
        if job is None:
            self.tell(f"worker {seat} finds nothing")
            self._check_nothing_is_there()
            return None
        return self._took(seat, job, taken, lease)

    def _took(self, seat: str, job: Any, taken: float, lease: float) -> Item:
        delivery = job.delivery
        tale = self.tale_of(delivery.envelope)
        item = Item(tale, job, taken + lease)
        self.items[seat].append(item)
        if tale is None:
            self.tell(f"worker {seat} takes the stranger's bytes")
            return item
        self.tell(f"worker {seat} takes {tale.name}")
        if isinstance(tale.item, Item):
            tale.lost(performed=tale.item.performed)
        tale.item = item
        self.check_replayed(tale, delivery.envelope, delivery.trail)
        if delivery.envelope not in self.world.line.sent[tale.id]:
            tale.broken("C2", "came with other bytes than were sent")
        tale.handed_out(seat, taken, lease, delivery.trail, delivery.redeliveries)
        return item

    def _check_nothing_is_there(self) -> None:
        """What is due and in nobody's hands is handed out to whoever asks (C4)."""
        now = self.now() - self.margin
        for tale in self.tales:
            due = tale.surely_waits and tale.certain and all(state.due < now for state in tale.states)
            free = tale.hold is None or tale.hold.until < now
            if due and free and self.dark_until < now and self.exact:
                tale.broken("C4", "is due and in nobody's hands, but nobody gets it")

    # ── perform ──

    def perform(self, seat: str, item: Item, act: Act, *, crash: int | None = None) -> bool:
        """Run it; False if the worker died."""
        tale, before = item.tale, len(self.world.starts)
        item.performed = True
        if tale is not None:
            tale.unsettled += 1
            self.world.acts[tale.id] = act
        crashed: SimulatedCrash | None = None
        try:
            item.conclusion = self.run(self.world.hands[seat].perform, item.job, crash=crash, by=seat)
        except SimulatedCrash as error:
            crashed = error
        if tale is not None:
            self._performed(seat, item, tale, before, act)
        if crashed is not None:
            self.tell(f"worker {seat} dies at {crashed.point}")
            self.died(seat)
            return False
        if item.conclusion is None:
            self.items[seat].remove(item)
        elif tale is None:
            assert isinstance(item.conclusion.outcome, Malformed), item.conclusion
        return True

    def _performed(self, seat: str, item: Item, tale: Tale, before: int, act: Act) -> None:
        start = self.world.starts[before] if len(self.world.starts) > before else None
        if item.job.acked_early:
            tale.forgotten, tale.states, tale.hold, tale.item = True, {GONE}, None, None
        conclusion = item.conclusion
        if start is not None:
            self.tell(f"{tale.name} {act.name}")
            forgetful = self.same_key(tale) or (tale.key is not None and not tale.counted)
            tale.fenced_for = self.world.key_window if forgetful else float("inf")
            tale.started(start)
            item.started = True
            if tale.key is not None:
                tale.deadline_of_key = self.now() + self.world.key_window
            if conclusion is not None:
                check_start(tale, start, conclusion.verdict, self.world.unit)
        elif conclusion is not None:
            outcome = conclusion.outcome
            self.tell(f"worker {seat} finds {tale.name} {type(outcome).__name__.lower()}")
            self.forget_key(tale)
            check_unstarted(tale, outcome, conclusion.verdict, self.same_key(tale), self.now())

    # ── settle ──

    def settle(self, seat: str, item: Item, *, crash: int | None = None, cut: Cut | None = None) -> None:
        """Make durable what it came to."""
        conclusion, tale = item.conclusion, item.tale
        if conclusion is None:
            return
        if tale is None:
            self._settle_foreign(seat, item)
            return
        valid = self._is_valid(item)
        self.offer(item)
        if tale.key is not None and isinstance(conclusion.verdict, Bury):
            self.forget_key(tale)
        self.world.line.cut("settle", cut)
        try:
            settled = self.run(self.world.hands[seat].settle, conclusion, crash=crash, by=seat)
        except SimulatedCrash as crashed:
            self.tell(f"worker {seat} dies at {crashed.point}")
            tale.disturbed = True
            if valid and not item.told and not tale.forgotten:
                self._crashed_settling(item, tale, crashed)
            self.died(seat)
        except BrokerUnavailable:
            self.tell(f"worker {seat} loses the connection while settling")
            tale.disturbed = True
            if cut == "reply" and valid and not item.told:
                self._told(item, tale)
            item.tried = True
        else:
            self.items[seat].remove(item)
            self._settled(seat, item, tale, valid=valid, settled=settled)
        finally:
            self.world.line.heal()
        self.check_letter(tale)

    def _crashed_settling(self, item: Item, tale: Tale, crash: SimulatedCrash) -> None:
        """What the broker knows depends on where the worker died."""
        if crash.point in AFTER_TELLING:
            self._told(item, tale)
        elif crash.point not in BEFORE_TELLING:
            tale.perhaps_told(item.conclusion.verdict, self.now())  # type: ignore[union-attr]  # as below

    def _is_valid(self, item: Item) -> bool:
        tale = item.tale
        return tale is not None and tale.item is item and self.now() < item.until

    def _settled(self, seat: str, item: Item, tale: Tale, *, valid: bool, settled: bool) -> None:
        if tale.forgotten:
            self._count(item)
        elif settled:
            self.tell(f"worker {seat} settles {tale.name}")
            if not valid and not item.tried and self.exact:
                tale.broken("C7", "was settled under a lost lease")
            if not item.told:
                self._told(item, tale)
            self._count(item)
        else:
            self.tell(f"worker {seat} has lost {tale.name}")
            self.told["job.lost"] += 1
            if valid and self.exact:
                tale.broken("C6", "was lost, although its lease is not over")

    def _told(self, item: Item, tale: Tale) -> None:
        item.told = True
        tale.told(item.conclusion.verdict, self.now())  # type: ignore[union-attr]  # who settles has concluded
        tale.item = None
        tale.unsettled -= item.performed
        tale.unfinished -= item.started

    def _count(self, item: Item) -> None:
        """What has to be among the events at the end."""
        conclusion = item.conclusion
        if conclusion is not None and isinstance(conclusion.verdict, Bury) and not item.job.acked_early:
            self.told["job.buried"] += 1

    def _settle_foreign(self, seat: str, item: Item) -> None:
        self.items[seat].remove(item)
        settled = self.run(self.world.hands[seat].settle, item.conclusion, by=seat)
        if settled:
            self.tell(f"worker {seat} buries the stranger's bytes")
            self.check_foreign(item.job.delivery.envelope)
            self._count(item)

    # ── the rest ──

    def release(self, seat: str, item: Item) -> None:
        """Give it back unstarted."""
        tale, valid = item.tale, self._is_valid(item)
        self.items[seat].remove(item)
        settled = self.run(self.world.hands[seat].release, item.job, by=seat)
        if tale is None:
            return
        self.tell(f"worker {seat} gives {tale.name} back" if settled else f"worker {seat} has lost {tale.name}")
        if settled != valid and self.exact:
            tale.broken(
                "C7", f"was {'given back' if settled else 'lost'} although its lease is {'over' if settled else 'not'}"
            )
        if settled:
            tale.states = {state._replace(due=self.now()) for state in tale.states if state.place == "waiting"}
            tale.hold = tale.item = None
            self.told["job.released"] += 1
        else:
            self.told["job.lost"] += 1

    def extend(self, seat: str, item: Item) -> None:
        """Start its lease anew."""
        valid = self._is_valid(item)
        extended = self.run(self.world.hands[seat].extend, item.job, by=seat)
        if item.tale is None or item.tale.forgotten:
            return
        self.tell(f"worker {seat} {'extends' if extended else 'cannot extend'} its lease of {item.tale.name}")
        if extended != valid and not item.told and self.exact:
            item.tale.broken("C6", f"has its lease {'revived after its end' if extended else 'ended too early'}")
        if extended and item.tale.hold is not None and not item.told:
            item.until = self.now() + self.world.stage.lease
            item.tale.hold = item.tale.hold._replace(until=item.until)

    def die(self, seat: str) -> None:
        """The worker dies with everything in its hands; the broker may notice at once."""
        self.tell(f"worker {seat} dies")
        if not self.exact:
            for item in self.items[seat]:
                if item.tale is not None and item.tale.item is item:
                    item.tale.hold = None
        self.died(seat, surely=False)

    def wait(self, units: int) -> None:
        """Time passes."""
        self.tell(f"{units} pass")
        self.run(self.world.stage.sleep, units * self.world.unit)

"""The model of one job: everything that may be true of it, and what is never allowed to be.

A crash or a cut leaves several things possible; what is seen next decides. So a job's place is a *set* of states, and
only what contradicts all of them is a broken promise.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, NoReturn

from taskcore.backend import Features, Letter
from taskcore.conformance.clauses import ClauseViolated
from taskcore.conformance.model.system import ATTEMPTS, CRASHES, Start
from taskcore.envelope import Envelope, Trail, decode_trail
from taskcore.lifecycle import Ack, Bury, Release, Reschedule, Verdict
from taskcore.results import StoredOutcome

__all__ = ["ABSENT", "GONE", "JobModel", "ModelLease", "PossibleState"]


class PossibleState(NamedTuple):
    """One thing that may be true of a job in the broker: where it is, with which errors, not before when."""

    place: Literal["absent", "waiting", "gone", "buried"]
    errors: tuple[str, ...] = ()
    due: float = 0.0
    reason: str = ""


ABSENT, GONE = PossibleState("absent"), PossibleState("gone")


class ModelLease(NamedTuple):
    """The lease of a delivery: its worker, and until when it surely lasts."""

    worker: str
    until: float


class JobModel:
    """One job as the model knows it.

    :param once: at most once: forgotten before it starts.
    :param margin: seconds by which a broker may be late.
    :param features: what the broker cannot do is not asked of it: a count that it does not keep is only a sign, and one
        that prefetches may count a job as handed out that no worker received.
    """

    def __init__(
        self, name: str, job_id: str, word: str, *, key: str | None, once: bool, margin: float, features: Features
    ) -> None:
        self.name, self.id, self.word, self.key, self.once = name, job_id, word, key, once
        self.margin = margin
        self.pushed = features.pushes
        self.counted = features.redeliveries != "absent"
        self.states: set[PossibleState] = {ABSENT}
        self.certain = False  # an enqueue was answered: it must not be lost
        self.deadline: float | None = None
        self.fenced_for = float("inf")  # seconds: what only its key's record knows is remembered for the key's window
        self.deadline_of_key = float("-inf")  # until when its key is surely known
        self.lease: ModelLease | None = None
        self.starts: list[Start] = []
        self.settled_errors: tuple[str, ...] = ()
        self.unsettled = 0  # performed, without a verdict that was carried out
        self.unfinished = 0  # started, without such a verdict
        self.unstarted_losses = 0  # handed out and lost, without having been performed
        self.crashes_seen, self.first_lost_seen, self.copies_seen = 0, False, 0
        self.losses, self.redeliveries_seen = 0, 0  # of this copy
        self.held: object = None  # the delivery that was handed out last, if nothing is known of its end
        self.cancel_requested = self.cancelled = self.acked_early = False
        self.disturbed = False  # a crash or a cancellation may have left its key in another state
        self.replays: Envelope | None = None
        self.replayed = False
        self.outcomes_offered: list[StoredOutcome] = []
        self.outcome: StoredOutcome | None = None
        self.own_offers: list[tuple[StoredOutcome, float]] = []  # those that came from a start of its own, and when
        self.over_at: float | None = None  # when the broker was told so

    def violated(self, clause: str, what: str) -> NoReturn:
        """Say what should not be."""
        raise ClauseViolated(f"{self.name} {what}", clause)

    # ── what it may be ──

    @property
    def committed_at(self) -> float | None:
        """When a start of its own committed what is its end; None if none did."""
        return next((at for outcome, at in self.own_offers if self.has_committed and outcome == self.outcome), None)

    @property
    def has_committed(self) -> bool:
        """Whether its key has an outcome: it succeeded, or its result cannot be encoded."""
        return self.outcome is not None and (self.outcome.state == "succeeded" or self.outcome.reason == "result")

    @property
    def is_over(self) -> bool:
        """Surely at its end, as far as the broker is concerned."""
        return all(state.place in ("gone", "buried") for state in self.states)

    @property
    def may_wait(self) -> bool:
        """Whether it may be handed out some time."""
        return any(state.place == "waiting" for state in self.states)

    @property
    def surely_waits(self) -> bool:
        """Whether it is in the broker for certain, and held by no worker as far as is known."""
        return all(state.place == "waiting" for state in self.states)

    def published(self, due: float, *, certain: bool) -> None:
        """Note that it was stored, or may have been; if it is there already, or was lately, nothing changes."""
        if ABSENT in self.states:
            self.states.add(PossibleState("waiting", due=due))
            if certain:
                self.states.remove(ABSENT)
        self.certain = self.certain or certain

    # ── it is handed out ──

    def delivered(self, worker: str, now: float, lease: float, trail: bytes, redeliveries: int) -> None:
        """Check a hand-out: C1, C2, C5, C6, C13, C16, C17, C18."""
        waiting = [state for state in self.states if state.place == "waiting"]
        if not waiting:
            self.violated("C18", f"was handed out although it is {' or '.join(s.place for s in self.states)}")
        if min(state.due for state in waiting) > now + self.margin:
            self.violated("C16", f"was handed out {min(s.due for s in waiting) - now:g} s too early")
        if self.lease is not None and now < self.lease.until - self.margin:
            self.violated("C6", f"was handed out while worker {self.lease.worker} holds it")
        decoded = decode_trail(trail)
        errors = tuple(record.message for record in decoded.errors)
        fits = [state for state in waiting if state.errors == errors]
        if not fits or decoded.attempts != len(errors):
            expected = " or ".join(str(list(state.errors)) for state in waiting)
            self.violated("C5", f"came with {decoded.attempts} attempts, errors {list(errors)}, instead of {expected}")
        self._grows(decoded, redeliveries)
        self.states = set(fits)
        self.settled_errors = errors
        self.lease = ModelLease(worker, now + lease)

    def _grows(self, trail: Trail, redeliveries: int) -> None:
        if trail.crashes < self.crashes_seen or trail.first_lost < self.first_lost_seen:
            self.violated("C5", f"forgot crashes: {trail.crashes} after {self.crashes_seen}")
        if trail.copies < self.copies_seen:
            self.violated("C5", f"is copy {trail.copies} after copy {self.copies_seen}")
        if trail.copies > self.copies_seen:
            self.losses = self.redeliveries_seen = 0
        least = self.losses if self.counted else min(self.losses, 1)  # that it was lost is known, how often is not
        if redeliveries < max(least, self.redeliveries_seen):
            self.violated("C5", f"says it was handed out {redeliveries} times before, it was {self.losses} times")
        if self.pushed and redeliveries > max(self.losses, self.redeliveries_seen):
            self.unstarted_losses += 1  # it counts a prefetched job of a consumer that left
        if trail.crashes > self.unsettled:
            self.violated("C12", f"is blamed for {trail.crashes} crashes, it had {self.unsettled}")
        self.crashes_seen, self.first_lost_seen = trail.crashes, trail.first_lost
        self.copies_seen, self.redeliveries_seen = trail.copies, redeliveries

    # ── it starts ──

    def started(self, start: Start) -> None:
        """Check a start of the function: C2, C3, C5, C7, C9, C14, C15, C18."""
        if self.cancelled:
            self.violated("C14", "started after cancel() returned True")
        if self.deadline is not None and start.at > self.deadline + self.margin:
            self.violated("C15", f"started {start.at - self.deadline:g} s after its deadline")
        if self.once and self.starts:
            self.violated("C9", "started twice, although at most once was asked for")
        if start.word != self.word:
            self.violated("C2", f"got the argument {start.word!r} instead of {self.word!r}")
        if start.attempt != len(self.settled_errors) + 1:
            self.violated("C5", f"calls its attempt {start.attempt}, it is {len(self.settled_errors) + 1}")
        if start.attempt > ATTEMPTS:
            self.violated("C3", f"started an attempt {start.attempt} of {ATTEMPTS}")
        if self.unfinished >= CRASHES:
            self.violated(
                "C3", f"started again after {self.unfinished} starts without an outcome; {CRASHES} are allowed"
            )
        if self.starts and self._is_old(start.fence) and start.at < self.starts[-1].at + self.fenced_for:
            self.violated("C7", f"got the fence {start.fence} after {self.starts[-1].fence}")
        self.starts.append(start)
        self.unfinished += 1

    def _is_old(self, fence: int) -> bool:
        """Tell whether an earlier holder's fence was as high; only the broker's count or a key can distinguish them."""
        last = self.starts[-1].fence
        return fence <= last if self.counted or self.key is not None else fence < last

    # ── it is settled ──

    def after(self, verdict: Verdict, now: float) -> PossibleState:
        """Return its state once this verdict is carried out."""
        if self.acked_early:
            return GONE
        match verdict:
            case Ack():
                return GONE
            case Reschedule(after=after, trail=trail):
                return PossibleState(
                    "waiting", tuple(record.message for record in decode_trail(trail).errors), now + after
                )
            case Release():
                return PossibleState("waiting", self.settled_errors, now)
            case Bury(reason=reason, trail=trail):
                return PossibleState(
                    "buried", tuple(record.message for record in decode_trail(trail).errors), 0.0, reason
                )

    def settled(self, verdict: Verdict, now: float) -> None:
        """Note that the broker carried the verdict out."""
        self.states = {self.after(verdict, now)}
        self.lease = None
        self.over_at = now if self.is_over else None

    def maybe_settled(self, verdict: Verdict, now: float) -> None:
        """Note that the broker may have carried the verdict out."""
        self.states.add(self.after(verdict, now))

    def lost(self, *, performed: bool) -> None:
        """Note that a delivery will never be settled; it comes back when its lease is over."""
        self.losses += 1
        self.unstarted_losses += not performed

    # ── how it ended ──

    def observe(self, outcome: StoredOutcome | None, now: float) -> None:
        """Check what the store says about its end: C8, C13, C18."""
        self._observe(outcome, now)
        if outcome is None or len(self.states) > 1 or self.replayed or self.once:
            return
        if self.states == {GONE} and outcome.state == "dead" and not self.disturbed:
            self.violated("C13", f"ended as {_described(outcome)}, and there is no dead letter")
        if {state.place for state in self.states} == {"buried"} and outcome.state != "dead":
            self.violated("C18", f"ended as {_described(outcome)}, and there is a dead letter")

    def _observe(self, outcome: StoredOutcome | None, now: float) -> None:
        if self.outcome is not None:
            if outcome != self.outcome:
                self.violated("C18", f"had ended as {_described(self.outcome)}, now as {_described(outcome)}")
            return
        if outcome is not None:
            self._justify(outcome, now)
            self.outcome = outcome
        elif self.is_over and not self.once and not self.cancel_requested:
            self.violated("C8", "is gone from the broker, and nothing says how it ended")

    def _justify(self, outcome: StoredOutcome, now: float) -> None:
        match outcome.state:
            case "cancelled":
                justified = self.cancel_requested
            case "expired":
                justified = self.deadline is not None and now + self.margin >= self.deadline
            case _:
                justified = outcome in self.outcomes_offered
        if not justified:
            self.violated("C18", f"ended as {_described(outcome)}, which no start of it came to")

    def check_letter(self, letters: list[Letter], sent: set[bytes]) -> None:
        """Check that a buried job has one letter, complete: C13."""
        [state] = self.states
        if len(letters) != 1:
            self.violated("C13", f"is buried and has {len(letters)} dead letters")
        [letter] = letters
        errors = tuple(record.message for record in decode_trail(letter.trail).errors)
        if letter.envelope not in sent:
            self.violated("C13", "has a dead letter with another envelope than was sent")
        if errors != state.errors or letter.reason != state.reason:
            self.violated(
                "C13", f"has a dead letter that says {letter.reason}, {errors}, not {state.reason}, {state.errors}"
            )


def _described(outcome: StoredOutcome | None) -> str:
    return (
        "nothing" if outcome is None else f"{outcome.state} {bytes(outcome.result).decode() or outcome.reason}".strip()
    )

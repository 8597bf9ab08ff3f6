"""The rule book once more, written from the guarantees and not from the code: what a start has to come to."""

from __future__ import annotations

from collections.abc import Iterable

from taskcore.conformance.model.job import JobModel
from taskcore.conformance.model.system import ATTEMPTS, CRASHES, Start
from taskcore.envelope import decode_trail
from taskcore.lifecycle import (
    Ack,
    AlreadyDone,
    Buried,
    Bury,
    CancelledBefore,
    DeadlinePassed,
    Deferred,
    Malformed,
    Outcome,
    Poisoned,
    Reschedule,
    Verdict,
)

__all__ = ["check_start", "check_unstarted"]


def check_start(model: JobModel, start: Start, verdict: Verdict, unit: float) -> None:
    """Check that the verdict on a function that ran is the one that its end calls for (C3, C13, C17)."""
    failures = len(model.settled_errors) + 1
    last = failures >= (1 if model.once else ATTEMPTS)
    match start.act.name:
        case "succeeds":
            _expect(model, start, isinstance(verdict, Ack), verdict)
        case "returns what cannot be encoded":
            _expect(model, start, isinstance(verdict, Bury) and verdict.reason == "result", verdict)
            _errors(model, start, verdict, None)
        case "fails":
            _again(model, start, verdict, 4 * unit * 2 ** (failures - 1), last=last)
        case "wants to be tried later":
            _again(model, start, verdict, start.act.after * unit, last=last)
        case "fails for good":
            _expect(model, start, isinstance(verdict, Bury) and (last or verdict.reason == "not retryable"), verdict)
            _errors(model, start, verdict, start.text)
        case "rejects":
            _expect(model, start, isinstance(verdict, Bury) and verdict.reason == f"rejected: {start.text}", verdict)
            _errors(model, start, verdict, start.text)
        case _ if model.once:  # its only start, and a waiting caller has to learn that
            _expect(model, start, isinstance(verdict, Bury) and verdict.reason == "at most once", verdict)
        case _:
            after = start.act.after * unit
            _expect(model, start, isinstance(verdict, Reschedule) and verdict.after == after, verdict)
            if isinstance(verdict, Reschedule) and _messages(verdict) != model.settled_errors:
                model.violated("C3", "used an attempt by snoozing")


def check_unstarted(  # noqa: C901, PLR0912 - a table
    model: JobModel, outcome: Outcome, verdict: Verdict, others: Iterable[JobModel], now: float
) -> None:
    """Check that there is a reason why the function did not run (C10, C12, C14, C15)."""
    match outcome:
        case CancelledBefore():
            if not model.cancel_requested:
                model.violated("C14", "was given up as cancelled, without a request")
        case DeadlinePassed():
            if model.deadline is None or now + model.margin < model.deadline:
                model.violated("C15", "expired before its deadline")
        case Poisoned():
            suspicion = model.unsettled - 1 + (model.unstarted_losses > 0)
            if suspicion < CRASHES:
                model.violated("C12", f"is buried as poison after {suspicion} starts that may have killed")
        case AlreadyDone() | Buried():
            if not model.outcomes_offered and not any(other.outcomes_offered for other in others):
                model.violated("C10", "was given up as a duplicate of work that was never done")
            if isinstance(outcome, Buried) and isinstance(verdict, Bury):
                _all_errors(model, verdict)
        case Deferred():
            if not any(other.starts or other.unsettled for other in others):
                model.violated("C10", "waits for a key that no job holds")
        case Malformed():
            model.violated("C2", "cannot be read any more")
        case _:
            model.violated("C4", f"was not started: {type(outcome).__name__}")


def _all_errors(model: JobModel, verdict: Verdict) -> None:
    """Check that a death that was recorded and is carried out later still has its last error."""
    recorded = model.outcomes_offered if model.outcome is None else [model.outcome]
    last = next((one.record for one in recorded if one.state == "dead" and one.record), None)
    expected = model.settled_errors if last is None else (*model.settled_errors, last.message)
    if _messages(verdict) != expected:
        model.violated("C13", f"is buried with {list(_messages(verdict))} instead of {list(expected)}")


def _again(model: JobModel, start: Start, verdict: Verdict, after: float, *, last: bool) -> None:
    if last:
        _expect(model, start, isinstance(verdict, Bury) and verdict.reason == "exhausted", verdict)
    else:
        _expect(model, start, isinstance(verdict, Reschedule), verdict)
        if isinstance(verdict, Reschedule) and verdict.after != after:
            model.violated("C17", f"is tried again after {verdict.after:g} s instead of {after:g} s")
    _errors(model, start, verdict, start.text)


def _expect(model: JobModel, start: Start, right: object, verdict: Verdict) -> None:
    if not right:
        told = f"{type(verdict).__name__} {getattr(verdict, 'reason', '')}".strip()
        model.violated("C3", f"{start.act.name} in attempt {start.attempt}, and the verdict is {told}")


def _errors(model: JobModel, start: Start, verdict: Verdict, text: str | None) -> None:
    kept = _messages(verdict)
    expected = (*model.settled_errors, text if text is not None else kept[-1] if kept else "")
    if kept != expected:
        model.violated("C13", f"{start.act.name}, and the errors kept are {list(kept)} instead of {list(expected)}")


def _messages(verdict: Verdict) -> tuple[str, ...]:
    if not isinstance(verdict, Reschedule | Bury):
        return ()
    return tuple(record.message for record in decode_trail(verdict.trail).errors)

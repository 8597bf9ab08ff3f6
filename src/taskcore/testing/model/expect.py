"""The rule book once more, written from the contract and not from the code: what a start has to come to."""

from __future__ import annotations

from collections.abc import Iterable

from taskcore.envelope import decode_trail
from taskcore.lifecycle import (
    Ack,
    Buried,
    Bury,
    Cancelled,
    Contended,
    Duplicate,
    Expired,
    Malformed,
    Outcome,
    Retry,
    Suspected,
    Verdict,
)
from taskcore.testing.model.tale import Tale
from taskcore.testing.model.world import ATTEMPTS, CRASHES, Start

__all__ = ["check_start", "check_unstarted"]


def check_start(tale: Tale, start: Start, verdict: Verdict, unit: float) -> None:
    """The function ran: this has to be the verdict that its end calls for (C3, C13, C17)."""
    failures = len(tale.settled_errors) + 1
    last = failures >= (1 if tale.once else ATTEMPTS)
    match start.act.name:
        case "succeeds":
            _expect(tale, start, isinstance(verdict, Ack), verdict)
        case "returns what cannot be encoded":
            _expect(tale, start, isinstance(verdict, Bury) and verdict.reason == "result", verdict)
            _errors(tale, start, verdict, None)
        case "fails":
            _again(tale, start, verdict, 4 * unit * 2 ** (failures - 1), last=last)
        case "wants to be tried later":
            _again(tale, start, verdict, start.act.after * unit, last=last)
        case "fails for good":
            _expect(tale, start, isinstance(verdict, Bury) and (last or verdict.reason == "not retryable"), verdict)
            _errors(tale, start, verdict, start.text)
        case "rejects":
            _expect(tale, start, isinstance(verdict, Bury) and verdict.reason == f"rejected: {start.text}", verdict)
            _errors(tale, start, verdict, start.text)
        case _ if tale.once:  # it was its only start, and whoever waits for it has to learn that
            _expect(tale, start, isinstance(verdict, Bury) and verdict.reason == "at most once", verdict)
        case _:
            after = start.act.after * unit
            _expect(tale, start, isinstance(verdict, Retry) and verdict.after == after, verdict)
            if isinstance(verdict, Retry) and _messages(verdict) != tale.settled_errors:
                tale.broken("C3", "used an attempt by snoozing")


def check_unstarted(  # noqa: C901, PLR0912 - a table
    tale: Tale, outcome: Outcome, verdict: Verdict, others: Iterable[Tale], now: float
) -> None:
    """The function did not run: there has to be a reason for that (C10, C12, C14, C15)."""
    match outcome:
        case Cancelled():
            if not tale.asked:
                tale.broken("C14", "was given up as cancelled, and nobody asked for that")
        case Expired():
            if tale.deadline is None or now + tale.margin < tale.deadline:
                tale.broken("C15", "expired before its deadline")
        case Suspected():
            suspicion = tale.unsettled - 1 + (tale.unstarted_losses > 0)
            if suspicion < CRASHES:
                tale.broken("C12", f"is buried as poison after {suspicion} starts that may have killed")
        case Duplicate() | Buried():
            if not tale.endings_offered and not any(other.endings_offered for other in others):
                tale.broken("C10", "was given up as a duplicate of work that nobody has done")
            if isinstance(outcome, Buried) and isinstance(verdict, Bury):
                _all_errors(tale, verdict)
        case Contended():
            if not any(other.starts or other.unsettled for other in others):
                tale.broken("C10", "waits for a key that nobody holds")
        case Malformed():
            tale.broken("C2", "cannot be read any more")
        case _:
            tale.broken("C4", f"was not started: {type(outcome).__name__}")


def _all_errors(tale: Tale, verdict: Verdict) -> None:
    """A death that was recorded and is carried out later still has its last error."""
    recorded = tale.endings_offered if tale.ending is None else [tale.ending]
    last = next((one.record for one in recorded if one.state == "dead" and one.record), None)
    expected = tale.settled_errors if last is None else (*tale.settled_errors, last.message)
    if _messages(verdict) != expected:
        tale.broken("C13", f"is buried with {list(_messages(verdict))} instead of {list(expected)}")


def _again(tale: Tale, start: Start, verdict: Verdict, after: float, *, last: bool) -> None:
    if last:
        _expect(tale, start, isinstance(verdict, Bury) and verdict.reason == "exhausted", verdict)
    else:
        _expect(tale, start, isinstance(verdict, Retry), verdict)
        if isinstance(verdict, Retry) and verdict.after != after:
            tale.broken("C17", f"is tried again after {verdict.after:g} s instead of {after:g} s")
    _errors(tale, start, verdict, start.text)


def _expect(tale: Tale, start: Start, right: object, verdict: Verdict) -> None:
    if not right:
        told = f"{type(verdict).__name__} {getattr(verdict, 'reason', '')}".strip()
        tale.broken("C3", f"{start.act.name} in attempt {start.attempt}, and the verdict is {told}")


def _errors(tale: Tale, start: Start, verdict: Verdict, text: str | None) -> None:
    kept = _messages(verdict)
    expected = (*tale.settled_errors, text if text is not None else kept[-1] if kept else "")
    if kept != expected:
        tale.broken("C13", f"{start.act.name}, and the errors kept are {list(kept)} instead of {list(expected)}")


def _messages(verdict: Verdict) -> tuple[str, ...]:
    if not isinstance(verdict, Retry | Bury):
        return ()
    return tuple(record.message for record in decode_trail(verdict.trail).errors)

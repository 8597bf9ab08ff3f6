"""The lifecycle of a job: the outcomes that a run can have, and the verdict that follows from each.

Rule 1: all rules that decide about a job are in this file; workers ask it, backends carry its verdicts out.
Rule 2: deciding is pure: no clock, no random numbers, no broker; the same question has the same answer.

    outcome                  when                                            verdict
    ───────────────────────  ──────────────────────────────────────────────  ──────────────────────────────────────────
    Returned                 it returned, and the result can be encoded      Ack, after result and key are stored
    AlreadyDone              the key, or this very job, is done already      Ack; the result is the first one
    Deferred(after, why)     it may not start yet: another job has its key   Reschedule(after), no attempt used
    Raised(error)            the policy gives seconds                        Reschedule(seconds)
                             the policy gives None                           Bury("exhausted" | "not retryable")
    Raised(RetryLater)       the function said when                          Reschedule(after), or Bury("exhausted")
    Raised(Snooze)           the function said when                          Reschedule(after), no attempt used
    Raised(Reject)           the function said never                         Bury("rejected: …")
    TimedOut                 it overran its time limit                       as Raised
    Unencodable              it succeeded, its result cannot be encoded      Bury("result"): the work is done
    Malformed                not an envelope, or not fit for the contract    Bury("malformed: …"), bytes kept
    Unregistered             unknown task, or newer version or format        Reschedule, growing wait, no attempt used;
                                                                             after `park_for`: Bury("unknown task: …")
    Interrupted              shutdown came first                             Release
    Poisoned                 it seems to kill its process                    Bury("poison"), unrun
    Buried(reason)           its death was recorded, the letter was not      Bury(reason) again
    CancelledBefore          a cancellation came before the start            Ack, recorded
    DeadlinePassed           its deadline passed before the start            Ack, recorded

An *outcome* is the end of one try to perform a job; a *verdict* is an instruction to the backend. Attempts and crashes
are counted separately.
"""

from __future__ import annotations

from typing import TypeAlias, assert_never

import msgspec

from taskcore.envelope import ErrorRecord, Trail, encode_trail
from taskcore.errors import InvalidSetting
from taskcore.policy import Retry as RetryPolicy

__all__ = [
    "Ack",
    "AlreadyDone",
    "Buried",
    "Bury",
    "CancelledBefore",
    "DeadlinePassed",
    "Deferred",
    "Interrupted",
    "Malformed",
    "Outcome",
    "Poisoned",
    "Raised",
    "Reject",
    "Release",
    "Reschedule",
    "RetryLater",
    "Returned",
    "Rules",
    "Snooze",
    "TimedOut",
    "Unencodable",
    "Unregistered",
    "Verdict",
    "decide",
    "is_last_start",
    "is_poison",
]


# ── exceptions by which a function decides about its job ─────────────────────────────────────────


class RetryLater(Exception):
    """Raise it in a task to be tried again after a time of your choice; it uses an attempt.

    :param after: seconds.
    :param why: kept in the trail.
    """

    def __init__(self, after: float, why: str = "") -> None:
        super().__init__(after, why)
        self.after = _seconds("RetryLater", after)
        self.why = why

    def __str__(self) -> str:
        return self.why or f"asked to be tried again in {self.after:g} s"


class Snooze(Exception):
    """Raise it in a task to be started again later without using an attempt, because it is too early.

    :param after: seconds.
    """

    def __init__(self, after: float) -> None:
        super().__init__(after)
        self.after = _seconds("Snooze", after)

    def __str__(self) -> str:
        return f"asked to sleep for {self.after:g} s"


class Reject(Exception):
    """Raise it in a task to end the job now as a dead letter: no further attempt can help.

    :param reason: why, for readers of the dead letter.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _seconds(name: str, after: float) -> float:
    if not _is_time(after):
        raise InvalidSetting(f"{name}(after={after!r}) is not a time", fix="give seconds, at least 0")
    return float(after)


def _is_time(after: object) -> bool:
    return isinstance(after, int | float) and not isinstance(after, bool) and 0 <= after < float("inf")


def _says_when(error: BaseException) -> bool:
    """Tell whether the exception has a time; a subclass that forgot to set it is an error like any other."""
    return _is_time(getattr(error, "after", None))


# ── outcomes ─────────────────────────────────────────────────────────────────────────────────────


class Returned(msgspec.Struct, frozen=True, gc=False):
    """The function returned, and this is its encoded result."""

    result: bytes


class AlreadyDone(msgspec.Struct, frozen=True):
    """The work was done before; the first outcome, encoded, is this job's outcome too."""

    outcome: bytes


class Deferred(msgspec.Struct, frozen=True):
    """The job may not start yet, or its start does not count: try again after so many seconds, without an attempt."""

    after: float
    why: str


class Raised(msgspec.Struct, frozen=True):
    """The function raised: the error itself and its record for the trail.

    ``declared`` is the error as its contract packs it, where the process that ran the function did that already.
    """

    error: BaseException
    record: ErrorRecord
    declared: bytes | None = None


class TimedOut(msgspec.Struct, frozen=True):
    """The function overran its time limit and was interrupted."""

    record: ErrorRecord


class Unencodable(msgspec.Struct, frozen=True):
    """The function succeeded but its result cannot be encoded."""

    record: ErrorRecord


class Malformed(msgspec.Struct, frozen=True):
    """The bytes are not an envelope, or the arguments do not fit the contract."""

    why: str


class Unregistered(msgspec.Struct, frozen=True):
    """The worker does not have the task, or not in that version or format; ``now`` in seconds since the epoch."""

    why: str
    now: float


class Interrupted(msgspec.Struct, frozen=True):
    """Shutdown came before the function could start or end."""


class Poisoned(msgspec.Struct, frozen=True):
    """The job started so many times without an outcome that it probably kills its process."""

    crashes: int


class Buried(msgspec.Struct, frozen=True):
    """An earlier worker recorded the job's death and died before the dead letter was written.

    ``record`` is the error that it died of, which the trail does not have yet.
    """

    reason: str
    record: ErrorRecord | None = None


class CancelledBefore(msgspec.Struct, frozen=True):
    """A caller cancelled the job before it started."""


class DeadlinePassed(msgspec.Struct, frozen=True):
    """The deadline passed before the start."""


_Run: TypeAlias = Returned | Raised | TimedOut | Unencodable | Interrupted
_Unrun: TypeAlias = Poisoned | Buried | CancelledBefore | DeadlinePassed | AlreadyDone | Deferred
Outcome: TypeAlias = _Run | _Unrun | Malformed | Unregistered


# ── verdicts ─────────────────────────────────────────────────────────────────────────────────────


class Ack(msgspec.Struct, frozen=True, gc=False):
    """Forget the job: it is over."""


class Reschedule(msgspec.Struct, frozen=True, gc=False):
    """Make it ready again after so many seconds, with this trail; one step with the end of the old copy if possible."""

    after: float
    trail: bytes


class Release(msgspec.Struct, frozen=True, gc=False):
    """Make it ready again now, as if it had never been handed out."""


class Bury(msgspec.Struct, frozen=True, gc=False):
    """Make it a dead letter with this reason and trail, then forget the job."""

    reason: str
    trail: bytes


Verdict: TypeAlias = Ack | Reschedule | Release | Bury

ACK = Ack()
RELEASE = Release()


# ── the rules ────────────────────────────────────────────────────────────────────────────────────


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """A task's settings for failures. They have no defaults here: see ``TaskSpec.complete``.

    :param retry: when to try again after an error.
    :param crashes: how many starts may kill their process before the job is poison.
    :param park_for: seconds for which a job waits for a worker that knows its task.
    """

    retry: RetryPolicy
    crashes: int
    park_for: float


PARK_FIRST, PARK_LONGEST = 1.0, 60.0  #: seconds: the first and the longest wait of a parked job


def decide(outcome: Outcome, trail: Trail, rules: Rules, *, roll: float) -> Verdict:  # noqa: C901 - a table
    """Decide about a delivery, by the table at the top of this file.

    :param trail: as the delivery brought it, with the crashes found since.
    :param roll: a uniform random number in [0, 1), for the jitter.
    """
    match outcome:
        case Returned() | AlreadyDone() | CancelledBefore() | DeadlinePassed():
            return ACK
        case Raised(error=Snooze() as snooze) if _says_when(snooze):
            return _reschedule(snooze.after, trail)
        case Raised(error=error, record=record):
            return _after_error(error, record, trail.with_error(record), rules, roll)
        case TimedOut(record=record):
            return _after_error(TimeoutError(record.message), record, trail.with_error(record), rules, roll)
        case Interrupted():
            return RELEASE
        case Deferred(after=after):
            return _reschedule(after, trail)
        case Unencodable(record=record):
            return _bury("result", trail.with_error(record))
        case Malformed(why=why):
            return _bury(f"malformed: {why}", trail)
        case Unregistered(why=why, now=now):
            return _park(why, now, trail, rules)
        case Poisoned(crashes=crashes):
            return _bury("poison", msgspec.structs.replace(trail, crashes=max(trail.crashes, crashes)))
        case Buried(reason=reason, record=record):
            return _bury(reason, trail if record is None else trail.with_error(record))
        case _:
            assert_never(outcome)


def _after_error(error: BaseException, record: ErrorRecord, trail: Trail, rules: Rules, roll: float) -> Verdict:
    """Decide after an error that the trail has already. The text comes from the record, where its length is bounded."""
    if isinstance(error, Reject):
        return _bury(f"rejected: {record.message}", trail)
    if isinstance(error, RetryLater) and _says_when(error):
        return _bury("exhausted", trail) if trail.attempts >= rules.retry.attempts else _reschedule(error.after, trail)
    seconds = rules.retry.wait(trail.attempts, error, roll)
    if seconds is not None:
        return _reschedule(seconds, trail)
    return _bury("exhausted" if rules.retry.retries(error) else "not retryable", trail)


def _park(why: str, now: float, trail: Trail, rules: Rules) -> Verdict:
    """Let a job of an unknown task wait, longer each time: a deployment may be under way. Bury it in the end."""
    since = trail.parked_since if trail.parked_since is not None else now
    waited = max(now - since, 0.0)
    if waited >= rules.park_for:
        return _bury(f"unknown task: {why}", trail)
    after = min(max(PARK_FIRST, waited), PARK_LONGEST, rules.park_for)
    return _reschedule(after, msgspec.structs.replace(trail, parked_since=since))


def _reschedule(after: float, trail: Trail) -> Reschedule:
    return Reschedule(after, encode_trail(msgspec.structs.replace(trail, copies=trail.copies + 1)))


def _bury(reason: str, trail: Trail) -> Bury:
    return Bury(reason, encode_trail(trail))


# ── poison: a job that kills its process leaves no outcome, only starts ──────────────────────────


def is_poison(starts: int, rules: Rules) -> bool:
    """Tell whether so many starts without an outcome make the job poison (C12)."""
    return starts >= rules.crashes


def is_last_start(starts: int, rules: Rules) -> bool:
    """Tell whether the next start is the last; it runs alone, so that no other job can be blamed for its death."""
    return starts + 1 >= rules.crashes

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
    Unregistered             unknown task, newer version, format, parameter  Reschedule, growing wait, no attempt used;
                                                                             after `park_for`: Bury("unknown task: …")
    Interrupted              shutdown came before the start                  Release
                             shutdown came before the end                    Reschedule(0), no attempt used
    Poisoned                 it seems to kill its process                    Bury("poison"), unrun
    Buried(reason)           its death was recorded, the letter was not      Bury(reason) again
    CancelledBefore          a cancellation came before the start            Ack, recorded
    DeadlinePassed           its deadline passed before the start            Ack, recorded

An *outcome* is the end of one try to perform a job; a *verdict* is an instruction to the backend. Attempts and crashes
are counted separately.

An exception group is no error of its own: the job ends as if one of its leaves had been raised bare, however deep the
groups are nested. Of several leaves the first row that fits decides; within a row, an error that the task declares in
``raises``, else the first one; of several times the longest:

    leaf                                             because
    ───────────────────────────────────────────────  ───────────────────────────────────────────────────────────────────
    LeaseLost, of a job that holds a key             another holder of the key decides: nothing of this start counts
    Reject                                           no further attempt can help
    an error that is not retryable                   the same, by the policy: give_up_on, or not in on
    RetryLater                                       the function knows the time better than the policy
    an error that is retryable                       it uses an attempt
    Snooze                                           it uses none, so that it must not hide an error
    a cancellation                                   it follows from the error beside it; alone it is not retryable

A group whose class stands in ``on``, ``give_up_on`` or ``raises`` counts as one error.
"""

from __future__ import annotations

from typing import TypeAlias, assert_never

import msgspec

from taskcore.control import Reject, RetryLater, Snooze, time_of
from taskcore.envelope import ErrorRecord, Trail, encode_trail
from taskcore.errors import LeaseLost
from taskcore.policy import Errors
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
    "Release",
    "Reschedule",
    "Returned",
    "Rules",
    "TimedOut",
    "Unencodable",
    "Unregistered",
    "Verdict",
    "decide",
    "deciding_error",
    "is_last_start",
    "is_poison",
]


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
    """The worker does not have the task, or an older version of it; ``now`` in seconds since the epoch."""

    why: str
    now: float


class Interrupted(msgspec.Struct, frozen=True):
    """Shutdown came before the function could start or, if ``started``, end: then the next start has a higher fence."""

    started: bool = False


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
    """Forget the job: it is over.

    :param claims: the job has not started, and starts if this succeeds: of all workers that were handed the job, one
        may succeed, however late the others are (C9).
    """

    claims: bool = False


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
CLAIM = Ack(claims=True)
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


#: The outcomes that end a job well, whatever its trail and its rules are.
ENDS: frozenset[type[Outcome]] = frozenset({Returned, AlreadyDone, CancelledBefore, DeadlinePassed})

PARK_FIRST, PARK_LONGEST = 1.0, 60.0  #: seconds: the first and the longest wait of a parked job


def decide(outcome: Outcome, trail: Trail, rules: Rules, *, roll: float) -> Verdict:  # noqa: C901 - a table
    """Decide about a delivery, by the table at the top of this file.

    :param trail: as the delivery brought it, with the crashes found since.
    :param roll: a uniform random number in [0, 1), for the jitter.
    """
    match outcome:
        case Returned() | AlreadyDone() | CancelledBefore() | DeadlinePassed():
            return ACK
        case Raised(error=error, record=record):
            return _after_error(error, record, trail, rules, roll)
        case TimedOut(record=record):
            return _after_error(TimeoutError(record.message), record, trail, rules, roll)
        case Interrupted(started=started):
            return _reschedule(0.0, trail) if started else RELEASE
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
    """Decide after an error. The text comes from the record, where its length is bounded."""
    kind, after = type(error), time_of(error)  # not isinstance: it asks the error itself, which may say anything
    if issubclass(kind, Snooze) and after is not None:
        return _reschedule(after, trail)
    trail = trail.with_error(record)
    if issubclass(kind, Reject):
        return _bury(f"rejected: {record.message}", trail)
    if issubclass(kind, RetryLater) and after is not None:
        return _bury("exhausted", trail) if trail.attempts >= rules.retry.attempts else _reschedule(after, trail)
    seconds = rules.retry.wait(trail.attempts, error, roll)
    if seconds is not None:
        return _reschedule(seconds, trail)
    return _bury("exhausted" if rules.retry.retries(error) else "not retryable", trail)


def deciding_error(
    error: BaseException, retry: RetryPolicy, *, raises: Errors = (), keyed: bool = False
) -> BaseException:
    """Choose the error that decides, by the second table at the top of this file; never raises.

    :param raises: what the task declares.
    :param keyed: whether the job holds a key.
    """
    from taskcore.toolkit.groups import leaves_of  # noqa: PLC0415 - for errors only

    try:
        named = tuple(cls for cls in (*retry.on, *retry.give_up_on, *raises) if issubclass(cls, BaseExceptionGroup))
        leaves = list(leaves_of(error, named))
        return leaves[0] if len(leaves) == 1 else min(leaves, key=lambda leaf: _rank(leaf, retry, raises, keyed))
    except BaseException:  # noqa: BLE001 - classes of errors bring their own code
        return error


def _rank(leaf: BaseException, retry: RetryPolicy, raises: Errors, keyed: bool) -> tuple[int, float, bool]:
    from taskcore.toolkit.groups import is_cancellation  # noqa: PLC0415 - for groups only

    kind, after = type(leaf), time_of(leaf)
    undeclared = not issubclass(kind, raises)
    if keyed and issubclass(kind, LeaseLost):
        return 0, 0.0, undeclared
    if issubclass(kind, Reject):
        return 1, 0.0, undeclared
    if is_cancellation(kind):
        return 6, 0.0, undeclared
    if issubclass(kind, (RetryLater, Snooze)) and after is not None:
        return 3 if issubclass(kind, RetryLater) else 5, -after, undeclared
    return 4 if retry.retries(leaf) else 2, 0.0, undeclared


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

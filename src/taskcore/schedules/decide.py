"""The one function that decides which ticks fire: no I/O, no clock, no dice. All policies are in these tables.

An instant is *due* from the moment it fires. It is *fresh* while it is late by no more than ``grace``, and then
*missed*; with ``missed="all"`` only the newest is ever fresh. The tick before is *over* when
its job has ended, or after ``stale_after``.

    missed=  of the due instants that are missed, these go on          the others
    ───────  ───────────────────────────────────────────────────────   ─────────────────────────────────────────────
    once     the newest, unless a fresh one is due                     are counted as missed
    skip     none                                                      are counted as missed
    all      the newest ``limit`` that are no older than ``within``    are counted as missed

    overlap=  while the tick before is over                            while it is not over
    ────────  ──────────────────────────────────────────────────────   ─────────────────────────────────────────────
    skip      the newest fresh one fires; missed ones fire in turn     fresh ones are passed over, missed ones wait
    allow     all fire                                                 all fire
    queue     the oldest fires, the next one waits                     the oldest waits
    latest    the newest fires                                         the newest waits; an unstarted job is cancelled

    state     what it means
    ────────  ────────────────────────────────────────────────────────────────────────────────────────────────────
    paused    nothing fires; a tick that was claimed before is published all the same
    retired   nothing fires; a tick that was claimed before is dropped and counted as lost

One that waits fires when the tick before is over. Of several fresh ones under ``skip`` the older ones are counted as
overlapped, as are those that ``queue`` and ``latest`` pass over because one waits already.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from taskcore.schedules.record import LastTick, ScheduleRecord, TickClaim, key_record_of, tick_id
from taskcore.schedules.timetable import Instants, fires_at, instants_of

__all__ = ["CONFIRM_TIMEOUT", "TICKS_PER_ROUND", "Decision", "decide"]

TICKS_PER_ROUND = 10  #: ticks of one schedule that are claimed at a time
CONFIRM_TIMEOUT = 5_000  #: milliseconds after which any instance publishes a claimed tick again
GIVEN_UP = 60_000  #: milliseconds after which an unconfirmed tick of a task that runs at most once is dropped
ASK_AGAIN = 1_000  #: milliseconds until an instant that waits asks again whether the tick before is over


class Decision(NamedTuple):
    """What follows for a schedule at a moment.

    :param record: what its record becomes; the same object, if nothing is written.
    :param fire: ticks to publish once the record is written.
    :param again: claimed ticks to publish again.
    :param look: when to decide again, in milliseconds; None: not before the definition changes.
    :param cancel: a job to cancel if it has not started.
    """

    record: ScheduleRecord
    fire: tuple[TickClaim, ...] = ()
    again: tuple[TickClaim, ...] = ()
    look: int | None = None
    cancel: str | None = None


class _Due(NamedTuple):
    """The due instants that go on, oldest first; how many older ones are passed over; and when the next one is due.

    :param settled: every instant up to this one is passed over or was decided before.
    """

    missed: list[int]
    fresh: list[int]
    passed: int
    settled: int
    next: int | None


class _Choice(NamedTuple):
    """What a rule of overlap makes of the due instants."""

    fire: list[int]
    upto: int
    waiting: int | None = None
    overlapped: int = 0
    again: bool = False
    cancel: bool = False


def decide(record: ScheduleRecord, now: int, *, last_over: bool) -> Decision:
    """Decide what a schedule does at a moment.

    :param now: milliseconds since the epoch.
    :param last_over: the job of the tick before has ended, as far as the store tells.
    """
    if record.moved:
        return Decision(record)  # its claims have moved, too
    if record.retired is not None:
        dropped = record.lost + len(record.open)
        return Decision(msgspec.structs.replace(record, open=(), lost=dropped) if record.open else record)
    record, again, ask = _claims(record, now)
    if record.paused is not None:
        return Decision(record, again=again, look=ask)
    due = _due(record, now)
    left = None if record.timetable.times is None else record.timetable.times - record.fired
    if left is not None and left <= 0:
        return Decision(record, again=again, look=ask)
    if not due.missed and not due.fresh and not due.passed and record.waiting is None:
        return Decision(record, again=again, look=_earliest(due.next, ask))
    over = not record.open and (last_over or record.last is None or _is_stale(record, now))
    room = TICKS_PER_ROUND - len(record.open) if left is None else min(TICKS_PER_ROUND - len(record.open), left)
    choice = RULES[record.policies.overlap](record, due, over, max(room, 0))
    changed, fire = _claim(record, choice, due, now)
    following = instants_of(record.timetable).after(changed.upto)
    look = None if following is None else _fires(changed, following)
    if choice.again or choice.waiting is not None:
        look = now + ASK_AGAIN
    if fire and left is not None and left <= len(fire):
        look = None
    cancel = record.last.id if choice.cancel and record.last is not None else None
    return Decision(changed, fire, again, _earliest(look, ask), cancel)


def _claims(record: ScheduleRecord, now: int) -> tuple[ScheduleRecord, tuple[TickClaim, ...], int | None]:
    """Find which open claims are published again, and when to look at the others; drop what must not be repeated."""
    if not record.open:
        return record, (), None
    if record.call.at_most_once:
        kept = tuple(claim for claim in record.open if now - claim.since < GIVEN_UP)
        if len(kept) < len(record.open):
            lost = record.lost + len(record.open) - len(kept)
            record = msgspec.structs.replace(record, open=kept, lost=lost)
        return record, (), min((claim.since + GIVEN_UP for claim in kept), default=None)
    again = tuple(claim for claim in record.open if now - claim.since >= CONFIRM_TIMEOUT)
    ask = now + ASK_AGAIN if again else min(claim.since + CONFIRM_TIMEOUT for claim in record.open)
    return record, again, ask


# ── missed ───────────────────────────────────────────────────────────────────────────────────────


def _due(record: ScheduleRecord, now: int) -> _Due:
    """Find the due instants, and apply the policy for missed ones."""
    instants = instants_of(record.timetable)
    first = instants.after(record.upto)
    fires = None if first is None else _fires(record, first, instants)
    if first is None or fires is None or fires > now:
        return _Due([], [], 0, record.upto, fires)
    second = instants.after(first)
    newest, upcoming = first, None if second is None else _fires(record, second, instants)
    if upcoming is not None and upcoming <= now:
        newest, upcoming = _newest(record, instants, now)
    missed: list[int] = []
    fresh: list[int] = []
    instant: int | None = newest
    policies = record.policies
    while instant is not None and instant > record.upto and len(missed) + len(fresh) < policies.limit:
        is_late = now - _fires(record, instant, instants) > policies.grace
        if not is_late and (policies.missed != "all" or instant == newest):
            fresh.append(instant)
        elif _takes(record, instant, now) and not (policies.missed == "once" and (fresh or missed)):
            missed.append(instant)
        else:
            break
        instant = instants.until(instant - 1)
    kept = [*fresh, *missed]
    total = 1 if newest == first else instants.count(record.upto, newest)
    settled = kept[-1] - 1 if kept else newest
    return _Due(missed[::-1], fresh[::-1], total - len(kept), settled, upcoming)


def _newest(record: ScheduleRecord, instants: Instants, now: int) -> tuple[int, int | None]:
    """Find the newest due instant, and when the one after it fires."""
    newest = instants.until(now) or record.upto
    while _fires(record, newest, instants) > now:
        newest = instants.until(newest - 1) or record.upto
    following = instants.after(newest)
    return newest, None if following is None else _fires(record, following, instants)


def _takes(record: ScheduleRecord, instant: int, now: int) -> bool:
    """Tell whether a missed instant may fire at all."""
    policies = record.policies
    return policies.missed == "once" or (policies.missed == "all" and now - instant <= policies.within)


def _fires(record: ScheduleRecord, instant: int, instants: Instants | None = None) -> int:
    if not record.timetable.spread:
        return instant
    following = (instants or instants_of(record.timetable)).after(instant)
    return fires_at(record.id, record.timetable, instant, following)


def _is_stale(record: ScheduleRecord, now: int) -> bool:
    return record.last is not None and now - record.last.since >= record.policies.stale_after


# ── overlap ──────────────────────────────────────────────────────────────────────────────────────


def _allow(record: ScheduleRecord, due: _Due, over: bool, room: int) -> _Choice:  # noqa: ARG001 - as all rules
    found = [*([] if record.waiting is None else [record.waiting]), *due.missed, *due.fresh]
    if not found or not room:
        return _hold(record, due)
    fire = found[:room]
    return _Choice(fire, fire[-1], again=len(found) > len(fire))


def _skip(record: ScheduleRecord, due: _Due, over: bool, room: int) -> _Choice:
    missed = [*([] if record.waiting is None else [record.waiting]), *due.missed]
    if missed:
        if not over or not room:
            return _hold(record, due)
        more = len(missed) > 1 or bool(due.fresh)
        return _Choice(missed[:1], missed[0], again=more)
    if not due.fresh:
        return _hold(record, due)
    if not over or not room:
        return _Choice([], due.fresh[-1], overlapped=len(due.fresh))
    return _Choice(due.fresh[-1:], due.fresh[-1], overlapped=len(due.fresh) - 1)


def _queue(record: ScheduleRecord, due: _Due, over: bool, room: int) -> _Choice:
    line = [*([] if record.waiting is None else [record.waiting]), *due.missed, *due.fresh]
    if not line:
        return _hold(record, due)
    fire = line[:1] if over and room else []
    rest = line[len(fire) :]
    if not rest:
        return _Choice(fire, fire[0])
    waiting, others = rest[0], rest[1:]
    if any(instant in due.missed for instant in others):  # these stay due, and wait in their turn
        return _Choice(fire, waiting, waiting=waiting)
    return _Choice(fire, rest[-1], waiting=waiting, overlapped=len(others))


def _latest(record: ScheduleRecord, due: _Due, over: bool, room: int) -> _Choice:
    line = [*([] if record.waiting is None else [record.waiting]), *due.missed, *due.fresh]
    if not line:
        return _hold(record, due)
    newest, overlapped = line[-1], len(line) - 1
    if over and room:
        return _Choice([newest], newest, overlapped=overlapped)
    return _Choice([], newest, waiting=newest, overlapped=overlapped, cancel=True)


RULES = {"skip": _skip, "allow": _allow, "queue": _queue, "latest": _latest}


def _hold(record: ScheduleRecord, due: _Due) -> _Choice:
    """Decide nothing: the instants that go on stay due, and one that waits goes on waiting."""
    waits = bool(due.missed or due.fresh) or record.waiting is not None
    return _Choice([], record.upto, waiting=record.waiting, again=waits)


def _claim(
    record: ScheduleRecord, choice: _Choice, due: _Due, now: int
) -> tuple[ScheduleRecord, tuple[TickClaim, ...]]:
    """Write the choice into the record."""
    claims: list[TickClaim] = []
    last = record.last
    for instant in choice.fire:
        previous = None if last is None else last.at
        claims.append(TickClaim(id=tick_id(record.id, instant), at=instant, since=now, previous=previous))
        last = LastTick(id=claims[-1].id, at=instant, since=now, key=key_record_of(record, instant))
    changed = msgspec.structs.replace(
        record,
        upto=max(choice.upto, due.settled, record.upto),
        fired=record.fired + len(claims),
        open=(*record.open, *claims),
        last=last,
        waiting=choice.waiting,
        missed=record.missed + due.passed,
        overlapped=record.overlapped + choice.overlapped,
    )
    return (record if changed == record else changed), tuple(claims)


def _earliest(*times: int | None) -> int | None:
    return min((time for time in times if time is not None), default=None)

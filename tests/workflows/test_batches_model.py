"""The rules of batches, searched exhaustively: a sender that adds jobs and closes, or dies; the guard; the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.workflows.searching import Move, Protocol, Sight, search

pytestmark = pytest.mark.timeout(300)

JOBS = 2  #: that may be added
PLACES = (0, 1, 2)  #: of one leaf: more than jobs, so that it is never full before the batch is closed
ABANDONED = -1


class Records(NamedTuple):
    """The store.

    :param size: how many jobs were added, once that is decided; -1: the batch was given up.
    :param added: what the sender has added so far.
    :param callbacks: how often the callback started.
    :param early: it started before all jobs had ended.
    """

    size: int | None = None
    added: int = 0
    ended: tuple[int, ...] = ()
    marks: tuple[int, ...] = ()
    stop: bool = False
    outcome: str = ""
    callbacks: int = 0
    early: bool = False


class Rules(NamedTuple):
    """Which rules hold.

    :param guard: a job that was published when the batch was opened looks after it.
    :param decides: sender and guard decide in one record whether the batch is closed or given up.
    :param finishes: the guard does again what a sender that died had begun.
    :param fills: who closes marks the places that no job has; else it looks whether all jobs have ended.
    :param spare: there are more places than jobs.
    """

    guard: bool = True
    decides: bool = True
    finishes: bool = True
    fills: bool = True
    spare: bool = True


def moves(rules: Rules, sight: Sight) -> Iterator[Move]:
    """List what a worker, or the sender, can do."""
    match sight.job:
        case "sender":
            yield from _sender(rules, sight)
        case "guard":
            yield from _guard(rules, sight)
        case "callback":
            yield from _callback(sight)
        case _:
            yield from _child(rules, sight, int(sight.job[1:]))


def _sender(rules: Rules, sight: Sight) -> Iterator[Move]:
    records: Records = sight.records
    match sight.at:
        case "look":
            yield Move("opens", records, "add", publish=("guard",) if rules.guard else ())
        case "add":
            if records.added < (JOBS if rules.spare else len(PLACES)):
                more = records._replace(added=records.added + 1)
                yield Move("adds", more, "add", publish=(f"c{records.added}",))
            yield Move("closes", records, "size", records.added)
        case "size":
            if records.size is None or not rules.decides:
                yield Move("writes the size", records._replace(size=sight.note), "fill")
            else:
                yield Move("learns that it was given up", records, settle="ack")
        case _:
            yield from _closing(rules, sight)


def _closing(rules: Rules, sight: Sight) -> Iterator[Move]:
    records: Records = sight.records
    match sight.at:
        case "fill":
            rest = [place for place in PLACES if records.size is not None and place >= records.size]
            marks = tuple(sorted({*records.marks, *rest})) if rules.fills else records.marks
            full = len(marks) == len(PLACES) if rules.fills else len(marks) >= (records.size or 0)
            yield Move("fills", records._replace(marks=marks), "call" if full else "settle")
        case "call":
            yield Move("publishes the callback", records, "settle", publish=("callback",))
        case "settle":
            yield Move("is done", records, settle="ack" if sight.live else "")


def _guard(rules: Rules, sight: Sight) -> Iterator[Move]:
    records: Records = sight.records
    match sight.at:
        case "look":
            if records.outcome:
                yield Move("finds the end", records, "settle")
            elif records.size is None or not rules.decides:
                decided = records._replace(size=ABANDONED) if rules.decides else records
                yield Move("gives up", decided, "stop")
            elif records.size == ABANDONED:
                yield Move("finds it given up", records, "stop")
            else:
                yield Move("finds it closed", records, "fill" if rules.finishes else "settle")
        case "stop":
            yield Move("stops", records._replace(stop=True, outcome=records.outcome or "cancelled"), "settle")
        case _:
            yield from _closing(rules, sight)


def _child(rules: Rules, sight: Sight, number: int) -> Iterator[Move]:
    records: Records = sight.records
    match sight.at:
        case "look":
            if number in records.ended:
                yield Move("finds its end", records, "mark")
            elif records.stop:
                yield Move("finds the stop", records, "settle")
            else:
                ended = records._replace(ended=tuple(sorted({*records.ended, number})))
                yield Move("runs and ends", ended, "mark")
        case "mark":
            marks = tuple(sorted({*records.marks, number}))
            full = len(marks) == len(PLACES) if rules.fills else records.size is not None and len(marks) >= records.size
            yield Move("marks", records._replace(marks=marks), "call" if full else "settle")
        case _:
            yield from _closing(rules, sight)


def _callback(sight: Sight) -> Iterator[Move]:
    records: Records = sight.records
    match sight.at:
        case "look":
            if records.outcome:
                yield Move("finds the end", records, "settle")
            elif records.stop:
                yield Move("finds the stop", records, "settle")
            else:
                early = records.early or len(records.ended) < (records.size or 0)
                yield Move("starts", records._replace(callbacks=records.callbacks + 1, early=early), "end")
        case "end":
            yield Move("ends", records._replace(outcome=records.outcome or "succeeded"), "settle")
        case "settle":
            yield Move("is done", records, settle="ack" if sight.live else "")


def judge(records: Records, over: bool, *, faults: int) -> Iterator[str]:
    """Say what must never be."""
    if records.callbacks > 1 + faults:
        yield "the callback starts twice without a crash"
    if records.early:
        yield "the callback starts before the jobs have ended"
    if records.callbacks and records.stop:
        yield "a batch that was given up has a callback"
    if over and records.added and not records.outcome:
        yield "the batch never ends"


def batches(
    rules: Rules, *, crashes: int = 1, losses: int = 0, dedup: bool = True, until: str = ""
) -> dict[str, tuple[str, ...]]:
    """Search with these rules."""
    protocol = Protocol(
        ("sender",),
        Records(),
        lambda sight: moves(rules, sight),
        lambda one, over: judge(one, over, faults=crashes + losses),
        mortal=frozenset({"sender"}),
        held=frozenset() if dedup else frozenset({"c0", "c1", "callback", "guard"}),
    )
    return dict(search(protocol, crashes=crashes, losses=losses, dedup=dedup, until=until).wrong)


@pytest.mark.parametrize("faults", [{}, {"losses": 1}, {"crashes": 0, "losses": 1}, {"dedup": False}])
def test_a_batch_ends_once_or_is_given_up(faults: dict[str, Any]) -> None:
    """Whatever dies, the callback starts once and after all jobs, or the batch is given up and it never starts."""
    assert batches(Rules(), **faults) == {}


@pytest.mark.parametrize(
    ("rules", "wrong"),
    [
        (Rules(guard=False), "the batch never ends"),
        (Rules(finishes=False), "the batch never ends"),
        (Rules(decides=False), "a batch that was given up has a callback"),
        (Rules(spare=False), "a batch that was given up has a callback"),
    ],
)
def test_without_a_rule_the_search_finds_what_goes_wrong(rules: Rules, wrong: str) -> None:
    """Each rule is needed: without it some order of steps breaks a promise."""
    assert wrong in batches(rules, until=wrong)

"""The rules of fan-in, searched exhaustively: two steps, what collects their results, and a caller who cancels.

A step stores its outcome, marks its leaf, marks the root when the leaf is full, and publishes what follows when the
root is full; the broker forgets it last. Each rule is taken away in turn. One of them is not that of plain jobs: their
outcome is withdrawn if the lease was lost before the verdict.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.workflows.searching import Move, Protocol, Sight, search

pytestmark = pytest.mark.timeout(300)

STEPS = ("s0", "s1")
DEAD = -1


class Records(NamedTuple):
    """The store, and what the search notes.

    :param ends: the run of each step whose result is stored; 0: none, ``DEAD``: it failed.
    :param runs: of each step.
    :param marks: of steps in their leaves; ``root`` has those of full leaves.
    :param count: in place of the marks, where they are counted.
    :param collected: the results that the collector took, once its outcome is stored.
    :param starts: of the collector.
    :param returned: how often it ran to its end.
    :param missing: the collector came, and an outcome was not there.
    :param late: something started although the workflow had been stopped.
    """

    ends: tuple[int, int] = (0, 0)
    runs: tuple[int, int] = (0, 0)
    marks: frozenset[int] = frozenset()
    root: frozenset[int] = frozenset()
    count: int = 0
    stopped: bool = False
    collected: tuple[int, int] = (0, 0)
    starts: int = 0
    returned: int = 0
    outcome: str = ""
    missing: bool = False
    late: bool = False


class Rules(NamedTuple):
    """Which rules hold.

    :param leaves: the leaf of each step.
    :param looks: every start looks for its outcome; else only one that was handed out again.
    :param looks_for_stop: every start looks whether the workflow was stopped.
    :param stands: an outcome stands; else it is withdrawn when the lease turns out to be lost.
    :param marked: marks, which may be set twice; else a counter.
    :param ack_last: the broker forgets a step when what follows is published; else when its outcome is stored.
    :param fails: the second step may fail.
    :param cancelled: a caller may cancel.
    """

    leaves: tuple[int, int] = (0, 0)
    looks: bool = True
    looks_for_stop: bool = True
    stands: bool = True
    marked: bool = True
    ack_last: bool = True
    fails: bool = False
    cancelled: bool = False


class Hand(NamedTuple):
    """What a worker remembers of a step: the outcome that counts, and whether it wrote it."""

    end: int
    wrote: bool = False


def moves(rules: Rules, sight: Sight) -> Iterator[Move]:
    """List what a worker, or the caller, can do."""
    if sight.job == "cancel":
        stopped = sight.records._replace(stopped=True, outcome=sight.records.outcome or "cancelled")
        yield Move("cancels", stopped, settle="ack")
    else:
        yield from (_step if sight.job in STEPS else _collector)(rules, sight)


def _with(pair: tuple[int, int], place: int, value: int) -> tuple[int, int]:
    return (value, pair[1]) if place == 0 else (pair[0], value)


def _step(rules: Rules, sight: Sight) -> Iterator[Move]:
    records: Records = sight.records
    place = STEPS.index(sight.job)
    hand: Hand = sight.note
    match sight.at:
        case "look":
            if records.ends[place] and (rules.looks or sight.again):
                end = records.ends[place]
                yield Move("finds its outcome", records, "stop" if end == DEAD else "leaf", Hand(end))
            elif records.stopped and rules.looks_for_stop:
                yield Move("finds that all is stopped", records, settle="ack" if sight.live else "")
            else:
                run = records.runs[place] + 1
                late = records.late or records.stopped
                yield Move("runs", records._replace(runs=_with(records.runs, place, run), late=late), "run", Hand(run))
        case "run":
            for end in (hand.end, DEAD) if rules.fails and place == 1 else (hand.end,):
                standing = records.ends[place]
                now = records if standing else records._replace(ends=_with(records.ends, place, end))
                counts = standing or end
                after = Hand(counts, wrote=not standing)
                early = "" if rules.ack_last or not sight.live else "ack"
                yield Move("ends", now, "stop" if counts == DEAD else "leaf", after, settle=early)
        case "stop":
            stopped = records._replace(stopped=True, outcome=records.outcome or "dead")
            yield Move("stops all", stopped, "settle", hand)
        case "leaf":
            yield _mark(rules, records, place, hand)
        case "root":
            root = records.root | {rules.leaves[place]}
            full = root == set(rules.leaves)
            yield Move("marks the root", records._replace(root=root), "publish" if full else "settle", hand)
        case "publish":
            yield Move("publishes the collector", records, "settle", hand, publish=("collector",))
        case "settle":
            if not sight.live and not rules.stands and hand.wrote and records.ends[place] == hand.end:
                records = records._replace(ends=_with(records.ends, place, 0))
            yield Move("is settled", records, settle="ack" if sight.live else "")


def _mark(rules: Rules, records: Records, place: int, hand: Hand) -> Move:
    if not rules.marked:
        count = records.count + 1
        return Move("counts", records._replace(count=count), "publish" if count >= len(STEPS) else "settle", hand)
    marks = records.marks | {place}
    mine = {one for one, leaf in enumerate(rules.leaves) if leaf == rules.leaves[place]}
    return Move("marks its leaf", records._replace(marks=marks), "root" if mine <= marks else "settle", hand)


def _collector(rules: Rules, sight: Sight) -> Iterator[Move]:
    records: Records = sight.records
    match sight.at:
        case "look":
            if any(records.collected) and (rules.looks or sight.again):
                yield Move("finds its outcome", records, "close")
            elif records.stopped and rules.looks_for_stop:
                yield Move("finds that all is stopped", records, settle="ack" if sight.live else "")
            elif not all(records.ends):
                yield Move("finds an outcome missing", records._replace(missing=True), settle="ack")
            else:
                late = records.late or records.stopped
                yield Move("starts", records._replace(starts=records.starts + 1, late=late), "run", records.ends)
        case "run":
            collected = records.collected if any(records.collected) else sight.note
            yield Move("ends", records._replace(collected=collected, returned=records.returned + 1), "close")
        case "close":
            yield Move("ends the workflow", records._replace(outcome=records.outcome or "succeeded"), "settle")
        case "settle":
            yield Move("is settled", records, settle="ack" if sight.live else "")


def judge(records: Records, over: bool, *, crashes: int, losses: int) -> Iterator[str]:
    """Say what must never be; a holder that has lost its lease, and does not know it, runs on beside the next one."""
    if records.missing:
        yield "the collector starts before an outcome is there"
    if records.starts > 1 + crashes + losses:
        yield "the collector starts twice without a fault"
    if not losses and records.returned > 1:
        yield "the collector runs twice"
    if records.late:
        yield "something starts in a workflow that is stopped"
    if over and not records.outcome:
        yield "the workflow never ends"
    if over and any(records.collected) and records.collected != records.ends:
        yield "the result is made of what is no outcome any more"


def advance(
    rules: Rules, *, crashes: int = 1, losses: int = 1, dedup: bool = True, held: bool | None = None, until: str = ""
) -> dict[str, tuple[str, ...]]:
    """Search with these rules.

    :param held: whether one worker at a time may run a job; by itself where the broker does not notice copies.
    """
    everything = frozenset({*STEPS, "collector"})
    protocol = Protocol(
        (*STEPS, "cancel") if rules.cancelled else STEPS,
        Records(),
        lambda sight: moves(rules, sight),
        lambda one, over: judge(one, over, crashes=crashes, losses=losses),
        mortal=frozenset({"cancel"}),
        held=everything if (not dedup if held is None else held) else frozenset(),
    )
    return dict(search(protocol, crashes=crashes, losses=losses, dedup=dedup, until=until).wrong)


@pytest.mark.parametrize("leaves", [(0, 0), (0, 1)], ids=["one leaf", "two leaves"])
@pytest.mark.parametrize("faults", [{}, {"crashes": 2, "losses": 0}, {"dedup": False}], ids=str)
def test_what_follows_comes_once_and_all_ends(leaves: tuple[int, int], faults: dict[str, Any]) -> None:
    """Whatever crashes, lost leases and copies do, the collector runs once with all outcomes, and the workflow ends."""
    assert advance(Rules(leaves), **faults) == {}


@pytest.mark.parametrize("rules", [Rules(fails=True), Rules(cancelled=True)], ids=["fails", "cancelled"])
def test_a_workflow_that_is_stopped(rules: Rules) -> None:
    """A step that fails, or a caller who cancels, ends the workflow, and nothing starts whose look comes later."""
    assert advance(rules, losses=0) == {}
    assert advance(rules, crashes=0) == {}


@pytest.mark.parametrize(
    ("rules", "faults", "wrong"),
    [
        (Rules(stands=False), {"crashes": 0}, "the collector starts before an outcome is there"),
        (Rules(stands=False), {"crashes": 0}, "the result is made of what is no outcome any more"),
        (Rules(marked=False), {"losses": 0}, "the collector starts before an outcome is there"),
        (Rules(ack_last=False), {"losses": 0}, "the workflow never ends"),
        (Rules(looks=False), {"losses": 0}, "the collector runs twice"),
        (Rules(), {"dedup": False, "held": False, "losses": 0}, "the collector runs twice"),
        (
            Rules(looks_for_stop=False, cancelled=True),
            {"crashes": 0, "losses": 0},
            "something starts in a workflow that is stopped",
        ),
    ],
)
def test_without_a_rule_the_search_finds_what_goes_wrong(rules: Rules, faults: dict[str, Any], wrong: str) -> None:
    """Each rule is needed: without it some order of steps breaks a promise."""
    assert wrong in advance(rules, **faults, until=wrong)

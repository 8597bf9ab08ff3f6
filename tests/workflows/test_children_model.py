"""The rules of children, searched exhaustively: a job that ends as a workflow, and what crashes can do to that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.workflows.searching import Move, Protocol, Sight, search

pytestmark = pytest.mark.timeout(300)

CHILDREN = ("c0", "c1")


class Records(NamedTuple):
    """The store.

    :param plan: the attempt whose children the plan names; 0: there is none.
    :param failed: attempts of the parent that failed.
    :param outcome: how the parent ended.
    :param starts: of each child, and of children with other names.
    :param wrote: how often an outcome of the parent was written.
    :param runs: of the parent.
    :param late: a child started after the parent was dead.
    """

    plan: int = 0
    failed: int = 0
    outcome: str = ""
    ended: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    starts: tuple[int, int, int] = (0, 0, 0)
    wrote: int = 0
    runs: int = 0
    late: bool = False


class Rules(NamedTuple):
    """Which rules hold.

    :param look: a parent that is handed out again looks for its plan before it runs.
    :param children_look: a child looks for the outcome of the parent before it starts.
    :param deferred: children are published when the parent is settled, not while it runs.
    :param named: the names of children follow from the parent's alone.
    :param plan_once: a plan that is there stands, and its children are those that are published.
    """

    look: bool = True
    children_look: bool = True
    deferred: bool = True
    named: bool = True
    plan_once: bool = True


def moves(rules: Rules, sight: Sight) -> Iterator[Move]:
    """List what a worker can do with the parent or a child."""
    yield from (_parent if sight.job == "parent" else _child)(rules, sight)


def _names(rules: Rules, attempt: int) -> tuple[str, ...]:
    return CHILDREN if rules.named else tuple(f"{child}/{attempt}" for child in CHILDREN)


def _parent(rules: Rules, sight: Sight) -> Iterator[Move]:
    records: Records = sight.records
    match sight.at:
        case "look":
            if records.outcome:
                yield Move("finds its outcome", records, settle="ack")
            elif rules.look and sight.again and records.plan:
                yield Move("finds its plan", records, "publish", records.plan)
            else:
                run = records.runs + 1
                yield Move("runs", records._replace(runs=run), "run", run, publish=_early(rules, run))
        case "run":
            if records.failed:
                yield Move("fails and ends dead", _ended(records, "dead"), "settle")
            else:
                yield Move("fails and is put back", records._replace(failed=1), settle="back")
            yield Move("succeeds", records, "plan", sight.note)
        case "plan":
            plan = (records.plan if rules.plan_once else 0) or sight.note
            yield Move("writes its plan", records._replace(plan=plan), "publish", plan)
        case "publish":
            yield Move("publishes c0", records, "publish c1", sight.note, publish=_names(rules, sight.note)[:1])
        case "publish c1":
            yield Move("publishes c1", records, "settle", publish=_names(rules, sight.note)[1:])
        case "settle":
            yield Move("is settled", records, settle="ack" if sight.live else "")


def _early(rules: Rules, run: int) -> tuple[str, ...]:
    return () if rules.deferred else _names(rules, run)


def _ended(records: Records, how: str) -> Records:
    return records if records.outcome else records._replace(outcome=how, wrote=records.wrote + 1)


def _child(rules: Rules, sight: Sight) -> Iterator[Move]:
    records: Records = sight.records
    child = sight.job
    match sight.at:
        case "look":
            if child in records.ended:
                yield Move("finds its outcome", records, "mark")
            elif rules.children_look and records.outcome == "dead":
                yield Move("finds the parent's end", records, settle="ack" if sight.live else "")
            else:
                late = records.late or records.outcome == "dead"
                yield Move("starts", records._replace(starts=_started(records.starts, child), late=late), "run")
        case "run":
            ended = tuple(sorted({*records.ended, child}))
            yield Move("ends", records._replace(ended=ended), "mark")
        case "mark":
            marks = tuple(sorted({*records.marks, child[:2]}))
            yield Move("marks", records._replace(marks=marks), "close" if marks == CHILDREN else "settle")
        case "close":
            yield Move("ends the parent", _ended(records, "succeeded"), "settle")
        case "settle":
            yield Move("is settled", records, settle="ack" if sight.live else "")


def _started(starts: tuple[int, int, int], child: str) -> tuple[int, int, int]:
    first, second, others = starts
    return first + (child == "c0"), second + (child == "c1"), others + (child not in CHILDREN)


def judge(records: Records, over: bool, *, faults: int, losses: int) -> Iterator[str]:
    """Say what must never be.

    A worker that has lost its lease, and does not know it, runs the parent beside the next holder: then either may be
    the first, and the parent may be dead by the one while the other has begun its children.
    """
    if records.wrote > 1:
        yield "the parent ends twice"
    if sum(records.starts) > len(CHILDREN) + faults:
        yield "a child starts twice without a crash"
    if records.outcome == "succeeded" and len({one[:2] for one in records.ended}) < len(CHILDREN):
        yield "the parent ends before its children"
    if records.late:
        yield "a child starts although its parent is dead"
    if any(records.starts) and not records.plan:
        yield "a failed attempt has children"
    if over and not records.outcome:
        yield "the parent never ends"
    if over and not losses and records.outcome == "dead" and set(records.marks) == set(CHILDREN):
        yield "all children end well and the parent is dead"


def children(
    rules: Rules, *, crashes: int = 1, losses: int = 0, dedup: bool = True, until: str = ""
) -> dict[str, tuple[str, ...]]:
    """Search with these rules."""
    protocol = Protocol(
        ("parent",),
        Records(),
        lambda sight: moves(rules, sight),
        lambda one, over: judge(one, over, faults=crashes + losses, losses=losses),
        held=frozenset() if dedup else frozenset({"parent", *CHILDREN}),
    )
    return dict(search(protocol, crashes=crashes, losses=losses, dedup=dedup, until=until).wrong)


@pytest.mark.parametrize("faults", [{"crashes": 2}, {"crashes": 0, "losses": 1}, {"losses": 1}, {"dedup": False}])
def test_each_child_starts_once_and_the_parent_ends_once(faults: dict[str, Any]) -> None:
    """Whatever crashes and leases that are lost do, children run for a parent that goes on, and end it once."""
    assert children(Rules(), **faults) == {}


@pytest.mark.parametrize(
    ("rules", "wrong"),
    [
        (Rules(look=False), "all children end well and the parent is dead"),
        (Rules(deferred=False), "a failed attempt has children"),
        (Rules(look=False, named=False, plan_once=False), "a child starts twice without a crash"),
    ],
)
def test_without_a_rule_the_search_finds_what_goes_wrong(rules: Rules, wrong: str) -> None:
    """Each rule is needed: without it some order of steps breaks a promise."""
    assert wrong in children(rules, until=wrong)


def test_no_child_starts_after_the_parent_is_dead() -> None:
    """A child looks for the outcome of its parent, so that one which comes late ends with it."""
    late = {"losses": 1, "crashes": 0}
    assert "a child starts although its parent is dead" not in children(Rules(), **late)
    assert "a child starts although its parent is dead" in children(Rules(children_look=False), **late)

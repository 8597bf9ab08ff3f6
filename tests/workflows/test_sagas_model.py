"""The rules of sagas, searched exhaustively: when compensation may begin, and that its net effect is zero or all.

Two steps run side by side: `a` has an effect and a compensation, `b` may fail. The pivot follows both. A caller cancels
at any moment, or a deadline passes. The compensation of `a` is `undo`; `begin` finds out what is to be undone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.workflows.searching import Move, Protocol, Sight, search

pytestmark = pytest.mark.timeout(300)

OK, DEAD, CANCELLED, UNKNOWN = "ok", "dead", "cancelled", "unknown"


class Records(NamedTuple):
    """The store, and the world outside.

    :param fence: how often `a` was begun by a holder of its key; ``key``: the outcome that is committed under it.
    :param passed: whether the pivot may run: decided once, by the pivot or by who cancels.
    :param todo: what is to be undone, once that is decided.
    :param dirty: the effect of `a` is there.
    :param ghost: a worker without a lease had it.
    :param hasty: it was undone while it might run; ``told``: a caller was told that the saga is cancelled.
    """

    a: str = ""
    b: str = ""
    pivot: str = ""
    undo: str = ""
    fence: int = 0
    key: str = ""
    stop: bool = False
    passed: str = ""
    todo: tuple[str, ...] | None = None
    outcome: str = ""
    dirty: bool = False
    ghost: bool = False
    hasty: bool = False
    told: bool = False


class Rules(NamedTuple):
    """Which rules hold.

    :param waits: compensation begins when no step can be running.
    :param fenced: every end of a step with a compensation is committed under its key first.
    :param suspects: a step that was begun before and did not end may have had its effect.
    :param decides: pivot and canceller decide in one record.
    """

    waits: bool = True
    fenced: bool = True
    suspects: bool = True
    decides: bool = True


def moves(rules: Rules, sight: Sight) -> Iterator[Move]:
    """List what a worker, or a caller, can do."""
    if sight.at == "settle":
        yield Move("is settled", sight.records, settle="ack" if sight.live else "")
    elif sight.at == "stop":  # a step that fails, the pivot that may not run, or `begin`
        yield Move("stops the saga", sight.records._replace(stop=True), "publish")
    elif sight.at == "publish":
        yield Move("publishes what begins", sight.records, "settle", publish=("begin",))
    else:
        play = {"a": _step_a, "b": _step_b, "pivot": _pivot, "begin": _begin, "undo": _undo, "caller": _caller}
        yield from play[sight.job](rules, sight)


def _step_a(rules: Rules, sight: Sight) -> Iterator[Move]:
    records: Records = sight.records
    match sight.at:
        case "look":
            if records.a:
                yield Move("finds its end", records, "advance")
            elif records.key:
                yield Move("finds the end under its key", records, "end", records.key)
            else:
                fence = min(records.fence + 1, 3)
                yield Move("takes its key", records._replace(fence=fence), "begin", fence)
        case "begin":
            if records.stop:
                how = UNKNOWN if sight.note > 1 and rules.suspects else CANCELLED
                yield Move("finds the stop", records, "commit" if rules.fenced else "end", (sight.note, how))
            else:
                yield Move("starts", records, "run", sight.note)
        case "run":
            acted = records._replace(dirty=True, ghost=records.ghost or not sight.live)
            yield Move("acts", acted, "commit", (sight.note, OK))
        case _:
            yield from _end_of_a(sight)


def _end_of_a(sight: Sight) -> Iterator[Move]:
    records: Records = sight.records
    match sight.at:
        case "commit":
            fence, how = sight.note
            if records.fence == fence and not records.key:
                yield Move("commits under its key", records._replace(key=how), "end", (fence, how))
            elif records.key:
                yield Move("finds the key committed", records, "end", records.key)
            else:
                yield Move("has lost its key", records, settle="later" if sight.live else "")
        case "end":
            how = sight.note if isinstance(sight.note, str) else sight.note[1]
            yield Move("ends", records._replace(a=records.a or how), "advance")
        case "advance":
            follows = ("pivot",) if records.a == records.b == OK else ()
            yield Move("advances", records, "settle", publish=follows)


def _step_b(_: Rules, sight: Sight) -> Iterator[Move]:
    records: Records = sight.records
    match sight.at:
        case "look":
            if records.b:
                yield Move("finds its end", records, "advance")
            elif records.stop:
                yield Move("finds the stop", records._replace(b=CANCELLED), "advance")
            else:
                yield Move("goes well", records._replace(b=OK), "advance")
                yield Move("fails", records._replace(b=DEAD), "advance")
        case "advance":
            follows = ("pivot",) if records.a == records.b == OK else ()
            yield Move("advances", records, "stop" if records.b == DEAD else "settle", publish=follows)


def _pivot(rules: Rules, sight: Sight) -> Iterator[Move]:
    records: Records = sight.records
    match sight.at:
        case "look":
            if records.pivot:
                yield Move("finds its end", records, "advance")
            elif records.stop or (records.passed == "stopped" and rules.decides):
                yield Move("may not run", records._replace(pivot=CANCELLED), "stop")
            else:
                yield Move("passes", records._replace(passed="begun" if rules.decides else records.passed), "run")
        case "run":
            yield Move("goes well", records._replace(pivot=records.pivot or OK), "advance")
            yield Move("fails", records._replace(pivot=records.pivot or DEAD), "advance")
        case "advance":
            if records.pivot == OK:
                yield Move("ends the saga well", records._replace(outcome=records.outcome or OK), "settle")
            else:
                yield Move("advances", records, "stop")


def _caller(rules: Rules, sight: Sight) -> Iterator[Move]:
    records: Records = sight.records
    if sight.at == "look":
        if records.outcome or (rules.decides and records.passed == "begun"):
            yield Move("is refused", records, settle="ack")
        else:
            yield Move("decides", records._replace(passed="stopped"), "ask")
    else:
        yield Move("asks", records._replace(told=True), settle="ack", publish=("begin",))


def _begin(rules: Rules, sight: Sight) -> Iterator[Move]:
    records: Records = sight.records
    match sight.at:
        case "look":
            if records.outcome:
                yield Move("finds the end", records, "settle")
            elif not records.stop:
                yield Move("stops the saga", records._replace(stop=True), "wait")
            else:
                yield Move("finds the stop", records, "wait")
        case "wait":
            may_run = not records.a or not records.b or (records.a == records.b == OK and not records.pivot)
            if may_run and rules.waits:
                yield Move("waits", records, settle="later")
            elif records.pivot == OK:
                yield Move("finds it too late", records, "settle")
            else:
                todo = ("undo",) if records.a in (OK, UNKNOWN) or not records.a else ()
                decided = records._replace(todo=todo if records.todo is None else records.todo)
                yield Move("lists what is to be undone", decided, "undo" if decided.todo else "end")
        case "undo":
            yield Move("publishes the first", records, "settle", publish=("undo",))
        case "end":
            yield Move("ends the saga", records._replace(outcome=records.outcome or "undone"), "settle")


def _undo(_: Rules, sight: Sight) -> Iterator[Move]:
    records: Records = sight.records
    match sight.at:
        case "look":
            if records.undo:
                yield Move("finds its end", records, "end")
            else:
                undone = records._replace(dirty=False, undo=OK, hasty=records.hasty or not records.a)
                yield Move("undoes", undone, "end")
        case "end":
            yield Move("ends the saga", records._replace(outcome=records.outcome or "undone"), "settle")


def judge(records: Records, over: bool) -> Iterator[str]:
    """Say what must never be."""
    if records.hasty:
        yield "a step may run while it is undone"
    if records.outcome == OK and records.undo:
        yield "a saga that went well is undone"
    if records.pivot == OK and records.outcome == "undone":
        yield "a saga is undone behind its pivot"
    if records.told and records.outcome == OK:
        yield "a saga goes well that is cancelled"
    if over and not records.outcome:
        yield "the saga never ends"
    if over and records.outcome == "undone" and records.dirty and not records.ghost:
        yield "an effect stays"
    if over and records.outcome == OK and not records.dirty:
        yield "an effect is missing"


def sagas(
    rules: Rules, *, crashes: int = 1, losses: int = 0, dedup: bool = True, until: str = ""
) -> dict[str, tuple[str, ...]]:
    """Search with these rules."""
    protocol = Protocol(
        ("a", "b", "caller"),
        Records(),
        lambda sight: moves(rules, sight),
        judge,
        mortal=frozenset({"caller"}),
        held=frozenset({"a"}) if dedup else frozenset({"a", "b", "pivot", "begin", "undo"}),
    )
    return dict(search(protocol, crashes=crashes, losses=losses, dedup=dedup, until=until).wrong)


@pytest.mark.parametrize("faults", [{}, {"crashes": 0, "losses": 1}, {"dedup": False}])
def test_the_net_effect_is_zero_or_all(faults: dict[str, Any]) -> None:
    """Whatever dies or is cancelled, all steps went well and stay, or what had an effect is undone; then it ends."""
    assert sagas(Rules(), **faults) == {}


@pytest.mark.parametrize(
    ("rules", "faults", "wrong"),
    [
        (Rules(waits=False), {"crashes": 0}, "a step may run while it is undone"),
        (Rules(suspects=False), {}, "an effect stays"),
        (Rules(fenced=False), {"losses": 1}, "an effect stays"),
        (Rules(decides=False), {"crashes": 0}, "a saga goes well that is cancelled"),
    ],
)
def test_without_a_rule_the_search_finds_what_goes_wrong(rules: Rules, faults: dict[str, int], wrong: str) -> None:
    """Each rule is needed: without it some order of steps breaks a promise."""
    assert wrong in sagas(rules, **faults, until=wrong)

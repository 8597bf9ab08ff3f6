"""Exception groups are judged by their leaves: one leaf counts as if raised bare, of several the most decisive one."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcore import App, Dead, Failed, LeaseLost, Reject, Retry, RetryLater, Snooze
from taskcore.envelope import ErrorRecord, Trail
from taskcore.lifecycle import Bury, Raised, Reschedule, Rules, decide, deciding_error
from tests.support import grouped

RECORD = ErrorRecord(type="E", message="m", when=1.0, worker="w", attempt=1)
RETRY = Retry(attempts=3, give_up_on=(ValueError,))
RULES = Rules(retry=RETRY, crashes=3, park_for=60.0)


class Own(ExceptionGroup):
    """A group with a name of its own."""


class Declared(ConnectionError):
    """An error that the task declares."""


#: What decides, the strongest first: as the table in lifecycle.py says.
ROWS: list[list[Any]] = [
    [lambda: LeaseLost("lost")],
    [lambda: Reject("never")],
    [lambda: ValueError("given up"), lambda: SystemExit(1), KeyboardInterrupt, GeneratorExit],
    [lambda: RetryLater(3.0), lambda: RetryLater(9.0)],
    [lambda: ConnectionError("again"), lambda: Declared("again")],
    [lambda: Snooze(3.0), lambda: Snooze(9.0)],
    [asyncio.CancelledError],
]
leaves = st.integers(0, len(ROWS) - 1).flatmap(
    lambda row: st.tuples(st.just(row), st.sampled_from(ROWS[row]).map(lambda make: make()))
)
trees = st.recursive(leaves, lambda inner: st.lists(inner, min_size=1, max_size=4), max_leaves=12)


def flat(tree):
    """List the leaves of a tree, in order."""
    return [leaf for each in tree for leaf in flat(each)] if isinstance(tree, list) else [tree]


def group_of(tree):
    """Make the exception group of a tree."""
    if not isinstance(tree, list):
        return tree[1]
    return BaseExceptionGroup("group", [group_of(each) for each in tree])


@given(trees)
def test_the_first_row_that_fits_decides(tree):
    """Of the leaves of any tree the strongest rule wins; the longest time, the declared error, the first one."""
    found = flat(tree)
    row = min(row for row, _ in found)
    error = deciding_error(group_of(tree), RETRY, raises=(Declared,), keyed=True)

    same = [leaf for number, leaf in found if number == row]
    longest = max(getattr(leaf, "after", 0.0) for leaf in same)
    same = [leaf for leaf in same if getattr(leaf, "after", 0.0) == longest]
    assert error is ([leaf for leaf in same if isinstance(leaf, Declared)] or same)[0]


@given(leaves, st.integers(1, 30), st.integers(0, 5))
def test_one_leaf_counts_as_raised_bare(leaf, depth, attempts):
    """A group of one error, however deep, has the verdict of the error itself."""
    bare = group = leaf[1]
    for _ in range(depth):
        group = BaseExceptionGroup("group", [group])
    trail = Trail(attempts=attempts)
    verdict = decide(Raised(deciding_error(group, RETRY), RECORD), trail, RULES, roll=0.5)

    assert verdict == decide(Raised(bare, RECORD), trail, RULES, roll=0.5)


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        ([RetryLater(7.0), Snooze(99.0), ConnectionError()], Reschedule),
        ([Snooze(99.0), ValueError()], Bury),
        ([asyncio.CancelledError(), ConnectionError()], Reschedule),
        ([asyncio.CancelledError(), asyncio.CancelledError()], Bury),
        ([RetryLater(7.0), Reject("no")], Bury),
    ],
    ids=str,
)
def test_examples(errors, verdict):
    """A signal of one child does not hide the error of another."""
    error = deciding_error(BaseExceptionGroup("group", errors), RETRY)

    assert type(decide(Raised(error, RECORD), Trail(), RULES, roll=0.5)) is verdict


@pytest.mark.parametrize(
    ("retry", "raises"), [(Retry(on=(Own,)), ()), (Retry(give_up_on=(Own,)), ()), (Retry(), (Own,))]
)
def test_a_group_that_the_task_names_is_one_error(retry, raises):
    """A group whose class stands in on, give_up_on or raises is not looked into."""
    own = Own("own", [Reject("inside")])

    assert deciding_error(BaseExceptionGroup("all", [own]), retry, raises=raises) is own
    assert isinstance(deciding_error(own, Retry()), Reject)


def test_groups_that_hold_one_another_many_times():
    """Deep groups, and groups in which one error is found a billion times, cost no more than their errors."""
    error: BaseException = ValueError("one")
    for _ in range(10_000):
        error = BaseExceptionGroup("deep", [error, error])

    assert type(deciding_error(error, Retry())) is ValueError


# ── where a function can run ─────────────────────────────────────────────────────────────────────


@pytest.mark.anyio
@pytest.mark.parametrize("place", ["loop", "thread", "process"])
async def test_a_function_in_a_task_group(place):
    """Each signal and setting acts through groups as it does bare; records name the leaf, tracebacks show the group."""
    app = App("memory://", retry=Retry(attempts=3, base=0.001), processes=1)
    app.include(grouped.router)
    on, give_up, reject, snooze, later, declared, sibling = grouped.tasks_in(place)
    starts = grouped.starts_of
    with anyio.fail_after(60):
        async with app.running():
            jobs = [await task.enqueue() for task in (on, give_up, reject, snooze, later, declared, sibling)]
            ends = [await job.outcome(timeout=30) for job in jobs]
    assert [type(end).__name__ for end in ends] == ["Dead", "Dead", "Dead", "Succeeded", "Succeeded", "Failed", "Dead"]
    reasons = [end.reason for end in ends if isinstance(end, Dead)]
    assert reasons == ["exhausted", "not retryable", "rejected: there is no such city", "rejected: never"]
    failed = ends[5]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, grouped.Declined)
    assert failed.error.args == ("stolen",)
    assert (failed.record.type, failed.record.message) == ("tests.support.grouped.Declined", "stolen")
    assert failed.record.where.endswith("in throw")
    assert "ExceptionGroup" in failed.record.traceback
    assert "Declined: stolen" in failed.record.traceback
    if place != "process":
        assert [starts[job.id] for job in jobs] == [3, 1, 1, 6, 2, 3, 1]

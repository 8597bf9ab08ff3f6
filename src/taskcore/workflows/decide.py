"""The rules of workflows: no I/O, no clock, no dice; the same question has the same answer.

Before a step starts, all steps that it waits for have ended. The first row that fits decides:

    what its worker finds                                            what becomes of the step
    ───────────────────────────────────────────────────────────────  ────────────────────────────────────────────────
    the outcome of a step that it waits for is not there yet         it waits; the writer is on its way
    ``when`` has no value, or is not true                            it is skipped
    the step to which it is the alternative has a result             it is skipped
    a value that it takes comes from steps of which none has one     it is skipped
    anything else                                                    it starts with these values

A step has a *value* if it succeeded, or if it has a default: ``otherwise(value)``. A map's value is the list of its
children's; children without a value are left out.

When a step has ended:

    how it ended            the policy of the step             what becomes of the workflow
    ──────────────────────  ─────────────────────────────────  ──────────────────────────────────────────────────────
    succeeded, skipped      any                                the steps that wait for it are one step nearer
    failed (*)              none                               it fails at once; no further step starts
    failed                  otherwise(value or task), skip     as if it had succeeded or been skipped
    a map: too few ended    outcomes(at_least=…)               it fails at once
    well
    a map: no list          any                                it fails at once

    (*) dead, expired, or cancelled by itself

A step that waits for one step is published when that one ends; one that waits for several, by the worker that sets the
last mark. The workflow is over when every step has ended for which no other waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from taskcore.workflows.marks import FAILED, SKIPPED, SUCCEEDED, Mark, MarkCounts
from taskcore.workflows.plan import Plan, StepPlan, Value

__all__ = [
    "Consequence",
    "EndedStep",
    "MarkToSet",
    "SkipStep",
    "StartStep",
    "StepKey",
    "StepVerdict",
    "WaitForStep",
    "after_child",
    "after_children",
    "after_no_children",
    "after_step",
    "arguments_of",
    "element_of",
    "judge_start",
    "list_of",
    "may_lack_result",
]


# ── before a step starts ─────────────────────────────────────────────────────────────────────────


class EndedStep(NamedTuple):
    """How a step ended, and its result as JSON, if it has one; of a map: the list, as its taker wants it."""

    how: Mark
    result: bytes = b""


class StartStep(NamedTuple):
    """The step starts with these arguments, beside those that its plan has."""

    args: Mapping[str, bytes]


class SkipStep(NamedTuple):
    """The step does not run."""

    why: str


class WaitForStep(NamedTuple):
    """The outcome of this step is not there yet."""

    step: int


StepVerdict: TypeAlias = StartStep | SkipStep | WaitForStep


def judge_start(plan: Plan, number: int, ended: Mapping[int, EndedStep | None]) -> StepVerdict:
    """Decide whether a step starts, by the first table at the top of this file.

    :param ended: each step that it waits for; None if its outcome is not there.
    """
    step = plan.steps[number]
    for other in plan.waits[number]:
        if ended[other] is None:
            return WaitForStep(other)
    if step.when is not None:
        flag = _value_of(step.when, plan, ended)
        if flag != b"true":
            return SkipStep("its condition is not true" if flag is not None else "its condition has no value")
    if step.unless is not None and _value_of(Value((step.unless,)), plan, ended) is not None:
        return SkipStep(f"{plan.steps[step.unless].name} has a result")
    if step.over is not None and step.over.step is not None and not plan.is_paired(number):
        source = Value((step.over.step,))
        if _value_of(source, plan, ended) is None:
            return SkipStep(f"{_names(plan, source)} has no list")
    args = {}
    for parameter, value in step.takes.items():
        found = _value_of(value, plan, ended)
        if found is None:
            return SkipStep(f"{_names(plan, value)} has no result for {parameter}")
        args[parameter] = found
    return StartStep(args)


def _value_of(value: Value, plan: Plan, ended: Mapping[int, EndedStep | None]) -> bytes | None:
    """Find the first value that one of these steps has, as JSON."""
    for number in value.of:
        end, step = ended[number], plan.steps[number]
        if end is not None and end.how is SUCCEEDED:
            return end.result
        if step.has_default and step.over is None:
            return bytes(step.default)
    return None


def _names(plan: Plan, value: Value) -> str:
    return " or ".join(plan.steps[number].name for number in value.of)


# ── when a step has ended ────────────────────────────────────────────────────────────────────────


class StepKey(NamedTuple):
    """One job of a workflow: a step, or the child of a map with this index.

    A map without an index is the job that publishes its children.
    """

    step: int
    child: int | None = None


class MarkToSet(NamedTuple):
    """A mark in the gate of a step; the gate behind the last step's is that of the workflow's end.

    :param position: of the member that ended; the gate has so many ``members``.
    """

    gate: int
    position: int
    members: int
    how: Mark


class Consequence(NamedTuple):
    """What follows from an end.

    :param publish: jobs that nothing holds back any more.
    :param marks: gates in which it is one of several.
    :param over: the workflow has ended.
    :param fails: the workflow fails; nothing else follows.
    """

    publish: tuple[StepKey, ...] = ()
    marks: tuple[MarkToSet, ...] = ()
    over: bool = False
    fails: bool = False


FAILS = Consequence(fails=True)


def after_step(plan: Plan, number: int, how: Mark) -> Consequence:
    """Decide what follows when a step has ended, or all children of a map; by the second table."""
    step = plan.steps[number]
    if how is FAILED and not step.goes_on:
        return FAILS
    publish, marks = [], []
    for follower in plan.followers[number]:
        waits = plan.waits[follower]
        if plan.is_paired(follower):  # its children follow those of the map, one by one
            continue
        if len(waits) == 1:
            publish.append(StepKey(follower))
        else:
            marks.append(MarkToSet(follower, waits.index(number), len(waits), how))
    if number not in plan.ends:
        return Consequence(tuple(publish), tuple(marks))
    if len(plan.ends) == 1:
        return Consequence(over=True)
    return Consequence(marks=(MarkToSet(len(plan.steps), plan.ends.index(number), len(plan.ends), how),))


def after_no_children(plan: Plan, number: int, how: Mark) -> Consequence:
    """Decide what follows when a map has no children; so have those that are paired with it.

    :param how: its list is empty, it is skipped, or there is no list.
    """
    if how is FAILED:
        return FAILS
    each = [after_step(plan, one, how) for one in plan.lengths_with(number)]
    return Consequence(
        tuple(key for one in each for key in one.publish),
        tuple(mark for one in each for mark in one.marks),
        any(one.over for one in each),
        any(one.fails for one in each),
    )


def after_child(plan: Plan, key: StepKey, how: Mark) -> Consequence:
    """Decide what follows when one child of a map has ended, beside its mark among the children."""
    step = plan.steps[key.step]
    if how is FAILED and not _goes_on_without(step):
        return FAILS
    paired = (StepKey(one, key.child) for one in plan.followers[key.step] if plan.is_paired(one))
    return Consequence(publish=tuple(paired))


def _goes_on_without(step: StepPlan) -> bool:
    """Tell whether a map goes on when one of its children has failed."""
    return step.goes_on or step.at_least is not None


def after_children(plan: Plan, number: int, tally: MarkCounts) -> Consequence:
    """Decide what follows when all children of a map have ended."""
    least = plan.steps[number].at_least
    if least is not None and tally.succeeded < least * tally.ended:
        return FAILS
    after = after_step(plan, number, SUCCEEDED)
    if not tally.failed + tally.skipped:
        return after
    skipped = [key for key in after.publish if plan.steps[key.step].if_all]
    behind = [after_step(plan, key.step, SKIPPED) for key in skipped]
    return Consequence(
        tuple(key for key in after.publish if key not in skipped) + tuple(key for one in behind for key in one.publish),
        after.marks + tuple(mark for one in behind for mark in one.marks),
        after.over or any(one.over for one in behind),
    )


def element_of(step: StepPlan, child: EndedStep) -> bytes | None:
    """Find what one child of a map gives to the list of results; None if it is left out."""
    if child.how is SUCCEEDED:
        return child.result
    return bytes(step.default) if step.has_default else None


def list_of(elements: Sequence[bytes]) -> bytes:
    """Join elements to a JSON list."""
    return b"[" + b",".join(elements) + b"]"


def arguments_of(step: StepPlan, given: bytes, start: StartStep) -> bytes:
    """Join the arguments that a plan has, those that an envelope has and those that come from other steps."""
    args = msgspec.json.decode(step.args, type=dict[str, msgspec.Raw])
    if given:
        args |= msgspec.json.decode(given, type=dict[str, msgspec.Raw])
    args |= {name: msgspec.Raw(value) for name, value in start.args.items()}
    return msgspec.json.encode(args)


# ── before a workflow is sent ────────────────────────────────────────────────────────────────────


def may_lack_result(steps: Sequence[StepPlan], last: Sequence[int]) -> bool:
    """Tell whether a workflow may end well and have no result, because all of its last steps may be skipped.

    Flags are not compared: steps that all have a ``when`` may all be skipped.
    """
    may_skip: list[bool] = []
    for step in steps:
        loses = any(
            all(may_skip[one] or _lacks(steps[one]) for one in value.of)
            for value in [*step.takes.values(), *filter(None, [step.when])]
        )
        may_skip.append((step.when is not None or loses) and not step.has_default)
    return all(may_skip[one] or _lacks(steps[one]) for one in last)


def _lacks(step: StepPlan) -> bool:
    """Tell whether the workflow goes on if the step fails, without a value in its place."""
    return step.goes_on and not step.has_default and step.over is None

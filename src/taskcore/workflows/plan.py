"""The plan of a workflow: its steps and what each of them waits for; written once, before anything is published.

A step is one job, or, if it is a map, one job for each element of a list. What a step takes from others is named by
their numbers, and a step names smaller numbers only, so a plan has no cycles.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Literal, TypeAlias

import msgspec

from taskcore.envelope import CallRetry, Id
from taskcore.store import unreadable_record

__all__ = [
    "AFTER_DEADLINE",
    "CHUNK",
    "MAP_LIMIT",
    "OPEN_WIDTH",
    "PLAN_BYTES",
    "PLAN_FORMAT",
    "STEPS_LIMIT",
    "UNDO_TIME",
    "NewerPlan",
    "OneCall",
    "Over",
    "PartOf",
    "Plan",
    "StepPlan",
    "UndoPlan",
    "Value",
    "decode_plan",
    "encode_plan",
]

PLAN_FORMAT = 1  #: the newest format of plans that this code reads, and the one that it writes
STEPS_LIMIT = 1_000  #: steps that a plan may have
PLAN_BYTES = 262_144  #: bytes that a plan may have
MAP_LIMIT = 100_000  #: elements that one map may have
CHUNK = 500  #: elements in one record of a list, and children that one job publishes

AFTER_DEADLINE = 3_600.0  #: seconds that records outlive the deadline: clocks differ, and a step may run across it
UNDO_TIME = 604_800.0  #: seconds that those of a saga are kept for longer: compensations are tried again for long

Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=STEPS_LIMIT)]

OPEN_WIDTH = 100_096  #: places of a map that is open: more than it may have elements, so that who closes it fills it
WIDTH_LIMIT = 131_072  #: places that a map may have

Part: TypeAlias = Literal["step", "child", "expand", "begin", "guard", "compensate", "undo", "deadline"]


class PartOf(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Which part of which workflow a job is.

    :param workflow: its id.
    :param part: a step; a child of a map; the job that publishes a part of a map's children; the one that publishes
        the first steps; the one that looks after a batch whose sender may be gone; of a saga the one that finds out
        what is to be undone next, the one that undoes a step, and the one that comes when its deadline passes.
    :param step: the number of the step.
    :param index: of the child, or of the part of the children.
    :param width: how many children the map has; 0 if that is not known.
    """

    workflow: Id
    part: Part = "step"
    step: Number = 0
    index: Annotated[int, msgspec.Meta(ge=0, lt=MAP_LIMIT)] = 0
    width: Annotated[int, msgspec.Meta(ge=0, le=WIDTH_LIMIT)] = 0


NO_VALUE = msgspec.Raw()  #: stands where there is no value: every JSON value is one


class OneCall(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """An element of a map that is a whole call: its arguments, and its key."""

    args: msgspec.Raw
    key: str | None = None


class Value(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a value comes from: the result of the first of these steps that has one.

    :param outcomes: a list of how each child of a map ended, in place of a list of their results.
    """

    of: tuple[Number, ...]
    outcomes: bool = False


class Over(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a map goes over: a list that is known when it is sent, the list that a step returns, or another map.

    :param parameter: the parameter that takes one element; empty if each element is a whole call (``OneCall``).
    :param items: the length of the list that is known; None if a step returns it.
    :param step: the step that returns the list; or the map whose child with the same index returns the element.
    :param lists: tells the list of this plan from that of another plan that was written for the same job.
    :param is_open: its children are sent from outside, until it is closed: the jobs of a batch.
    """

    parameter: str
    items: Annotated[int, msgspec.Meta(ge=0, le=MAP_LIMIT)] | None = None
    step: Number | None = None
    lists: str = ""
    is_open: bool = False


class UndoPlan(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What undoes a step; its parameters as those of a step."""

    task: str
    version: int = 1
    queue: str
    args: msgspec.Raw = msgspec.Raw(b"{}")
    takes: dict[str, Value] = {}
    timeout: float | None = None
    soft_timeout: float | None = None
    retry: CallRetry | None = None
    headers: dict[str, str] = {}


class StepPlan(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One step. Times in seconds.

    :param name: for people; no two steps of a plan have the same.
    :param args: the arguments that are known when the workflow is sent, by name.
    :param takes: the parameters that take values of other steps.
    :param after: steps that end before it starts, however they end.
    :param when: it runs only if this value is true.
    :param unless: it runs only if this step has no result: it is the alternative to it.
    :param over: it is a map.
    :param goes_on: the workflow goes on if the step fails; else it fails at once.
    :param default: what counts as its result if it fails or is skipped.
    :param undo: undoes it when the workflow fails.
    :param pivot: when it has succeeded, nothing is undone any more.
    :param if_all: it runs only if all children of the map before it succeeded.
    :param at_least: the share of a map's children that have to succeed; None: each failure counts as ``goes_on`` says.
    :param key: the idempotency key of its job, in place of the one that the task makes of its arguments.
    """

    name: str
    task: str
    version: int = 1
    queue: str
    args: msgspec.Raw = msgspec.Raw(b"{}")
    takes: dict[str, Value] = {}
    after: tuple[Number, ...] = ()
    when: Value | None = None
    unless: Number | None = None
    over: Over | None = None
    goes_on: bool = False
    default: msgspec.Raw = NO_VALUE
    at_least: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    if_all: bool = False
    undo: UndoPlan | None = None
    pivot: bool = False
    delay: float = 0.0
    timeout: float | None = None
    retry: CallRetry | None = None
    headers: dict[str, str] = {}
    key: str | None = None
    soft_timeout: float | None = None

    @property
    def has_default(self) -> bool:
        """Whether something counts as its result if it fails or is skipped."""
        return len(self.default) > 0

    def waits_for(self) -> list[int]:
        """List the steps that have to end before this one starts, in order and each once."""
        others = self.values_from() | set(self.after)
        if self.over is not None and self.over.step is not None:
            others.add(self.over.step)
        return sorted(others)

    def values_from(self) -> set[int]:
        """Name the steps whose results it needs, beside the list that it goes over."""
        values = [*self.takes.values(), *([self.when] if self.when is not None else [])]
        others = {step for value in values for step in value.of}
        return others if self.unless is None else others | {self.unless}


class Plan(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, dict=True):
    """A workflow as it was sent.

    :param v: the version of this format.
    :param last: the step whose result is the result of the workflow.
    :param or_else: the steps whose result counts if the last one has none; the first that has one.
    :param deadline: no step starts after this time, in seconds since the epoch.
    :param keep: seconds for which its outcome is kept.
    :param above: the workflows that this one is a part of, the outermost first.
    :param goes_on: it is the rest of a job, whose id it has.
    :param within: the part of the innermost workflow above it that this job is.
    :param value: its result if all steps end well, in place of that of its last step.
    :param undoes_on: whether the compensations go on behind one that failed.
    :param key: the name of the record of the job's key, which is completed with its outcome.
    :param key_keep: seconds for which that record is kept then.
    """

    name: str
    steps: Annotated[tuple[StepPlan, ...], msgspec.Meta(min_length=1, max_length=STEPS_LIMIT)]
    last: Number
    deadline: float
    keep: float
    above: tuple[str, ...] = ()
    goes_on: bool = False
    within: PartOf | None = None
    value: msgspec.Raw = NO_VALUE
    key: str = ""
    key_keep: float = 0.0
    undoes_on: bool = False
    correlation_id: str | None = None
    v: int = PLAN_FORMAT
    or_else: tuple[Number, ...] = ()

    @property
    def results(self) -> tuple[int, ...]:
        """The steps of which the first that has a result gives it to the workflow."""
        return (self.last, *self.or_else)

    @cached_property
    def is_saga(self) -> bool:
        """Whether something is undone when it fails."""
        return any(step.undo is not None for step in self.steps)

    @cached_property
    def pivot(self) -> int | None:
        """The step behind which nothing is undone."""
        return next((number for number, step in enumerate(self.steps) if step.pivot), None)

    @cached_property
    def behind_pivot(self) -> frozenset[int]:
        """The steps that wait for the pivot, or for one that does."""
        behind = set[int]()
        for number, waits in enumerate(self.waits):
            if self.pivot is not None and (self.pivot in waits or behind & set(waits)):
                behind.add(number)
        return frozenset(behind)

    def life(self, now: float) -> float:
        """Return the seconds for which its records are kept: until no job of it can start, and a while."""
        return max(self.deadline - now, 0.0) + AFTER_DEADLINE + (UNDO_TIME if self.is_saga else 0.0)

    @cached_property
    def waits(self) -> tuple[tuple[int, ...], ...]:
        """For each step the steps that it waits for."""
        return tuple(tuple(step.waits_for()) for step in self.steps)

    @cached_property
    def followers(self) -> tuple[tuple[int, ...], ...]:
        """For each step the steps that wait for it."""
        following: list[list[int]] = [[] for _ in self.steps]
        for number, waits in enumerate(self.waits):
            for other in waits:
                following[other].append(number)
        return tuple(map(tuple, following))

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """The steps for which no other step waits: the workflow is over when all of them have ended."""
        return tuple(number for number, following in enumerate(self.followers) if not following)

    @property
    def roots(self) -> Iterator[int]:
        """The steps that wait for nothing."""
        return (number for number, waits in enumerate(self.waits) if not waits)

    def is_paired(self, number: int) -> bool:
        """Tell whether child i of a map waits for child i of another map, and for nothing else."""
        over = self.steps[number].over
        if over is None or over.step is None or self.waits[number] != (over.step,):
            return False
        return self.steps[over.step].over is not None and self.steps[over.step].at_least is None

    def lengths_with(self, number: int) -> list[int]:
        """List the maps that have the length of this one: itself, and all that are paired with it."""
        maps = [number]
        for one in maps:
            maps += [other for other in self.followers[one] if self.is_paired(other)]
        return maps


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Plan).decode


def encode_plan(plan: Plan) -> bytes:
    """Encode a plan."""
    return _encode(plan)


class NewerPlan(Exception):
    """The plan has a newer format than this program reads; a newer worker can read it."""


class _AnyPlan(msgspec.Struct):
    """What a plan of any format has."""

    v: int = PLAN_FORMAT


def decode_plan(data: bytes) -> Plan:
    """Decode a plan.

    :raises NewerPlan: it has a newer format, and is for newer workers.
    :raises UnreadableRecord: the bytes are no plan (TC408).
    """
    try:
        head = msgspec.json.decode(data, type=_AnyPlan)
        plan = _decode(data) if head.v <= PLAN_FORMAT else None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise unreadable_record("the plan of a workflow", data, error) from error
    if plan is None:
        raise NewerPlan(f"the plan has format {head.v}, and this worker reads format {PLAN_FORMAT}")
    if wrong := _wrong_in(plan):
        raise unreadable_record("the plan of a workflow", data, wrong)
    return plan


def _wrong_in(plan: Plan) -> str | None:
    """Find what no builder writes."""
    wrong = next((number for number, waits in enumerate(plan.waits) if waits and waits[-1] >= number), None)
    if wrong is not None:
        return f"step {wrong} waits for a later one"
    return "it has no last step" if max(plan.results) >= len(plan.steps) else None

"""A reference: what a workflow comes to, worked out step by step in one place, without jobs, records or crashes."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from taskcore.workflows.plan import Plan, StepPlan, Value

__all__ = ["FUNCTIONS", "Reference", "interpret"]


def combine(a: int = 0, b: int = 0, items: list[int] | None = None, fails: bool = False) -> int:
    """Add, or fail."""
    if fails:
        raise ValueError("as asked")
    return a + b + sum(items or []) + 1


def is_even(a: int = 0) -> bool:
    """Tell whether a number is even."""
    return a % 2 == 0


def spread(a: int = 0) -> list[int]:
    """Make a short list."""
    return list(range(a % 4))


def each(item: int, b: int = 0, fails_at: int = -1) -> int:
    """Work on one element, or fail."""
    if item == fails_at:
        raise ValueError("as asked")
    return item * 2 + b


FUNCTIONS: dict[str, Any] = {"combine": combine, "is-even": is_even, "spread": spread, "each": each}
NONE = object()


class Reference(NamedTuple):
    """What a workflow comes to: its result; or None, and ``failed``."""

    failed: bool
    result: Any = None


def interpret(plan: Plan, lists: dict[int, list[Any]]) -> Reference:
    """Work out a plan; steps are in an order in which each comes after those that it waits for."""
    values: list[Any] = []
    for number, step in enumerate(plan.steps):
        default = NONE if not step.has_default else json.loads(bytes(step.default))
        try:
            values.append(_value(number, step, values, lists, default))
        except ValueError:
            if not step.goes_on:
                return Reference(failed=True)
            values.append(default)
    return Reference(failed=False, result=values[plan.last])


def _value(number: int, step: StepPlan, values: list[Any], lists: dict[int, list[Any]], default: Any) -> Any:
    def first(value: Value) -> Any:
        return next((values[one] for one in value.of if values[one] is not NONE), NONE)

    args = json.loads(bytes(step.args)) | {name: first(value) for name, value in step.takes.items()}
    if step.when is not None and first(step.when) is not True:
        return default if step.over is None else NONE
    if (step.unless is not None and values[step.unless] is not NONE) or NONE in args.values():
        return default if step.over is None else NONE
    if step.over is None:
        return FUNCTIONS[step.task](**args)
    items = lists[number] if step.over.step is None else values[step.over.step]
    if items is NONE:
        return NONE
    results = []
    for item in items:
        try:
            results.append(FUNCTIONS[step.task](**{step.over.parameter: item}, **args))
        except ValueError:
            if not step.goes_on:
                raise
            if default is not NONE:
                results.append(default)
    return results

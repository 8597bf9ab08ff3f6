"""Decimal contexts: a copied context refers to the decimal context of its original, which code may change in place.

with_own_decimals   a copy of the running context with a decimal context of its own, for work that begins now
without_decimals    one without any: each copy of it makes its own when its code first needs one, at no cost before
giving_decimals     a function that runs with a copy of what the program has set
"""

from __future__ import annotations

import decimal
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, Final, ParamSpec, TypeVar

__all__ = ["giving_decimals", "with_own_decimals", "without_decimals"]

P = ParamSpec("P")
T = TypeVar("T")

VARIABLE: Final = "decimal_context"  #: the name of Python's own context variable


def with_own_decimals() -> Context:
    """Copy the running context, and the decimal context in it."""
    context = copy_context()
    context.run(decimal.setcontext, context.run(decimal.getcontext).copy())
    return context


def without_decimals() -> Context:
    """Copy the running context, but not the decimal context in it."""
    context = Context()
    for variable, value in copy_context().items():
        if variable.name != VARIABLE:
            context.run(variable.set, value)
    return context


def giving_decimals(run: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let each run begin with a copy of the running decimal context; ``run`` itself if the program has not set one."""
    chosen = _chosen_decimals()
    if chosen is None:
        return run

    async def run_with_decimals(*args: P.args, **kwargs: P.kwargs) -> T:
        decimal.setcontext(chosen.copy())
        return await run(*args, **kwargs)

    return run_with_decimals


def _chosen_decimals() -> decimal.Context | None:
    """Copy the running decimal context; None if it is one that Python makes by itself."""
    for variable, value in copy_context().items():
        if variable.name == VARIABLE:
            chosen: decimal.Context = _without_flags(value)
            return chosen if repr(chosen) != repr(_without_flags(decimal.DefaultContext)) else None
    return None


def _without_flags(context: decimal.Context) -> decimal.Context:
    copy = context.copy()
    copy.clear_flags()
    return copy

"""The types of results: what a step returns, what may stand in for it, and how a caller reads it."""

from __future__ import annotations

import copy
import inspect
from typing import Any, Union

import msgspec

from taskcore.contract import Contract, compile_contract
from taskcore.contract.codec import Codec, UnsupportedType, short_repr
from taskcore.errors import InvalidContract
from taskcore.task import Task
from taskcore.workflows.errors import InvalidWorkflow

__all__ = ["StandIn", "either", "keeping_outcomes", "pack_value", "returning"]

RESULT_KEPT = 3_600.0  #: seconds; a task that keeps no results keeps them in a workflow


class StandIn(msgspec.Struct, frozen=True):
    """A value that may stand in for a result.

    :param annotation: the type that either has.
    """

    data: bytes
    annotation: Any


def either(one: Any, other: Any) -> Any:
    """Join two types."""
    return one if one == other else Union[one, other]  # noqa: UP007 - types that are known at run time only


def pack_value(value: Any, annotation: Any, step: str) -> StandIn:
    """Pack a value that stands in for a result of this type, or of another one.

    :raises InvalidWorkflow: it cannot travel (TC311).
    """
    for wanted, joined in ((annotation, annotation), (type(value), either(annotation, type(value)))):
        try:
            return StandIn(Codec(wanted).encode_checked(value)[1], joined)
        except Exception as error:  # noqa: BLE001 - values bring their own code
            why = error
    raise InvalidWorkflow(f"{step}: the value {short_repr(value)} of `otherwise` cannot travel: {why}") from why


def returning(task: Task[Any, Any], annotation: Any) -> Task[Any, Any]:
    """Return the task with results of another type, for callers that read them.

    :raises InvalidWorkflow: nothing can tell values of this type apart (TC311).
    """
    kept = keeping_outcomes(task)
    if annotation != task.contract.result.annotation:
        kept.contract = _contract(task.contract, annotation)
    return kept


def _contract(contract: Contract, annotation: Any) -> Contract:
    def result() -> None: ...

    result.__signature__ = inspect.Signature(return_annotation=annotation)  # type: ignore[attr-defined]  # read by inspect
    try:
        return compile_contract(result, name=contract.name, raises=contract.raises)
    except (InvalidContract, UnsupportedType) as error:
        raise InvalidWorkflow(
            f"the result of {contract.name} may be of types that JSON cannot tell apart: {error}",
            fix="put a task behind it that returns one type",
        ) from error


def keeping_outcomes(task: Task[Any, Any]) -> Task[Any, Any]:
    """Return the task with outcomes that are kept."""
    kept = copy.copy(task)
    kept.options = msgspec.structs.replace(task.options, keep_result=task.options.keep_result or RESULT_KEPT)
    return kept

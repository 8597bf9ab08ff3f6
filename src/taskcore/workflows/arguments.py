"""The arguments of a step: those that are known are checked and packed now, those of other steps are named."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import lru_cache, wraps
from typing import Any, NamedTuple

import msgspec

from taskcore.contract import Contract, compile_contract
from taskcore.contract.codec import describe
from taskcore.workflows.errors import InvalidWorkflow
from taskcore.workflows.output import OutputFacts, output_in
from taskcore.workflows.type_compatibility import fits

__all__ = ["StepArguments", "bind_step", "check_fit", "first_parameter", "pack_element"]


class StepArguments(NamedTuple):
    """What a step is called with.

    :param known: packed, as JSON.
    :param taken: what comes from other steps, by the parameter that takes it.
    """

    known: bytes
    taken: Mapping[str, OutputFacts]


def bind_step(
    contract: Contract, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, element: str | None = None
) -> StepArguments:
    """Bind a call in which outputs may stand for values.

    :param element: a parameter that is filled in for each child of a map.
    :raises InvalidArguments: a value does not fit; every problem is named (TC302).
    :raises InvalidWorkflow: an output's type does not fit (TC311).
    """
    names = positional_of(contract)
    if element is not None:
        names = [name for name in names if name != element]
    taken: dict[str, OutputFacts] = {}
    misfits: list[str] = []
    for name, value in [*zip(names, args, strict=False), *kwargs.items()]:
        output = output_in(value)
        if output is not None:
            taken[name] = output
            misfits += misfit_of(contract, name, output)
    if misfits:
        raise _misfit(contract, misfits)
    left_out = frozenset(taken) | ({element} if element is not None else set())
    by_name = {name: value for name, value in kwargs.items() if name not in taken}
    if not left_out:
        return StepArguments(contract.pack(args, by_name), taken)
    known = {name: value for name, value in zip(names, args, strict=False) if name not in taken}
    extra = args[len(names) :]
    twice = known.keys() & by_name.keys()
    if extra or twice:
        return StepArguments(contract.pack((*args, *([None] * bool(element))), by_name), taken)  # says what is wrong
    return StepArguments(_without(contract, left_out).pack((), {**known, **by_name}), taken)


def positional_of(contract: Contract) -> list[str]:
    """List the parameters that may be given by position."""
    signature = inspect.signature(contract.function)
    keyword = {name for name, each in signature.parameters.items() if each.kind is each.KEYWORD_ONLY}
    return [name for name in contract.parameters if name not in keyword]


def first_parameter(contract: Contract) -> str:
    """Name the parameter that takes an element of a map, or the result of the step before.

    :raises InvalidWorkflow: it has none.
    """
    names = positional_of(contract)
    if not names:
        raise InvalidWorkflow(
            f"{contract.name} takes no value by position",
            facts=[contract.signature],
            fix="give it a first parameter that takes the value, or use workflow.step(task, name=other.out)",
        )
    return names[0]


@lru_cache(maxsize=512)
def _without(contract: Contract, names: frozenset[str]) -> Contract:
    """Compile the contract without some of its parameters."""

    @wraps(contract.function)
    def rest() -> None: ...

    signature = inspect.signature(contract.function)
    parameters = [
        each.replace(kind=each.KEYWORD_ONLY)
        for each in signature.parameters.values()
        if each.name not in names and each.name in contract.parameters
    ]
    rest.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # read by inspect
    return compile_contract(rest, name=contract.name)


def check_fit(contract: Contract, name: str, output: OutputFacts, *, of_elements: bool = False) -> None:
    """Refuse an output whose type cannot fit a parameter.

    :param of_elements: the parameter takes one element of the output.
    :raises InvalidWorkflow: it does not.
    """
    misfits = misfit_of(contract, name, output, of_elements=of_elements)
    if misfits:
        raise _misfit(contract, misfits)


def misfit_of(contract: Contract, name: str, output: OutputFacts, *, of_elements: bool = False) -> list[str]:
    """Tell why an output cannot fit a parameter; nothing if it can."""
    if name not in contract.parameters:
        return [f"it has no parameter {name}"]
    wanted = next(each.annotation for each in contract.typed if each.name == name)
    if of_elements:
        wanted = list[wanted]  # type: ignore[valid-type]  # a type at run time
    if fits(output.annotation, wanted):
        return []
    return [f"{name} takes {describe(wanted)}, and {output.source} returns {describe(output.annotation)}"]


def _misfit(contract: Contract, misfits: Sequence[str]) -> InvalidWorkflow:
    return InvalidWorkflow(
        f"{contract.name}: {'; '.join(misfits)}",
        facts=[f"contract: {contract.signature}"],
        fix="put a task between them that turns the one into the other",
    )


def pack_element(contract: Contract, name: str, value: Any) -> bytes:
    """Check and pack one element of a map.

    :raises InvalidArguments: it does not fit (TC302).
    """
    others = frozenset(contract.parameters) - {name}
    payload = _without(contract, others).pack((), {name: value})
    return bytes(msgspec.json.decode(payload, type=dict[str, msgspec.Raw])[name])

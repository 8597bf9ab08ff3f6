"""Outputs: what stands for the result of a step until it is there.

For type checkers ``step.out`` is the result itself, so that a wrong hand-over is an error in the editor. At run time it
is an object that can do one thing: be given to another step. Every other use raises, where it is written.
"""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

from taskcore.workflows.errors import InvalidWorkflow
from taskcore.workflows.plan import Value

__all__ = ["Output", "OutputFacts", "output_in"]


class OutputFacts(NamedTuple):
    """What the builder knows of an output.

    :param workflow: whose value it is; others refuse it.
    :param annotation: the type of the value.
    :param source: the name of the step that has it.
    """

    workflow: object
    value: Value
    annotation: Any
    source: str


class Output:
    """Stands for a value of a workflow."""

    __slots__ = ("_facts",)

    def __init__(self, facts: OutputFacts) -> None:
        self._facts = facts

    def __repr__(self) -> str:
        return f"<the result of {self._facts.source}, once it has ended>"

    def __getattr__(self, name: str) -> NoReturn:
        self._refuse(f"its attribute {name!r} is read")

    def _refuse(self, use: str) -> NoReturn:
        raise InvalidWorkflow(
            f"{self!r} is not there while the workflow is built, and {use}",
            fix="give it as a whole to another step; work on its value in a task",
        )

    def __hash__(self) -> int:
        return id(self)


OPERATORS = (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "mod", "rmod", "pow", "neg"),
    *("bool", "iter", "len", "getitem", "eq", "ne", "str", "format", "call", "await", "enter", "aenter"),
    *("lt", "le", "gt", "ge", "int", "float", "index", "contains", "and", "or", "ror", "invert"),
)
for _name in OPERATORS:  # type checkers see the type of the result
    setattr(Output, f"__{_name}__", lambda self, *_, **__: self._refuse("it is used"))


def output_in(value: object) -> OutputFacts | None:
    """Find the output in an argument: the argument itself; None if it is an ordinary value."""
    return value._facts if type(value) is Output else None  # noqa: SLF001 - every use of an output raises, but this one

"""Outputs: what stands for the result of a step until it is there.

For type checkers ``step.out`` is the result itself, so that a wrong hand-over is an error in the editor. At run time it
is an object that can do one thing: be given to another step. Every other use raises, where it is written.
"""

from __future__ import annotations

from typing import Any, NoReturn

from taskcore.workflows.errors import InvalidWorkflow
from taskcore.workflows.plan import Value

__all__ = ["Output", "output_in"]


class Output:
    """Stands for a value of a workflow.

    :param workflow: the workflow whose value it is; others refuse it.
    :param annotation: the type of the value.
    """

    __slots__ = ("_annotation", "_source", "_value", "_workflow")

    def __init__(self, workflow: object, value: Value, annotation: Any, source: str) -> None:
        self._workflow = workflow
        self._value = value
        self._annotation = annotation
        self._source = source

    def __repr__(self) -> str:
        return f"<the result of {self._source}, once it has ended>"

    def __getattr__(self, name: str) -> NoReturn:
        self._refuse(f"its attribute {name!r} is read")

    def _refuse(self, use: str, *_: object) -> NoReturn:
        raise InvalidWorkflow(
            f"{self!r} is not there while the workflow is built, and {use}",
            fix="give it as a whole to another step; work on its value in a task",
        )

    def __bool__(self) -> bool:
        self._refuse("it is asked whether it is true")

    def __iter__(self) -> NoReturn:
        self._refuse("its elements are asked for")

    def __len__(self) -> int:
        self._refuse("its length is asked for")

    def __getitem__(self, item: object) -> NoReturn:
        self._refuse(f"its element {item!r} is asked for")

    def __eq__(self, other: object) -> bool:
        self._refuse("it is compared")

    def __hash__(self) -> int:
        return id(self)

    def __str__(self) -> str:
        self._refuse("it is put into a text")

    def __format__(self, spec: str) -> str:
        self._refuse("it is put into a text")

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        self._refuse("it is called")


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "floordiv", "mod", "neg", "lt", "le", "gt", "ge", "int", "float", "index", "contains"):
    setattr(Output, f"__{_name}__", lambda self, *_: self._refuse("it is computed with"))


def output_in(value: object) -> Output | None:
    """Find the output in an argument: the argument itself; None if it is an ordinary value."""
    return value if type(value) is Output else None

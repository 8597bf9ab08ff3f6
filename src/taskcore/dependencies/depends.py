"""``Depends``: the default of a parameter that a worker fills in."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any, Literal, TypeAlias, TypeVar, overload

from taskcore.contract import Injected
from taskcore.errors import InvalidContract
from taskcore.toolkit.units import shorten_repr

__all__ = ["Dependency", "DependencyScope", "Depends"]

T = TypeVar("T")
Function: TypeAlias = Callable[..., Any]
DependencyScope: TypeAlias = Literal["app", "job"]


class Dependency(Injected):
    """What stands as the default of such a parameter."""

    __slots__ = ("function", "scope")

    def __init__(self, function: Function, scope: DependencyScope) -> None:
        self.function = function
        self.scope: DependencyScope = scope

    def __repr__(self) -> str:
        return f"Depends({name_of(self.function)})"

    def wire(self, function: Function) -> Function:
        """Make the function that opens all dependencies of the task's function, calls it, and closes them."""
        from taskcore.dependencies.wiring import wire  # noqa: PLC0415 - it knows this marker

        return wire(function)


@overload
def Depends(function: Callable[..., AsyncGenerator[T, Any]], /, *, scope: DependencyScope = "job") -> T: ...
@overload
def Depends(function: Callable[..., AsyncIterator[T]], /, *, scope: DependencyScope = "job") -> T: ...
@overload
def Depends(function: Callable[..., Generator[T, Any, Any]], /, *, scope: DependencyScope = "job") -> T: ...
@overload
def Depends(function: Callable[..., Iterator[T]], /, *, scope: DependencyScope = "job") -> T: ...
@overload
def Depends(function: Callable[..., Awaitable[T]], /, *, scope: DependencyScope = "job") -> T: ...
@overload
def Depends(function: Callable[..., T], /, *, scope: DependencyScope = "job") -> T: ...
def Depends(function: Function, /, *, scope: DependencyScope = "job") -> Any:  # noqa: N802 - it is read as a type
    """Make the default of a parameter that the worker fills in, and that is no part of the task's contract.

    It is written ``db: Db = Depends(get_db)``; callers leave the parameter out.

    :param function: returns the value, or yields it once and closes it after that; plain or async. Its own parameters
        have such defaults, too.
    :param scope: ``"job"``: opened for each attempt of each job, and closed at its end; ``"app"``: opened once for a
        worker, when a job needs it first, and closed when the worker ends; in each process of process tasks, once.
    :raises InvalidContract: it cannot be called, or there is no such scope (TC303).
    """
    if not callable(function):
        raise InvalidContract(
            f"Depends({shorten_repr(function)}): that is not a function", fix="give the function: Depends(get_db)"
        )
    if scope not in ("app", "job"):
        raise InvalidContract(
            f"Depends({name_of(function)}): there is no scope {shorten_repr(scope)}",
            fix='scope="job", once for each attempt, or scope="app", once for each worker',
        )
    return Dependency(function, scope)


def name_of(function: Function) -> str:
    """Name a function for people."""
    return str(getattr(function, "__name__", None) or shorten_repr(function))

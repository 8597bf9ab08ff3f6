"""Attributes that are not there yet: of a feature room, which is imported at the first use, or of no object at all."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Generic, Self, TypeVar, overload

__all__ = ["Door", "Refusing"]

T_co = TypeVar("T_co", covariant=True)


class Door(Generic[T_co]):
    """An attribute that makes an object of a room, for the object that is asked.

    :param target: module and name of what makes it, such as ``"taskcore.progress:StartProgress"``.
    """

    __slots__ = ("_make", "_target")

    def __init__(self, target: str) -> None:
        self._target = target
        self._make: Any = None

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T_co: ...

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self
        if self._make is None:
            module, _, name = self._target.partition(":")
            self._make = getattr(import_module(module), name)
        return self._make(instance)


class Refusing:
    """Stands for an object that is not there: reading an attribute raises.

    :param error: makes the error.
    """

    def __init__(self, error: Callable[[], Exception]) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        raise self._error()

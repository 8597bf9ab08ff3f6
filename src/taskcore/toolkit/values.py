"""What public objects are made of.

PublicValue    a struct of ours that passes through pydantic, and so through FastAPI, without importing it
Door           an attribute whose object belongs to a feature room, which is imported at the first use
Refusing       stands where an object is not there yet
ForeignNames   whose error about a missing attribute explains the verbs of other libraries
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, overload

import msgspec

__all__ = ["Door", "ForeignNames", "PublicValue", "Refusing"]

T_co = TypeVar("T_co", covariant=True)


class PublicValue(msgspec.Struct, frozen=True):
    """A struct that pydantic can serialize, describe, and make from data; ``dict(value)`` gives its fields.

    :cvar tag: written as ``"state"``, for values that are told apart by their class.
    :cvar shown: how fields are written that are no plain data; a value with such fields is not made from data.
    """

    tag: ClassVar[str] = ""
    shown: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Yield names and values, as pydantic's models do: an endpoint of FastAPI without a return type asks so."""
        if self.tag:
            yield "state", self.tag
        for name in self.__struct_fields__:
            value = getattr(self, name)
            yield name, self.shown[name](value) if name in self.shown else value

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Describe the values; pydantic calls this."""
        from taskcore.toolkit.pydantic_schema import schema_of  # noqa: PLC0415 - pydantic is there already, if at all

        return schema_of(cls, source, handler)


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


class ForeignNames:
    """An object whose error about a missing attribute says how the verb of another library is called here.

    :cvar _kind: which table of :mod:`taskcore.toolkit.foreign_names` it has.
    """

    __slots__ = ()
    _kind: ClassVar[str] = ""

    if not TYPE_CHECKING:  # type checkers report such a name by themselves

        def __getattr__(self, name: str) -> Any:
            if hasattr(type(self), name):  # a property whose code raised an AttributeError: let it say so
                return object.__getattribute__(self, name)
            from taskcore.toolkit.foreign_names import explain  # noqa: PLC0415 - for this error only

            own = "task"
            with suppress(
                AttributeError
            ):  # only a task itself has a name; this way a missing one is not asked for here
                own = object.__getattribute__(self, "__name__")
            raise AttributeError(explain(self._kind, name, own), name=name, obj=self)

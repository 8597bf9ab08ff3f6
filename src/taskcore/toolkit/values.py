"""Public values: structs of ours that pass through pydantic, and so through FastAPI, without importing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec

__all__ = ["PublicValue"]


class PublicValue(msgspec.Struct, frozen=True):
    """A struct that pydantic can serialize, describe, and make from data.

    :cvar tag: written as ``"state"``, for values that are told apart by their class.
    :cvar shown: how fields are written that are no plain data; a value with such fields is not made from data.
    """

    tag: ClassVar[str] = ""
    shown: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Describe the values; pydantic calls this."""
        from taskcore.toolkit.pydantic_schema import schema_of  # noqa: PLC0415 - pydantic is there already, if at all

        return schema_of(cls, source, handler)

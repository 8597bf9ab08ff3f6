"""From a public value to pydantic's schema of it; imported by pydantic's first question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

import msgspec
from pydantic_core import PydanticSerializationUnexpectedValue, core_schema

if TYPE_CHECKING:
    from taskcore.toolkit.values import PublicValue

__all__ = ["schema_of"]


def schema_of(kind: type[PublicValue], source: Any, handler: Any) -> core_schema.CoreSchema:
    """Make the schema: a mapping of the fields outside, the value itself inside.

    :param source: the annotation, perhaps with the types of a generic value.
    :param handler: makes the schemas of the fields' types.
    """
    given = dict(zip(getattr(kind, "__parameters__", ()), get_args(source), strict=False))
    hints = get_type_hints(kind)
    fields: dict[str, core_schema.TypedDictField] = {}
    if kind.tag:
        tag = core_schema.literal_schema([kind.tag])
        fields["state"] = core_schema.typed_dict_field(tag)
    for field in msgspec.structs.fields(kind):
        if field.name in kind.shown:
            schema: core_schema.CoreSchema = core_schema.any_schema()
        else:
            schema = handler.generate_schema(_filled(hints[field.name], given))
        fields[field.name] = core_schema.typed_dict_field(schema, required=field.required)
    data = core_schema.typed_dict_schema(fields)

    def make(values: dict[str, Any]) -> PublicValue:
        if kind.shown:
            raise ValueError(f"a {kind.__name__} cannot be made from data")
        return kind(**{name: value for name, value in values.items() if name != "state" or not kind.tag})

    def show(value: Any) -> dict[str, Any]:
        if not isinstance(value, kind):
            raise PydanticSerializationUnexpectedValue(f"expected a {kind.__name__}, got {type(value).__name__}")
        return dict(value)

    made = core_schema.no_info_after_validator_function(make, data)
    itself = core_schema.is_instance_schema(kind)
    return core_schema.json_or_python_schema(
        made,
        core_schema.union_schema([itself, made]),
        serialization=core_schema.plain_serializer_function_ser_schema(show, return_schema=data),
    )


def _filled(hint: Any, given: dict[Any, Any]) -> Any:
    """Put types in place of type variables."""
    if isinstance(hint, TypeVar):
        return given.get(hint, Any)
    variables = getattr(hint, "__parameters__", ())
    return hint[tuple(given.get(one, Any) for one in variables)] if variables else hint

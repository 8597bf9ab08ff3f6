"""There and back, for what msgspec does not know itself: models, subclasses of plain types, the order of sets."""

from __future__ import annotations

import dataclasses
import datetime as dt
import sys
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec

__all__ = ["dump_model", "encode", "encode_sorted", "fields_of", "is_model", "schema_of", "to_model"]


def _from_object(value: Any) -> Any:
    """Replace an object that msgspec does not know: a pydantic model, a subclass of a plain type."""
    if is_model(type(value)):
        return msgspec.Raw(dump_model(value))
    plain: Any = next((each for each in (str, int, float, bytes, Decimal) if isinstance(value, each)), None)
    if plain and not isinstance(value, bool):  # a bool comes here as the key of a dict
        return plain(value)  # a subclass that says something else here will not arrive equal
    if isinstance(value, (dt.date, dt.time)):  # datetimes are dates
        return value.isoformat()
    raise TypeError(f"{type(value).__qualname__} cannot travel as JSON")


def dump_model(model: Any) -> bytes:
    """Encode a pydantic model as JSON, its fields by their own names."""
    text: str = model.model_dump_json(round_trip=True, by_alias=False, warnings=False)
    return text.encode()


def to_model(cls: Any, plain: Any) -> Any:
    """Make the pydantic model in plain data: fields by name or alias, nothing coerced."""
    return cls.model_validate_json(encode(plain), strict=True, by_alias=True, by_name=True)


def is_model(cls: Any) -> bool:
    """Tell whether it is the class of a pydantic model."""
    pydantic = sys.modules.get("pydantic")  # a program with a model has imported it
    return pydantic is not None and isinstance(cls, type) and issubclass(cls, pydantic.BaseModel)


def schema_of(cls: Any, shared: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a pydantic model; the definitions that it needs are added to ``shared``."""
    prefix = f"{cls.__qualname__}."
    schema: dict[str, Any] = cls.model_json_schema(by_alias=False, ref_template=f"#/$defs/{prefix}{{model}}")
    shared |= {prefix + name: definition for name, definition in schema.pop("$defs", {}).items()}
    return schema


#: any value as JSON; nothing is checked
encode = msgspec.json.Encoder(enc_hook=_from_object).encode
_decode = msgspec.json.Decoder().decode


def encode_sorted(value: Any) -> bytes:
    """Encode equal sets as equal bytes, in every process; dicts keep their order."""
    data = encode(value)
    return encode(_sorted(value, _decode(data))) if b"[" in data else data


def _sorted(value: Any, plain: Any) -> Any:
    """Return the plain form of a value, with the items of sets sorted."""
    if isinstance(value, (set, frozenset)):
        return sorted(map(_sorted, value, plain), key=encode)
    if isinstance(value, (list, tuple)):
        return list(map(_sorted, value, plain))
    if isinstance(value, dict):
        return dict(zip(plain, map(_sorted, value.values(), plain.values()), strict=True))
    if not isinstance(plain, dict):
        return plain
    kind: Any = type(value)
    names = {key: key for key in plain}
    names |= zip(getattr(kind, "__struct_encode_fields__", ()), fields_of(kind), strict=False)
    return {key: _sorted(getattr(value, names[key], None), item) for key, item in plain.items()}


@lru_cache(maxsize=1024)
def fields_of(cls: Any) -> tuple[str, ...]:
    """List the fields that make up a value, for the kinds of classes that have fields."""
    if names := getattr(cls, "__struct_fields__", None):
        return tuple(names)
    if is_model(cls):
        return (*cls.__pydantic_fields__, "__pydantic_extra__", "__pydantic_private__")
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls) if field.compare)
    return tuple(field.name for field in getattr(cls, "__attrs_attrs__", ()) if field.eq)

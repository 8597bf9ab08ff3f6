"""Whether a result of one type fits a parameter of another: refused where no value, or not every value, can fit."""

from __future__ import annotations

from typing import Any

from msgspec import inspect as info

__all__ = ["fits"]

#: What a value of a type is in JSON; types that are not named here are texts, or may be anything.
KINDS: dict[type[info.Type], str] = {
    info.NoneType: "null",
    info.BoolType: "bool",
    info.IntType: "int",
    info.FloatType: "float",
    info.ListType: "array",
    info.TupleType: "array",
    info.VarTupleType: "array",
    info.SetType: "array",
    info.FrozenSetType: "array",
    info.NamedTupleType: "array",
    info.DictType: "object",
    info.StructType: "object",
    info.DataclassType: "object",
    info.TypedDictType: "object",
}
ARRAYS = (info.ListType, info.VarTupleType, info.SetType, info.FrozenSetType)
OBJECTS = (info.StructType, info.DataclassType, info.TypedDictType)
OPEN = (info.AnyType, info.CustomType, info.RawType, info.EnumType, info.LiteralType)


def fits(result: Any, parameter: Any) -> bool:
    """Tell whether every value of a result's type may be given to a parameter; what cannot be known counts as fitting.

    :param result, parameter: annotations, as contracts hold them.
    """
    return result == parameter or _fits(info.type_info(result), info.type_info(parameter), 0)


DEEPEST = 20  #: levels of nesting that are compared


def _fits(result: info.Type, parameter: info.Type, depth: int) -> bool:
    result, parameter = _bare(result), _bare(parameter)
    if depth > DEEPEST or isinstance(result, OPEN) or isinstance(parameter, OPEN):
        return True
    if isinstance(result, info.UnionType):
        return all(_fits(one, parameter, depth) for one in result.types)
    if isinstance(parameter, info.UnionType):
        return any(_fits(result, one, depth) for one in parameter.types)
    here, there = KINDS.get(type(result), "text"), KINDS.get(type(parameter), "text")
    if here != there:
        return here == "int" and there in ("float", "text") and not isinstance(parameter, info.StrType)
    if isinstance(result, ARRAYS) and isinstance(parameter, ARRAYS):
        return _fits(result.item_type, parameter.item_type, depth + 1)
    if isinstance(result, info.DictType) and isinstance(parameter, info.DictType):
        return _fits(result.value_type, parameter.value_type, depth + 1)
    if isinstance(result, OBJECTS) and isinstance(parameter, OBJECTS):
        return _objects_fit(result, parameter, depth + 1)
    if here == "text" and type(result) is not type(parameter):
        return isinstance(parameter, info.StrType) or isinstance(result, info.StrType)
    return True


def _objects_fit(result: Any, parameter: Any, depth: int) -> bool:
    """Compare fields: those that the parameter requires have to be there, and those that are there have to fit."""
    if result.cls is parameter.cls:
        return True
    has = {field.encode_name: field.type for field in result.fields}
    return all(
        _fits(has[field.encode_name], field.type, depth) if field.encode_name in has else not field.required
        for field in parameter.fields
    )


def _bare(one: info.Type) -> info.Type:
    return one.type if isinstance(one, info.Metadata) else one

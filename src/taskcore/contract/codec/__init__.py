"""Codecs: a type compiled to JSON and back, and explanations of values that do not fit it.

One rule decides what fits: *a value fits a type if it arrives equal*. The check encodes and decodes the value, so it
overlooks no case: a tuple for a list, a nan, a datetime for a str, a wrong field deep inside a dataclass, an attribute
that JSON would lose. None of them comes out as it went in.

    encode → decode by the type → equal, and equal bytes again ──────▶ it fits    (all in C)
               │                    └ no → deep_equal(…) ─yes──▶ it fits    an int for a float, a class without ==
               │                             └ no ─┐
               └ an error ─────────────────────────┴─▶ explain(): every part that does not fit, each with its path

Nothing is coerced. Two things become what they equal: an int for a float, a subclass of str, int, … its base.
"""

from taskcore.contract.codec.annotations import Problem, UnsupportedType, is_text, resolve
from taskcore.contract.codec.codec import PLAIN, Codec, deep_equal
from taskcore.contract.codec.encoding import schema_of
from taskcore.contract.codec.text import describe, first_line, kind_of, short_repr, shorten

__all__ = [
    "PLAIN",
    "Codec",
    "Problem",
    "UnsupportedType",
    "deep_equal",
    "describe",
    "first_line",
    "is_text",
    "kind_of",
    "resolve",
    "schema_of",
    "short_repr",
    "shorten",
]

"""Texts of settings, and what they stand for. Anything else is an error of Python's: of its type or its value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "host_and_port",
    "module_names",
    "named_numbers",
    "number_range",
    "show_numbers",
    "show_range",
    "text",
    "truth",
    "whole",
]

RANGE_LIMIT = 1_000  #: of a range
NUMBERS_LIMIT = 100_000  #: of named numbers
LAST_PORT = 65_535


def whole(raw: Any) -> int:
    """Read a whole number."""
    if isinstance(raw, float):
        raise TypeError
    return int(raw)


def text(raw: Any) -> str:
    """Read a text that is not empty."""
    if not isinstance(raw, str) or not raw.strip():
        raise TypeError
    return raw.strip()


def truth(raw: Any) -> bool:
    """Read yes or no."""
    known = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if not isinstance(raw, str | bool):
        raise TypeError
    return raw if isinstance(raw, bool) else known[raw.strip().lower()]


def named_numbers(raw: Any) -> dict[str, int]:
    """Read ``"mail=5,default=50"``: names and numbers of at least 1."""
    pairs = raw.items() if isinstance(raw, Mapping) else [part.split("=") for part in raw.split(",")]
    numbers = {name.strip(): whole(number) for name, number in pairs}
    if not numbers or not all(1 <= number <= NUMBERS_LIMIT for number in numbers.values()):
        raise ValueError
    return numbers


def show_numbers(numbers: Mapping[str, int]) -> str:
    """Write names and numbers as ``named_numbers`` reads them."""
    return ",".join(f"{name}={number}" for name, number in numbers.items())


def module_names(raw: Any) -> tuple[str, ...]:
    """Read ``"shop.tasks,shop.mail"``; a name may end in ``.*``."""
    if not isinstance(raw, str | Sequence):
        raise TypeError
    names = tuple(name.strip() for name in (raw.split(",") if isinstance(raw, str) else raw))
    if not names or not all(part.isidentifier() for name in names for part in name.removesuffix(".*").split(".")):
        raise ValueError
    return names


def number_range(raw: Any) -> tuple[int, int]:
    """Read ``"3"`` or ``"1..8"`` as the least and the largest of these numbers."""
    parts = raw if isinstance(raw, list | tuple) else str(raw).split("..")
    low, high = map(whole, parts if len(parts) > 1 else [*parts, *parts])
    if not 1 <= low <= high <= RANGE_LIMIT:
        raise ValueError
    return low, high


def show_range(bounds: Sequence[int]) -> str:
    """Write the range as ``number_range`` reads it."""
    low, high = bounds
    return str(low) if low == high else f"{low}..{high}"


def host_and_port(raw: Any) -> str:
    """Read ``"localhost:8080"``, and write the port as a number."""
    host, _, port = text(raw).rpartition(":")
    if not host or not 0 <= int(port) <= LAST_PORT:
        raise ValueError
    return f"{host}:{int(port)}"

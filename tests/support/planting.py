"""Planting seeded bugs: small patches of the real code, each of them a promise broken on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

__all__ = ["MUTANTS", "Mutant", "instead", "mutant"]


class Mutant(NamedTuple):
    """A bug, who finds it, and how to plant it."""

    name: str
    found_by: str
    plant: Callable[[], AbstractContextManager[Any]]


MUTANTS: list[Mutant] = []


def mutant(found_by: str) -> Callable[[Callable[[], Iterator[None]]], None]:
    """Register a generator function that plants a bug; its docstring says what is wrong."""

    def register(plant: Callable[[], Iterator[None]]) -> None:
        MUTANTS.append(Mutant(plant.__name__, found_by, contextmanager(plant)))

    return register


def instead(owner: Any, name: str, function: Callable[..., Any]) -> AbstractContextManager[Any]:
    """Patch a method; ``function`` gets the original first, then what the original would get."""
    original = getattr(owner, name)
    return patch.object(owner, name, lambda *args, **named: function(original, *args, **named))

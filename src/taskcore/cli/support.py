"""What a broker does by itself, what its adapter emulates, and what it has not, in a few words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from taskcore.backend import Features

__all__ = ["support_of"]

FEATURES = ("delay", "dedup", "fencing", "redeliveries", "remove", "locate", "dead_letters")


def support_of(features: Features) -> Iterator[str]:
    """Yield the features by how the broker has them, those that it has by itself first."""
    by: dict[str, list[str]] = {}
    for name in FEATURES:
        support: Any = getattr(features, name)
        by.setdefault(support, []).append(name.replace("_", " "))
    yield from (f"{support}: {', '.join(by[support])}" for support in ("native", "emulated", "absent") if support in by)

"""Numbers, ages and moments as commands print them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from taskcore.toolkit.units import show_duration

if TYPE_CHECKING:
    from taskcore.backend import QueueStats

__all__ = ["age", "ago", "moment", "number"]


def number(value: int | None) -> str:
    """Write a count; "?" if the broker cannot tell it."""
    return "?" if value is None else f"{value:,}"


def age(stats: QueueStats) -> str:
    """Write the age of the oldest ready job of a queue."""
    if stats.oldest is not None:
        return show_duration(round(stats.oldest))
    return "?" if stats.ready else "-"


def ago(seconds: float) -> str:
    """Write how long something lasts, in full seconds."""
    return show_duration(round(max(seconds, 0.0)))


def moment(when: float) -> str:
    """Write a moment in local time, with its offset."""
    return datetime.fromtimestamp(when).astimezone().isoformat(sep=" ", timespec="seconds")

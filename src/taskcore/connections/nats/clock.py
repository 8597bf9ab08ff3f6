"""Time: ours, and what a server says."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["broker_time", "wall_clock"]


def wall_clock() -> float:
    """Seconds since the epoch by our own clock."""
    return datetime.now(UTC).timestamp()


def broker_time(text: str) -> float:
    """A server's time stamp as seconds since the epoch; it has more digits than Python reads."""
    whole, _, rest = text.rstrip("Z").partition(".")
    seconds = datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp()
    return seconds + (float(f"0.{rest}") if rest.isdigit() else 0.0)
